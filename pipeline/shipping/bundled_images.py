"""Chooses, draws, scales and encodes the images of a bundle: of its self-test, and of a proof."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from effedge.calibration.ranges.samples import list_images
from effedge.deploy.common.contracts import Spec
from effedge.pipeline.datasets import digits

DIGITS_INDEX, DIGITS_SHAPE = 1, (480, 640)  # of the validation split: the network has not seen it
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png")  # of scikit-image
LARGEST_PROOF = 1024  # pixels of the longer side: a proof's images are not to be the larger part of a bundle


def images_of(spec: Spec, calibration: Path | None) -> list[Path] | None:
    """Lists images of the kind that the network was trained on; None for drawn images."""
    if spec["weights"] in ("digits", "random"):
        return None
    if calibration is not None and calibration.is_dir():
        return list_images(calibration)
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in PHOTOGRAPHS]


def scaled_down(pixels: np.ndarray) -> np.ndarray:
    """Scales an image down to LARGEST_PROOF, if it is larger."""
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_PROOF, LARGEST_PROOF))
    return np.asarray(image)


def draw_test_image(spec: Spec, number: int) -> np.ndarray:
    """Draws an image of digits, uint8 [h,w,3]."""
    if spec["task"] == "detection":
        return digits.draw_image("val", DIGITS_INDEX + number, *DIGITS_SHAPE).image
    return digits.draw_crop("val", DIGITS_INDEX + number, max(spec["input"]["size"]))[0]


def as_png(pixels: np.ndarray) -> bytes:
    """Encodes an image without loss: JPEG decoders differ by a grey level here and there."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
