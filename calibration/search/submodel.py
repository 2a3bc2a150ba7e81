"""Cuts the end of a model off, from one of its nodes on, for trials that change nothing before that node."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from effedge.calibration.graph.session import session, side_by_side
from effedge.calibration.weights.layered_run import Arrays


def cut_before(model: ir.Model, start: int) -> None:
    """Removes all nodes before position `start` (in place); the tensors that they made become inputs."""
    nodes = list(model.graph)
    for value in _crossing(model.graph, start):
        if value.producer() is not None:
            as_input = ir.Value(name=value.name, type=value.type or ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
            for node, index in list(value.uses()):
                node.replace_input_with(index, as_input)
            model.graph.inputs.append(as_input)
    model.graph.remove(nodes[:start], safe=True)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.uses()]


def feeds_at(model: ir.Model, start: int, feeds: Sequence[Arrays], max_bytes: int) -> tuple[int, list[Arrays]]:
    """Computes the feeds of the submodel that begins at a node.

    Args:
        start: the node's position. No output may be written before it; else the submodel begins at the first node that
            writes an output.
        feeds: of the full model, for each sample.
        max_bytes: of the submodel's feeds, all samples together. Where they are larger, the full model serves.

    Returns:
        The position at which the submodel begins, and its feeds.
    """
    writers = {value.producer() for value in model.graph.outputs}
    start = min(start, next((index for index, node in enumerate(model.graph) if node in writers), start))
    values = _crossing(model.graph, start)
    computed = [value.name or "" for value in values if value.producer() is not None]
    if not computed:
        return 0, list(feeds)
    running = session(model, computed)
    names = {value.name for value in values}
    submodel_feeds: list[Arrays] = []
    runs = side_by_side(lambda sample: running.run(computed, sample), feeds, running)
    for sample, arrays in zip(feeds, runs, strict=True):
        inputs = {name: array for name, array in sample.items() if name in names}
        submodel_feeds.append({**inputs, **dict(zip(computed, arrays, strict=True))})
        if sum(array.nbytes for array in submodel_feeds[0].values()) * len(feeds) > max_bytes:
            return 0, list(feeds)
    return start, submodel_feeds


def _crossing(graph: ir.Graph, start: int) -> list[ir.Value]:
    """Returns the graph's inputs and the outputs of earlier nodes that nodes from position `start` on read."""
    before = dict.fromkeys(list(graph)[:start])
    return [
        value
        for value in (*graph.inputs, *(value for node in before for value in node.outputs))
        if any(reader not in before for reader in value.consumers())
    ]
