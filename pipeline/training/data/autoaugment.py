"""Applies AutoAugment's policy for ImageNet (Cubuk et al. 2019, appendix, table 9): one of its 25 sub-policies.

A sub-policy is two operations, each with the probability that it is applied and a magnitude of 0 to 9. A magnitude is
one of ten values, uniformly spaced over the operation's range (section 3 and table 6): rotation to 30 degrees and shear
to 0.3, either way at random; the enhancements' factor from 0.1 to 1.9; solarize's threshold from 0 to 256; posterize's
bits from 4 to 8. So a large magnitude of the last two changes an image less. Implementations differ there: torchvision
and RandAugment let all changes grow with the magnitude, timm's `original` is as here but for the spacing (tenths).

Sub-policies stand as in the paper, five of the 25 twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from effedge.pipeline.training.data.operations import OPERATIONS


class Step(NamedTuple):
    """An operation of a sub-policy.

    probability: that it is applied, 0 to 1.
    magnitude: 0 to 9.
    """

    operation: str
    probability: float
    magnitude: int


HIGHEST = 9  # magnitude
# Table 6: the strength at magnitudes 0 and 9. Operations that are not here have none.
RANGES = {
    "rotate": (0.0, 30.0),  # degrees
    "shear x": (0.0, 0.3),
    "colour": (0.1, 1.9),
    "contrast": (0.1, 1.9),
    "sharpness": (0.1, 1.9),
    "solarize": (0.0, 256.0),
    "posterize": (4.0, 8.0),
}
EITHER_WAY = ("rotate", "shear x")

IMAGENET_POLICY = (
    (Step("posterize", 0.4, 8), Step("rotate", 0.6, 9)),
    (Step("solarize", 0.6, 5), Step("autocontrast", 0.6, 5)),
    (Step("equalize", 0.8, 8), Step("equalize", 0.6, 3)),
    (Step("posterize", 0.6, 7), Step("posterize", 0.6, 6)),
    (Step("equalize", 0.4, 7), Step("solarize", 0.2, 4)),
    (Step("equalize", 0.4, 4), Step("rotate", 0.8, 8)),
    (Step("solarize", 0.6, 3), Step("equalize", 0.6, 7)),
    (Step("posterize", 0.8, 5), Step("equalize", 1.0, 2)),
    (Step("rotate", 0.2, 3), Step("solarize", 0.6, 8)),
    (Step("equalize", 0.6, 8), Step("posterize", 0.4, 6)),
    (Step("rotate", 0.8, 8), Step("colour", 0.4, 0)),
    (Step("rotate", 0.4, 9), Step("equalize", 0.6, 2)),
    (Step("equalize", 0.0, 7), Step("equalize", 0.8, 8)),
    (Step("invert", 0.6, 4), Step("equalize", 1.0, 8)),
    (Step("colour", 0.6, 4), Step("contrast", 1.0, 8)),
    (Step("rotate", 0.8, 8), Step("colour", 1.0, 2)),
    (Step("colour", 0.8, 8), Step("solarize", 0.8, 7)),
    (Step("sharpness", 0.4, 7), Step("invert", 0.6, 8)),
    (Step("shear x", 0.6, 5), Step("equalize", 1.0, 9)),
    (Step("colour", 0.4, 0), Step("equalize", 0.6, 3)),
    (Step("equalize", 0.4, 7), Step("solarize", 0.2, 4)),
    (Step("solarize", 0.6, 5), Step("autocontrast", 0.6, 5)),
    (Step("invert", 0.6, 4), Step("equalize", 1.0, 8)),
    (Step("colour", 0.6, 4), Step("contrast", 1.0, 8)),
    (Step("equalize", 0.8, 8), Step("equalize", 0.6, 3)),
)


def strength(operation: str, magnitude: int) -> float:
    """Returns the strength of an operation at a magnitude of 0 to 9; 0 for an operation that has none.

    >>> strength("rotate", 3), strength("solarize", 9), strength("equalize", 3)
    (10.0, 256.0, 0.0)
    """
    low, high = RANGES.get(operation, (0.0, 0.0))
    return low + (high - low) * magnitude / HIGHEST


def autoaugment(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Applies a random sub-policy to uint8 [h,w,3]."""
    image = Image.fromarray(pixels)
    for operation, probability, magnitude in IMAGENET_POLICY[int(random.integers(len(IMAGENET_POLICY)))]:
        if random.random() < probability:
            way = -1.0 if operation in EITHER_WAY and random.random() < 0.5 else 1.0
            image = OPERATIONS[operation](image, way * strength(operation, magnitude))
    return np.asarray(image)
