"""Runs a model over samples level by level: from one level of layers to the next, with the tensors between in memory.

A correction (correct.py) changes a level's weights before the next level runs. Running the model anew up to each of a
hundred levels would take a hundred times half the model; level by level it is run once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from effedge.calibration.graph.session import compute, session_of, side_by_side, threads_of_run

Arrays = dict[str, np.ndarray]  # by the name of the tensor


def layer_depths(graph: ir.Graph, layers: Collection[str]) -> dict[ir.Node, int]:
    """Returns for each node how many of the named layers lie on the longest path to it, itself included."""
    depth: dict[ir.Node, int] = {}
    for node in graph:
        producers = [value.producer() for value in node.inputs if value is not None]
        before = max((depth[producer] for producer in producers if producer is not None), default=0)
        depth[node] = before + (node.name in layers)
    return depth


class LayeredRun:
    """A run of a model over samples that stops at each level.

    Args:
        layers: the names of the nodes that make a level.
        feeds: of each sample.

    Attributes:
        held: of each sample, the tensors that are computed and that nodes further on read.
    """

    def __init__(self, model: ir.Model, layers: Collection[str], feeds: Iterable[Arrays]) -> None:
        self.model, self.layers, self.threads = model, layers, threads_of_run(model)
        self.depth = layer_depths(model.graph, layers)
        self.level = 0
        self.held = [dict(arrays) for arrays in feeds]

    def advance(self, level: int) -> None:
        """Computes all tensors that nodes of `level` and beyond read, and forgets the others.

        Call it with 1, 2, 3, ... : the nodes between are computed with the weights that they have then.
        """
        self.level = level
        read = {
            value
            for node, depth in self.depth.items()
            if depth >= level
            for value in node.inputs
            if value is not None and value.name and not value.is_initializer()
        }
        wanted = [
            value
            for value in read
            if (producer := value.producer()) is not None
            and self.depth[producer] < level
            and value.name not in self.held[0]
            and not _reads_only_weights(producer)
        ]
        if wanted:
            running = session_of(self._between(wanted), threads=self.threads)
            names = [value.name or "" for value in wanted]
            inputs = [model_input.name for model_input in running.get_inputs()]
            runs = side_by_side(
                lambda held: compute(running, names, {name: held[name] for name in inputs}),
                list(self.held),
                self.threads,
            )
            for held, arrays in zip(self.held, runs, strict=True):
                held.update(zip(names, arrays, strict=True))
        still_read = {value.name for value in read}
        self.held = [{name: array for name, array in held.items() if name in still_read} for held in self.held]

    def join(self, feeds: Iterable[Arrays]) -> None:
        """Adds samples, and computes them to the level that the others are at, with the weights of now."""
        late = LayeredRun(self.model, self.layers, feeds)
        late.advance(self.level)
        self.held += late.held

    def _between(self, wanted: Sequence[ir.Value]) -> bytes:
        """Returns the model between the held and the wanted tensors, as the bytes of an ONNX file."""
        nodes: set[ir.Node] = set()
        inputs: dict[str, ir.Value] = {}
        constants: dict[str, ir.Value] = {}
        waiting = list(wanted)
        while waiting:
            value = waiting.pop()
            producer = value.producer()
            if value.name in self.held[0]:
                inputs[value.name] = value
            elif value.is_initializer():
                constants[value.name or ""] = value
            elif producer is not None and producer not in nodes:
                nodes.add(producer)
                waiting.extend(node_input for node_input in producer.inputs if node_input is not None)
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in self.model.graph if node in nodes],
            "part",
            [_value_info(name, self.held[0][name]) for name in inputs],
            [onnx.helper.make_empty_tensor_value_info(value.name or "") for value in wanted],
            [_tensor(name, value) for name, value in constants.items()],
        )
        for output, value in zip(graph.output, wanted, strict=True):
            output.CopyFrom(ir.serde.serialize_value(value))
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.model.opset_imports.items()]
        functions = [ir.serde.serialize_function(function) for function in self.model.functions.values()]
        part = onnx.helper.make_model(
            graph, functions=functions, opset_imports=opsets, ir_version=self.model.ir_version
        )
        return part.SerializeToString()


def _reads_only_weights(node: ir.Node) -> bool:
    """Returns True for a node such as the DequantizeLinear of weights, which is computed where it is needed."""
    return all(value is None or value.is_initializer() for value in node.inputs)


def _value_info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim)


def _tensor(name: str, value: ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    tensor = ir.serde.serialize_tensor(value.const_value)
    tensor.name = name
    return tensor
