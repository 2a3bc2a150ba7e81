"""The runtime's part of the simulated TensorRT: plans, execution contexts and the inspector. For Python 3.8."""

import ctypes
import json
import weakref
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

import tensorrt as trt

from . import _gpu

SIZES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "INT64": 8, "UINT8": 1, "BOOL": 1}
FORMATS = {"INT8": "Thirty-two wide channel vectorized row major Int8 format",
           "HALF": "Two wide channel vectorized row major FP16 format",
           "FLOAT": "Row major linear FP32"}  # fmt: skip


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = trt._logger(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "Optional[ICudaEngine]":
        description, _ = _gpu.ask("load", bytes(serialized_engine), version=trt.__version__)
        if "error" in description:
            text = f"IRuntime::deserializeCudaEngine: Error Code 1: {description['error']}"
            self._logger().log(trt.ILogger.ERROR, text)
            return None
        return ICudaEngine(self._logger, description)


class ICudaEngine:
    def __init__(self, logger: Any, description: Dict[str, Any]) -> None:
        self._logger, self._description = logger, description
        self._inputs = [name for name, _, _ in description["inputs"]]
        rows = [*description["inputs"], *description["outputs"]]
        self._tensors = {name: (kind, tuple(shape)) for name, kind, shape in rows}
        self._dynamic_contexts = 0

    num_io_tensors = property(lambda self: len(self._tensors))
    if trt._MAJOR >= 10:
        device_memory_size_v2 = property(lambda self: 5 << 20)
    device_memory_size = property(lambda self: 5 << 20)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return trt.TensorIOMode.INPUT if name in self._inputs else trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Tuple[int, ...]:
        return self._tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return trt.DataType[self._tensors[name][0]]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> List[Tuple[int, ...]]:
        return [tuple(shape) for shape in self._description["header"]["profile"][name]]

    def create_execution_context(self) -> "Optional[IExecutionContext]":
        dynamic = any(-1 in shape for _, shape in self._tensors.values())
        if dynamic and self._dynamic_contexts and trt._MAJOR < 10:
            self._logger().log(trt.ILogger.ERROR, "Profile 0 has been chosen by another IExecutionContext")
        self._dynamic_contexts += 1
        return IExecutionContext(self)

    def create_engine_inspector(self) -> "EngineInspector":
        return EngineInspector(self)

    def __del__(self) -> None:
        _gpu.destroy("engine")


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: Dict[str, Tuple[int, ...]] = {}
        self._addresses: Dict[str, int] = {}
        self._ran_with: Optional[Dict[str, Tuple[int, ...]]] = None
        self._runs: List[Tuple[Dict[str, Tuple[int, ...]], Dict[str, int]]] = []
        run = weakref.WeakMethod(self._run)  # as in TensorRT, nothing but the program refers to a context
        self._callback = _gpu.CALLBACK(lambda number: run()(number))

    def set_input_shape(self, name: str, shape: Any) -> bool:
        own, profile = self._engine._tensors[name][1], self._engine._description["header"]["profile"].get(name)
        low, high = (profile[0], profile[2]) if profile else (own, own)
        fits = len(shape) == len(own) and all(a <= size <= b for a, size, b in zip(low, shape, high))
        if fits:
            self._shapes[name] = tuple(shape)
        else:
            text = f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (shape {list(shape)} of '{name}')"
            self._engine._logger().log(trt.ILogger.ERROR, text)
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = int(memory)
        return True

    def get_tensor_shape(self, name: str) -> Tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        batch = next((shape[0] for shape in self._shapes.values() if shape), -1)
        return tuple(batch if size == -1 else size for size in self._engine._tensors[name][1])

    def execute_async_v3(self, stream_handle: int) -> bool:
        capturing = _gpu.is_capturing(stream_handle)
        missing = [name for name in self._engine._tensors if name not in self._addresses]
        if missing or capturing and self._ran_with != self._shapes:
            reason = f"no address of {missing}" if missing else "the first run of a shape cannot be captured"
            self._engine._logger().log(trt.ILogger.ERROR, f"enqueueV3: Error Code 1: Cuda Runtime ({reason})")
            return False
        if not capturing:
            self._ran_with = dict(self._shapes)
        self._runs.append((dict(self._shapes), dict(self._addresses)))
        return _gpu.enqueue(stream_handle, self._callback, len(self._runs) - 1)

    def __del__(self) -> None:
        _gpu.destroy("execution context")

    def _run(self, number: int) -> None:
        """Runs the engine on what is in the memory now, as the stream calls it."""
        (shapes, addresses), description = self._runs[number], self._engine._description
        rows = [(name, kind, list(shapes.get(name, shape))) for name, kind, shape in description["inputs"]]
        data = [ctypes.string_at(addresses[name], SIZES[kind] * int(np.prod(shape))) for name, kind, shape in rows]
        names = [name for name, _, _ in description["outputs"]]
        _, results = _gpu.ask("run", *data, plan=description["plan"], inputs=rows, outputs=names)
        for name, result in zip(names, results):
            ctypes.memmove(addresses[name], result, len(result))


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        """Lists the layers with work in the JSON of NVIDIA's Engine Explorer; before 8.6 without Metadata."""
        entries = []
        for layer in self._engine._description["layers"]:
            if layer["type"] in ("QUANTIZE", "DEQUANTIZE", "CONSTANT") or not layer["inputs"]:
                continue
            convolution = layer["type"] == "CONVOLUTION"
            kind = layer_type(layer, self._engine._description)
            entry: Dict[str, Any] = {
                "Name": layer["name"],
                "LayerType": "CaskConvolution" if convolution else "PointWiseV2",
                "Inputs": [{"Name": layer["inputs"][0][0], "Format/Datatype": FORMATS.get(kind, "Row major Int32")}],
                "TacticName": f"simulated_{kind.lower()}_kernel",
            }
            if trt._MAJOR >= 10:
                entry["Metadata"] = f"[ONNX Layer: {layer['name']}]"
            entries.append(entry)
        return json.dumps({"Layers": entries, "Bindings": list(self._engine._tensors)})


def layer_type(layer: Dict[str, Any], description: Dict[str, Any]) -> str:
    """Returns the type that a layer computes in: that of the tensor in front of its Q/DQ pair; of FLOAT, where the
    network is not typed, HALF by the builder's flag unless the layer's precision is set."""
    header, first = description["header"], layer["inputs"][0]
    before = next((other for other in description["layers"] if other["outputs"][:1] == [first]), None)
    if before is not None and before["type"] == "DEQUANTIZE":
        return "INT8"
    if first[1] != "FLOAT" or header["typed"]:
        return str(first[1])
    return str(header["precisions"].get(layer["name"], "HALF" if "FP16" in header["flags"] else "FLOAT"))
