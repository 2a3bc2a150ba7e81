"""Letterbox and NMS in C++ (deploy/native/letterbox_nms.cpp), compiled for this CPU: Pillow's pixels and NumPy's choice to the
last bit, in a third of the time. Without a compiler (deploy/native/compiled_library.py), or with any difference, Pillow and NumPy
do it."""

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple

import numpy as np
import PIL
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.image.resample import resample_table
from effedge.deploy.native.compiled_library import Source, host_library

SOURCE = Source(
    "steps",
    Path(__file__).resolve().parent,
    "letterbox_nms.cpp",
    ("../cuda/letterbox.h", "../cuda/nms.h"),
    ("-ffp-contract=off", "-std=c++14"),
    {"pillow": PIL.__version__, "numpy": np.__version__},
)


class Native:
    """The compiled steps."""

    def __init__(self, path: Path) -> None:
        """OSError if the library cannot be loaded."""
        library = ctypes.CDLL(str(path))
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.rows, self.select = library.letterbox_rows, library.select_boxes
        self.rows.argtypes = [
            pointer, size, size, pointer, size, size, size, pointer, size, size, pointer, size, size, ctypes.c_uint32,
        ]  # fmt: skip
        self.rows.restype = None
        self.select.argtypes = [
            pointer, pointer, pointer, ctypes.c_int, *[ctypes.c_float] * 4, ctypes.c_int, pointer,
        ]  # fmt: skip

    def letterbox(
        self, image: np.ndarray, out: np.ndarray, resized: Tuple[int, int], fill: Sequence[int], start: int, stop: int
    ) -> None:
        """Rows `start` to `stop` of `out`, uint8 [H,W,3]: `image`, uint8 [h,w,3], resized bilinearly to `resized`
        (height, width) and placed top left, the rest filled with the RGB `fill`."""
        (height, width), (new_height, new_width) = image.shape[:2], resized
        across, taps_across = resample_table(width, new_width)
        down, taps_down = resample_table(height, new_height)
        red, green, blue = fill
        self.rows(
            image.ctypes.data, height, width, out.ctypes.data, out.shape[1], start, stop,
            across.ctypes.data, taps_across, new_width, down.ctypes.data, taps_down, new_height,
            red | green << 8 | blue << 16,
        )  # fmt: skip

    def choose_boxes(
        self, boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, size: Tuple[int, int], threshold: float,
        iou: float, max_detections: int,
    ) -> np.ndarray:  # fmt: skip
        """As `effedge.deploy.image.nms.choose_boxes`, of finite numbers."""
        boxes, scores = np.ascontiguousarray(boxes, np.float32), np.ascontiguousarray(scores, np.float32)
        class_ids = np.ascontiguousarray(class_ids, np.int32)
        kept = np.empty(min(max_detections, len(scores)), np.int32)
        height, width = size
        count = self.select(
            boxes.ctypes.data, scores.ctypes.data, class_ids.ctypes.data, len(scores), width, height, threshold, iou,
            len(kept), kept.ctypes.data,
        )  # fmt: skip
        return kept[:count]


@lru_cache(maxsize=None)
def native() -> Optional[Native]:
    """The compiled steps for this machine, or None where there are none."""
    return host_library(SOURCE, Native, check)


def check(steps: Native) -> None:
    """UserError if the compiled steps give anything else than Pillow and NumPy on a few pictures and boxes."""
    random = np.random.default_rng(0)
    for shape, resized in (((60, 80), (48, 64)), ((7, 300), (1, 64)), ((33, 20), (64, 39)), ((500, 400), (64, 51))):
        image = random.integers(0, 256, (*shape, 3), np.uint8)
        out = np.empty((64, 64, 3), np.uint8)
        steps.letterbox(image, out, resized, (1, 2, 3), 0, 64)
        expected = Image.fromarray(image).resize((resized[1], shape[0]), Image.Resampling.BILINEAR)
        expected = expected.resize((resized[1], resized[0]), Image.Resampling.BILINEAR)
        if not np.array_equal(out[: resized[0], : resized[1]], np.asarray(expected)):
            raise UserError("the compiled letterbox differs from Pillow's")
    for threshold in (0.0, 0.3):
        corners = random.integers(-5, 50, (300, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + random.integers(0, 30, (300, 2))], 1).astype(np.float32)
        scores = random.integers(0, 50, 300).astype(np.float32) / 50
        given: Any = (boxes, scores, random.integers(0, 3, 300), (48, 64), threshold, 0.5, 100)
        if not np.array_equal(steps.choose_boxes(*given), choose_boxes(*given)):
            raise UserError("the compiled NMS differs from NumPy's")
