"""The layers with weights, and the rules that keep some of them in float.

A rule is a function of a layer that gives a reason in words, or None; the first reason holds. What no rule keeps is
quantized: its data input per tensor, its weights per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import constant

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A node whose input 0 is data and whose input 1 is a weight. `axis`: the weight's output channels."""

    node: ir.Node
    axis: int

    @property
    def name(self) -> str:
        return self.node.name or ""

    @property
    def data(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weight(self) -> ir.Value:
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def weight_array(self) -> np.ndarray | None:
        return constant(self.weight)


def find_layers(graph: ir.Graph) -> list[Layer]:
    """Every convolution and matrix product of the graph, in its order."""
    return [Layer(node, _axis(node)) for node in graph if node.op_type in OPERATORS and node.domain == ""]


def _axis(node: ir.Node) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and integer(node, "transB", 0) else 1


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute of a node."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def not_a_constant_weight(layer: Layer) -> str | None:
    """INT8 weights are computed here once, so they must be known; a product of two activations is no layer."""
    weight = layer.weight_array
    if weight is None:
        return "its weights are computed in the graph"
    if layer.node.op_type in ("Gemm", "MatMul") and weight.ndim != 2:
        return "its weights are no matrix"
    return None


def constant_data(layer: Layer) -> str | None:
    """What it computes is the same for every picture, and no run shows a range of what is not computed."""
    return "its data is a constant" if constant(layer.data) is not None else None


def not_float32(layer: Layer) -> str | None:
    """Scales are float32, and QuantizeLinear before opset 19 takes nothing else."""
    if layer.weight.dtype == ir.DataType.FLOAT and layer.data.dtype in (None, ir.DataType.FLOAT):
        return None
    return f"its tensors are {layer.data.dtype or layer.weight.dtype}, not float32"


def weights_not_finite(layer: Layer) -> str | None:
    """No scale serves NaN or infinity."""
    weight = layer.weight_array
    return "its weights are not finite" if weight is not None and not np.isfinite(weight).all() else None


def transposed(layer: Layer) -> str | None:
    """A Gemm that transposes its data is not the form that backends have an INT8 kernel for."""
    if layer.node.op_type == "Gemm" and integer(layer.node, "transA", 0):
        return "it transposes its data"
    return "it is a transposed convolution" if layer.node.op_type == "ConvTranspose" else None


RULES = (not_a_constant_weight, constant_data, not_float32, weights_not_finite, transposed)


def reason_for_float(layer: Layer) -> str | None:
    """Why the layer stays in float, or None if nothing about itself speaks against INT8."""
    return next((reason for rule in RULES if (reason := rule(layer))), None)
