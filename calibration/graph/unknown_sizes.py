"""Makes symbols of the dimensions that a file does not know.

Paddle2ONNX writes such a dimension as -1, MXNet as 0, and others leave it without a value and a name. -1 and 0 would
count as sizes, and two dimensions without a name as the same.

1. The first dimension of an input is its batch: it is called `<input>_batch`.
2. Another dimension of an input or output is called `<tensor>_<index>`.
3. The shape of a tensor within the graph is removed if it has such a dimension: shape inference finds it again.
"""

from __future__ import annotations

import onnx_ir as ir


def name_unknown_sizes(model: ir.Model) -> None:
    """Applies the rules to the graph, in place."""
    for value in model.graph.inputs:
        value.shape = _named(value, "batch")
    for value in model.graph.outputs:
        if not value.is_graph_input() and not value.is_initializer():
            value.shape = _named(value, "0")
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output() and value.shape is not None and not all(map(_is_known, value.shape)):
                value.shape = None


def _is_known(size: int | ir.SymbolicDim) -> bool:
    return size > 0 if isinstance(size, int) else size.value is not None


def _named(value: ir.Value, first: str) -> ir.Shape | None:
    """Returns the shape of a tensor with names for the sizes that are not known; `first` ends the first one's."""
    if value.shape is None:
        return None
    return ir.Shape(
        size if _is_known(size) else f"{value.name}_{index or first}" for index, size in enumerate(value.shape)
    )
