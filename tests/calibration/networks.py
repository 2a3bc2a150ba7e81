"""Small networks in ONNX, written node by node, for the tests of calibration/."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.ranges.samples import Samples


class Network:
    """Collects nodes and weights; each method returns the name of the tensor that it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def conv(
        self,
        x: str,
        name: str,
        cin: int,
        cout: int,
        kernel: int = 1,
        group: int = 1,
        stride: int = 1,
        gain: float = 1.0,
    ) -> str:
        """A convolution with bias, SAME for odd kernels, weights scaled to keep the variance."""
        shape = (cout, cin // group, kernel, kernel)
        weight = self.random.normal(0, gain / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        bias = self.random.normal(0, 0.1, cout).astype(np.float32)
        names = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        pads = [kernel // 2] * 4
        return self.node("Conv", names, name, group=group, strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2)

    def silu(self, x: str, name: str) -> str:
        return self.node("Mul", [x, self.node("Sigmoid", [x], f"{name}_sigmoid")], name)

    def squeeze_excite(self, x: str, name: str, channels: int, pool: str = "GlobalAveragePool") -> str:
        pooled = self.node(pool, [x], f"{name}_pool")
        reduced = self.silu(self.conv(pooled, f"{name}_reduce", channels, 4), f"{name}_act")
        gate = self.node("Sigmoid", [self.conv(reduced, f"{name}_expand", 4, channels)], f"{name}_gate")
        return self.node("Mul", [x, gate], name)

    def mbconv(self, x: str, name: str, cin: int, cout: int) -> str:
        """EfficientNet's block: expand by 4, depthwise, squeeze-and-excite, project, shortcut where shapes agree."""
        expanded = self.silu(self.conv(x, f"{name}_expand", cin, 4 * cin), f"{name}_expand_act")
        deep = self.conv(expanded, f"{name}_depthwise", 4 * cin, 4 * cin, kernel=3, group=4 * cin)
        gated = self.squeeze_excite(self.silu(deep, f"{name}_depthwise_act"), f"{name}_se", 4 * cin)
        projected = self.conv(gated, f"{name}_project", 4 * cin, cout)
        return self.node("Add", [projected, x], f"{name}_add") if cin == cout else projected

    def proto(self, opset: int = 18, spec: dict | None = None) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "network", self.inputs, self.outputs, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        if spec is not None:
            helper.set_model_props(model, {"effedge": json.dumps(spec)})
        onnx.checker.check_model(model, full_check=True)
        return model

    def save(self, path: Path, opset: int = 18, spec: dict | None = None) -> Path:
        onnx.save(self.proto(opset, spec), path)
        return path


SIZE, CLASSES, ANCHORS = 32, 5, 16 * 16
SPEC = {
    "model": "tiny",
    "task": "classification",
    "weights": "random",
    "labels": [str(i) for i in range(CLASSES)],
    "input": {
        "size": [SIZE, SIZE],
        "batch": [1, 1, 1],
        "resize": "center-crop",
        "interpolation": "bilinear",
        "crop": 0.875,
    },
}


def image_input(net: Network, batch: int | str = 1) -> str:
    """uint8 [N,H,W,3] as float32 [N,3,H,W], as the prepared ONNX begins."""
    image = net.input("image", [batch, SIZE, SIZE, 3], TensorProto.UINT8)
    moved = net.node("Transpose", [net.node("Cast", [image], "cast", to=TensorProto.FLOAT)], "nchw", perm=[0, 3, 1, 2])
    return net.silu(net.conv(moved, "stem", 3, 8, kernel=3, stride=2, gain=0.01), "stem_act")


def classifier(batch: int | str = 1, seed: int = 0) -> Network:
    """A small EfficientNet: stem, two MBConv blocks (one with a shortcut), head, pooling, Gemm."""
    net = Network(seed)
    x = net.mbconv(net.mbconv(image_input(net, batch), "block1", 8, 8), "block2", 8, 12)
    head = net.silu(net.conv(x, "head", 12, 24), "head_act")
    flat = net.node("Flatten", [net.node("GlobalAveragePool", [head], "pool")], "flat")
    weight = net.constant("fc.weight", net.random.normal(0, 0.2, (CLASSES, 24)).astype(np.float32))
    bias = net.constant("fc.bias", np.zeros(CLASSES, np.float32))
    net.output(net.node("Gemm", [flat, weight, bias], "logits", transB=1), [batch, CLASSES])
    return net


def detector() -> Network:
    """A backbone, a class and a box layer, and the tail: best anchors by score, sigmoid, boxes in pixels."""
    net = Network(1)
    x = net.mbconv(image_input(net), "block1", 8, 8)
    rows = []
    for name, channels in (("classes", CLASSES), ("boxes", 4)):
        moved = net.node("Transpose", [net.conv(x, f"{name}_conv", 8, channels)], f"{name}_nhwc", perm=[0, 2, 3, 1])
        shape = net.constant(f"{name}_shape", np.array([1, ANCHORS, channels]))
        rows.append(net.node("Reshape", [moved, shape], f"{name}_rows"))
    axes = net.constant("axes", np.array([2]))
    best = net.node("ReduceMax", [rows[0], axes], "best", keepdims=0)
    net.nodes.append(helper.make_node("TopK", [best, net.constant("k", np.array([10]))], ["top", "index"], name="topk"))
    index = net.node(
        "Expand", [net.node("Unsqueeze", ["index", axes], "index3"), net.constant("to", np.array([1, 10, 4]))], "i4"
    )
    picked = net.node("GatherElements", [rows[1], index], "picked", axis=1)
    net.output(net.node("Sigmoid", ["top"], "scores_out"), [1, 10])
    net.output(net.node("Mul", [picked, net.constant("stride", np.float32([[[1500.5]]]))], "boxes_out"), [1, 10, 4])
    return net


def as_samples(runs: list[dict[str, np.ndarray]]) -> Samples:
    """The runs as calibration data."""
    return Samples([f"run {index}" for index in range(len(runs))], runs.__getitem__)


def normal_runs(count: int, shape: tuple[int, ...], seed: int = 0, name: str = "x") -> list[dict[str, np.ndarray]]:
    """Normal data for one float input."""
    random = np.random.default_rng(seed)
    return [{name: random.normal(size=shape).astype(np.float32)} for _ in range(count)]


def feeds(count: int, seed: int = 0, batch: int = 1) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"image": random.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)} for _ in range(count)]
