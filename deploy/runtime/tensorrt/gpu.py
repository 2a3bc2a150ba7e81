"""Wraps the GPU: all of effedge's calls of CUDA. They go through pycuda where it can be imported, and else through
libcuda.py, which has the same interface. With pycuda they have run on an H200 (tests/gpu), on no Jetson yet.

pycuda has no CUDA graphs: the driver's few functions for them are called by libcuda.py in both cases.
"""

import contextlib
import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.runtime.tensorrt import libcuda

CHOICE = "EFFEDGE_CUDA"  # the environment variable that chooses one of the two
PYCUDA, LIBCUDA = "pycuda", "libcuda"


def import_cuda() -> Any:
    """Imports pycuda.driver or libcuda.py. Raises UserError if the one that the user chose is missing."""
    choice = os.environ.get(CHOICE)
    if choice:
        choose(CHOICE, choice, (PYCUDA, LIBCUDA))
    if choice != LIBCUDA:
        try:
            import pycuda.driver

            return pycuda.driver
        except ImportError as error:
            if choice == PYCUDA:
                raise UserError(
                    f"{CHOICE}=pycuda, but pycuda cannot be imported ({error}): install it, or leave {CHOICE} out"
                ) from error
    return libcuda


cuda = import_cuda()
CALLED_BY = LIBCUDA if cuda is libcuda else PYCUDA  # in reports
CudaError = (cuda.Error, libcuda.Error)
OutOfMemory = (cuda.MemoryError, libcuda.MemoryError)
THREADS = 256  # of a block, for kernels whose threads do not wait for each other
MAX_GRID_ROWS = 65535  # in CUDA


class KernelError(UserError):
    """The driver refuses a compiled module, as a driver that is older than the compiler may."""


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
        except CudaError as error:
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
        except OutOfMemory as error:
            raise UserError(
                f"no memory left on {self.name} for '{self.path}' ({error}): close what else uses the GPU, or build "
                "the engine for a smaller batch or input"
            ) from error
        except CudaError as error:
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
        """Loads a kernel of a compiled module; `types`: its parameters' types as in struct (P a pointer, i, I, f).

        Raises KernelError if the driver refuses the module.
        """
        try:
            return cuda.module_from_buffer(binary).get_function(name).prepare(types)
        except OutOfMemory:
            raise
        except CudaError as error:
            raise KernelError(
                f"the driver of {self.name} does not load the compiled kernel '{name}' ({error})"
            ) from error


@lru_cache(maxsize=None)
def primary_context(number: int) -> Any:
    """Returns a GPU's primary context, which only the end of the process releases.

    So it outlives every engine, also one that the interpreter destroys last: TensorRT ends the process if the context
    of an engine is released before the engine (inducer/pycuda#460, NVIDIA/TensorRT#1632).
    """
    context = cuda.Device(number).retain_primary_context()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))  # else the interpreter destroys it, and pycuda releases it
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
        """Records the work that `enqueue` enqueues. Raises CudaError if it cannot be recorded, and `enqueue`'s
        errors."""
        graph = ctypes.c_void_p()
        libcuda.call("cuStreamBeginCapture_v2", stream.handle, self.THREAD_LOCAL)
        try:
            enqueue()
        finally:  # also after an error: a stream that records computes nothing
            status = libcuda.library().cuStreamEndCapture(stream.handle, ctypes.byref(graph))
        libcuda.check("cuStreamEndCapture", status)
        try:
            handle = libcuda.result_of("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            libcuda.call("cuGraphDestroy", graph)
        self.executable = libcuda.Resource(handle, "cuGraphExecDestroy")

    def launch(self, stream: Any) -> None:
        """Enqueues the recorded work on a stream."""
        libcuda.call("cuGraphLaunch", self.executable.handle, stream.handle)
