"""Prepares an image for an engine, and moves the engine's boxes back onto the image.

Detectors take EfficientDet's letterbox (google/automl, `dataloader.py`): scaled as a whole to fit, placed top-left.
Classifiers take the centre crop of timm's and torchvision's evaluation transforms (Resize, then CenterCrop).
Other projects' detectors (SSD, NanoDet-Plus) and timm's crop mode "squash" stretch the image to the input.
All resize with Pillow, whose filters are antialiased, as in the training of the published weights; letterbox and
stretch with its arithmetic in C++ where that can be compiled.
"""

import math
import threading
from functools import partial
from typing import Callable, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from effedge.deploy.common.contracts import CENTER_CROP, LETTERBOX, STRETCH, InputSpec
from effedge.deploy.image.resample import FILTERS
from effedge.deploy.native.letterbox_nms.library import LetterboxNms, load_letterbox_nms

LARGE = 3 * 600 * 1000  # bytes of an image from which on half of it is worth the start of a thread (0.1 ms)
LARGEST_ASPECT_RATIO = 64  # of an image that is longer, center_crop takes the middle, and stretch some of the rows
BLACK = (0, 0, 0)


class Prepared(NamedTuple):
    """An image made ready for the engine.

    pixels: uint8 [H,W,3], RGB, of the engine's input size.
    image_size: (height, width) of the image that it was made from.
    resized_size: (height, width) that the image was resized to: the part of `pixels` that a letterbox fills, top left;
        for a centre crop, and a stretch with a crop, the size that it was cut from.
    """

    pixels: np.ndarray
    image_size: Tuple[int, int]
    resized_size: Tuple[int, int]


def preparation(description: InputSpec) -> Callable[[np.ndarray], Prepared]:
    """Returns the function that makes an image, RGB uint8 [h,w,3], the input that a spec's "input" describes.

    Raises:
        KeyError, TypeError, ValueError: the description is damaged.
    """
    height, width = description["size"]
    size, resample = (height, width), FILTERS[description["interpolation"]]
    if description["resize"] == CENTER_CROP:
        return partial(center_crop, size=size, crop=description["crop"], resample=resample)
    library = load_letterbox_nms() if resample == FILTERS["bilinear"] else None
    if description["resize"] == STRETCH:
        return partial(stretch, size=size, crop=description.get("crop", 1.0), resample=resample, library=library)
    if description["resize"] != LETTERBOX:
        known = f"{LETTERBOX}, {CENTER_CROP} or {STRETCH}"
        raise ValueError(f"unknown resize {description['resize']!r}, this effedge has {known}")
    if library is not None:
        return partial(compiled_letterbox, library, size=size, fill=description["fill"])
    return partial(letterbox, size=size, fill=description["fill"], resample=resample)


def resized_size(image_size: Tuple[int, int], description: InputSpec) -> Tuple[int, int]:
    """(height, width) to which an image of (height, width) is resized, by a letterbox or a stretch."""
    height, width = description["size"]
    if description["resize"] == STRETCH:
        return stretched_size((height, width), description.get("crop", 1.0))
    return letterboxed_size(image_size, (height, width))


def letterbox(image: np.ndarray, size: Tuple[int, int], fill: Sequence[int], resample: int) -> Prepared:
    """Scales `image` (uint8 [h,w,3]) to fit `size` (H, W), places it top-left, and fills the rest with `fill` (RGB)."""
    new_height, new_width = letterboxed_size(image.shape[:2], size)
    pixels = np.empty((size[0], size[1], 3), np.uint8)
    row = np.tile(np.asarray(fill, np.uint8), (size[1], 1))  # by the row: pixel by pixel NumPy takes 0.8 ms for it
    pixels[new_height:] = row
    pixels[:new_height, new_width:] = row[new_width:]
    pixels[:new_height, :new_width] = resized_by_axis(image, (new_height, new_width), resample)
    return Prepared(pixels, image.shape[:2], (new_height, new_width))


def resized_by_axis(image: np.ndarray, size: Tuple[int, int], resample: int) -> np.ndarray:
    """Resizes an image to `size` (H, W), its rows first.

    Pillow is called once for each axis, because with both in one call it chooses by the shape which comes first, and
    that rounds differently.
    """
    narrow = Image.fromarray(image).resize((size[1], image.shape[0]), resample)
    return np.asarray(narrow.resize((size[1], size[0]), resample))


def compiled_letterbox(
    library: LetterboxNms, image: np.ndarray, size: Tuple[int, int], fill: Sequence[int]
) -> Prepared:
    """Does the same as `letterbox`, bilinear, in C++; a large image in two threads."""
    new_size = letterboxed_size(image.shape[:2], size)
    pixels = np.empty((size[0], size[1], 3), np.uint8)
    write_letterbox(library, image, pixels, new_size, fill)
    return Prepared(pixels, image.shape[:2], new_size)


def write_letterbox(
    library: LetterboxNms, image: np.ndarray, pixels: np.ndarray, new_size: Tuple[int, int], fill: Sequence[int]
) -> None:
    """Writes the image, resized to `new_size` (height, width), and the fill beside it into `pixels`, uint8 [H,W,3]."""
    write_rows = partial(library.letterbox, np.ascontiguousarray(image), pixels, new_size, fill)
    if image.size < LARGE:
        write_rows(0, len(pixels))
        return
    half = new_size[0] // 2
    second = threading.Thread(target=write_rows, args=(half, len(pixels)))
    second.start()
    write_rows(0, half)
    second.join()


def letterboxed_size(image_size: Tuple[int, int], size: Tuple[int, int]) -> Tuple[int, int]:
    """(height, width) to which an image of (height, width) is scaled to fit `size`."""
    scale = min(size[0] / image_size[0], size[1] / image_size[1])
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def stretch(
    image: np.ndarray, size: Tuple[int, int], crop: float, resample: int, library: Optional[LetterboxNms] = None
) -> Prepared:
    """Resizes `image` (uint8 [h,w,3]) without keeping its aspect, each side to floor(side / crop), and cuts `size`
    (H, W) from its centre.

    That is timm's crop mode "squash"; with a `crop` of 1 all of the image is kept. `library` resizes bilinearly.
    """
    new_size = stretched_size(size, crop)
    shorter = shortened(image)
    if library is None:
        resized = resized_by_axis(shorter, new_size, resample)
    else:
        resized = np.empty((*new_size, 3), np.uint8)
        write_letterbox(library, shorter, resized, new_size, BLACK)
    pixels = resized[middle(new_size[0], size[0]), middle(new_size[1], size[1])]
    return Prepared(pixels, image.shape[:2], new_size)


def stretched_size(size: Tuple[int, int], crop: float) -> Tuple[int, int]:
    """(height, width) to which an image of any size is stretched, for an input of `size` (H, W)."""
    return math.floor(size[0] / crop), math.floor(size[1] / crop)


def shortened(image: np.ndarray) -> np.ndarray:
    """Leaves out rows or columns of an image that is longer than LARGEST_ASPECT_RATIO allows, evenly.

    Else an image of 60 million x 1 pixels would be made as wide as the input before it is made shorter.
    """
    height, width = image.shape[:2]
    step = -(-max(height, width) // (LARGEST_ASPECT_RATIO * min(height, width)))
    return image[::step] if height > width else image[:, ::step]


def center_crop(image: np.ndarray, size: Tuple[int, int], crop: float, resample: int) -> Prepared:
    """Scales `image` (uint8 [h,w,3]) so that its shorter side is floor(size / crop), and cuts `size` (H, W) from its
    centre. `crop` is in (0, 1]."""
    longest = LARGEST_ASPECT_RATIO * min(image.shape[:2])  # else 1 x 60,000 would be resized to 256 x 15 million
    image = image[middle(image.shape[0], longest), middle(image.shape[1], longest)]
    height, width = image.shape[:2]
    shorter = math.floor(max(size) / crop)
    longer = int(shorter * max(height, width) / min(height, width))
    new_height, new_width = (shorter, longer) if height <= width else (longer, shorter)
    # The whole is resized, though Pillow could resize just the part that is kept: that rounds differently.
    resized = np.asarray(Image.fromarray(image).resize((new_width, new_height), resample))
    pixels = resized[middle(new_height, size[0]), middle(new_width, size[1])]
    return Prepared(pixels, (height, width), (new_height, new_width))


def middle(length: int, kept: int) -> slice:
    """The centre `kept` of `length` pixels, or all; an odd one out goes by Python's rounding, as in torchvision."""
    start = max(0, int(round((length - kept) / 2)))
    return slice(start, start + kept)


def boxes_to_image(boxes: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Boxes [n,4] xyxy in a letterboxed or stretched input's pixels -> float32 [n,4] xyxy in the image's, clipped to
    it.

    The ratios are the real ones of the two axes: rounding to whole pixels makes them differ a little.
    """
    (height, width), (new_height, new_width) = prepared.image_size, prepared.resized_size
    ratios = np.array([width / new_width, height / new_height] * 2, np.float32)
    limits = np.array([width, height] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * ratios, 0, limits)
