"""Cuts the end of a model off, from one of its nodes on, for trials that change nothing before that node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from effedge.calibration.graph.session import Arrays, Tensors, side_by_side


def cut_before(model: ir.Model, start: int) -> None:
    """Removes all nodes before position `start` (in place); the tensors that they made become inputs."""
    if start == 0:
        return
    nodes = list(model.graph)
    for value in _crossing(model.graph, start):
        if value.producer() is not None:
            as_input = ir.Value(name=value.name, type=value.type or ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
            for node, index in list(value.uses()):
                node.replace_input_with(index, as_input)
            model.graph.inputs.append(as_input)
    model.graph.remove(nodes[:start], safe=True)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.uses() or value.is_graph_output()]


class Submodel(NamedTuple):
    """The nodes of a model from position `start` on, and their feeds for each sample."""

    start: int
    feeds: list[Arrays]


def submodels(model: ir.Model, starts: Sequence[int], feeds: Sequence[Arrays], max_bytes: int) -> list[Submodel]:
    """Computes the feeds of the submodels that begin at some nodes, in one run of the model for each sample.

    Args:
        starts: the nodes' positions. No output may be written before a submodel: one with a later start begins at the
            first node that writes an output.
        feeds: of the full model, for each sample.
        max_bytes: of a submodel's feeds, all samples together. Where they are larger, it is the full model.
    """
    writers = {value.producer() for value in model.graph.outputs}
    first = next((index for index, node in enumerate(model.graph) if node in writers), 0)
    starts = [min(start, first) for start in starts]
    crossing = [_crossing(model.graph, start) for start in starts]
    computed = {value.name or "": None for values in crossing for value in values if value.producer() is not None}
    tensors_of = Tensors(model, computed) if computed else None
    kept: list[list[Arrays]] = [[] for _ in starts]
    fits = [any(value.producer() is not None for value in values) for values in crossing]
    for tensors in side_by_side(tensors_of, feeds, tensors_of.threads) if tensors_of else ():
        for index, values in enumerate(crossing):
            if fits[index]:
                kept[index].append({value.name or "": tensors[value.name or ""] for value in values})
                if sum(array.nbytes for array in kept[index][0].values()) * len(feeds) > max_bytes:
                    fits[index] = False
    return [
        Submodel(start, of_start) if fit else Submodel(0, list(feeds))
        for start, of_start, fit in zip(starts, kept, fits, strict=True)
    ]


def _crossing(graph: ir.Graph, start: int) -> list[ir.Value]:
    """Returns the graph's inputs and the outputs of earlier nodes that nodes from position `start` on read, and inputs
    that are outputs."""
    before = dict.fromkeys(list(graph)[:start])
    return [
        value
        for value in (*graph.inputs, *(value for node in before for value in node.outputs))
        if any(reader not in before for reader in value.consumers())
        or (value.is_graph_input() and value.is_graph_output())
    ]
