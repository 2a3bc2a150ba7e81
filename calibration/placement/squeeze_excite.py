"""Squeeze-and-excite (Hu et al. 2018) stays in float: pooling, both layers on 1x1 maps, and the gate.

Its layers are next to no work (1x1 maps), while an error of the gate is an error of every pixel of the channel; INT8
there is where published INT8 EfficientNets lose most.
"""

from __future__ import annotations

import onnx_ir as ir

from effedge.calibration.graph.onnx_file import constant

POOLS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")


def squeeze_excite_layers(graph: ir.Graph) -> set[ir.Node]:
    """The Conv, Gemm and MatMul nodes between a pooling and the product that it gates.

    What comes from a pooling is squeeze-and-excite if every way on from it ends in a Mul by something that does not
    come from it, which is the map that the gate scales. The classifier's pooling ends in the graph's output instead,
    and a swish inside multiplies two tensors that both come from the pooling, so the way goes on through it.
    """
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type in POOLS:
            found |= _gate_of(node)
    return found


def _gate_of(pool: ir.Node) -> set[ir.Node]:
    """The layers between `pool` and its gate; empty if it gates nothing."""
    inside = set(pool.outputs)
    layers: set[ir.Node] = set()
    waiting = list(pool.outputs)
    gates: set[ir.Node] = set()  # read something from elsewhere too, as far as is known yet
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return set()
        for consumer in value.consumers():
            if _all_from(consumer, inside):
                gates.discard(consumer)
                new = [output for output in consumer.outputs if output not in inside]
                inside.update(new)
                waiting.extend(new)
                if consumer.op_type in ("Conv", "Gemm", "MatMul"):
                    layers.add(consumer)
            else:
                gates.add(consumer)
    ends_in_products = gates and all(gate.op_type == "Mul" for gate in gates)
    return layers if ends_in_products else set()


def _all_from(node: ir.Node, inside: set[ir.Value]) -> bool:
    """True if nothing but constants and tensors of `inside` goes into the node."""
    return all(value is None or value in inside or constant(value) is not None for value in node.inputs)
