"""Folds the per-channel scale and shift of a node into the convolution in front of it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape


def constant(value: ir.Value | None) -> np.ndarray:
    """Returns the array of a constant input."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def free_name(graph: ir.Graph, name: str) -> str:
    """Returns `name`, or `name` and a number, that no initializer of the graph has."""
    names = (name if index == 0 else f"{name}_{index}" for index in itertools.count())
    return next(name for name in names if name not in graph.initializers)


def absorb_affine(model: ir.Model, node: ir.Node, scale: np.ndarray, shift: np.ndarray) -> None:
    """Replaces Conv -> `node`, which computes y * scale + shift per channel, by a single Conv with its own kernel.

        Conv(x, W, b) * s + t = Conv(x, W * s, b * s + t)

    Args:
        node: the only reader of the convolution, in one of its inputs.
        scale: [O] or a scalar; `shift` likewise.
    """
    conv = next(value.producer() for value in node.inputs if value is not None and value.producer() is not None)
    assert conv is not None and conv.op_type == "Conv"
    kernel = constant(conv.inputs[1]).astype(np.float64)
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else np.zeros(len(kernel))
    scale, shift = np.broadcast_to(scale, len(kernel)), np.broadcast_to(shift, len(kernel))
    old = node.outputs[0]
    arrays = {"weight": kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)), "bias": bias * scale + shift}
    tape = Tape(model.graph)
    initializers = [
        tape.initializer(ir.tensor(array.astype(np.float32), name=free_name(model.graph, f"{old.name}.{role}")))
        for role, array in arrays.items()
    ]
    inputs = [conv.inputs[0], *initializers]
    fused = ir.Node("", "Conv", inputs, attributes=conv.attributes.values(), name=conv.name, num_outputs=1)
    new = fused.outputs[0]
    new.shape, new.dtype, new.name = old.shape, ir.DataType.FLOAT, old.name
    model.graph.insert_before(node, fused)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    model.graph.remove([node, conv], safe=True)
