"""Groups the tensors that must share one scale, because an operator between them passes values on unchanged.

A concatenation joins its inputs in one INT8 tensor, a max-pool or a nearest resize selects values, a transposition
moves them. If both sides are quantized with one scale, the operator runs on INT8 as it is, and the second Q/DQ pair
changes nothing. Two scales would be a requantization: a kernel more, and a rounding more.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from effedge.engines.tensorrt.float32_nodes import MOVES

DATA_ONLY = ("Concat",)  # every input is data; elsewhere input 0 is, and the rest are shapes and indices


def passes_values_on(node: ir.Node) -> bool:
    """Returns True if every output value is one of the input's values (apart from a padding's zeros, which any scale
    holds)."""
    if node.op_type == "Resize":
        mode = node.attributes.get("mode")
        return mode is None or mode.as_string() == "nearest"
    return node.op_type in MOVES


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs whose values a value-passing node passes on, without constants: two concatenations of one
    constant, such as zeros, have no other values in common."""
    inputs = node.inputs if node.op_type in DATA_ONLY else node.inputs[:1]
    return [value for value in inputs if value is not None and not value.is_initializer()]


def scale_groups(graph: ir.Graph, tensors: Iterable[ir.Value]) -> list[list[ir.Value]]:
    """Returns the tensors in groups that share one scale; groups and members are in the order of `tensors`.

    Tensors that are joined only through tensors outside `tensors` share a scale as well: max-pools in a row, or a
    concatenation whose inputs feed other convolutions.
    """
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        while (above := parent.get(value, value)) is not value:
            value = above
        return value

    for node in graph:
        if passes_values_on(node):
            first, *others = (*data_inputs(node), *node.outputs)
            for value in others:
                parent[root(value)] = root(first)
    groups: dict[ir.Value, list[ir.Value]] = {}
    for value in tensors:
        groups.setdefault(root(value), []).append(value)
    return list(groups.values())
