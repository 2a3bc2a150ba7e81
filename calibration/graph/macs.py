"""Counts the multiply-accumulates of each layer: the measure of the share of a network's work that is in INT8.

A convolution's: H x W x K x K x M x N / groups (Howard et al., MobileNets, 2017, section 3.1), with H x W of the
output.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from effedge.engines.onnx_header import LAYER_OPERATORS


def macs(model: ir.Model) -> dict[str, int]:
    """Returns the multiply-accumulates by node name, for one sample (a batch, static or symbolic, counts as 1).

    The model's tensors must carry shapes (onnx_file.prepare); a layer whose shape is unknown counts 0.
    """
    return {node.name or "": _macs_of(node) for node in model.graph if node.op_type in LAYER_OPERATORS}


def _macs_of(node: ir.Node) -> int:
    output, weight = _shape(node.outputs[0]), _shape(node.inputs[1])
    if node.op_type == "Conv":  # weight [M, N / groups, *kernel]
        return math.prod(output[1:]) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":  # weight [M, N / groups, *kernel], every input value meets N / groups kernels
        return math.prod(_shape(node.inputs[0])[1:]) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        depth = weight[1] if transposed is not None and transposed.as_int() else weight[0]
        return math.prod(output[1:]) * depth
    return math.prod(output[1:]) * (weight[-2] if len(weight) > 1 else weight[0])


def _shape(value: ir.Value | None) -> list[int]:
    """Returns the dimensions, 0 for an unknown dimension; [0, 0] for an unknown shape."""
    if value is None or value.shape is None or len(value.shape) == 0:
        return [0, 0]
    return [size if isinstance(size, int) else 0 for size in value.shape]
