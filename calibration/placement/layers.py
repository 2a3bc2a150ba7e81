"""Finds the layers of a graph, and applies the rules that keep some of them in float.

A layer is a node with weights: a convolution or a matrix product (LAYER_OPERATORS of engines/onnx_header.py). A rule is
a function of a layer that returns a reason in words, or None; the first reason holds. A layer that no rule keeps in
float is quantized: its data input per tensor, its weights per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import constant
from effedge.engines.onnx_header import LAYER_OPERATORS
from effedge.engines.targets import DEPTHWISE, GROUPED

MATRIX_PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A node whose input 0 is data and whose input 1 is a weight. `axis`: the weight's axis of output channels."""

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
        """The weights; None where the graph computes them."""
        return constant(self.weight)


def find_layers(graph: ir.Graph) -> list[Layer]:
    """Returns every convolution and matrix product of the graph, in the graph's order."""
    return [Layer(node, output_axis(node)) for node in graph if node.op_type in LAYER_OPERATORS and node.domain == ""]


def output_axis(node: ir.Node) -> int:
    """Returns the axis of output channels of a layer's weights."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and integer(node, "transB", 0) else 1


def integer(node: ir.Node, name: str, default: int) -> int:
    """Returns an integer attribute of a node."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def not_a_constant_weight(layer: Layer) -> str | None:
    """Keeps a layer in float whose weights are no constant: they are rounded to INT8 here, once. A product of two
    activations has no weights at all."""
    weight = layer.weight_array
    if weight is None and constant(layer.data) is not None and layer.node.op_type in MATRIX_PRODUCTS:
        return "its weights are on the left of the product, where backends have no INT8 kernel"
    if weight is None:
        return "its weights are computed in the graph"
    if layer.node.op_type in MATRIX_PRODUCTS and weight.ndim != 2:
        return "its weights are no single matrix"
    return None


def constant_data(layer: Layer) -> str | None:
    """Keeps a layer in float whose result is the same for every image: no run shows the range of a constant."""
    return "its data is a constant" if constant(layer.data) is not None else None


def not_float32(layer: Layer) -> str | None:
    """Keeps a layer as it is whose tensors are not float32: the scales are float32, and QuantizeLinear before opset 19
    takes no other type."""
    if layer.weight.dtype == ir.DataType.FLOAT and layer.data.dtype in (None, ir.DataType.FLOAT):
        return None
    return f"its tensors are {layer.data.dtype or layer.weight.dtype}, not float32"


def weights_not_finite(layer: Layer) -> str | None:
    """Keeps a layer in float whose weights hold NaN or infinity, for which there is no scale."""
    weight = layer.weight_array
    return "its weights are not finite" if weight is not None and not np.isfinite(weight).all() else None


def transposed(layer: Layer) -> str | None:
    """Keeps two forms in float that backends have no INT8 kernel for: a Gemm that transposes its data, and a transposed
    convolution."""
    if layer.node.op_type == "Gemm" and integer(layer.node, "transA", 0):
        return "it transposes its data"
    return "it is a transposed convolution" if layer.node.op_type == "ConvTranspose" else None


def convolution_kind(layer: Layer) -> str | None:
    """Returns the kind of a convolution with groups: depthwise if each input channel is a group, else grouped; None for
    every other layer."""
    groups = integer(layer.node, "group", 1)
    if groups == 1 or layer.node.op_type != "Conv":
        return None
    shape = layer.weight.shape
    return DEPTHWISE if shape is not None and shape[1] == 1 else GROUPED


RULES = (not_a_constant_weight, constant_data, not_float32, weights_not_finite, transposed)


def reason_for_float(layer: Layer) -> str | None:
    """Returns the reason why a layer stays in float by itself, or None."""
    return next((reason for rule in RULES if (reason := rule(layer))), None)
