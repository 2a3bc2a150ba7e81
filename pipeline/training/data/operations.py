"""Holds the operations on images of AutoAugment and RandAugment, each with its strength in units of its own.

Cubuk et al. 2019 (AutoAugment), appendix A, table 6. They are Pillow's; uncovered pixels are mid grey, as in the
authors' code (tensorflow/tpu, models/official/efficientnet/autoaugment.py).
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

GREY = (128, 128, 128)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Maps an image: pixel (x, y) of the result is (a x + b y + c, d x + e y + f) of the image."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


# Name -> operation on an image and a strength, which the first four do not read.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    # degrees, counter-clockwise
    "rotate": lambda image, degrees: image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=GREY),
    # values from here on are inverted
    "solarize": lambda image, threshold: ImageOps.solarize(image, round(threshold)),
    # bits that are kept, 1 to 8
    "posterize": lambda image, bits: ImageOps.posterize(image, round(bits)),
    # 1 is the image as it is, 0 is grey, mid grey, black and smooth
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    # pixels to the side for each pixel down, or down for each to the side
    "shear x": lambda image, slope: _affine(image, (1, slope, 0, 0, 1, 0)),
    "shear y": lambda image, slope: _affine(image, (1, 0, 0, slope, 1, 0)),
    # shares of the image's width or height
    "translate x": lambda image, share: _affine(image, (1, 0, share * image.width, 0, 1, 0)),
    "translate y": lambda image, share: _affine(image, (1, 0, 0, 0, 1, share * image.height)),
}
