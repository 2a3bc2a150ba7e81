"""Stand-ins for a GPU, pycuda's driver and TensorRT that compute on the host, to test the code that calls them.

Memory is real, at real addresses, and the GPU's is not zero at first. A stream does its work when it is synchronized;
while it records it does none. The kernels are those of deploy/native/cuda compiled for the host (host_kernels.cpp).
TensorRT's engine is a function from arrays to arrays, which, like TensorRT, refuses to be recorded before it has run
without recording for a shape.
"""

import ctypes
import enum
import itertools
import subprocess
import threading
import types
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

HERE = Path(__file__).resolve().parent
CUDA_SOURCES = HERE.parents[1] / "deploy" / "native" / "cuda"
FIRST_BYTE = 0xCD
LogLevel = enum.Enum("LogLevel", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


def compile_host_kernels(compiler: str, folder: Path) -> ctypes.CDLL:
    """Compiles host_kernels.cpp without contracting products with sums, as __fmul_rn prevents it on the GPU."""
    library = folder / "host_kernels.so"
    flags = ["-O2", "-std=c++14", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    source = str(HERE / "host_kernels.cpp")
    subprocess.run([compiler, *flags, "-I", str(CUDA_SOURCES), "-o", str(library), source], check=True)
    return ctypes.CDLL(str(library))


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
    numbers = itertools.count(1000)

    def __init__(self, cuda: "FakeCuda") -> None:
        self.cuda, self.handle = cuda, next(self.numbers)
        self.waiting: List[Callable[[], None]] = []
        self.recorded: Optional[List[Callable[[], None]]] = None
        cuda.streams[self.handle] = self

    def enqueue(self, what: str, work: Callable[[], None]) -> None:
        self.cuda.events.append(what if self.recorded is None else f"record {what}")
        (self.waiting if self.recorded is None else self.recorded).append(work)

    def synchronize(self) -> None:
        assert self.recorded is None, "a stream that records cannot be waited for"
        if self.cuda.lost:
            raise self.cuda.LogicError("cuStreamSynchronize failed: unspecified launch failure")
        work, self.waiting = self.waiting, []
        for step in work:
            step()


class Kernel:
    def __init__(self, cuda: "FakeCuda", name: str) -> None:
        self.cuda, self.name = cuda, name

    def prepare(self, kinds: str) -> "Kernel":
        self.kinds = kinds
        return self

    def prepared_async_call(self, grid: Any, block: Any, stream: Stream, *values: Any, shared_size: int = 0) -> None:
        assert len(values) == len(self.kinds) and len(block) == 3
        as_c = {"P": ctypes.c_void_p, "i": ctypes.c_int, "I": ctypes.c_uint32, "f": ctypes.c_float}
        arguments = [as_c[kind](value) for kind, value in zip(self.kinds, values)]
        if self.name == "nms":
            assert shared_size == 5 * values[5] <= 48 << 10 and block[0] <= 1024
            arguments.insert(0, ctypes.c_int(grid[0]))
        else:
            bytes_in_a_row = 3 * values[{"resize_horizontal": 5, "letterbox": 7}[self.name]]
            assert 0 <= grid[0] * block[0] - bytes_in_a_row < block[0] and 1 <= grid[1] <= 65535
        function = getattr(self.cuda.kernels, self.name)
        stream.enqueue(self.name, lambda: function(*arguments))


class FakeCuda:
    """The driver, which stands in for libcuda too; `modules()` replace pycuda and TensorRT.

    Attributes: `events`, the names of everything that was enqueued and launched, in order. `capacity` is the GPU's
    memory in bytes.
    """

    def __init__(self, kernels: Any = None, integrated: bool = False, capacity: int = 1 << 30) -> None:
        self.kernels, self.integrated, self.left = kernels, integrated, capacity
        self.streams: Dict[int, Stream] = {}
        self.events: List[str] = []
        self.lost = False
        self.pushed: List[int] = []  # the threads that have the context current
        self.retained: List[int] = []
        self.graphs: Dict[int, List[Callable[[], None]]] = {}
        self.graph_numbers = itertools.count(1)
        self.Error = type("Error", (Exception,), {})
        self.MemoryError = type("MemoryError", (self.Error,), {})
        self.LogicError = type("LogicError", (self.Error,), {})
        self.cuStreamBeginCapture_v2 = self.begin_capture
        self.cuStreamEndCapture = self.end_capture
        self.cuGraphInstantiateWithFlags = self.instantiate
        self.cuGraphLaunch = self.launch_graph

    def allocate(self, size: int) -> Allocation:
        assert all(stream.recorded is None for stream in self.streams.values()), "no memory while a stream records"
        assert self.pushed, "no context is current"
        if size > self.left:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        self.left -= size
        return Allocation(size)

    def pagelocked_empty(self, size: int, dtype: Any, mem_flags: int = 0) -> np.ndarray:
        assert dtype is np.uint8 and mem_flags == (2 if self.integrated and mem_flags else 0)
        return np.asarray(self.allocate(size))

    def to_gpu(self, target: Any, source: np.ndarray, stream: Stream) -> None:
        stream.enqueue("upload", lambda: ctypes.memmove(int(target), source.ctypes.data, source.nbytes) and None)

    def to_host(self, target: np.ndarray, source: Any, stream: Stream) -> None:
        stream.enqueue("download", lambda: ctypes.memmove(target.ctypes.data, int(source), target.nbytes) and None)

    # Called by ctypes: handles come as c_void_p, results go out by reference.

    def begin_capture(self, stream: ctypes.c_void_p, mode: int) -> int:
        assert mode == 1
        self.streams[stream.value or 0].recorded = []
        return 0

    def end_capture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        recording = self.streams[stream.value or 0]
        assert recording.recorded is not None
        graph._obj.value = next(self.graph_numbers)
        self.graphs[graph._obj.value] = recording.recorded
        recording.recorded = None
        return 0

    def instantiate(self, executable: Any, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong) -> int:
        assert flags.value == 0
        executable._obj.value = graph.value
        return 0

    def launch_graph(self, executable: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        if self.lost:
            return 719
        work = self.graphs[executable.value or 0]
        self.streams[stream.value or 0].enqueue("graph", lambda: [step() for step in work] and None)
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        return 0

    def cuGraphExecDestroy(self, executable: ctypes.c_void_p) -> int:
        del self.graphs[executable.value or 0]
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = f"error {status}".encode()
        return 0

    def modules(self, trt: types.ModuleType) -> Dict[str, types.ModuleType]:
        driver = types.ModuleType("pycuda.driver")
        device = types.SimpleNamespace(
            name=lambda: "Pretended",
            compute_capability=lambda: (8, 7),
            get_attribute=lambda attribute: int(attribute == "integrated" and self.integrated),
            retain_primary_context=lambda: types.SimpleNamespace(
                number=self.retained.append(1),
                push=lambda: self.pushed.append(threading.get_ident()),
                pop=lambda: self.pushed.remove(threading.get_ident()),
                detach=lambda: None,
            ),
        )
        driver.__dict__.update(
            Error=self.Error, MemoryError=self.MemoryError, LogicError=self.LogicError, init=lambda: None,
            Device=lambda index: device,
            device_attribute=types.SimpleNamespace(INTEGRATED="integrated"),
            host_alloc_flags=types.SimpleNamespace(DEVICEMAP=2),
            Stream=lambda: Stream(self), pagelocked_empty=self.pagelocked_empty, mem_alloc=self.allocate,
            memcpy_htod_async=self.to_gpu, memcpy_dtoh_async=self.to_host,
            module_from_buffer=lambda binary: types.SimpleNamespace(get_function=lambda name: Kernel(self, name)),
        )  # fmt: skip
        package = types.ModuleType("pycuda")
        package.__dict__.update(driver=driver)
        return {trt.__name__: trt, "pycuda": package, "pycuda.driver": driver}


Shape = Tuple[int, ...]
Infer = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]


class FakeContext:
    def __init__(self, engine: "FakeEngine") -> None:
        self.engine = engine
        self.shapes: Dict[str, Shape] = {}
        self.addresses: Dict[str, int] = {}
        self.ready: Optional[Dict[str, Shape]] = None  # the shapes of the last run without recording

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert isinstance(address, int)
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if name in self.shapes:
            return self.shapes[name]
        batch = next(iter(self.shapes.values()))[0]
        return tuple(batch if size == -1 else size for size in self.engine.tensors[name][1])

    def array(self, name: str) -> np.ndarray:
        shape, dtype = self.get_tensor_shape(name), self.engine.tensors[name][2]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(self.addresses[name]), dtype).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        target = self.engine.cuda.streams[stream]
        if not self.engine.runs or (target.recorded is not None and self.ready != self.shapes):
            self.engine.log.log(LogLevel.ERROR, "[engine.cpp] Error Code 1: Cuda Runtime (operation not permitted)")
            return False
        if target.recorded is None:
            self.ready = dict(self.shapes)

        def work() -> None:
            names = {name: mode for name, (mode, _, _) in self.engine.tensors.items()}
            results = self.engine.infer({name: self.array(name).copy() for name in names if names[name] == "in"})
            for name in names:
                if names[name] == "out":
                    self.array(name)[...] = results[name]

        target.enqueue("engine", work)
        return True


class FakeEngine:
    """An engine; `tensors`: by name "in" or "out", the shape (-1: the batch, at most `max_batch`) and the type."""

    def __init__(
        self, cuda: FakeCuda, tensors: Dict[str, Tuple[str, Shape, Any]], infer: Infer, max_batch: int = 4
    ) -> None:
        self.cuda, self.tensors, self.infer, self.max_batch = cuda, tensors, infer, max_batch
        self.num_io_tensors, self.device_memory_size = len(tensors), 5 << 20
        self.runs, self.contexts_left = True, 8
        self.log: Any = None
        self.kind: Dict[Any, str] = {np.uint8: "UINT8", np.float32: "FLOAT", np.int32: "INT32", "fp8": "FP8"}

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> Shape:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=self.kind[self.tensors[name][2]])

    def get_tensor_profile_shape(self, name: str, profile: int) -> List[Shape]:
        rest = self.tensors[name][1][1:]
        return [(1, *rest), (2, *rest), (self.max_batch, *rest)]

    def create_execution_context(self, config: Any = None) -> Optional[FakeContext]:
        self.config = config
        self.contexts_left -= 1
        return FakeContext(self) if self.contexts_left >= 0 else None


def fake_tensorrt(engine: Optional[FakeEngine], version: str = "10.3.0", name: str = "tensorrt") -> types.ModuleType:
    """Returns a stand-in for the module tensorrt; without an engine no plan can be loaded."""

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Optional[FakeEngine]:
            assert isinstance(plan, bytes)
            if engine is None:
                self.log.log(LogLevel.ERROR, "[rt.cpp] the plan needs TensorRT 10.7, this is 10.3")
                return None
            engine.log = self.log
            return engine

    trt = types.ModuleType(name)
    trt.__dict__.update(
        __version__=version,
        Runtime=Runtime,
        ILogger=type("ILogger", (), {level.name: level for level in LogLevel}),
        IExecutionContext=FakeContext,
        TensorIOMode=types.SimpleNamespace(INPUT="in", OUTPUT="out"),
    )
    return trt
