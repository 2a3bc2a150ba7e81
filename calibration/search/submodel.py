"""The end of a model by itself, from one of its nodes on, for trials that change nothing in front of it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from effedge.calibration.graph.onnx_file import session
from effedge.calibration.weights.layered_run import Arrays


def cut(model: ir.Model, start: int) -> None:
    """Take away all nodes in front of the one at position `start` (in place); what they made becomes inputs."""
    nodes = list(model.graph)
    for value in _between(model.graph, start):
        if value.producer() is not None:
            given = ir.Value(name=value.name, type=value.type or ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
            for node, index in list(value.uses()):
                node.replace_input_with(index, given)
            model.graph.inputs.append(given)
    model.graph.remove(nodes[:start], safe=True)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.uses()]


def held_at(model: ir.Model, start: int, feeds: Sequence[Arrays], most: int) -> tuple[int, list[Arrays]]:
    """What the model from a node on is fed.

    Args:
        start: the node's position. No output may be written before it; then the model begins at the first that is.
        feeds: of the whole model, for each sample.
        most: bytes of all samples. Where it takes more, the whole model serves.

    Returns:
        The position from which on it is, and the feeds there.
    """
    writers = {value.producer() for value in model.graph.outputs}
    start = min(start, next((index for index, node in enumerate(model.graph) if node in writers), start))
    values = _between(model.graph, start)
    names = [value.name or "" for value in values if value.producer() is not None]
    if not names:
        return 0, list(feeds)
    running = session(model, names)
    given = {value.name for value in values}
    held: list[Arrays] = []
    for each in feeds:
        mine = {name: array for name, array in each.items() if name in given}
        held.append({**mine, **dict(zip(names, running.run(names, each), strict=True))})
        if sum(array.nbytes for array in held[0].values()) * len(feeds) > most:
            return 0, list(feeds)
    return start, held


def _between(graph: ir.Graph, start: int) -> list[ir.Value]:
    """What the nodes from position `start` on read of the graph's inputs and of the nodes before them."""
    before = dict.fromkeys(list(graph)[:start])
    return [
        value
        for value in (*graph.inputs, *(value for node in before for value in node.outputs))
        if any(reader not in before for reader in value.consumers())
    ]
