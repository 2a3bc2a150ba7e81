"""Wraps the GPU: all of effedge's calls of CUDA, by pycuda. It has run on an H200 (tests/gpu), on no Jetson yet.

pycuda has no CUDA graphs: the driver's few functions for them are called by ctypes, on pycuda's streams.
"""

import atexit
import contextlib
import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import numpy as np
import pycuda.driver as cuda

from effedge.deploy.common.cli import UserError

THREADS = 256  # of a block, for kernels whose threads do not wait for each other
MAX_GRID_ROWS = 65535  # in CUDA


class Gpu:
    """GPU 0 with its primary context, which other CUDA libraries in the process use too.

    Attributes: `path`, the engine's, for errors; `name`; `architecture` ("sm_87"); `integrated`, true if it computes in
    the host's memory.
    """

    def __init__(self, path: Path) -> None:
        """Opens the GPU for the engine at `path`. Raises UserError without a GPU."""
        try:
            cuda.init()
            device = cuda.Device(0)
            self.context = primary_context(0)
        except cuda.Error as error:
            raise UserError(f"'{path}' needs an NVIDIA GPU, and CUDA finds none ({error})") from error
        self.path, self.name = path, device.name()
        self.architecture = "sm_{}{}".format(*device.compute_capability())
        self.integrated = bool(device.get_attribute(cuda.device_attribute.INTEGRATED))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes the context current in the calling thread within the block, and turns CUDA's errors into UserError."""
        try:
            self.context.push()
            try:
                yield
            finally:
                self.context.pop()
        except cuda.MemoryError as error:
            raise UserError(
                f"no memory left on {self.name} for '{self.path}' ({error}): close what else uses the GPU, or build "
                "the engine for a smaller batch or input"
            ) from error
        except cuda.Error as error:
            raise UserError(
                f"{self.name} failed while it ran '{self.path}' ({error}): start the program again; if that does not "
                "help, dmesg and nvidia-smi say what ails the GPU"
            ) from error

    def buffer(self, size: int) -> "Buffer":
        """Allocates `size` bytes that the host writes and the GPU reads; in one memory where the GPU is integrated."""
        return Buffer(size, self.integrated)

    def result_buffer(self, size: int) -> "Buffer":
        """Allocates `size` bytes that the GPU writes and the host gets a copy of."""
        return Buffer(size, False)

    def memory(self, size: int) -> Any:
        """Allocates `size` bytes that only the GPU uses; int() of the result is their address."""
        return cuda.mem_alloc(max(1, size))

    def stream(self) -> Any:
        """Creates a CUDA stream."""
        return cuda.Stream()

    def kernel(self, binary: bytes, name: str, types: str) -> Any:
        """Loads a kernel of a compiled module; `types`: its parameters' types as in struct (P a pointer, i, I, f)."""
        return cuda.module_from_buffer(binary).get_function(name).prepare(types)


@lru_cache(maxsize=None)
def primary_context(number: int) -> Any:
    """Returns a GPU's primary context, which is released explicitly at the process's end: pycuda releases the object by
    cuCtxDetach, which is not for primary contexts, and warns."""
    context = cuda.Device(number).retain_primary_context()
    atexit.register(context.detach)
    return context


def launch_rows(kernel: Any, stream: Any, length: int, rows: int, *parameters: Any) -> None:
    """Launches a kernel with a thread for each of `length` elements of a row, and a block row for each of `rows`."""
    grid = ((length + THREADS - 1) // THREADS, min(rows, MAX_GRID_ROWS))
    kernel.prepared_async_call(grid, (THREADS, 1, 1), stream, *parameters)


def launch_blocks(kernel: Any, stream: Any, blocks: int, threads: int, shared: int, *parameters: Any) -> None:
    """Launches a kernel with `blocks` blocks of `threads` threads, with `shared` bytes of shared memory each."""
    kernel.prepared_async_call((blocks, 1), (threads, 1, 1), stream, *parameters, shared_size=shared)


class Buffer:
    """Bytes that the host and the GPU exchange: one pinned memory for both where the GPU is integrated (zero-copy),
    else pinned memory and the GPU's own, and copies between them.

    Attributes: `host`, uint8 [size]; `address`, of the bytes on the GPU.
    """

    def __init__(self, size: int, shared: bool) -> None:
        flags = cuda.host_alloc_flags.DEVICEMAP if shared else 0
        self.host: np.ndarray = cuda.pagelocked_empty(max(1, size), np.uint8, mem_flags=flags)
        self.on_gpu = None if shared else cuda.mem_alloc(max(1, size))
        pinned: Any = self.host.base  # pycuda's object for the memory
        self.address = int(pinned.get_device_pointer() if self.on_gpu is None else self.on_gpu)

    def upload(self, size: int, stream: Any) -> None:
        """Enqueues the copy of the first `size` bytes to the GPU, if it has its own memory."""
        if self.on_gpu is not None:
            cuda.memcpy_htod_async(self.on_gpu, self.host[:size], stream)

    def download(self, size: int, stream: Any) -> None:
        """Enqueues the copy of the first `size` bytes to the host, if the GPU has its own memory."""
        if self.on_gpu is not None:
            cuda.memcpy_dtoh_async(self.host[:size], self.on_gpu, stream)

    def view(self, dtype: Any, shape: Tuple[int, ...], start: int = 0) -> np.ndarray:
        """Returns the host's bytes from `start` on as an array, without a copy."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.host[start : start + size].view(dtype).reshape(shape)


class Graph:
    """A CUDA graph: the work that was enqueued on a stream, recorded once and launched by a single call."""

    THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate memory meanwhile

    def __init__(self, stream: Any, enqueue: Callable[[], None]) -> None:
        """Records the work that `enqueue` enqueues. Raises CaptureError if it cannot be recorded, and `enqueue`'s
        errors."""
        self.driver, self.handle, graph = libcuda(), ctypes.c_void_p(), ctypes.c_void_p()
        check(
            self.driver.cuStreamBeginCapture_v2(ctypes.c_void_p(stream.handle), self.THREAD_LOCAL),
            "cuStreamBeginCapture",
        )
        try:
            enqueue()
        finally:  # also after an error: a stream that records computes nothing
            end_status = self.driver.cuStreamEndCapture(ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        check(end_status, "cuStreamEndCapture")
        status = self.driver.cuGraphInstantiateWithFlags(ctypes.byref(self.handle), graph, ctypes.c_ulonglong(0))
        self.driver.cuGraphDestroy(graph)
        check(status, "cuGraphInstantiate")

    def launch(self, stream: Any) -> None:
        """Enqueues the recorded work on a stream."""
        check(self.driver.cuGraphLaunch(self.handle, ctypes.c_void_p(stream.handle)), "cuGraphLaunch")

    def __del__(self) -> None:
        if self.handle:
            self.driver.cuGraphExecDestroy(self.handle)


CudaError = cuda.Error  # any error of CUDA, from pycuda or of a function for graphs


class CaptureError(cuda.Error):
    """A function for CUDA graphs failed."""


def check(status: int, function: str) -> None:
    """Raises CaptureError for a status of the driver that is not 0."""
    if status:
        text = ctypes.c_char_p()
        libcuda().cuGetErrorString(status, ctypes.byref(text))
        raise CaptureError(f"{function} failed: {(text.value or b'unknown error').decode()}")


@lru_cache(maxsize=None)
def libcuda() -> Any:
    """Loads the CUDA driver's library, which pycuda has loaded already."""
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
