"""Decides where Q/DQ pairs go: applies the placement rules of this folder to a float model and returns a plan.

Sources: NVIDIA's TensorRT Developer Guide, "Q/DQ placement recommendations", and the accuracy measured on SiLU networks
that the single rules cite. Only what the rules name is quantized. So no Q/DQ pair stands between a convolution, its
normalization and its activation, or inside x * sigmoid(x), where it would break the kernel's fusion
(NVIDIA/TensorRT#3629); and what follows the last layers, the decoding of boxes and scores, stays float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from effedge.calibration.placement.layers import Layer, convolution_kind, find_layers, reason_for_float
from effedge.calibration.placement.residual import find_shortcuts
from effedge.calibration.placement.sharing import scale_groups
from effedge.calibration.placement.squeeze_excite import squeeze_excite_layers


@dataclass(frozen=True)
class Plan:
    """The layers and tensors to quantize.

    layers: the layers in INT8: their data input per tensor, their weights per output channel.
    float_layers: the reason for each layer that stays in float, by node name.
    reads: (node, input index) of each activation that is read as INT8.
    groups: names of the tensors that are read as INT8, by scale group.
    """

    layers: list[Layer]
    float_layers: dict[str, str]
    reads: list[tuple[ir.Node, int]]
    groups: list[list[str]]

    @property
    def tensors(self) -> list[str]:
        """The names of all tensors of the groups."""
        return [name for group in self.groups for name in group]


def make_plan(model: ir.Model, unusable: Mapping[str, str] | None = None, float_kinds: Collection[str] = ()) -> Plan:
    """Applies the rules to a float model (as onnx_file.prepare leaves it).

    Args:
        unusable: the reason for each tensor that must not be INT8, by its name, such as one that is always 0.
        float_kinds: the kinds of convolutions (CONVOLUTION_KINDS of engines/targets/table.py) that stay in float.
    """
    unusable = unusable or {}
    in_squeeze_excite = squeeze_excite_layers(model.graph)
    layers: list[Layer] = []
    float_layers: dict[str, str] = {}
    for layer in find_layers(model.graph):
        reason = reason_for_float(layer)
        if reason is None and layer.node in in_squeeze_excite:
            reason = "it is part of squeeze-and-excite"
        if reason is None and convolution_kind(layer) in float_kinds:
            reason = f"it is a {convolution_kind(layer)} convolution, which was to stay in 16 bit"
        if reason is None:
            reason = unusable.get(layer.data.name or "")
        if reason is None:
            layers.append(layer)
        else:
            float_layers[layer.name] = reason
    quantized = {layer.node for layer in layers}
    shortcuts = [
        (add, index) for add, index in find_shortcuts(model.graph, quantized) if _input_name(add, index) not in unusable
    ]
    reads = [(layer.node, 0) for layer in layers] + shortcuts
    read_values = dict.fromkeys(value for node, index in reads if (value := node.inputs[index]) is not None)
    position = {value: index for index, value in enumerate(_values(model.graph))}
    in_order = sorted(read_values, key=lambda value: position[value])
    groups = [[value.name or "" for value in group] for group in scale_groups(model.graph, in_order)]
    return Plan(layers, float_layers, reads, groups)


def _input_name(node: ir.Node, index: int) -> str | None:
    value = node.inputs[index]
    return None if value is None else value.name


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Returns inputs, initializers and node outputs in topological order."""
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
