"""Some layers of an INT8 model back in 16 bit: their Q/DQ pairs go, the rest stays as it is.

What the layer computes with is then the tensor itself, and as weights what the integers stood for (float_twin.py). A
shortcut's pair goes with the layers that it was there for (placement/residual.py): where the convolution that takes the
sum up is no longer INT8, or nothing reads the sum as INT8.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import common

from effedge.calibration.graph.float_twin import dequantizer, float_twin, float_value
from effedge.calibration.placement.layers import OPERATORS
from effedge.calibration.placement.residual import shortcuts


def int8_layers(quantized: ir.Model) -> list[ir.Node]:
    """The layers whose data and weights come from DequantizeLinear, in the graph's order."""
    return [
        node
        for node in quantized.graph
        if node.op_type in OPERATORS and all(dequantizer(value) for value in node.inputs[:2])
    ]


def unquantize(quantized: ir.Model, layers: Collection[str]) -> ir.Model:
    """The INT8 model, which stays as it is, with the layers of these names in 16 bit."""
    model = quantized.clone()
    left = {node.name for node in int8_layers(model)} - set(layers)
    twin = float_twin(model).graph
    kept = {add.name for add, _ in shortcuts(twin, [node for node in twin if node.name in left])}
    for node in list(model.graph):
        if node.name in layers or node.op_type == "Add" and node.name not in kept:
            for index, value in enumerate(node.inputs):
                maker = dequantizer(value)
                if maker is not None:
                    node.replace_input_with(index, float_value(model.graph, maker))
    common.RemoveUnusedNodesPass()(model)
    return model


def int8_tensors(quantized: ir.Model) -> set[str]:
    """The names of the activations that are quantized."""
    return {
        node.inputs[0].name or ""
        for node in quantized.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None
    }
