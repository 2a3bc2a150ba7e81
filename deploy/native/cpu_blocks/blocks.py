"""The front of an engine: an EfficientNet's first blocks in C++ (deploy/native/cpu_blocks/blocks.cpp), where the maps are large.

An inference runtime goes through memory layer by layer, and what lies between the layers of these blocks is too large
for a core's cache: half of an EfficientDet-D0's time on a CPU. The front keeps a few rows of it at a time. It computes
in 16 bits where the CPU does so in vectors (AVX512-FP16; products by AMX in bfloat16), else in float32.

The engine's builder finds the blocks, races the engine with and without them (engines/openvino/cpu_blocks/choose.py), and writes front.npz:
`layout`, int32 [blocks, FIELDS]; `weights`, float32, in the order in which front.cpp reads them; `outputs`, the names
of the operations that give the front's outputs; `expected`, every EXPECTED_STEP'th number of each output for
`sample_picture`.
"""

import ctypes
import os
import weakref
import zipfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.native.compiled_library import COMPILED, Source, host_library
from effedge.deploy.timing.machine import cpu

SOURCE = Source(
    "front",
    Path(__file__).resolve().parent,
    "blocks.cpp",
    ("thread_team.h", "simd.h", "product.h"),
    ("-std=c++17", "-pthread", "-ffp-contract=fast", "-fno-math-errno"),
    {},
)
# As front.cpp's Layout, which says what they are.
FIELDS = (
    "entry", "in_height", "in_width", "in_channels", "entry_top", "entry_left", "height", "width", "channels", "kernel",
    "stride", "top", "left", "out_height", "out_width", "out_channels", "squeezed", "residual", "feature",
)  # fmt: skip
FLAGS = ("residual", "feature")
FORMAT = 1  # of front.npz
STEM, EXPANSION, NONE = range(3)  # entries
KERNELS, STRIDES = (3, 5), (1, 2)  # of depthwise convolutions
LEAST_WIDTH = 16  # pixels of a row, which front.cpp multiplies together
EXPECTED_STEP = 97
OTHER_CPU, NO_LIBRARY = "the engine was built on another CPU", "there is no C++ compiler, or no AMX for this process"
OTHER_FORMAT = "the engine was built by another effedge"
OTHER_COMPILER = "the compiler here makes them in other precisions than those that were raced"
WRONG = "that gives something else here than where the engine was built"
FARTHEST = 0.05  # root of the mean square of what an output is off by, in those of what is expected


class Description(NamedTuple):
    """What front.npz holds."""

    layout: np.ndarray
    weights: np.ndarray
    outputs: List[str]
    expected: np.ndarray

    def column(self, field: str) -> np.ndarray:
        """A field of all blocks."""
        return self.layout[:, FIELDS.index(field)]

    @property
    def picture(self) -> Tuple[int, int, int]:
        """[H,W,3] of the picture."""
        return int(self.column("in_height")[0]), int(self.column("in_width")[0]), 3

    @property
    def shapes(self) -> Dict[str, Tuple[int, int, int]]:
        """[h,w,channels] of each output, by its operation's name."""
        sizes = np.stack([self.column(f"out_{field}") for field in ("height", "width", "channels")], 1)
        rows = sizes[self.column("feature") == 1].tolist()
        return {name: (row[0], row[1], row[2]) for name, row in zip(self.outputs, rows)}


def read_front(path: Path) -> Description:
    """Raises UserError if the file is missing or damaged."""
    try:
        with np.load(str(path)) as file:
            return Description(file["layout"], file["weights"], file["outputs"].tolist(), file["expected"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"'{path}' is damaged ({error}): build the engine again") from error


def sample_picture(shape: Tuple[int, int, int]) -> np.ndarray:
    """Blots and some noise, of that shape, on which fronts are compared: the same for every version of NumPy."""
    y, x, color = np.ogrid[: shape[0], : shape[1], : shape[2]]
    blots = (y // 40 * 7 + x // 40 * 11 + color * 5) * 31 % 200
    noise = (y * 7919 + x * 104729 + color * 1299709) % 9973 % 55
    return (blots + noise).astype(np.uint8)


class FrontLibrary:
    """The compiled library's functions, and the precisions ("bf16") of its products of matrices and of its vectors."""

    def __init__(self, path: Path) -> None:
        """OSError or AttributeError if the library cannot be loaded."""
        library = ctypes.CDLL(str(path))
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.allowed, self.weights, self.make, self.run, self.free = (
            library.front_allowed, library.front_weights, library.front_make, library.front_run, library.front_free,
        )  # fmt: skip
        self.allowed.argtypes, self.allowed.restype = [], ctypes.c_int
        self.weights.argtypes, self.weights.restype = [pointer, size], size
        self.make.argtypes, self.make.restype = [pointer, size, pointer, size], pointer
        self.run.argtypes, self.run.restype = [pointer, pointer, pointer], ctypes.c_int
        self.free.argtypes, self.free.restype = [pointer], None
        precisions = (library.front_product_precision, library.front_vector_precision)
        for function in precisions:
            function.restype = ctypes.c_char_p
        self.precisions = [function().decode() for function in precisions]
        self.product_precision, self.vector_precision = self.precisions


@lru_cache(maxsize=None)
def front_library() -> Optional[FrontLibrary]:
    """The library for this machine, or None where there is none, or the system does not let this process use AMX. Each
    front is checked by itself, with its weights."""
    library = host_library(SOURCE, FrontLibrary)
    return library if library is not None and library.allowed() else None


class TooLarge(UserError):
    """A number on the way is larger than its type holds (FP16: 65504)."""


class Front:
    """A front made ready to run; for one thread at a time.

    Attributes: `shapes`, [h,w,channels] of the outputs by their operations' names; `another`, which makes one more.
    """

    def __init__(self, library: FrontLibrary, description: Description, threads: int) -> None:
        """To be run by the caller and `threads` - 1 more. UserError if the description is damaged, or there is not the
        memory."""
        layout = np.ascontiguousarray(description.layout, np.int32)
        weights = np.ascontiguousarray(description.weights, np.float32)
        if not fits(description):
            raise UserError("the engine's front is damaged: build the engine again")
        if library.weights(layout.ctypes.data, len(layout)) != weights.size:
            raise UserError("the engine's front has not as many weights as its layout says: build the engine again")
        made = library.make(layout.ctypes.data, len(layout), weights.ctypes.data, threads)
        if not made:
            raise UserError("the engine's front cannot be made: too little memory is free; close what else uses it")
        self.library, self.made, self.precision = library, made, library.vector_precision
        self.picture, self.shapes = description.picture, description.shapes
        self.another = partial(Front, library, description, threads)
        # Not at the process's end, when threads are gone; nor in a forked process, which never had them.
        weakref.finalize(self, free_in, os.getpid(), library, made).atexit = False

    def __call__(self, pictures: np.ndarray) -> Dict[str, np.ndarray]:
        """Pictures, uint8 [N,H,W,3], to the outputs, float32 [N,h,w,channels], by their operations' names. ValueError
        for pictures of another size, TooLarge if a number on the way is larger than its type holds."""
        if pictures.shape[1:] != self.picture or pictures.dtype != np.uint8:
            raise ValueError(f"pictures are {pictures.dtype} {list(pictures.shape)}, not uint8 [N, *{self.picture}]")
        pictures = np.ascontiguousarray(pictures)
        outputs = {name: np.empty((len(pictures), *shape), np.float32) for name, shape in self.shapes.items()}
        for index in range(len(pictures)):
            addresses = (ctypes.c_void_p * len(outputs))(*(array[index].ctypes.data for array in outputs.values()))
            if not self.library.run(self.made, pictures[index].ctypes.data, addresses):
                raise TooLarge(
                    f"numbers on the way through the engine's first blocks are larger than {self.precision} holds: "
                    "build it with --front off (make engine BUILD_OPTIONS='--front off')"
                )
        return outputs


def fits(description: Description) -> bool:
    """Whether the layout is one that front.cpp has, and its blocks follow each other."""
    layout = description.layout
    if layout.ndim != 2 or layout.shape[1] != len(FIELDS) or not len(layout) or (layout < 0).any():
        return False
    field = {name: description.column(name) for name in FIELDS}
    counts = [name for name in FIELDS if name not in ("entry", "entry_top", "entry_left", "top", "left", *FLAGS)]
    given = np.stack([field[f"in_{name}"] for name in ("height", "width", "channels")])
    made = np.stack([field[f"out_{name}"] for name in ("height", "width", "channels")])
    before, behind = np.stack([field["top"], field["left"]]), np.stack([field["height"], field["width"]])
    return bool(
        all((field[name] >= 1).all() for name in counts)
        and field["entry"][0] == STEM
        and np.isin(field["entry"][1:], (EXPANSION, NONE)).all()
        and (given[:, 1:] == made[:, :-1]).all()
        and (given == made)[:, field["residual"] != 0].all()
        and np.isin(field["kernel"], KERNELS).all()
        and np.isin(field["stride"], STRIDES).all()
        and (before < field["kernel"]).all()
        and ((made[:2] - 1) * field["stride"] <= before + behind).all()
        and (field["width"] >= LEAST_WIDTH).all()
        and max(field["entry_top"][0], field["entry_left"][0]) <= 2
        and len(description.outputs) == field["feature"].sum() > 0
    )


def free_in(process: int, library: FrontLibrary, made: int) -> None:
    if os.getpid() == process:
        library.free(made)


def samples(outputs: Dict[str, np.ndarray]) -> np.ndarray:
    """What `expected` keeps of the outputs [N,h,w,channels]."""
    rows = [array.reshape(-1)[::EXPECTED_STEP] for array in outputs.values()]
    return np.concatenate(rows).astype(np.float32)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The root of the mean square of their difference, in that of what is expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def checked_front(library: FrontLibrary, description: Description, threads: int) -> Optional[Front]:
    """The front, or None where it does not give what is expected. UserError as Front."""
    front = Front(library, description, threads)
    try:
        found = samples(front(sample_picture(description.picture)[None]))
    except TooLarge:
        return None
    near = found.shape == description.expected.shape and distance(found, description.expected) <= FARTHEST
    return front if near else None


def front_of(engine: Path, manifest: Mapping[str, Any], threads: int) -> Tuple[Optional[Front], Optional[str]]:
    """The front of the engine whose file is `engine`, which `threads` in all compute, and COMPILED; or None, and why
    the backend computes those blocks too (None: the engine has no front). UserError if it is damaged."""
    told = manifest["backend"].get("front")
    if told is None:
        return None, None
    if told.get("format") != FORMAT:
        return None, OTHER_FORMAT
    if told.get("cpu") != cpu():
        return None, OTHER_CPU
    library = front_library()
    if library is None:
        return None, NO_LIBRARY
    if told.get("precisions") != library.precisions:
        return None, OTHER_COMPILER
    description = read_front(engine.parent / str(told.get("file")))
    front = checked_front(library, description, threads)
    return front, WRONG if front is None else COMPILED
