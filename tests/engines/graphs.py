"""Makes small ONNX graphs: uint8 NHWC in, Cast, Transpose, convolutions with SiLU, every second one depthwise."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CHANNELS, LAYERS = 32, 32, 4


def spec(batch: Sequence[int] = (1, 1, 1)) -> Dict[str, Any]:
    return {
        "model": "b0",
        "task": "classification",
        "weights": "random",
        "labels": [str(index) for index in range(CHANNELS)],
        "input": {
            "size": [SIZE, SIZE],
            "batch": list(batch),
            "resize": "center-crop",
            "interpolation": "bicubic",
            "crop": 0.875,
        },
    }


class Graph:
    """Nodes and initializers, in the order that they are added."""

    def __init__(self) -> None:
        self.nodes: List[onnx.NodeProto] = []
        self.initializers: List[onnx.TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node and returns its output, whose name differs from the node's, as in real exports."""
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def quantized(self, value: str, scale: float, name: str, zero_point: int = 0) -> str:
        pair = [self.constant(f"{name}_scale", np.float32(scale)), self.constant(f"{name}_zero", np.int8(zero_point))]
        return self.add(
            "DequantizeLinear", [self.add("QuantizeLinear", [value, *pair], f"{name}_q"), *pair], f"{name}_dq"
        )

    def quantized_weight(self, shape: Sequence[int], rng: np.random.Generator, name: str) -> str:
        """Adds INT8 weights behind DequantizeLinear, with a scale per output channel."""
        integers = rng.integers(-127, 128, shape).astype(np.int8)
        values = {"int8": integers, "scale": np.full(shape[0], 0.01, np.float32), "zero": np.zeros(shape[0], np.int8)}
        names = [self.constant(f"{name}_{part}", value) for part, value in values.items()]
        return self.add("DequantizeLinear", names, f"{name}_dq", axis=0)

    def save(
        self, path: Path, inputs: Sequence[Tuple[str, int, Any]], outputs: Sequence[Tuple[str, int, Any]],
        metadata: Optional[Dict[str, Any]], opset: int = 18,
    ) -> Path:  # fmt: skip
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info(*one) for one in inputs],
            [helper.make_tensor_value_info(*one) for one in outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        if metadata is not None:
            helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def network(
    path: Path,
    *,
    quantized: bool = False,
    fp16: bool = False,
    int32_bias: bool = False,
    zero_bias: bool = False,
    data_only: bool = False,
    zero_point: int = 0,
    batch: Sequence[int] = (1, 1, 1),
    opset: int = 18,
    metadata: Optional[Dict[str, Any]] = None,
    seed: int = 0,
) -> Path:
    """Saves the graph. `quantized`: all convolutions but the first; `data_only`: their weights stay float."""
    rng = np.random.default_rng(seed)
    kind = np.float16 if fp16 else np.float32
    graph = Graph()
    cast = graph.add("Cast", ["image"], "cast", to=TensorProto.FLOAT16 if fp16 else TensorProto.FLOAT)
    value = graph.add("Transpose", [cast], "transpose", perm=[0, 3, 1, 2])
    channels = 3
    for index in range(LAYERS):
        groups = channels if index % 2 else 1
        weight = rng.normal(size=(CHANNELS, channels // groups, 3, 3)) / np.sqrt(channels // groups * 9)
        weight = (weight / (128 if index == 0 else 1)).astype(np.float32)
        bias = np.zeros(CHANNELS) if zero_bias else rng.normal(scale=0.1, size=CHANNELS)
        is_int8 = quantized and index > 0
        if is_int8:
            value = graph.quantized(value, 4 / 127, f"data{index}", zero_point)
        if is_int8 and not data_only:
            scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
            integers = np.clip(np.round(weight / scale[:, None, None, None]), -127, 127).astype(np.int8)
            names = [graph.constant(f"w{index}_{part}", x) for part, x in (
                ("int8", integers), ("scale", scale), ("zero", np.zeros(CHANNELS, np.int8)))]  # fmt: skip
            kernel = graph.add("DequantizeLinear", names, f"w{index}_dq", axis=0)
        else:
            kernel = graph.constant(f"w{index}", weight.astype(kind))
        if is_int8 and int32_bias:
            names = [
                graph.constant(f"b{index}_int32", np.round(bias / 1e-4).astype(np.int32)),
                graph.constant(f"b{index}_scale", np.full(CHANNELS, 1e-4, np.float32)),
            ]
            offset = graph.add("DequantizeLinear", names, f"b{index}_dq", axis=0)
        else:
            offset = graph.constant(f"b{index}", bias.astype(kind))
        conv = graph.add(
            "Conv", [value, kernel, offset], f"conv{index}", kernel_shape=[3, 3], pads=[1] * 4, group=groups
        )
        value = graph.add("Mul", [conv, graph.add("Sigmoid", [conv], f"sigmoid{index}")], f"silu{index}")
        channels = CHANNELS
    value = graph.add("Flatten", [graph.add("GlobalAveragePool", [value], "pool")], "flatten")
    if fp16:
        value = graph.add("Cast", [value], "uncast", to=TensorProto.FLOAT)
    graph.nodes[-1].output[0] = "logits"
    count = "N" if batch[0] != batch[2] else batch[1]
    return graph.save(
        path,
        [("image", TensorProto.UINT8, [count, SIZE, SIZE, 3])],
        [("logits", TensorProto.FLOAT, [count, CHANNELS])],
        {"effedge": spec(batch)} if metadata is None else metadata,
        opset,
    )


def non_maximum_suppression(path: Path) -> Path:
    """Saves a graph that TensorRT-RTX parses, but has no implementation of."""
    graph = Graph()
    limits = [graph.constant("k", np.int64([10])), graph.constant("iou", np.float32([0.5]))]
    graph.add("NonMaxSuppression", ["boxes", "scores", *limits, graph.constant("least", np.float32([0.1]))], "nms")
    inputs = [("boxes", TensorProto.FLOAT, [1, 100, 4]), ("scores", TensorProto.FLOAT, [1, 3, 100])]
    return graph.save(path, inputs, [("nms_out", TensorProto.INT64, ["n", 3])], {"effedge": spec()})


def unknown_operator(path: Path) -> Path:
    """Saves a graph with an operator that TensorRT's parser does not know."""
    graph = Graph()
    graph.add("Det", ["x"], "determinant")
    return graph.save(
        path, [("x", TensorProto.FLOAT, [1, 4, 4])], [("determinant_out", TensorProto.FLOAT, [1])], {"effedge": spec()}
    )


def detection_tail(path: Path, anchors: int = 5000, classes: int = 7, keep: int = 100) -> Path:
    """Saves a candidate selection: ReduceMax, TopK over anchors, GatherElements, TopK over the gathered scores."""
    graph = Graph()
    best = graph.add("ReduceMax", ["logits", graph.constant("last", np.int64([2]))], "best", keepdims=0)
    graph.nodes.append(
        helper.make_node("TopK", [best, graph.constant("k", np.int64([keep]))], ["v", "at"], name="anchors")
    )
    column = graph.add("Unsqueeze", ["at", graph.constant("axis", np.int64([2]))], "column")
    wide = graph.add("Expand", [column, graph.constant("wide", np.int64([1, keep, classes]))], "expand")
    gathered = graph.add("GatherElements", ["logits", wide], "gather", axis=1)
    flat = graph.add("Reshape", [gathered, graph.constant("flat", np.int64([1, keep * classes]))], "flat")
    graph.nodes.append(helper.make_node("TopK", [flat, "k"], ["scores", "pairs"], name="pairs_topk"))
    shape = [("logits", TensorProto.FLOAT, [1, anchors, classes])]
    return graph.save(
        path,
        shape,
        [("scores", TensorProto.FLOAT, [1, keep]), ("pairs", TensorProto.INT64, [1, keep])],
        {"effedge": spec()},
    )


def quantized_concat(path: Path, *, zero: int = 0) -> Path:
    """Saves a Focus stem: four strided slices, Concat, Q/DQ, and an INT8 convolution; data of both signs."""
    graph, rng = Graph(), np.random.default_rng(0)
    axes, steps, ends = (
        graph.constant(n, np.int64(v)) for n, v in (("axes", [2, 3]), ("by", [2, 2]), ("to", [64, 64]))
    )
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        start = graph.constant(f"from{row}{column}", np.int64([row, column]))
        parts.append(graph.add("Slice", ["x", start, ends, axes, steps], f"slice{row}{column}"))
    joined = graph.add("Concat", parts, "concat", axis=1)
    pair = [graph.constant("scale", np.float32(4 / 127)), graph.constant("zero", np.int8(zero))]
    data = graph.add("DequantizeLinear", [graph.add("QuantizeLinear", [joined, *pair], "q"), *pair], "dq")
    graph.add("Conv", [data, graph.quantized_weight([16, 12, 3, 3], rng, "w")], "conv", pads=[1] * 4)
    inputs, outputs = [("x", TensorProto.FLOAT, [1, 3, 64, 64])], [("conv_out", TensorProto.FLOAT, [1, 16, 32, 32])]
    return graph.save(path, inputs, outputs, {})
