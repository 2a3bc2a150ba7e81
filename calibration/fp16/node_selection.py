"""Selects the nodes that compute in float16, by the rule of engines/tensorrt/float32_nodes.py, and finds those among
them that float16 cannot serve (convert.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.control_flow import DOMAIN
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.placement.sharing import data_inputs, passes_values_on
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import LAYER_OPERATORS, Node
from effedge.engines.tensorrt.float32_nodes import LARGEST, SUM, SUMS, TOO_SMALL, constant_problem, half_nodes

HEADROOM = 2.0  # other images than those of the calibration may go further


def select_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Returns the layers with weights, the nodes that lead to them, and the nodes that move or select their results; in
    the graph's order. Control flow (graph/control_flow.py) stays float32, as the tensors within it do.

    Raises UserError if shape inference could not tell the type of a tensor.
    """
    nodes = list(graph)
    half = half_nodes([_as_header_node(node) for node in nodes])
    selected = [node for at, node in enumerate(nodes) if at in half and node.domain != DOMAIN]
    for value in (value for node in selected for value in node.outputs):
        if value.dtype is None:
            raise UserError(f"the type of tensor '{value.name}' is unknown (an operator that ONNX does not define?)")
    return selected


def _as_header_node(node: ir.Node) -> Node:
    """Returns a node as engines/onnx_header.py reads it from a file."""
    inputs = tuple("" if value is None else value.name or "" for value in node.inputs)
    mode = node.attributes.get("mode") if node.op_type == "Resize" else None
    attributes = {} if mode is None else {"mode": mode.as_string()}
    return Node(node.op_type, node.name or "", inputs, tuple(value.name or "" for value in node.outputs), attributes)


def holds_infinity(graph: ir.Graph) -> set[ir.Value]:
    """Returns the tensors that are infinite by design: a Pad's by infinity, as in front of a MaxPool, and those that
    its values are passed on to. float16 has an infinity, so their range says nothing."""
    infinite: set[ir.Value] = set()
    for node in graph:
        fill = constant(node.inputs[2]) if node.op_type == "Pad" and len(node.inputs) > 2 else None
        if (fill is not None and np.isinf(fill).any()) or (
            passes_values_on(node) and not infinite.isdisjoint(data_inputs(node))
        ):
            infinite.update(node.outputs)
    return infinite


def find_unfit_nodes(nodes: Sequence[ir.Node], amax: Mapping[str, float]) -> dict[ir.Node, str]:
    """Returns those of the nodes that must not be float16, with the reason.

    Args:
        amax: the largest magnitude of tensors, by name; a tensor without one is taken to fit.
    """
    reasons = {node: _reason(node, amax) for node in nodes}
    return {node: reason for node, reason in reasons.items() if reason is not None}


def _reason(node: ir.Node, amax: Mapping[str, float]) -> str | None:
    if node.op_type in SUMS:
        return SUM
    for index, value in enumerate((*node.inputs, *node.outputs)):
        if value is None:
            continue
        reached = amax.get(value.name or "", 0.0)
        if reached > LARGEST / HEADROOM:
            return f"'{value.name}' reached {reached:.3g}, too near to 65504 or beyond"
        array = constant(value)
        if array is None or array.dtype != np.float32:
            continue
        problem = constant_problem(array)
        if problem == TOO_SMALL and node.op_type in LAYER_OPERATORS and index == 2:
            continue  # a bias is added to the layer's sums: so small a bias makes no difference
        if problem is not None:
            return f"its constant '{value.name}' {problem}"
    return None
