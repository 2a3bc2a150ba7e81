"""A GPU with its TensorRT for a simulated board: a server on this machine, by ONNX Runtime, at a socket in the board.

The board's module tensorrt (device/tensorrt) has the Python API of the board's version; it sends the ONNX here to be
parsed and built, and a plan's inputs to be run. A plan is the ONNX behind one line with the version and the GPU that it
was built for and the SHA-256 of the rest. So a board computes as fast as this machine, also where its CPU is emulated,
and a test can plant faults in its GPU while a command runs there.
"""

from __future__ import annotations

import hashlib
import json
import socketserver
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

ELEMENTS = {
    onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT32: "INT32", onnx.TensorProto.INT64: "INT64", onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}  # fmt: skip
DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
          "UINT8": np.uint8, "BOOL": np.bool_}  # fmt: skip
# Members of trt.LayerType.
LAYERS = {
    "Conv": "CONVOLUTION", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Constant": "CONSTANT",
    "Cast": "CAST", "Sigmoid": "ACTIVATION", "Relu": "ACTIVATION", "Clip": "ACTIVATION", "Concat": "CONCATENATION",
    "MaxPool": "POOLING", "ReduceMean": "REDUCE", "ReduceMax": "REDUCE", "GlobalAveragePool": "REDUCE",
    "Resize": "RESIZE", "Reshape": "SHUFFLE", "Transpose": "SHUFFLE", "Flatten": "SHUFFLE", "Gather": "GATHER",
    "GatherElements": "GATHER", "MatMul": "MATRIX_MULTIPLY", "Slice": "SLICE", "TopK": "TOPK", "Softmax": "SOFTMAX",
    "Add": "ELEMENTWISE", "Mul": "ELEMENTWISE", "Sub": "ELEMENTWISE", "Div": "ELEMENTWISE", "Exp": "UNARY",
}  # fmt: skip
MAGIC = b"SIMULATED PLAN "
NO_IMPLEMENTATION = "[optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any " \
    "implementation for node {}.)"  # fmt: skip
Node = Any  # onnx.NodeProto


class SimulatedGpu:
    """The GPU of a board. A test may set the faults:

    no_implementation: tells for a node of the ONNX if no kernel is found for it, so that a build fails.
    spoil: changes the outputs of a run, so that a self-test disagrees.
    finish_build: a build ends only once this event is set; `building` is set when a build has begun.
    builds: the number of plans so far.
    """

    def __init__(self, folder: Path, capability: str) -> None:
        self.capability = capability
        self.no_implementation: Callable[[Node], bool] = lambda node: False
        self.spoil: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda outputs: outputs
        self.building, self.finish_build = threading.Event(), threading.Event()
        self.finish_build.set()
        self.builds = 0
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.server = socketserver.ThreadingUnixStreamServer(str(folder / "socket"), handler(self))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.finish_build.set()
        self.server.shutdown()
        self.server.server_close()

    def parse(self, request: dict[str, Any], onnx_file: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Returns the network: inputs, outputs, and layers with the types of their tensors; or the reason."""
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load_from_string(onnx_file))
        except Exception as error:
            return {"error": str(error)}, []
        return describe(model), []

    def build(self, request: dict[str, Any], onnx_file: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Returns the plan; or the error of TensorRT."""
        self.building.set()
        self.finish_build.wait()
        for node in onnx.load_from_string(onnx_file).graph.node:
            if self.no_implementation(node):
                return {"error": NO_IMPLEMENTATION.format(node.name)}, []
        self.builds += 1
        header = {**request["header"], "capability": self.capability, "sha256": hashlib.sha256(onnx_file).hexdigest()}
        return {}, [MAGIC + json.dumps(header).encode() + b"\n" + onnx_file]

    def load(self, request: dict[str, Any], plan: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Returns the engine's description, with the header; or the reason why this TensorRT does not load the plan."""
        line, _, onnx_file = plan.partition(b"\n")
        if not line.startswith(MAGIC):
            return {"error": "Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does "
                    "not match)"}, []  # fmt: skip
        header = json.loads(line[len(MAGIC) :])
        if header["sha256"] != hashlib.sha256(onnx_file).hexdigest():
            return {"error": "Serialization (Serialization assertion failed: the plan is truncated)"}, []
        if header["version"] != request["version"]:
            return {"error": "Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
                    f"Version tag does not match. The plan is of {header['version']})"}, []  # fmt: skip
        if header["capability"] != self.capability:
            return {"error": "Internal Error (The engine plan file is generated on an incompatible device, expecting "
                    f"compute {self.capability} got compute {header['capability']}, please rebuild.)"}, []  # fmt: skip
        digest = header["sha256"]
        if digest not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            self.sessions[digest] = onnxruntime.InferenceSession(onnx_file, options)
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(onnx_file))
        return {**describe(model), "header": header, "plan": digest}, []

    def run(self, request: dict[str, Any], *inputs: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Runs a plan that was loaded; the inputs and the outputs are in the order of the engine's tensors."""
        session = self.sessions[request["plan"]]
        feeds = {
            name: np.frombuffer(data, DTYPES[dtype]).reshape(shape)
            for (name, dtype, shape), data in zip(request["inputs"], inputs, strict=True)
        }
        names = [output.name for output in session.get_outputs()]
        outputs = self.spoil(dict(zip(names, session.run(names, feeds), strict=True)))
        return {}, [np.ascontiguousarray(outputs[name]).tobytes() for name in request["outputs"]]


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Describes a network for the board: tensors as [name, type, shape (-1: dynamic)], and a layer for each node."""
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: ELEMENTS.get(value.type.tensor_type.elem_type, "FLOAT") for value in values}
    types.update({tensor.name: ELEMENTS.get(tensor.data_type, "FLOAT") for tensor in graph.initializer})
    weights = {tensor.name for tensor in graph.initializer}

    def tensor(value: Any) -> list[Any]:
        dims = value.type.tensor_type.shape.dim
        return [value.name, types[value.name], [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]]

    return {
        "inputs": [tensor(value) for value in graph.input if value.name not in weights],
        "outputs": [tensor(value) for value in graph.output],
        "layers": [
            {
                "name": node.name,
                "type": LAYERS.get(node.op_type, "IDENTITY"),
                "inputs": [[name, types.get(name, "FLOAT")] for name in node.input if name],
                "outputs": [[name, types.get(name, "FLOAT")] for name in node.output if name],
            }
            for node in graph.node
        ],
    }


def handler(gpu: SimulatedGpu) -> type[socketserver.StreamRequestHandler]:
    """Makes the handler of a connection, which carries one request and one answer: see device/tensorrt/_gpu.py."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = json.loads(self.read(struct.unpack("<I", self.read(4))[0]))
            blobs = [self.read(size) for size in request["sizes"]]
            answer, results = getattr(gpu, request["do"])(request, *blobs)
            text = json.dumps({**answer, "sizes": [len(result) for result in results]}).encode()
            self.wfile.write(struct.pack("<I", len(text)) + text + b"".join(results))

        def read(self, size: int) -> bytes:
            return self.rfile.read(size)

    return Handler
