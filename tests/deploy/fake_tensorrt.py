"""A stand-in for TensorRT on a FakeCuda: an engine is a function from arrays to arrays, which, like TensorRT's, refuses
to be recorded before it has run without recording for a shape, and ends the process if it is destroyed after the CUDA
context (NVIDIA/TensorRT#1632).
"""

import ctypes
import enum
import types
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

from tests.deploy.fake_cuda import FakeCuda

LogLevel = enum.Enum("LogLevel", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
Shape = Tuple[int, ...]
Infer = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]


class FakeContext:
    def __init__(self, engine: "FakeEngine") -> None:
        self.engine = engine  # the bindings keep it, too, until the context is destroyed
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

    def __del__(self) -> None:
        self.engine.cuda.destroy_tensorrts("execution context")


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

    def __del__(self) -> None:
        self.cuda.destroy_tensorrts("engine")


def fake_tensorrt(
    engine: Union[FakeEngine, Callable[[], FakeEngine], None], version: str = "10.3.0", name: str = "tensorrt"
) -> types.ModuleType:
    """Returns a stand-in for the module tensorrt, whose plan is `engine` or what it returns; None: no plan can be
    loaded."""

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Optional[FakeEngine]:
            assert isinstance(plan, bytes)
            if engine is None:
                self.log.log(LogLevel.ERROR, "[rt.cpp] the plan needs TensorRT 10.7, this is 10.3")
                return None
            loaded = engine if isinstance(engine, FakeEngine) else engine()
            loaded.log = self.log
            return loaded

    trt = types.ModuleType(name)
    trt.__dict__.update(
        __version__=version,
        Runtime=Runtime,
        ILogger=type("ILogger", (), {level.name: level for level in LogLevel}),
        IExecutionContext=FakeContext,
        TensorIOMode=types.SimpleNamespace(INPUT="in", OUTPUT="out"),
    )
    return trt
