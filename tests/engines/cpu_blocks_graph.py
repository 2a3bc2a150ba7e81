"""Makes an ONNX of the blocks that tests/deploy/cpu_blocks_cases.py describes, with a head on each output."""

import math

import numpy as np
from onnx import TensorProto

from effedge.deploy.native.cpu_blocks.description import EXPANSION, FIELDS, STEM
from tests.engines.graphs import Graph, spec


class Layers(Graph):
    """A graph with EfficientNet's layers; with `quantized`, the inputs and weights of convolutions on maps are INT8."""

    def __init__(self, quantized, biases):
        super().__init__()
        self.quantized_maps, self.biases = quantized, biases

    def convolution(self, value, weights, bias, name, small=False, **attributes):
        kernel = np.ascontiguousarray(weights.transpose(3, 2, 0, 1), np.float32)  # of [h,w,in,out]
        if self.quantized_maps and not small:
            scale = (np.abs(kernel).max((1, 2, 3)) / 127).astype(np.float32)
            parts = {"int8": np.round(kernel / scale[:, None, None, None]).astype(np.int8), "scale": scale}
            parts["zero"] = np.zeros(len(scale), np.int8)
            names = [self.constant(f"{name}_{part}", array) for part, array in parts.items()]
            weight = self.add("DequantizeLinear", names, f"{name}_w", axis=0)
            value = self.quantized(value, 0.2, f"{name}_in")
        else:
            weight = self.constant(f"{name}_w", kernel)
        last = [self.constant(f"{name}_b", bias.astype(np.float32))] if self.biases else []
        return self.add("Conv", [value, weight, *last], name, **attributes)

    def swish(self, value, name):
        return self.add("Mul", [value, self.add("Sigmoid", [value], f"{name}_gate")], f"{name}_swish")


def network(path, description, *, quantized=False, batch=1, tail=None, gates="factor", biases=True, sizes=True):
    """Saves the described blocks as an ONNX, with a 1x1 convolution on each output, "map0" and so on."""
    graph, flat = Layers(quantized, biases), description.weights

    def take(*shape):
        nonlocal flat
        taken, flat = flat[: math.prod(shape)], flat[math.prod(shape) :]
        return taken.reshape(shape)

    value = graph.add("Cast", ["image"], "cast", to=TensorProto.FLOAT)
    value = graph.add("Transpose", [value], "transpose", perm=[0, 3, 1, 2])
    value = graph.add("Sub", [value, graph.constant("means", take(3).reshape(1, 3, 1, 1))], "sub")
    outputs = []
    for index, numbers in enumerate(description.layout):
        row, given = dict(zip(FIELDS, numbers.tolist())), value
        channels, squeezed, name = row["channels"], row["squeezed"], f"block{index}"
        if row["entry"] == STEM:
            pads = sides(row["in_height"], row["in_width"], 3, 2, row["entry_top"], row["entry_left"])
            weights = take(3, 3, 3, channels)
            stem = graph.convolution(value, weights, take(channels), f"{name}_stem", True, strides=[2, 2], pads=pads)
            value = graph.swish(stem, f"{name}_stem")
        elif row["entry"] == EXPANSION:
            weights = take(1, 1, row["in_channels"], channels)
            value = graph.swish(graph.convolution(value, weights, take(channels), f"{name}_expand"), f"{name}_expand")
        kernel, stride = row["kernel"], row["stride"]
        pads = sides(row["height"], row["width"], kernel, stride, row["top"], row["left"])
        weights = take(kernel, kernel, 1, channels)
        depthwise = graph.convolution(
            value, weights, take(channels), f"{name}_dw", pads=pads, strides=[stride] * 2, group=channels
        )
        value = graph.swish(depthwise, f"{name}_dw")
        mean = graph.add("ReduceMean", [value, graph.constant(f"{name}_axes", np.int64([2, 3]))], f"{name}_mean")
        reduced = graph.convolution(mean, take(1, 1, channels, squeezed), take(squeezed), f"{name}_reduce", True)
        reduced = graph.swish(reduced, f"{name}_reduce")
        expanded = graph.convolution(reduced, take(1, 1, squeezed, channels), take(channels), f"{name}_excite", True)
        gate, factor = graph.add("Sigmoid", [expanded], f"{name}_gate"), take(channels).reshape(1, -1, 1, 1)
        if gates == "factor":
            gate = graph.add("Mul", [gate, graph.constant(f"{name}_factor", factor)], f"{name}_scaled")
        value = graph.add("Mul", [value, gate], f"{name}_gated")
        weights = take(1, 1, channels, row["out_channels"])
        value = graph.convolution(value, weights, take(row["out_channels"]), f"{name}_project")
        if row["residual"]:
            value = graph.add("Add", [value, given], f"{name}_sum")
        if row["feature"]:
            weights = head(index, row["out_channels"])
            outputs.append((graph.convolution(value, weights, np.zeros(8), f"map{len(outputs)}"), row))
    if tail is not None:
        outputs = tail(graph, value, outputs)
    count = "N" if batch is None else batch
    found = [
        (name, TensorProto.FLOAT, [count, 8, row["out_height"], row["out_width"]] if sizes else [None] * 4)
        for name, row in outputs
    ]
    inputs = [("image", TensorProto.UINT8, [count, *description.image_shape])]
    batches = [1, 2, 4] if batch is None else [batch] * 3
    metadata = {
        "effedge": {**spec(batches), "input": {**spec(batches)["input"], "size": list(description.image_shape[:2])}}
    }
    return graph.save(path, inputs, found, metadata)


def sides(height, width, kernel, stride, top, left):
    """Returns ONNX's pads; those at the bottom and right lead to the output size of TensorFlow's padding."""
    behind = [
        max(0, (-(-size // stride) - 1) * stride + kernel - size) - before
        for size, before in ((height, top), (width, left))
    ]
    return [top, left, *behind]


def head(index, channels):
    """Makes the weights of the 1x1 convolution on the output of a block."""
    return np.random.default_rng(index).normal(size=(1, 1, channels, 8))
