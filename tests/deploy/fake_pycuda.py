"""A stand-in for pycuda.driver on a FakeCuda.

Like pycuda it destroys an object where its context is current, or in the thread that the context was made in, and
else leaks it; and it releases a primary context when the interpreter destroys that.
"""

import ctypes
import threading
import types
from typing import Any, Callable, Dict

import numpy as np

from tests.deploy.fake_cuda import CONTEXT, KERNELS, OUT_OF_MEMORY, TEXTS, Allocation, Failure, FakeCuda


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


def guarded(function: str, work: Callable[[], Any]) -> Any:
    """Calls `work`, and turns CUDA's statuses into pycuda's errors."""
    try:
        return work()
    except Failure as failure:
        kind = MemoryError if failure.status == OUT_OF_MEMORY else LogicError
        raise kind(f"{function} failed: {TEXTS[failure.status]}") from failure


def destroy(cuda: FakeCuda, what: str, work: Callable[[], None]) -> None:
    if cuda.context_released:
        return
    if not (cuda.is_current() or cuda.retained == [threading.get_ident()]):
        cuda.destroy(f"leaked {what}")
        return
    cuda.cuCtxPushCurrent_v2(CONTEXT)
    work()
    cuda.cuCtxPopCurrent_v2(0)


class PyAllocation(Allocation):
    def __init__(self, cuda: FakeCuda, size: int) -> None:
        guarded("cuMemAlloc", lambda: cuda.reserve(size))
        super().__init__(size)
        self.cuda = cuda

    def __del__(self) -> None:
        if hasattr(self, "cuda"):
            destroy(self.cuda, "memory", lambda: self.cuda.destroy("memory"))


class PyStream:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, handle = cuda, ctypes.c_void_p()
        cuda.cuStreamCreate(ctypes.addressof(handle), 0)
        self.handle = handle.value or 0

    def synchronize(self) -> None:
        guarded("cuStreamSynchronize", lambda: self.cuda.cuStreamSynchronize(self.handle))

    def __del__(self) -> None:
        destroy(self.cuda, "stream", lambda: self.cuda.cuStreamDestroy_v2(self.handle))


class PyKernel:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def prepare(self, kinds: str) -> "PyKernel":
        assert kinds == KERNELS[self.name]
        return self

    def prepared_async_call(self, grid: Any, block: Any, stream: PyStream, *values: Any, shared_size: int = 0) -> None:
        assert len(values) == len(KERNELS[self.name]) and len(block) == 3
        self.cuda.launch(self.name, grid, block, self.cuda.streams[stream.handle], values, shared_size)


class PyContext:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        cuda.retained.append(threading.get_ident())

    def push(self) -> None:
        self.cuda.cuCtxPushCurrent_v2(CONTEXT)

    def pop(self) -> None:
        self.cuda.cuCtxPopCurrent_v2(0)

    def detach(self) -> None:
        self.cuda.context_released = True
        self.cuda.destroy("context")

    def __del__(self) -> None:
        if not self.cuda.context_released:
            self.detach()


def pycuda_modules(cuda: FakeCuda) -> Dict[str, types.ModuleType]:
    """Returns stand-ins for pycuda and pycuda.driver, by name."""

    def init() -> None:
        if "cuInit" in cuda.failures:
            raise LogicError(f"cuInit failed: {TEXTS[cuda.failures['cuInit']]}")

    def module_from_buffer(binary: bytes) -> Any:
        if "cuModuleLoadData" in cuda.failures:
            raise LogicError(f"cuModuleLoadData failed: {TEXTS[cuda.failures['cuModuleLoadData']]}")
        return types.SimpleNamespace(get_function=lambda name: PyKernel(cuda, name))

    def pagelocked_empty(size: int, dtype: Any, mem_flags: int = 0) -> np.ndarray:
        assert dtype is np.uint8 and mem_flags == (2 if cuda.integrated and mem_flags else 0)
        return np.asarray(PyAllocation(cuda, size))

    def upload(target: Any, source: np.ndarray, stream: PyStream) -> None:
        cuda.cuMemcpyHtoDAsync_v2(int(target), source.ctypes.data, source.nbytes, stream.handle)

    def download(target: np.ndarray, source: Any, stream: PyStream) -> None:
        cuda.cuMemcpyDtoHAsync_v2(target.ctypes.data, int(source), target.nbytes, stream.handle)

    device = types.SimpleNamespace(
        name=lambda: "Pretended",
        compute_capability=lambda: (8, 7),
        get_attribute=lambda attribute: int(attribute == "integrated" and cuda.integrated),
        retain_primary_context=lambda: PyContext(cuda),
    )
    driver = types.ModuleType("pycuda.driver")
    driver.__dict__.update(
        Error=Error, MemoryError=MemoryError, LogicError=LogicError, init=init, Device=lambda index: device,
        device_attribute=types.SimpleNamespace(INTEGRATED="integrated"),
        host_alloc_flags=types.SimpleNamespace(DEVICEMAP=2),
        Stream=lambda: PyStream(cuda), pagelocked_empty=pagelocked_empty,
        mem_alloc=lambda size: PyAllocation(cuda, size), memcpy_htod_async=upload, memcpy_dtoh_async=download,
        module_from_buffer=module_from_buffer,
    )  # fmt: skip
    package = types.ModuleType("pycuda")
    package.__dict__.update(driver=driver)
    return {"pycuda": package, "pycuda.driver": driver}
