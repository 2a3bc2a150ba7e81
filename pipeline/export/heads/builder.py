"""Builds the nodes that a head adds to a network, under names that the network does not have."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

AXES_AS_INPUT = 18  # the opset from which on ReduceMax takes its axes as an input


class Builder:
    """Collects nodes and constants, whose names begin with `prefix`.

    Operators are of opset 13; `opset` is the network's own.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        self.prefix, self.opset, self.tape = prefix, opset, Tape()

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: int | list[int] | ir.DataType) -> ir.Value:
        """Adds a node with one output; returns that."""
        value = self.tape.op(op_type, inputs, attributes)
        node = value.producer()
        assert node is not None
        node.name = value.name = f"{self.prefix}/{op_type}_{len(self.tape.nodes)}"
        return value

    def constant(self, array: np.ndarray) -> ir.Value:
        """Adds a constant."""
        name = f"{self.prefix}/constant_{len(self.tape.initializers)}"
        return self.tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name))

    def integers(self, *numbers: int) -> ir.Value:
        """Adds a constant of int64."""
        return self.constant(np.array(numbers, np.int64))

    def columns(self, value: ir.Value, start: int, end: int, axis: int) -> ir.Value:
        """Cuts `start` to `end` of an axis out."""
        return self.op("Slice", value, self.integers(start), self.integers(end), self.integers(axis))

    def reduce_max(self, value: ir.Value, axis: int) -> ir.Value:
        """Takes the maximum over an axis, which goes."""
        if self.opset < AXES_AS_INPUT:
            return self.op("ReduceMax", value, axes=[axis], keepdims=0)
        return self.op("ReduceMax", value, self.integers(axis), keepdims=0)

    def top(self, value: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
        """Takes the `count` largest of [N,A], the largest first: values and indices."""
        values, indices = self.tape.op_multi_out("TopK", [value, self.integers(count)], num_outputs=2)
        node = values.producer()
        assert node is not None
        node.name = f"{self.prefix}/TopK_{len(self.tape.nodes)}"
        values.name, indices.name = f"{node.name}.values", f"{node.name}.indices"
        return values, indices

    def gather_rows(self, rows: ir.Value, indices: ir.Value, columns: int, columns_first: bool = False) -> ir.Value:
        """Gathers [N,K,columns] of [N,A,columns], or of [N,columns,A], by indices [N,K]."""
        axis = 1 if columns_first else 2
        repeats = self.integers(1, *((columns, 1) if columns_first else (1, columns)))
        repeated = self.op("Tile", self.op("Unsqueeze", indices, self.integers(axis)), repeats)
        gathered = self.op("GatherElements", rows, repeated, axis=3 - axis)
        return self.op("Transpose", gathered, perm=[0, 2, 1]) if columns_first else gathered

    def insert(self, graph: ir.Graph, in_front: bool = False) -> None:
        """Adds what was collected to a graph."""
        nodes = list(self.tape.nodes)
        if in_front:
            graph.insert_before(graph[0], nodes)
        else:
            graph.extend(nodes)
        for value in self.tape.initializers:
            graph.initializers.add(value)


def free_names(model: ir.Model, names: set[str]) -> None:
    """Renames the network's own tensors that have one of these names, in place."""
    graphs = [model.graph, *model.graph.subgraphs()]
    values = [
        value
        for graph in graphs
        for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs))
    ]
    taken = {value.name for value in values}
    for value in dict.fromkeys(values):
        if value.name in names:
            number = next(number for number in range(len(taken) + 1) if f"{value.name}_{number}" not in taken)
            value.name = f"{value.name}_{number}"
            taken.add(value.name)
