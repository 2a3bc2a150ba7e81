"""Finds the layers of squeeze-and-excite (Hu et al. 2018), which stay in float.

Squeeze-and-excite is a pooling, two layers on 1x1 maps, and a gate that scales the channels of a map. Its layers are
next to no work, while an error of the gate is an error of every pixel of the channel. INT8 there is where published
INT8 EfficientNets lose most.
"""

from __future__ import annotations

import onnx_ir as ir

from effedge.calibration.graph.onnx_file import constant
from effedge.engines.onnx_header import LAYER_OPERATORS

POOLS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")


def squeeze_excite_layers(graph: ir.Graph) -> set[ir.Node]:
    """Returns the layers between a pooling and the product that it gates.

    A pooling is that of squeeze-and-excite if every path from it ends in a Mul with a tensor that does not depend on
    the pooling: the map that the gate scales. The classifier's pooling ends in the graph's output instead. A swish on
    the way multiplies two tensors that both depend on the pooling, so the path continues through it.
    """
    layers: set[ir.Node] = set()
    for node in graph:
        if node.op_type in POOLS:
            layers |= _layers_to_gate(node)
    return layers


def _layers_to_gate(pool: ir.Node) -> set[ir.Node]:
    """Returns the layers between `pool` and its product; empty if it gates nothing."""
    inside = set(pool.outputs)
    layers: set[ir.Node] = set()
    waiting = list(pool.outputs)
    ends: set[ir.Node] = set()  # nodes that read a tensor from elsewhere too, as far as is known yet
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return set()
        for consumer in value.consumers():
            if _reads_only(consumer, inside):
                ends.discard(consumer)
                new = [output for output in consumer.outputs if output not in inside]
                inside.update(new)
                waiting.extend(new)
                if consumer.op_type in LAYER_OPERATORS:
                    layers.add(consumer)
            else:
                ends.add(consumer)
    ends_in_products = ends and all(node.op_type == "Mul" for node in ends)
    return layers if ends_in_products else set()


def _reads_only(node: ir.Node, inside: set[ir.Value]) -> bool:
    """Returns True if the node reads nothing but constants and tensors of `inside`."""
    return all(value is None or value in inside or constant(value) is not None for value in node.inputs)
