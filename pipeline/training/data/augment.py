"""Augments training images from the disk: flips, rotations, crops, scales and colours.

Every function draws from the generator that it is given, so a sample's index decides its augmentation.

Detectors: EfficientDet's augmentation (Tan, Pang and Le 2020, section 5.1; google/automl, `dataloader.py`): a
horizontal flip and scale jitter. Scale jitter scales the image to 0.1 to 2 times the size that just fits the input.
Where the scaled image is larger than the input, a window of the input's size is cut out; where it is smaller, it lies
top-left on the fill, as in the letterbox. Images without an up, as under a microscope, can be rotated by quarter turns
too. A colour jitter changes brightness, contrast and saturation (Howard 2013, section 2; as in SSD, Liu et al. 2016,
section 2.2, without hue).
Classifiers: a random crop of 8% to 100% of the area at an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015, section 6),
and the same flip, rotations and colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

JITTER = (0.1, 2.0)
FLIP_CHANCE = 0.5
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SMALLEST_SIDE = 1.0  # pixels of the input: the least width and height of a box after cropping

CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10


class Augmentation(NamedTuple):
    """The changes that leave an image's meaning as it is.

    flips: mirror images left to right.
    rotate90: rotate images by multiples of 90 degrees.
    colour: strength of the colour jitter, 0 to 1.
    jitter: least and greatest scale of a detector's image; 1 is the letterbox's.
    randaugment: number of operations on a classifier's image, and their magnitude
        (`effedge.pipeline.training.data.randaugment`).
    autoaugment: AutoAugment's policy on a classifier's image (`effedge.pipeline.training.data.autoaugment`).
    evaluation_crop: a classifier's images are cut as in evaluation, not at random.
    """

    flips: bool = True
    rotate90: bool = False
    colour: float = 0.0
    jitter: tuple[float, float] = JITTER
    randaugment: tuple[int, float] | None = None
    autoaugment: bool = False
    evaluation_crop: bool = False

    def flip_and_rotate(
        self, random: np.random.Generator, image: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mirrors and rotates an image, uint8 [h,w,3], at random, with its boxes [n,4] xyxy in pixels."""
        if self.flips and random.random() < FLIP_CHANCE:
            image, boxes = flip(image, boxes)
        if self.rotate90:
            image, boxes = rotate90(image, boxes, int(random.integers(4)))
        return image, boxes

    def draw_colour_matrix(self, random: np.random.Generator) -> tuple[float, ...] | None:
        """Draws a colour matrix; None if colours stay."""
        return colour_matrix(random, self.colour) if self.colour else None


def flip(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors an image, uint8 [h,w,3], left to right, with its boxes [n,4] xyxy in pixels."""
    width = image.shape[1]
    mirrored = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return np.ascontiguousarray(image[:, ::-1]), mirrored.astype(np.float32)


def rotate90(image: np.ndarray, boxes: np.ndarray, quarters: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotates an image, uint8 [h,w,3], by 0 to 3 quarter turns counter-clockwise, with its boxes [n,4] xyxy."""
    for _ in range(quarters):
        width = image.shape[1]
        image = image.transpose(1, 0, 2)[::-1]  # (x, y) goes to (y, width - x)
        boxes = np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], axis=1)
    return np.ascontiguousarray(image), boxes.astype(np.float32)


def colour_matrix(random: np.random.Generator, strength: float) -> tuple[float, ...]:
    """Draws factors of 1 - `strength` to 1 + `strength` for brightness, contrast (about mid grey) and saturation.

    Returns:
        Twelve numbers, the rows of a [3,4] matrix for (R, G, B, 1), as `PIL.Image.convert` takes it.
    """
    brightness, contrast, saturation = random.uniform(1 - strength, 1 + strength, 3)
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    offset = np.full((3, 1), 128 * (1 - contrast))
    return tuple(float(value) for value in np.hstack([brightness * contrast * matrix, brightness * offset]).flat)


def recolour(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    """Applies a colour matrix to an image, uint8 [h,w,3]; values are clipped."""
    return np.asarray(Image.fromarray(image).convert("RGB", matrix))


def scale_jitter(
    random: np.random.Generator,
    image: np.ndarray,
    boxes: np.ndarray,
    size: tuple[int, int],
    jitter: tuple[float, float],
    fill: Sequence[int],
    colours: tuple[float, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales an image at random and crops or fills it to the input.

    Args:
        image: uint8 [h,w,3].
        boxes: [n,4] xyxy in the image's pixels.
        size: (H, W) of the input.
        jitter: least and greatest scale; 1 is the letterbox's.
        fill: RGB.
        colours: a colour matrix for the image; the fill keeps its colour.

    Returns:
        The input, uint8 [H,W,3]; its boxes, float32 [m,4] xyxy in pixels of the input, clipped to it; int64 [m],
        their indices among the n boxes.
    """
    height, width = image.shape[:2]
    scale = random.uniform(*jitter) * min(size[0] / height, size[1] / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    shown_height, shown_width = min(new_height, size[0]), min(new_width, size[1])
    top = int(random.integers(new_height - shown_height + 1))
    left = int(random.integers(new_width - shown_width + 1))
    ratio_x, ratio_y = new_width / width, new_height / height
    # Only the part that is shown is resized.
    window = (left / ratio_x, top / ratio_y, (left + shown_width) / ratio_x, (top + shown_height) / ratio_y)
    shown = _resize(image, (shown_width, shown_height), window, Image.Resampling.BILINEAR)
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = np.asarray(fill, np.uint8)
    pixels[:shown_height, :shown_width] = shown if colours is None else recolour(shown, colours)
    moved = boxes * np.array([ratio_x, ratio_y] * 2) - np.array([left, top] * 2)
    clipped = np.clip(moved, 0, np.array([shown_width, shown_height] * 2)).astype(np.float32)
    kept = np.flatnonzero((clipped[:, 2:] - clipped[:, :2] >= SMALLEST_SIDE).all(axis=1))
    return pixels, clipped[kept], kept


def random_crop(
    random: np.random.Generator, image: np.ndarray, size: tuple[int, int], resample: Image.Resampling
) -> np.ndarray:
    """Cuts a random part of about the input's shape out of an image, uint8 [h,w,3]; stretches it to uint8 [*size,3]."""
    height, width = image.shape[:2]
    shape = size[1] / size[0]
    for _ in range(CROP_ATTEMPTS):
        area = height * width * random.uniform(*CROP_AREA)
        aspect = shape * math.exp(random.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if 1 <= w <= width and 1 <= h <= height:
            left, top = random.uniform(0, width - w), random.uniform(0, height - h)
            break
    else:  # no such part fits into an image this long: take the largest one in the middle
        w, h = min(width, height * shape * CROP_ASPECT[1]), min(height, width / (shape * CROP_ASPECT[0]))
        left, top = (width - w) / 2, (height - h) / 2
    return _resize(image, (size[1], size[0]), (left, top, left + w, top + h), resample)


def _resize(
    image: np.ndarray, size: tuple[int, int], window: tuple[float, float, float, float], resample: Image.Resampling
) -> np.ndarray:
    """Resizes the window (x0, y0, x1, y1) of an image to `size` = (width, height), in Pillow's coordinates."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = window
    box = (x0, y0, min(x1, width), min(y1, height))  # rounding may put the edge a hair outside, which Pillow refuses
    return np.asarray(Image.fromarray(image).resize(size, resample, box=box))
