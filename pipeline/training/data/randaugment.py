"""Applies RandAugment (Cubuk et al. 2020, section 3): `count` random operations out of 14, all at one magnitude.

The operations and their ranges are AutoAugment's (Cubuk et al. 2019, appendix A, table 6). Magnitude 10 is the end of
a range; larger magnitudes go beyond it, as in the paper's larger models (28 for B7). The sign of geometric operations
and of enhancements is random; uncovered pixels are mid grey.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from effedge.pipeline.training.data.operations import OPERATIONS

ROTATION = 30.0  # degrees at magnitude 10
SHEAR = 0.3
TRANSLATION = 150 / 331  # of the image's side
ENHANCEMENT = 0.9
POSTERIZED_BITS = 4


def _factor(level: float) -> float:
    return max(0.0, 1 + ENHANCEMENT * level)


# The strength of each of the 14 operations at a level, which is magnitude / 10 with a random sign.
STRENGTHS: dict[str, Callable[[float], float]] = {
    "identity": lambda level: 0.0,
    "autocontrast": lambda level: 0.0,
    "equalize": lambda level: 0.0,
    "rotate": lambda level: ROTATION * level,
    "solarize": lambda level: 256 * max(0.0, 1 - abs(level)),
    "colour": _factor,
    "posterize": lambda level: max(1, 8 - round(POSTERIZED_BITS * abs(level))),
    "contrast": _factor,
    "brightness": _factor,
    "sharpness": _factor,
    "shear x": lambda level: SHEAR * level,
    "shear y": lambda level: SHEAR * level,
    "translate x": lambda level: TRANSLATION * level,
    "translate y": lambda level: TRANSLATION * level,
}


def randaugment(random: np.random.Generator, pixels: np.ndarray, count: int, magnitude: float) -> np.ndarray:
    """Applies `count` random operations at `magnitude`, 10 being the end of their ranges, to uint8 [h,w,3]."""
    image, names = Image.fromarray(pixels), list(STRENGTHS)
    for _ in range(count):
        name = names[int(random.integers(len(names)))]
        sign = 1.0 if random.random() < 0.5 else -1.0
        image = OPERATIONS[name](image, STRENGTHS[name](sign * magnitude / 10))
    return np.asarray(image)
