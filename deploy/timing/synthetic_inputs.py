"""Made-up inputs, always the same, where none are given: what is timed on them takes as long as on real ones."""

from typing import Any, Sequence

import numpy as np

PICTURE = (480, 640)  # height and width of the picture that stands for the user's


def made_up_picture() -> np.ndarray:
    """Smooth blots and some noise, uint8 [H,W,3]."""
    random = np.random.default_rng(0)
    blots = np.repeat(np.repeat(random.integers(0, 200, (PICTURE[0] // 40, PICTURE[1] // 40, 3)), 40, 0), 40, 1)
    return (blots + random.integers(0, 55, blots.shape)).astype(np.uint8)


def made_up_array(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Normal numbers; of integers 0 and 1, which may be indices; of bytes, which may be a picture, 0 and 255."""
    random, dtype = np.random.default_rng(0), np.dtype(dtype)
    if dtype.kind == "f":
        return random.normal(size=shape).astype(dtype)
    return (random.integers(0, 2, shape) * (255 if dtype == np.uint8 else 1)).astype(dtype)
