"""Residual adds: which of them to quantize, and which input.

TensorRT fuses `Add(convolution's output, shortcut)` into the convolution's kernel. The fused kernel writes INT8 only
if the shortcut that it reads is INT8; otherwise it writes float and the quantization behind it is a kernel of its own.
So the shortcut gets Q/DQ, and the convolution's output gets none: it would cut the Add off its convolution, and cost
a rounding for nothing, as the accumulator is at hand in full precision (NVIDIA, TensorRT Developer Guide, "Q/DQ
placement recommendations": quantize the residual input in skip connections).

The shortcut is nearly always quantized already, as the input of the next block's first convolution.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from effedge.calibration.placement.sharing import data_inputs, passes_values_on

FUSED_ACTIVATIONS = ("Relu", "Clip")  # conv + add + ReLU is one kernel


def shortcuts(graph: ir.Graph, quantized: Collection[ir.Node]) -> list[tuple[ir.Node, int]]:
    """(Add, index of its shortcut input) of the residual adds to quantize, in the graph's order.

    An Add is one if
    1. one input is the output of a quantized convolution and goes nowhere else (no activation between, so they fuse),
       and the other is an activation of the same shape;
    2. its sum is read as INT8: by a quantized layer or another such Add, maybe through a ReLU or an operator that
       passes values on. BiFPN's fusion (a weighted sum before a swish, which is float) is none: INT8 there
       would save no kernel and round each feature level three times a layer.

    Args:
        quantized: the layers that will be INT8.
    """
    found: dict[ir.Node, int] = {}
    for node in reversed(graph):
        if node.op_type != "Add" or not _read_as_int8(node.outputs[0], quantized, found):
            continue
        index = _shortcut_input(node, quantized)
        if index is not None:
            found[node] = index
    return [(node, found[node]) for node in graph if node in found]


def _shortcut_input(add: ir.Node, quantized: Collection[ir.Node]) -> int | None:
    """The input that is not the fusing convolution's; where both are, the first to be computed is the shortcut."""
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
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return producer is not None and producer in quantized and producer.op_type == "Conv" and alone


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
