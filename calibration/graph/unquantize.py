"""Takes layers of an INT8 model back to 16 bit: removes their Q/DQ pairs and leaves the rest of the graph as it is.

The layer then reads the float tensor itself, and as weights the values that the integers stood for (float_twin.py). A
shortcut's pair goes with the layers that it was there for (placement/residual.py): where the convolution that the Add
is fused with is no longer INT8, or nothing reads the sum as INT8.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes import common

from effedge.calibration.graph.float_twin import dequantizer, float_twin, float_value
from effedge.calibration.placement.residual import find_shortcuts
from effedge.engines.onnx_header import LAYER_OPERATORS


def int8_layers(quantized: ir.Model) -> list[ir.Node]:
    """Returns the layers whose data and weights come from DequantizeLinear, in the graph's order."""
    return [
        node
        for node in quantized.graph
        if node.op_type in LAYER_OPERATORS and all(dequantizer(value) for value in node.inputs[:2])
    ]


def unquantize(quantized: ir.Model, layers: Collection[str]) -> ir.Model:
    """Returns the INT8 model with the layers of these names in 16 bit; `quantized` stays as it is."""
    model = quantized.clone()
    left = {node.name for node in int8_layers(model)} - set(layers)
    twin = float_twin(model).graph
    residual_adds = {add.name for add, _ in find_shortcuts(twin, [node for node in twin if node.name in left])}
    for node in list(model.graph):
        if node.name in layers or node.op_type == "Add" and node.name not in residual_adds:
            for index, value in enumerate(node.inputs):
                dequantize = dequantizer(value)
                if dequantize is not None:
                    node.replace_input_with(index, float_value(model.graph, dequantize))
    common.RemoveUnusedNodesPass()(model)
    return model


def int8_tensors(quantized: ir.Model) -> set[str]:
    """Returns the names of the activations that are quantized."""
    return {
        node.inputs[0].name or ""
        for node in quantized.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None
    }
