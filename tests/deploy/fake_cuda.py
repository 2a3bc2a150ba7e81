"""A stand-in for a GPU that computes on the host, behind pycuda.driver and behind a libcuda (fake_libcuda.c).

Memory is real, at real addresses, and not zero at first. A stream does its work when it is synchronized; while it
records it does none. The kernels are those of deploy/native/cuda compiled for the host (host_kernels.cpp). Handles do
not fit in 32 bits.
"""

import ctypes
import itertools
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

HERE = Path(__file__).resolve().parent
CUDA_SOURCES = HERE.parents[1] / "deploy" / "native" / "cuda"
FIRST_BYTE = 0xCD
CONTEXT = 0x7F00000000C0
KERNELS = {"resize_horizontal": "PPPiiii", "letterbox": "PPPiiiiiI", "nms": "PPPPPiiff"}  # their parameters' types
AS_C: Dict[str, Any] = {"P": ctypes.c_void_p, "i": ctypes.c_int, "I": ctypes.c_uint32, "f": ctypes.c_float}
INVALID, OUT_OF_MEMORY, NO_GPU, NO_CONTEXT, LOST = 1, 2, 100, 201, 719
TEXTS = {
    OUT_OF_MEMORY: "out of memory",
    NO_GPU: "no CUDA-capable device is detected",
    LOST: "unspecified launch failure",
}
HANDLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_uint64))


def compile_host_kernels(compiler: str, folder: Path) -> ctypes.CDLL:
    """Compiles host_kernels.cpp without contracting products with sums, as __fmul_rn prevents it on the GPU."""
    library = folder / "host_kernels.so"
    flags = ["-O2", "-std=c++14", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    source = str(HERE / "host_kernels.cpp")
    subprocess.run([compiler, *flags, "-I", str(CUDA_SOURCES), "-o", str(library), source], check=True)
    return ctypes.CDLL(str(library))


def compile_libcuda(compiler: str, folder: Path) -> Path:
    """Compiles fake_libcuda.c to folder/libcuda.so.1."""
    library = folder / "libcuda.so.1"
    flags = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(HERE / "fake_libcuda.c")], check=True)
    return library


class Failure(Exception):
    """A status of CUDA that is not 0."""

    def __init__(self, status: int) -> None:
        self.status = status


class Allocation:
    """Memory with pycuda's two interfaces: int() is its address, and NumPy sees its bytes."""

    def __init__(self, size: int) -> None:
        self.bytes = (ctypes.c_uint8 * size)()
        ctypes.memset(self.bytes, FIRST_BYTE, size)
        self.__array_interface__ = {
            "shape": (size,), "typestr": "|u1", "version": 3, "data": (ctypes.addressof(self.bytes), False),
        }  # fmt: skip

    def __int__(self) -> int:
        return ctypes.addressof(self.bytes)

    get_device_pointer = __int__


class Stream:
    def __init__(self, cuda: "FakeCuda") -> None:
        self.cuda, self.handle = cuda, next(cuda.handles)
        self.waiting: List[Callable[[], None]] = []
        self.recorded: Optional[List[Callable[[], None]]] = None
        cuda.streams[self.handle] = self

    def enqueue(self, what: str, work: Callable[[], None]) -> None:
        self.cuda.events.append(what if self.recorded is None else f"record {what}")
        (self.waiting if self.recorded is None else self.recorded).append(work)

    def synchronize(self) -> None:
        assert self.recorded is None, "a stream that records cannot be waited for"
        if self.cuda.lost:
            raise Failure(LOST)
        work, self.waiting = self.waiting, []
        for step in work:
            step()


class FakeCuda:
    """The driver. Its methods with names of the driver's functions take arguments as fake_libcuda.c hands them over;
    addresses are those to write a result to.

    Attributes: `events`, the names of everything that was enqueued and launched, in order; `destroyed`, of what was
    destroyed; `left`, the GPU's free memory in bytes; `failures`, statuses by the functions that are to fail; `errors`,
    what went wrong in a call from C.
    """

    def __init__(self, kernels: Any = None, integrated: bool = False, capacity: int = 1 << 30) -> None:
        self.kernels, self.integrated, self.left = kernels, integrated, capacity
        self.handles = itertools.count(0x7F0000001000, 0x100)
        self.streams: Dict[int, Stream] = {}
        self.memory: Dict[int, Allocation] = {}
        self.named: Dict[int, str] = {}  # kernels' names by their handles, and modules' contents
        self.graphs: Dict[int, List[Callable[[], None]]] = {}
        self.pushed: List[int] = []  # the threads that have the context current
        self.retained: List[int] = []
        self.failures: Dict[str, int] = {}
        self.events: List[str] = []
        self.destroyed: List[str] = []
        self.errors: List[BaseException] = []
        self.lost = self.context_released = False
        self.print_destroyed = False
        self.handler = HANDLER(self.called)  # kept, or C would call what is gone

    def called(self, name: bytes, count: int, arguments: Any) -> int:
        """Answers a call from C."""
        try:
            getattr(self, name.decode())(*arguments[:count])
            return self.failures.get(name.decode(), 0)
        except Failure as failure:
            return failure.status
        except BaseException as error:  # ctypes would drop it
            self.errors.append(error)
            return 999

    def destroy(self, what: str) -> None:
        self.destroyed.append(what)
        if self.print_destroyed:
            os.write(1, f"{what}\n".encode())

    def destroy_tensorrts(self, what: str) -> None:
        """Destroys an object of TensorRT, which needs the context to be there."""
        self.destroy(what)
        if self.context_released:
            os.abort()

    def is_current(self) -> bool:
        return threading.get_ident() in self.pushed

    def reserve(self, size: int) -> None:
        """Takes `size` bytes of the free memory."""
        assert all(stream.recorded is None for stream in self.streams.values()), "no memory while a stream records"
        if not self.is_current():
            raise Failure(NO_CONTEXT)
        if size > self.left:
            raise Failure(OUT_OF_MEMORY)
        self.left -= size

    def launch(
        self, name: str, grid: Sequence[int], block: Sequence[int], stream: Stream, values: Sequence[Any], shared: int
    ) -> None:
        arguments = [AS_C[kind](value) for kind, value in zip(KERNELS[name], values)]
        if name == "nms":
            assert shared == 5 * values[5] <= 48 << 10 and block[0] <= 1024
            arguments.insert(0, ctypes.c_int(grid[0]))
        else:
            bytes_in_a_row = 3 * values[{"resize_horizontal": 5, "letterbox": 7}[name]]
            assert 0 <= grid[0] * block[0] - bytes_in_a_row < block[0] and 1 <= grid[1] <= 65535
        stream.enqueue(name, lambda: getattr(self.kernels, name)(*arguments))

    def cuInit(self, flags: int) -> None:
        assert flags == 0

    def cuGetErrorString(self, status: int, text: int) -> None:
        self.text = ctypes.c_char_p(TEXTS.get(status, f"error {status}").encode())
        write(text, ctypes.c_char_p, self.text.value)

    def cuDeviceGet(self, device: int, number: int) -> None:
        assert number == 0
        write(device, ctypes.c_int, 0)

    def cuDeviceGetName(self, name: int, size: int, device: int) -> None:
        assert size > 20
        ctypes.memmove(name, b"Pretended\0", 10)

    def cuDeviceGetAttribute(self, value: int, attribute: int, device: int) -> None:
        write(value, ctypes.c_int, {18: int(self.integrated), 75: 8, 76: 7}[attribute])  # cuda.h's CUdevice_attribute

    def cuDeviceTotalMem_v2(self, size: int, device: int) -> None:
        write(size, ctypes.c_size_t, 7619 << 20)

    def cuDevicePrimaryCtxRetain(self, context: int, device: int) -> None:
        self.retained.append(device)
        write(context, ctypes.c_void_p, CONTEXT)

    def cuCtxGetCurrent(self, context: int) -> None:
        write(context, ctypes.c_void_p, CONTEXT if self.is_current() else None)

    def cuCtxPushCurrent_v2(self, context: int) -> None:
        assert context == CONTEXT
        self.pushed.append(threading.get_ident())

    def cuCtxPopCurrent_v2(self, context: int) -> None:
        self.pushed.remove(threading.get_ident())

    def cuMemAlloc_v2(self, address: int, size: int) -> None:
        self.reserve(size)
        allocation = Allocation(size)
        self.memory[int(allocation)] = allocation
        write(address, ctypes.c_uint64, int(allocation))

    def cuMemHostAlloc(self, address: int, size: int, flags: int) -> None:
        assert flags == 0 or (flags == 2 and self.integrated)
        self.cuMemAlloc_v2(address, size)

    def cuMemHostGetDevicePointer_v2(self, address: int, host: int, flags: int) -> None:
        assert host in self.memory and flags == 0
        write(address, ctypes.c_uint64, host)

    def cuMemFree_v2(self, address: int) -> None:
        assert self.is_current()
        del self.memory[address]
        self.destroy("memory")

    cuMemFreeHost = cuMemFree_v2

    def cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.streams[stream].enqueue("upload", lambda: ctypes.memmove(target, source, size) and None)

    def cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.streams[stream].enqueue("download", lambda: ctypes.memmove(target, source, size) and None)

    def cuStreamCreate(self, stream: int, flags: int) -> None:
        assert flags == 0 and self.is_current()
        write(stream, ctypes.c_void_p, Stream(self).handle)

    def cuStreamSynchronize(self, stream: int) -> None:
        self.streams[stream].synchronize()

    def cuStreamDestroy_v2(self, stream: int) -> None:
        assert self.is_current()
        del self.streams[stream]
        self.destroy("stream")

    def cuModuleLoadData(self, module: int, image: int) -> None:
        self.name(module, ctypes.string_at(image).decode())

    def cuModuleGetFunction(self, function: int, module: int, name: int) -> None:
        assert module in self.named
        self.name(function, ctypes.string_at(name).decode())

    def cuModuleUnload(self, module: int) -> None:
        assert self.is_current()
        del self.named[module]
        self.destroy("module")

    def name(self, address: int, name: str) -> None:
        handle = next(self.handles)
        self.named[handle] = name
        write(address, ctypes.c_void_p, handle)

    def cuLaunchKernel(self, function: int, *rest: int) -> None:
        name, (shared, stream, parameters, extra) = self.named[function], rest[6:]
        assert not extra and rest[2] == 1
        pointers = (ctypes.c_void_p * len(KERNELS[name])).from_address(parameters)
        values = [AS_C[kind].from_address(pointer).value for kind, pointer in zip(KERNELS[name], pointers)]
        self.launch(name, rest[:3], rest[3:6], self.streams[stream], values, shared)

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        assert mode == 1
        self.streams[stream].recorded = []

    def cuStreamEndCapture(self, stream: int, graph: int) -> None:
        recording, handle = self.streams[stream], next(self.handles)
        assert recording.recorded is not None
        self.graphs[handle], recording.recorded = recording.recorded, None
        write(graph, ctypes.c_void_p, handle)

    def cuGraphInstantiateWithFlags(self, executable: int, graph: int, flags: int) -> None:
        assert flags == 0
        handle = next(self.handles)
        self.graphs[handle] = self.graphs[graph]
        write(executable, ctypes.c_void_p, handle)

    def cuGraphLaunch(self, executable: int, stream: int) -> None:
        if self.lost:
            raise Failure(LOST)
        work = self.graphs[executable]
        self.streams[stream].enqueue("graph", lambda: [step() for step in work] and None)

    def cuGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cuGraphExecDestroy(self, executable: int) -> None:
        assert self.is_current()
        del self.graphs[executable]
        self.destroy("graph")


def write(address: int, kind: Any, value: Any) -> None:
    """Writes a result where C wants it."""
    kind.from_address(address).value = value
