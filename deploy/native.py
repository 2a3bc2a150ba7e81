"""Letterbox and NMS in C++ (deploy/host), compiled for this CPU: Pillow's pixels and NumPy's choice to the last bit, in
a third of the time.

It takes a C++ compiler (CXX, c++, g++ or clang++). What one compiled is kept in the user's cache and taken from there
again; before it is kept, it is held against Pillow and NumPy. Without a compiler, without a cache that can be written
and that is the user's alone, or with any difference, Pillow and NumPy do it.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import PIL
from PIL import Image

from deploy.cli import UserError
from deploy.compiled_cache import digest_of
from deploy.files import sha256, user_cache, whole_file
from deploy.machine import cpu
from deploy.nms import choose_boxes
from deploy.resample import resample_table

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "host" / "steps.cpp"
HEADERS = HERE / "cuda"
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-std=c++14", "-shared", "-fPIC"]
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 60.0  # after which a compiler is taken for stuck


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
        """As `deploy.nms.choose_boxes`, of finite numbers."""
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
    try:
        path = library_path()
        with contextlib.suppress(OSError, AttributeError):  # there is none yet, or a damaged one
            check_owner(path)
            return Native(path)
        compile_to(path)
        return Native(path)
    except (OSError, UserError, ValueError, AttributeError, subprocess.SubprocessError):
        return None


def library_path() -> Path:
    """Where the library of these sources for this CPU is kept, whether it is there or not."""
    sources = {path.name: sha256(path) for path in (SOURCE, HEADERS / "letterbox.h", HEADERS / "nms.h")}
    versions = {"pillow": PIL.__version__, "numpy": np.__version__}
    key = digest_of({"sources": sources, "flags": FLAGS, "cpu": cpu(), "versions": versions})
    return user_cache() / f"steps-{key}.so"


def check_owner(path: Path) -> None:
    """UserError if others could have put their own code there."""
    status = path.stat()
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise UserError(f"'{path}' is another user's, or others may write it")


def compile_to(path: Path) -> None:
    """Compile the library, hold it against Pillow and NumPy, and only then put it in its place."""
    with whole_file(path) as temporary:
        command = [*compiler(), *FLAGS, "-I", str(HEADERS), "-o", str(temporary), str(SOURCE)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=SECONDS)
        check(Native(temporary))
        temporary.chmod(0o755)
        with open(str(temporary), "rb") as file:
            os.fsync(file.fileno())  # half a library, after a crash, would end every process that loads it


def compiler() -> List[str]:
    """The command of a C++ compiler. UserError, a reason, if there is none."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return [found]
    raise UserError(f"no C++ compiler ({', '.join(COMPILERS)}) is on PATH")


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
