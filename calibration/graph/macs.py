"""Counts the multiply-accumulates of each layer: the measure of the share of a network's work that is in INT8.

A convolution's: H x W x K x K x M x N / groups (Howard et al., MobileNets, 2017, section 3.1), with H x W of the
output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from effedge.calibration.graph.session import Arrays, Tensors
from effedge.engines.onnx_header import LAYER_OPERATORS

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name


def macs(model: ir.Model, shapes: Shapes = MappingProxyType({})) -> dict[str, int]:
    """Returns the multiply-accumulates by node name, for one sample (a batch, static or symbolic, counts as 1).

    The model's tensors must carry shapes (onnx_file.prepare); a layer whose shape is unknown counts 0.

    Args:
        shapes: of tensors whose own are not known, as `measured_shapes`.
    """
    return {node.name or "": _macs_of(node, shapes) for node in model.graph if node.op_type in LAYER_OPERATORS}


def measured_shapes(model: ir.Model, feeds: Arrays) -> Shapes:
    """Returns the shapes on a sample of the layers' tensors whose height, width or length the graph does not know."""
    unknown = [
        value.name or ""
        for node in model.graph
        if node.op_type in LAYER_OPERATORS
        for value in (node.inputs[0], node.outputs[0])
        if value is not None and not value.is_initializer() and 0 in _shape(value, {})[1:]
    ]
    if not unknown:
        return {}
    arrays = Tensors(model, unknown)(feeds)
    return {name: arrays[name].shape for name in unknown}


def _macs_of(node: ir.Node, shapes: Shapes) -> int:
    output, weight = _shape(node.outputs[0], shapes), _shape(node.inputs[1], shapes)
    if node.op_type == "Conv":  # weight [M, N / groups, *kernel]
        return math.prod(output[1:]) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # weight [M, N / groups, *kernel], every input value meets N / groups kernels
        return math.prod(_shape(node.inputs[0], shapes)[1:]) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        depth = weight[1] if transposed is not None and transposed.as_int() else weight[0]
        return math.prod(output[1:]) * depth
    return math.prod(output[1:]) * (weight[-2] if len(weight) > 1 else weight[0])


def _shape(value: ir.Value | None, shapes: Shapes) -> list[int]:
    """Returns the dimensions, 0 for an unknown dimension; [0, 0] for an unknown shape."""
    known = None if value is None else shapes.get(value.name or "")
    if known is not None:
        return list(known)
    if value is None or value.shape is None or len(value.shape) == 0:
        return [0, 0]
    return [size if isinstance(size, int) else 0 for size in value.shape]
