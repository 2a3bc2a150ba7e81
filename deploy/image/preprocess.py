"""From a picture to the engine's input, and from the engine's boxes back to the picture.

Detectors take EfficientDet's letterbox (google/automl, `dataloader.py`): scaled as a whole to fit, placed top-left.
Classifiers take the centre crop of timm's and torchvision's evaluation transforms (Resize, then CenterCrop).
Both resize with Pillow, whose filters are antialiased, as in the training of the published weights; the letterbox with
its arithmetic in C++ where that can be compiled.
"""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from effedge.deploy.native.letterbox_nms.library import Native, native

SUPPORT = {Image.Resampling.BILINEAR: 1, Image.Resampling.BICUBIC: 2}  # of Pillow's kernels, pixels of the smaller side
LARGE = 3 * 400 * 1000  # bytes of a picture, of which one thread's work takes so long that a second is worth its call
SMALLEST_STRIP = 64  # rows or columns: a thread takes a twentieth of a millisecond to hear of its work
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
LONGEST = 64  # of a picture longer than this many times its shorter side, center_crop looks at the middle


class Prepared(NamedTuple):
    """A picture made ready for the engine.

    pixels: uint8 [H,W,3], RGB, of the engine's input size.
    picture: (height, width) of the picture that it was made from.
    resized: (height, width) that it was resized to: the part of `pixels` that a letterbox fills, top left; what
        the centre was cut from.
    """

    pixels: np.ndarray
    picture: Tuple[int, int]
    resized: Tuple[int, int]


def preparation(description: Mapping[str, Any]) -> Callable[[np.ndarray], Prepared]:
    """The function from a picture, RGB uint8 [h,w,3], to the input that `description`, a spec's "input", asks for.

    Raises KeyError, TypeError or ValueError if the description is damaged.
    """
    height, width = description["size"]
    size, resample = (height, width), FILTERS[description["interpolation"]]
    if description["resize"] == "letterbox":
        steps = native() if resample == Image.Resampling.BILINEAR else None
        if steps is not None:
            return partial(compiled_letterbox, steps, size=size, fill=description["fill"])
        return partial(letterbox, size=size, fill=description["fill"], resample=resample)
    if description["resize"] == "center-crop":
        return partial(center_crop, size=size, crop=description["crop"], resample=resample)
    raise ValueError(f"unknown resize {description['resize']!r}")


def letterbox(image: np.ndarray, size: Tuple[int, int], fill: Sequence[int], resample: Image.Resampling) -> Prepared:
    """Scale `image` (uint8 [h,w,3]) to fit `size` (H, W), place it top-left and fill the rest with the RGB `fill`."""
    new_height, new_width = letterboxed_size(image.shape[:2], size)
    pixels = np.empty((size[0], size[1], 3), np.uint8)
    row = np.tile(np.asarray(fill, np.uint8), (size[1], 1))  # by the row: pixel by pixel NumPy takes 0.8 ms for it
    pixels[new_height:] = row
    pixels[:new_height, new_width:] = row[new_width:]
    resize_into(pixels[:new_height, :new_width], image, resample)
    return Prepared(pixels, image.shape[:2], (new_height, new_width))


def compiled_letterbox(steps: Native, image: np.ndarray, size: Tuple[int, int], fill: Sequence[int]) -> Prepared:
    """As `letterbox`, bilinear, in C++; of a large picture by two threads."""
    resized = letterboxed_size(image.shape[:2], size)
    pixels = np.empty((size[0], size[1], 3), np.uint8)
    work = partial(steps.letterbox, np.ascontiguousarray(image), pixels, resized, fill)
    half = resized[0] // 2
    if image.size < LARGE or not helper().share(partial(work, 0, half), partial(work, half, size[0])):
        work(0, size[0])
    return Prepared(pixels, image.shape[:2], resized)


def letterboxed_size(picture: Tuple[int, int], size: Tuple[int, int]) -> Tuple[int, int]:
    """(height, width) that a picture of (height, width) is scaled to, to fit `size`."""
    scale = min(size[0] / picture[0], size[1] / picture[1])
    return max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))


def resize_into(out: np.ndarray, image: np.ndarray, resample: Image.Resampling) -> None:
    """Resize `image` (uint8 [h,w,3]) to the shape of `out`, by two threads where that changes no pixel."""
    for axis in (0, 1):
        split = strip_edge(image.shape[axis], out.shape[axis])
        if split is not None:
            strip = partial(resize_strip, out, image, resample, axis)
            if helper().share(partial(strip, 0, split), partial(strip, split, out.shape[axis])):
                return
    resize_strip(out, image, resample, 0, 0, out.shape[0])


def strip_edge(length: int, new_length: int) -> Optional[int]:
    """The row (or column) of the resized picture, near its middle, that starts at a whole one of the picture, or None.

    There both strips get Pillow's coefficients of the whole to the last bit, though it takes a strip's box as float32.

    >>> strip_edge(480, 384), strip_edge(1080, 288), strip_edge(427, 342)
    (192, 144, None)
    """
    every = new_length // math.gcd(length, new_length)
    edge = new_length // 2 // every * every
    return edge if min(edge, new_length - edge) >= SMALLEST_STRIP else None


def resize_strip(
    out: np.ndarray, image: np.ndarray, resample: Image.Resampling, axis: int, start: int, stop: int
) -> None:
    """Rows (axis 0) or columns (1) `start` to `stop` of `out`. No more of the picture is read than Pillow's kernel
    reaches.

    Pillow is called once for each axis, because with both in one call it chooses by the shape which comes first, and
    that rounds differently.
    """
    scale = image.shape[axis] / out.shape[axis]
    reach = SUPPORT[resample] * max(scale, 1) + 1
    first, last = round(start * scale), round(stop * scale)
    low, high = max(0, math.floor(first - reach)), min(image.shape[axis], math.ceil(last + reach))
    read, written = [slice(None)] * 2, [slice(None)] * 2
    boxes = [(0, image.shape[0]), (0, image.shape[1])]
    read[axis], written[axis], boxes[axis] = slice(low, high), slice(start, stop), (first - low, last - low)
    strip, target = image[tuple(read)], out[tuple(written)]
    (top, bottom), (left, right) = boxes
    rows, (height, width) = strip.shape[0], target.shape[:2]
    narrow = Image.fromarray(strip).resize((width, rows), resample, (left, 0, right, rows))
    target[...] = np.asarray(narrow.resize((width, height), resample, (0, top, width, bottom)))


class Helper:
    """A thread that takes half of a picture; Pillow and C++ let go of Python's lock."""

    def __init__(self) -> None:
        self.pool, self.busy = ThreadPoolExecutor(1, "letterbox"), threading.Lock()

    def share(self, first: Callable[[], None], second: Callable[[], None]) -> bool:
        """Do both at once, or nothing and return False where the thread has another picture's half: then pictures are
        side by side anyway."""
        if not self.busy.acquire(blocking=False):
            return False
        try:
            rest = self.pool.submit(second)
            first()
            rest.result()
        finally:
            self.busy.release()
        return True


@lru_cache(maxsize=None)
def helper() -> Helper:
    return Helper()


if hasattr(os, "register_at_fork"):  # a forked process, as a loader of training data, has the pool but not its thread
    os.register_at_fork(after_in_child=helper.cache_clear)


def center_crop(image: np.ndarray, size: Tuple[int, int], crop: float, resample: Image.Resampling) -> Prepared:
    """Scale `image` (uint8 [h,w,3]) so that its shorter side is floor(size / crop), and cut `size` (H, W) from its
    centre. `crop` is in (0, 1]."""
    sliver = LONGEST * min(image.shape[:2])  # else a picture of 1 x 60,000 would be resized to 256 x 15 million
    image = image[middle(image.shape[0], sliver), middle(image.shape[1], sliver)]
    height, width = image.shape[:2]
    shorter = math.floor(max(size) / crop)
    longer = int(shorter * max(height, width) / min(height, width))
    new_height, new_width = (shorter, longer) if height <= width else (longer, shorter)
    # The whole is resized, though Pillow could resize just the part kept: that rounds differently.
    resized = np.asarray(Image.fromarray(image).resize((new_width, new_height), resample))
    pixels = resized[middle(new_height, size[0]), middle(new_width, size[1])]
    return Prepared(pixels, (height, width), (new_height, new_width))


def middle(length: int, kept: int) -> slice:
    """The centre `kept` of `length` pixels, or all; an odd one out goes by Python's rounding, as in torchvision."""
    start = max(0, int(round((length - kept) / 2)))
    return slice(start, start + kept)


def boxes_to_picture(boxes: np.ndarray, prepared: Prepared) -> np.ndarray:
    """Boxes [n,4] xyxy in the letterboxed input's pixels -> float32 [n,4] xyxy in the picture's, clipped to it.

    The ratios are the real ones of the two axes: rounding to whole pixels makes them differ a little.
    """
    (height, width), (new_height, new_width) = prepared.picture, prepared.resized
    ratios = np.array([width / new_width, height / new_height] * 2, np.float32)
    limits = np.array([width, height] * 2, np.float32)
    return np.clip(boxes.astype(np.float32) * ratios, 0, limits)
