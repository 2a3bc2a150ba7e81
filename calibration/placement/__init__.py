"""Where Q/DQ go: rules, each a small function with its reason, put together to a plan.

Sources: NVIDIA's TensorRT Developer Guide, "Q/DQ placement recommendations", and the accuracy measured on SiLU networks
that the single rules cite. Nothing is quantized but what the rules name, so nothing stands between a convolution, its
normalization and its activation, or inside x * sigmoid(x), where Q/DQ would break the kernel's fusion
(NVIDIA/TensorRT#3629); and what follows the last layers, the decoding of boxes and scores, stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from effedge.calibration.placement.layers import Layer, find_layers, reason_for_float
from effedge.calibration.placement.residual import shortcuts
from effedge.calibration.placement.sharing import scale_groups
from effedge.calibration.placement.squeeze_excite import squeeze_excite_layers


@dataclass(frozen=True)
class Plan:
    """What is to be quantized.

    layers: those in INT8: data input per tensor, weights per output channel.
    kept: the reason for each layer that stays in float, by node name.
    reads: (node, input index) of the activations that are read as INT8.
    groups: names of the tensors read so, in groups that share one scale.
    """

    layers: list[Layer]
    kept: dict[str, str]
    reads: list[tuple[ir.Node, int]]
    groups: list[list[str]]

    @property
    def tensors(self) -> list[str]:
        return [name for group in self.groups for name in group]


def make_plan(model: ir.Model, unusable: Mapping[str, str] | None = None) -> Plan:
    """Apply the rules to a float model (as onnx_file.prepare leaves it).

    Args:
        unusable: tensors that the calibration data showed to be unfit for INT8, with the reason.
    """
    unusable = unusable or {}
    gates = squeeze_excite_layers(model.graph)
    layers: list[Layer] = []
    kept: dict[str, str] = {}
    for layer in find_layers(model.graph):
        reason = reason_for_float(layer)
        if reason is None and layer.node in gates:
            reason = "it is part of squeeze-and-excite"
        if reason is None:
            reason = unusable.get(layer.data.name or "")
        if reason is None:
            layers.append(layer)
        else:
            kept[layer.name] = reason
    quantized = {layer.node for layer in layers}
    adds = [(add, index) for add, index in shortcuts(model.graph, quantized) if _name(add, index) not in unusable]
    reads = [(layer.node, 0) for layer in layers] + adds
    read_values = dict.fromkeys(value for node, index in reads if (value := node.inputs[index]) is not None)
    position = {value: index for index, value in enumerate(_values(model.graph))}
    in_order = sorted(read_values, key=lambda value: position[value])
    groups = [[value.name or "" for value in group] for group in scale_groups(model.graph, in_order)]
    return Plan(layers, kept, reads, groups)


def _name(node: ir.Node, index: int) -> str | None:
    value = node.inputs[index]
    return None if value is None else value.name


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Inputs and node outputs in topological order."""
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
