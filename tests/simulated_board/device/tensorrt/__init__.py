"""A small TensorRT for a simulated board: the Python API of the board's version, as far as effedge uses it.

`__version__` is set when a board gets the module (board.py). The enumerations and the builder's config have exactly
the members of the version (tests/engines/tensorrt_versions.py, which is in the board as module tensorrt_versions). What
the other classes offer exists in NVIDIA's bindings of the version (tests/engines/tensorrt/test_bindings.py looks each
name up). The work is done by the simulated GPU.

Like TensorRT, it
1. keeps the first logger of the process and uses it for everybody, and on 8.x holds no reference to it: a logger that
   Python destroys meanwhile ends the process by SIGSEGV;
2. asks the progress monitor after each step whether to go on (from 10.0 on);
3. loads a plan only on the version and the GPU that it was built for, and says why not to the logger alone;
4. ends the process by SIGSEGV if an engine or its context is destroyed after the CUDA context;
5. refuses Q/DQ pairs without the INT8 flag, precision flags with a strongly typed network, and an output's type that
   the layer cannot have.

For Python 3.8.
"""

import enum
import os
import pathlib
import signal
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence

import tensorrt_versions as _versions

from . import _gpu

__version__ = "10.3.0"
_MAJOR = int(__version__.split(".")[0])
_MEMBERS = {"8.5": "8.5", "10.3": "10.3", "10.16": "10.13.3"}[".".join(__version__.split(".")[:2])]

_base = _versions.tensorrt(_MEMBERS)
BuilderFlag, MemoryPoolType = _base.BuilderFlag, _base.MemoryPoolType
NetworkDefinitionCreationFlag = _base.NetworkDefinitionCreationFlag
DeviceType, ProfilingVerbosity = _base.DeviceType, _base.ProfilingVerbosity
if hasattr(_base, "HardwareCompatibilityLevel"):
    HardwareCompatibilityLevel = _base.HardwareCompatibilityLevel
DataType = enum.IntEnum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 " + ("INT64" if _MAJOR >= 10 else ""), start=0)
float32, float16, int8, int32 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32
TensorIOMode = enum.IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
LayerInformationFormat = enum.IntEnum("LayerInformationFormat", "ONELINE JSON", start=0)
LayerType = enum.IntEnum(
    "LayerType",
    "CONVOLUTION CAST ACTIVATION POOLING CONCATENATION ELEMENTWISE UNARY SHUFFLE REDUCE TOPK GATHER MATRIX_MULTIPLY "
    "CONSTANT IDENTITY SLICE RESIZE SOFTMAX QUANTIZE DEQUANTIZE",
)
ErrorCode = enum.IntEnum("ErrorCode", "SUCCESS INTERNAL_ERROR INVALID_NODE UNSUPPORTED_NODE MODEL_DESERIALIZE_FAILED")


class ILogger:
    Severity = enum.IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._initialized = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


_first_logger: Optional[Callable[[], Any]] = None


def _logger(given: ILogger) -> Callable[[], ILogger]:
    """Returns what gives the process's logger, which is the first that was ever given (1 above)."""
    global _first_logger
    if not isinstance(given, ILogger) or not hasattr(given, "_initialized"):
        raise TypeError("incompatible constructor arguments: expected a tensorrt.ILogger, whose __init__ was called")
    if _first_logger is None:
        _first_logger = weakref.ref(given) if _MAJOR < 10 else (lambda: given)

    def current() -> ILogger:
        logger = _first_logger() if _first_logger else None
        if logger is None:  # a pointer to freed memory
            os.kill(os.getpid(), signal.SIGSEGV)
        return logger

    if current() is not given:
        current().log(ILogger.WARNING, "The logger passed into createInferBuilder differs from one already provided")
    return current


if _MAJOR >= 10:

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            raise NotImplementedError

        def step_complete(self, phase_name: str, step: int) -> bool:
            raise NotImplementedError

        def phase_finish(self, phase_name: str) -> None:
            raise NotImplementedError


class ITensor:
    def __init__(self, name: str, kind: str, shape: Sequence[int] = ()) -> None:
        self._kind = "INT32" if kind not in DataType.__members__ else kind  # INT64 before 10
        self._name, self._shape = name, tuple(shape)

    name = property(lambda self: self._name)
    dtype = property(lambda self: DataType[self._kind])
    shape = property(lambda self: self._shape)
    is_shape_tensor = property(lambda self: False)
    dynamic_range: Any = None


class ILayer:
    def __init__(self, row: Dict[str, Any]) -> None:
        self._row = row
        self._precision: Optional[Any] = None
        self._tensors = {key: [ITensor(*tensor) for tensor in row[key]] for key in ("inputs", "outputs")}
        self._output_types: Dict[int, Any] = {}

    name = property(lambda self: self._row["name"])
    type = property(lambda self: LayerType[self._row["type"]])
    num_inputs = property(lambda self: len(self._row["inputs"]))
    num_outputs = property(lambda self: len(self._row["outputs"]))
    precision_is_set = property(lambda self: self._precision is not None)
    if _MAJOR >= 10:
        metadata = property(lambda self: f"[ONNX Layer: {self.name}]")

    @property
    def precision(self) -> Any:
        return self._precision if self._precision is not None else DataType.FLOAT

    @precision.setter
    def precision(self, value: Any) -> None:
        self._precision = DataType(value)

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._output_types[index] = DataType(dtype)

    def get_input(self, index: int) -> ITensor:
        return self._tensors["inputs"][index]

    def get_output(self, index: int) -> ITensor:
        return self._tensors["outputs"][index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        typed = NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
        self._typed = typed is not None and bool(flags >> int(typed) & 1)
        self._onnx = b""
        self._network: Dict[str, Any] = {"inputs": [], "outputs": [], "layers": []}
        self._layers: List[ILayer] = []

    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._network["inputs"]))
    num_outputs = property(lambda self: len(self._network["outputs"]))

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def get_input(self, index: int) -> ITensor:
        return ITensor(*self._network["inputs"][index])

    def get_output(self, index: int) -> ITensor:
        return ITensor(*self._network["outputs"][index])


class ParserError:
    def __init__(self, reason: str) -> None:
        self._reason = reason

    def desc(self) -> str:
        return self._reason

    def code(self) -> Any:
        return ErrorCode.MODEL_DESERIALIZE_FAILED

    def node(self) -> int:
        return -1

    if _MAJOR >= 10:

        def node_name(self) -> str:
            return ""

        def node_operator(self) -> str:
            return ""


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, _logger(logger)
        self._errors: List[ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        content = pathlib.Path(model).read_bytes()
        answer, _ = _gpu.ask("parse", content)
        if "error" in answer:
            self._errors.append(ParserError(answer["error"]))
            return False
        self._network._onnx, self._network._network = content, answer
        self._network._layers = [ILayer(row) for row in answer["layers"]]
        return True


from ._builder import Builder, IBuilderConfig, IOptimizationProfile, ITimingCache  # noqa: E402, F401
from ._engine import EngineInspector, ICudaEngine, IExecutionContext, Runtime  # noqa: E402, F401
