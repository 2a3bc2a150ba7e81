"""Makes synthetic inputs, always the same, for engines that are timed without the user's images or arrays.

An engine takes as long on them as on real ones.
"""

from typing import Sequence, Union

import numpy as np

HEIGHT, WIDTH = 480, 640  # of the image that stands for the user's
CELL = 40  # pixels


def synthetic_image() -> np.ndarray:
    """Makes an image of flat cells with some noise, uint8 [HEIGHT,WIDTH,3]."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 200, (HEIGHT // CELL, WIDTH // CELL, 3))
    cells = np.repeat(np.repeat(colours, CELL, 0), CELL, 1)
    return (cells + random.integers(0, 55, cells.shape)).astype(np.uint8)


def synthetic_array(shape: Sequence[int], dtype: Union[str, type, np.dtype], seed: int = 0) -> np.ndarray:
    """Makes an array: normal floats; integers 0 and 1, which may be indices; bytes 0 and 255, which may be an image.

    Inputs of one model have a `seed` each: the difference of two equal ones would be 0 in any engine.
    """
    random, kind = np.random.default_rng(seed), np.dtype(dtype)
    if kind.kind == "f":
        return np.asarray(random.normal(size=shape), kind)
    return np.asarray(random.integers(0, 2, shape) * (255 if kind == np.uint8 else 1), kind)
