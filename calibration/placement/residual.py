"""Selects the residual adds to quantize, and their input that is quantized, the shortcut.

TensorRT fuses `Add(convolution's output, shortcut)` into the convolution's kernel. The fused kernel writes INT8 only
if the shortcut that it reads is INT8; otherwise it writes float, and the quantization behind it is a second kernel.
So the shortcut gets Q/DQ. The convolution's output gets none: a pair there would separate the Add from its convolution,
and round an accumulator that is at hand in full precision (NVIDIA, TensorRT Developer Guide, "Q/DQ placement
recommendations": quantize the residual input in skip connections).

The shortcut is nearly always quantized already, as the input of the next block's first convolution.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from effedge.calibration.placement.sharing import data_inputs, passes_values_on

FUSED_ACTIVATIONS = ("Relu", "Clip")  # conv + add + ReLU is one kernel


def find_shortcuts(graph: ir.Graph, quantized: Collection[ir.Node]) -> list[tuple[ir.Node, int]]:
    """Returns (Add, index of its shortcut input) of the residual adds to quantize, in the graph's order.

    An Add is a residual add if
    1. one input is the output of a quantized convolution that nothing else reads (and no activation stands between, so
       the two fuse), and the other input is an activation of the same shape;
    2. its sum is read as INT8: by a quantized layer or another residual add, perhaps through a ReLU or an operator that
       passes values on. BiFPN's fusion (a weighted sum before a swish, which is float) is no residual add: INT8 there
       would save no kernel and round each feature level three times a layer.

    Args:
        quantized: the layers that will be INT8.
    """
    shortcut_of: dict[ir.Node, int] = {}
    for node in reversed(graph):
        if node.op_type != "Add" or not _read_as_int8(node.outputs[0], quantized, shortcut_of):
            continue
        index = _shortcut_input(node, quantized)
        if index is not None:
            shortcut_of[node] = index
    return [(node, shortcut_of[node]) for node in graph if node in shortcut_of]


def _shortcut_input(add: ir.Node, quantized: Collection[ir.Node]) -> int | None:
    """Returns the index of the input that is not the fusing convolution's; if both inputs are such, of the input that
    is computed first."""
    left, right = add.inputs
    if left is None or right is None or left.is_initializer() or right.is_initializer() or left is right:
        return None
    if left.shape is not None and right.shape is not None and left.shape != right.shape:
        return None
    fusing = [_fuses(value, quantized) for value in (left, right)]
    if all(fusing):
        first, second = left.producer(), right.producer()
        assert first is not None and second is not None and add.graph is not None
        order = {node: position for position, node in enumerate(add.graph) if node in (first, second)}
        return 0 if order[first] < order[second] else 1
    return fusing.index(False) if any(fusing) else None


def _fuses(value: ir.Value, quantized: Collection[ir.Node]) -> bool:
    producer = value.producer()
    one_reader = len(value.uses()) == 1 and not value.is_graph_output()
    return producer is not None and producer in quantized and producer.op_type == "Conv" and one_reader


def _read_as_int8(value: ir.Value, quantized: Collection[ir.Node], adds: Collection[ir.Node]) -> bool:
    for consumer, index in value.uses():
        if (consumer in quantized and index == 0) or consumer in adds:
            return True
        moves = passes_values_on(consumer) and value in data_inputs(consumer)
        if (moves or consumer.op_type in FUSED_ACTIVATIONS) and any(
            _read_as_int8(output, quantized, adds) for output in consumer.outputs
        ):
            return True
    return False
