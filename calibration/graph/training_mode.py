"""Refuses a model that was exported in training mode.

Its BatchNormalization takes mean and variance from the batch of the run, so the output for an image depends on the
others, and the layer cannot be fused into a convolution; its Dropout is random.

1. BatchNormalization says so by `training_mode` from opset 14 on, before by having more outputs than one.
2. Dropout says so by its third input, from opset 12 on.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from effedge.deploy.common.cli import UserError


def is_training(node: ir.Node) -> bool:
    """Returns True if a node computes what only training needs."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "BatchNormalization":
        return bool(node.attributes.get_int("training_mode", 0)) or any(value.name for value in node.outputs[1:])
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        mode, ratio = (ir.convenience.get_const_tensor(value) if value else None for value in node.inputs[2:0:-1])
        return mode is not None and bool(mode.numpy()) and (ratio is None or bool(ratio.numpy() > 0))
    return False


def check_inference(model: ir.Model, path: str | Path) -> None:
    """Raises a UserError if a node is in training mode."""
    functions = (node for function in model.functions.values() for node in function.all_nodes())
    node = next(filter(is_training, (*model.graph.all_nodes(), *functions)), None)
    if node is not None:
        raise UserError(
            f"'{path}' was exported in training mode ({node.op_type} '{node.name or node.outputs[0].name}'): export it "
            "again after model.eval()"
        )
