"""The GPU, by pycuda: all of effedge's calls of CUDA. Run on an H200 (tests/gpu), on no Jetson yet.

pycuda has no CUDA graphs: those few functions of the driver's are called by ctypes, on pycuda's streams.
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
MOST_ROWS = 65535  # of a grid, in CUDA


class Gpu:
    """GPU 0 with its primary context, which other CUDA libraries in the process use too.

    Attributes: `name`; `architecture` ("sm_87"); `integrated`, whether it computes in the host's memory.
    """

    def __init__(self, path: Path) -> None:
        """UserError without a GPU; `path` is the engine that wants it."""
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
        """Make the context the calling thread's own for a while; what CUDA refuses within comes out as UserError."""
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
        """`size` bytes that the host writes and the GPU reads: in one memory, where the GPU is integrated."""
        return Buffer(size, self.integrated)

    def result_buffer(self, size: int) -> "Buffer":
        """`size` bytes that the GPU works on and the host then gets a copy of."""
        return Buffer(size, False)

    def memory(self, size: int) -> Any:
        """`size` bytes that the GPU alone uses: int() of it is their address."""
        return cuda.mem_alloc(max(1, size))

    def stream(self) -> Any:
        return cuda.Stream()

    def kernel(self, binary: bytes, name: str, types: str) -> Any:
        """A kernel of a compiled module; its parameters' types are struct's (P a pointer, i, I, f)."""
        return cuda.module_from_buffer(binary).get_function(name).prepare(types)


@lru_cache(maxsize=None)
def primary_context(number: int) -> Any:
    """A GPU's primary context, kept to the end: then it is released by name, because what pycuda does when the object
    goes by itself (cuCtxDetach) is not for primary contexts, and warns."""
    context = cuda.Device(number).retain_primary_context()
    atexit.register(context.detach)
    return context


def launch_rows(kernel: Any, stream: Any, length: int, rows: int, *parameters: Any) -> None:
    """A thread for each of `length` elements of a row, a block row for each of `rows`."""
    grid = ((length + THREADS - 1) // THREADS, min(rows, MOST_ROWS))
    kernel.prepared_async_call(grid, (THREADS, 1, 1), stream, *parameters)


def launch_blocks(kernel: Any, stream: Any, blocks: int, threads: int, shared: int, *parameters: Any) -> None:
    """`blocks` groups of threads, with `shared` bytes of memory each."""
    kernel.prepared_async_call((blocks, 1), (threads, 1, 1), stream, *parameters, shared_size=shared)


class Buffer:
    """Bytes that host and GPU exchange: the same pinned memory for both where the GPU is integrated (zero-copy), else
    pinned memory and the GPU's own, and a copy between them.

    Attributes: `host`, uint8 [size]; `address`, where the GPU finds them.
    """

    def __init__(self, size: int, shared: bool) -> None:
        flags = cuda.host_alloc_flags.DEVICEMAP if shared else 0
        self.host: np.ndarray = cuda.pagelocked_empty(max(1, size), np.uint8, mem_flags=flags)
        self.on_gpu = None if shared else cuda.mem_alloc(max(1, size))
        pinned: Any = self.host.base  # pycuda's object for the memory
        self.address = int(pinned.get_device_pointer() if self.on_gpu is None else self.on_gpu)

    def upload(self, size: int, stream: Any) -> None:
        if self.on_gpu is not None:
            cuda.memcpy_htod_async(self.on_gpu, self.host[:size], stream)

    def download(self, size: int, stream: Any) -> None:
        if self.on_gpu is not None:
            cuda.memcpy_dtoh_async(self.host[:size], self.on_gpu, stream)

    def view(self, dtype: Any, shape: Tuple[int, ...], start: int = 0) -> np.ndarray:
        """The host's bytes from `start` as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.host[start : start + size].view(dtype).reshape(shape)


class Graph:
    """What was enqueued on a stream, recorded once and launched as one: the CPU's work for it is a single call."""

    THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate memory meanwhile

    def __init__(self, stream: Any, enqueue: Callable[[], None]) -> None:
        """Record what `enqueue` does. Raises CaptureError if that cannot be recorded, or what `enqueue` raises."""
        self.driver, self.handle, graph = libcuda(), ctypes.c_void_p(), ctypes.c_void_p()
        check(
            self.driver.cuStreamBeginCapture_v2(ctypes.c_void_p(stream.handle), self.THREAD_LOCAL),
            "cuStreamBeginCapture",
        )
        try:
            enqueue()
        finally:  # also after an error: a stream that records computes nothing
            ended = self.driver.cuStreamEndCapture(ctypes.c_void_p(stream.handle), ctypes.byref(graph))
        check(ended, "cuStreamEndCapture")
        made = self.driver.cuGraphInstantiateWithFlags(ctypes.byref(self.handle), graph, ctypes.c_ulonglong(0))
        self.driver.cuGraphDestroy(graph)
        check(made, "cuGraphInstantiate")

    def launch(self, stream: Any) -> None:
        check(self.driver.cuGraphLaunch(self.handle, ctypes.c_void_p(stream.handle)), "cuGraphLaunch")

    def __del__(self) -> None:
        if self.handle:
            self.driver.cuGraphExecDestroy(self.handle)


class CaptureError(cuda.Error):
    """A function for CUDA graphs failed."""


def check(status: int, function: str) -> None:
    if status:
        text = ctypes.c_char_p()
        libcuda().cuGetErrorString(status, ctypes.byref(text))
        raise CaptureError(f"{function} failed: {(text.value or b'unknown error').decode()}")


@lru_cache(maxsize=None)
def libcuda() -> Any:
    """The driver's own library, which pycuda has loaded already."""
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
