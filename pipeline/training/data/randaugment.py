"""Applies RandAugment (Cubuk et al. 2020, section 3): `count` random operations out of 14, all at one magnitude.

The operations and their ranges are AutoAugment's (Cubuk et al. 2019, appendix A, table 6). Magnitude 10 is the end of
a range; larger magnitudes go beyond it, as in the paper's larger models (28 for B7). The sign of geometric operations
and of enhancements is random; uncovered pixels are mid grey.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)
ROTATION = 30.0  # degrees at magnitude 10
SHEAR = 0.3
TRANSLATION = 150 / 331  # of the image's side
ENHANCEMENT = 0.9
POSTERIZED_BITS = 4


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Maps an image: pixel (x, y) of the result is (a x + b y + c, d x + e y + f) of the image."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, level: kind(image).enhance(max(0.0, 1 + ENHANCEMENT * level))


def _posterize(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.posterize(image, max(1, 8 - round(POSTERIZED_BITS * abs(level))))


def _solarize(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.solarize(image, round(256 * max(0.0, 1 - abs(level))))


# An operation takes an image and a level: magnitude / 10 with a random sign.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, level: image,
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "rotate": lambda image, level: image.rotate(ROTATION * level, Image.Resampling.BILINEAR, fillcolor=GREY),
    "solarize": _solarize,
    "colour": _enhance(ImageEnhance.Color),
    "posterize": _posterize,
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear x": lambda image, level: _affine(image, (1, SHEAR * level, 0, 0, 1, 0)),
    "shear y": lambda image, level: _affine(image, (1, 0, 0, SHEAR * level, 1, 0)),
    "translate x": lambda image, level: _affine(image, (1, 0, TRANSLATION * level * image.width, 0, 1, 0)),
    "translate y": lambda image, level: _affine(image, (1, 0, 0, 0, 1, TRANSLATION * level * image.height)),
}


def randaugment(random: np.random.Generator, pixels: np.ndarray, count: int, magnitude: float) -> np.ndarray:
    """Applies `count` random operations at `magnitude`, 10 being the end of their ranges, to uint8 [h,w,3]."""
    image, names = Image.fromarray(pixels), list(OPERATIONS)
    for _ in range(count):
        operation = OPERATIONS[names[int(random.integers(len(names)))]]
        sign = 1.0 if random.random() < 0.5 else -1.0
        image = operation(image, sign * magnitude / 10)
    return np.asarray(image)
