"""Keeps the outputs of a graph as they are while its nodes change, and removes the inputs that no node reads.

An engine's users feed and fetch by name. So of two outputs that are the same tensor both stay. An input that is not
read (the image size of a detector whose decoding was cut off) has no use, but would have to be fed.
"""

from __future__ import annotations

import onnx_ir as ir


def eliminate_identity(graph: ir.Graph) -> int:
    """Removes the nodes y = Identity(x) of a graph, in place; returns their number.

    1. Where y is no output, its readers read x.
    2. Where y is an output, x takes its name, if a node writes x and x is no output itself; else the node stays.

    onnx_ir's own pass makes one output of two in case 2, and reaches into the branches of an If, where an Identity must
    stand in front of a tensor from outside.
    """
    removed = 0
    for node in list(graph):
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
            continue
        x, y = node.inputs[0], node.outputs[0]
        is_output = y.is_graph_output()
        if is_output and (x.producer() is None or x.is_graph_output()):
            continue
        x.shape, x.type = x.shape or y.shape, x.type or y.type
        y.replace_all_uses_with(x, replace_graph_outputs=True)
        if is_output:
            y.name, x.name = None, y.name
        graph.remove(node, safe=True)
        removed += 1
    return removed


def remove_repeated_outputs(graph: ir.Graph) -> None:
    """Leaves each output once in the graph's list, in place."""
    graph.outputs[:] = list(dict.fromkeys(graph.outputs))


def remove_unread_inputs(graph: ir.Graph) -> list[str]:
    """Removes the inputs that no node reads and that are no output, in place; returns their names."""
    unread = [value for value in graph.inputs if not value.uses() and not value.is_graph_output()]
    graph.inputs[:] = [value for value in graph.inputs if value not in unread]
    return [value.name or "" for value in unread]
