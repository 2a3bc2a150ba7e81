"""Letterbox and NMS in C++ (letterbox_nms.cpp), compiled for the CPU at hand.

They give Pillow's pixels and NumPy's boxes to the last bit, in a third of the time. Without a compiler
(deploy/native/compiled_library.py), or if any result differs, Pillow and NumPy do the work.
"""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np
import PIL
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.nms import check_candidates, choose_boxes
from effedge.deploy.image.resample import FILTERS, resample_table
from effedge.deploy.native.compiled_library import LibrarySource, load_compiled_library

SOURCE = LibrarySource(
    "letterbox_nms",
    Path(__file__).resolve().parent,
    "letterbox_nms.cpp",
    ("-ffp-contract=off", "-std=c++14"),
    {"pillow": PIL.__version__, "numpy": np.__version__},
)


class LetterboxNms:
    """The compiled library's functions."""

    def __init__(self, path: Path) -> None:
        """Loads the library at `path`. Raises OSError or AttributeError if that fails."""
        library = ctypes.CDLL(str(path))
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.letterbox_rows, self.select_boxes = library.letterbox_rows, library.select_boxes
        self.letterbox_rows.argtypes = [
            pointer, size, size, pointer, size, size, size, pointer, size, size, pointer, size, size, ctypes.c_uint32,
        ]  # fmt: skip
        self.letterbox_rows.restype = None
        self.select_boxes.argtypes = [
            pointer, pointer, pointer, ctypes.c_int, *[ctypes.c_float] * 4, ctypes.c_int, pointer,
        ]  # fmt: skip

    def letterbox(
        self, image: np.ndarray, out: np.ndarray, resized: Tuple[int, int], fill: Sequence[int], start: int, stop: int
    ) -> None:
        """Writes rows `start` to `stop` of the letterbox of an image into `out`.

        Args:
            image: uint8 [h,w,3].
            out: uint8 [H,W,3].
            resized: the size (height, width) to which the image is resized bilinearly; it is placed at the top left.
            fill: the RGB colour of the rest.

        Raises ValueError for arrays of another type or size: the C++ knows no bounds.
        """
        check_image(image)
        check_image(out)
        (height, width), (new_height, new_width) = image.shape[:2], resized
        if not (1 <= new_height <= out.shape[0] and 1 <= new_width <= out.shape[1] and 0 <= start <= stop <= len(out)):
            raise ValueError(f"rows {start} to {stop}, resized to {resized}, are not in a letterbox of {out.shape}")
        across, taps_across = resample_table(width, new_width)
        down, taps_down = resample_table(height, new_height)
        red, green, blue = fill
        self.letterbox_rows(
            image.ctypes.data, height, width, out.ctypes.data, out.shape[1], start, stop,
            across.ctypes.data, taps_across, new_width, down.ctypes.data, taps_down, new_height,
            red | green << 8 | blue << 16,
        )  # fmt: skip

    def choose_boxes(
        self, boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, size: Tuple[int, int], threshold: float,
        iou: float, max_detections: int,
    ) -> np.ndarray:  # fmt: skip
        """Does the same as `effedge.deploy.image.nms.choose_boxes`, for finite numbers.

        Raises UserError for arrays of different lengths, as an engine of another network may give: the C++ knows no
        bounds.
        """
        check_candidates(boxes, scores, class_ids)
        if max_detections < 0:
            raise UserError(f"max_detections={max_detections} was given, expected a whole number from 1 on")
        boxes, scores = np.ascontiguousarray(boxes, np.float32), np.ascontiguousarray(scores, np.float32)
        class_ids = np.ascontiguousarray(class_ids, np.int32)
        kept = np.empty(min(max_detections, len(scores)), np.int32)
        height, width = size
        count = self.select_boxes(
            boxes.ctypes.data, scores.ctypes.data, class_ids.ctypes.data, len(scores), width, height, threshold, iou,
            len(kept), kept.ctypes.data,
        )  # fmt: skip
        return kept[:count]


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless an array is uint8 [h,w,3] with pixels, one after the other in memory."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an array is {image.dtype} {list(image.shape)}, not uint8 [h,w,3]")
    if not image.flags.c_contiguous:
        raise ValueError("an array's pixels are not one after the other in memory")


@lru_cache(maxsize=None)
def load_letterbox_nms() -> Optional[LetterboxNms]:
    """Loads the library for this machine; None if there is none."""
    return load_compiled_library(SOURCE, LetterboxNms, check_results)


def check_results(library: LetterboxNms) -> None:
    """Raises UserError if the library's results differ from Pillow's and NumPy's on a few images and boxes."""
    random = np.random.default_rng(0)
    for shape, resized in (((60, 80), (48, 64)), ((7, 300), (1, 64)), ((33, 20), (64, 39)), ((500, 400), (64, 51))):
        image = random.integers(0, 256, (*shape, 3), np.uint8)
        out = np.empty((64, 64, 3), np.uint8)
        library.letterbox(image, out, resized, (1, 2, 3), 0, 64)
        expected = Image.fromarray(image).resize((resized[1], shape[0]), FILTERS["bilinear"])
        expected = expected.resize((resized[1], resized[0]), FILTERS["bilinear"])
        if not np.array_equal(out[: resized[0], : resized[1]], np.asarray(expected)):
            raise UserError("the compiled letterbox differs from Pillow's")
    for threshold in (0.0, 0.3):
        corners = random.integers(-5, 50, (300, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + random.integers(0, 30, (300, 2))], 1).astype(np.float32)
        scores = random.integers(0, 50, 300).astype(np.float32) / 50
        class_ids = random.integers(0, 3, 300)
        kept, expected_kept = (
            choose(boxes, scores, class_ids, (48, 64), threshold, 0.5, 100)
            for choose in (library.choose_boxes, choose_boxes)
        )
        if not np.array_equal(kept, expected_kept):
            raise UserError("the compiled NMS differs from NumPy's")
