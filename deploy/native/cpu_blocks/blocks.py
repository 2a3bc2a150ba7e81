"""The CPU blocks of an engine: an EfficientNet's first blocks in C++ (blocks.cpp), where the maps are large.

An inference runtime goes through memory layer by layer, and the values between the layers of these blocks are too many
for a core's cache: half of an EfficientDet-D0's time on a CPU. The CPU blocks keep a few rows of them at a time. They
compute in 16 bits where the CPU's vectors do (AVX512-FP16; products by AMX in bfloat16), else in float32.

The engine's builder finds the blocks, times the engine with and without them
(engines/openvino/cpu_blocks/choose.py), and writes their description into the engine's folder (description.py).
"""

import ctypes
import os
import weakref
from functools import lru_cache, partial
from pathlib import Path
from typing import Dict, Optional, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import BackendDescription
from effedge.deploy.common.paths import inside
from effedge.deploy.native.compiled_library import COMPILED, LibrarySource, load_compiled_library
from effedge.deploy.native.cpu_blocks.description import (
    FORMAT,
    BlocksDescription,
    check_description,
    read_description,
    relative_error,
    sample_image,
    sample_outputs,
)
from effedge.deploy.timing.machine import cpu

SOURCE = LibrarySource(
    "cpu_blocks",
    Path(__file__).resolve().parent,
    "blocks.cpp",
    ("-std=c++17", "-pthread", "-ffp-contract=fast", "-fno-math-errno"),
    {},
)
MANIFEST = "manifest.json"
OLD_KEY = "front"  # of the manifest's backend in older versions; OpenVINO alone runs their engines
# Reasons why the inference runtime computes the blocks.
OTHER_CPU, NO_LIBRARY = "the engine was built on another CPU", "there is no C++ compiler, or no AMX for this process"
OTHER_FORMAT = "the engine was built by another effedge"
OTHER_COMPILER = "the compiler here makes them in other precisions than those that were raced"
WRONG = "that gives something else here than where the engine was built"
MAX_ERROR = 0.05  # of the outputs from the expected ones, as a `relative_error`


class CpuBlocksLibrary:
    """The compiled library's functions, and the precisions ("bf16") of its matrix products and of its vectors."""

    def __init__(self, path: Path) -> None:
        """Loads the library at `path`. Raises OSError or AttributeError if that fails."""
        library = ctypes.CDLL(str(path))
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.request_permission, self.weight_count = (
            library.cpu_blocks_request_permission, library.cpu_blocks_weight_count,
        )  # fmt: skip
        self.create, self.run, self.destroy = (
            library.cpu_blocks_create, library.cpu_blocks_run, library.cpu_blocks_destroy,
        )  # fmt: skip
        self.request_permission.argtypes, self.request_permission.restype = [], ctypes.c_int
        self.weight_count.argtypes, self.weight_count.restype = [pointer, size], size
        self.create.argtypes, self.create.restype = [pointer, size, pointer, size], pointer
        self.run.argtypes, self.run.restype = [pointer, pointer, pointer], ctypes.c_int
        self.destroy.argtypes, self.destroy.restype = [pointer], None
        precisions = (library.cpu_blocks_product_precision, library.cpu_blocks_vector_precision)
        for function in precisions:
            function.restype = ctypes.c_char_p
        self.precisions = [function().decode() for function in precisions]
        self.product_precision, self.vector_precision = self.precisions


@lru_cache(maxsize=None)
def load_cpu_blocks_library() -> Optional[CpuBlocksLibrary]:
    """Loads the library for this machine; None if there is none, or the system does not let this process use AMX.

    The library's results are not checked here: `checked_cpu_blocks` does so for each model's weights.
    """
    library = load_compiled_library(SOURCE, CpuBlocksLibrary)
    return library if library is not None and library.request_permission() else None


class TooLarge(UserError):
    """An intermediate value is larger than its type holds (FP16: 65504)."""


class CpuBlocks:
    """CPU blocks that are ready to run, by one thread at a time.

    Attributes:
        image_shape: [H,W,3] of the image.
        output_shapes: [h,w,channels] of each output, by its operation's name.
        another: creates one more of these CPU blocks.
    """

    def __init__(self, library: CpuBlocksLibrary, description: BlocksDescription, threads: int) -> None:
        """Creates blocks that the caller and `threads` - 1 more threads run.

        Raises UserError if the description is damaged or memory is short.
        """
        check_description(description)
        layout, weights = np.ascontiguousarray(description.layout), np.ascontiguousarray(description.weights)
        if library.weight_count(layout.ctypes.data, len(layout)) != weights.size:
            raise UserError("the engine's CPU blocks have not as many weights as their layout says: build it again")
        handle = library.create(layout.ctypes.data, len(layout), weights.ctypes.data, threads)
        if not handle:
            raise UserError(
                "the engine's CPU blocks cannot be made: too little memory is free; close what else uses it"
            )
        self.library, self.handle = library, handle
        self.image_shape, self.output_shapes = description.image_shape, description.output_shapes
        self.another = partial(CpuBlocks, library, description, threads)
        # Not at the process's end, when the threads are gone; nor in a forked process, which never had them.
        weakref.finalize(self, destroy_in_process, os.getpid(), library, handle).atexit = False

    def __call__(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Computes the outputs, float32 [N,h,w,channels] by their operations' names, of images, uint8 [N,H,W,3].

        Raises ValueError for images of another size, TooLarge if an intermediate value is larger than its type holds.
        """
        if images.ndim != 4 or images.shape[1:] != self.image_shape or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {list(images.shape)}, not uint8 [N, *{self.image_shape}]")
        images = np.ascontiguousarray(images)
        outputs = {name: np.empty((len(images), *shape), np.float32) for name, shape in self.output_shapes.items()}
        for index in range(len(images)):
            addresses = (ctypes.c_void_p * len(outputs))(*(array[index].ctypes.data for array in outputs.values()))
            if not self.library.run(self.handle, images[index].ctypes.data, addresses):
                raise TooLarge(
                    f"numbers on the way through the engine's first blocks are larger than "
                    f"{self.library.vector_precision} holds: build it with --cpu-blocks off "
                    "(make engine BUILD_OPTIONS='--cpu-blocks off')"
                )
        return outputs


def destroy_in_process(process: int, library: CpuBlocksLibrary, handle: int) -> None:
    if os.getpid() == process:
        library.destroy(handle)


def checked_cpu_blocks(library: CpuBlocksLibrary, description: BlocksDescription, threads: int) -> Optional[CpuBlocks]:
    """Creates CPU blocks; None if they do not compute the expected outputs. Raises UserError as CpuBlocks does."""
    blocks = CpuBlocks(library, description, threads)
    try:
        values = sample_outputs(blocks(sample_image(description.image_shape)[None]))
    except TooLarge:
        return None
    is_right = values.shape == description.expected.shape and relative_error(values, description.expected) <= MAX_ERROR
    return blocks if is_right else None


def load_cpu_blocks(
    engine: Path, backend: BackendDescription, threads: int
) -> Tuple[Optional[CpuBlocks], Optional[str]]:
    """Loads an engine's CPU blocks.

    Args:
        engine: the engine's file.
        backend: of the engine's manifest.
        threads: how many run the blocks in all.

    Returns:
        The blocks and COMPILED; or None and the reason why the inference runtime computes the blocks; or None and None
        for an engine that was built without CPU blocks.

    Raises:
        UserError: cpu_blocks.npz is damaged, or memory is short.
    """
    if OLD_KEY in backend:
        return None, OTHER_FORMAT
    entry = backend.get("cpu_blocks")
    if entry is None:
        return None, None
    if entry.get("format") != FORMAT:
        return None, OTHER_FORMAT
    if entry.get("cpu") != cpu():
        return None, OTHER_CPU
    library = load_cpu_blocks_library()
    if library is None:
        return None, NO_LIBRARY
    if entry.get("precisions") != library.precisions:
        return None, OTHER_COMPILER
    description = read_description(inside(engine.parent, entry.get("file"), MANIFEST))
    blocks = checked_cpu_blocks(library, description, threads)
    return blocks, WRONG if blocks is None else COMPILED
