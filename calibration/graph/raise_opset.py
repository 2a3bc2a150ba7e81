"""Brings a model of an older opset to 13, the first opset whose QuantizeLinear has a scale per channel.

onnx's own version converter does it, which knows the adapters of each step: axes of Squeeze, Unsqueeze and ReduceSum
and sizes of Split become inputs, Softmax takes an axis of its own. Opset 11 is the oldest: before it Resize, Pad and
Slice had other forms, which the converter does not convert.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx import version_converter

from effedge.deploy.common.cli import UserError

OLDEST_OPSET = 11
OPSET = 13


def raise_opset(model: ir.Model, path: object) -> ir.Model:
    """Returns the model at OPSET or later: `model` itself, or a converted copy with the same names and metadata.

    Args:
        model: with its weights in memory.
        path: the name of the model in errors.

    Raises:
        UserError: an opset below OLDEST_OPSET, or an operator that cannot be brought to OPSET.
    """
    opset = model.opset_imports.get("", OPSET)  # none: every operator is of another domain
    if opset >= OPSET:
        return model
    if opset < OLDEST_OPSET:
        raise UserError(f"'{path}' is of opset {opset}, expected {OLDEST_OPSET} or later: export it again at {OPSET}")
    try:
        return ir.from_proto(version_converter.convert_version(ir.to_proto(model), OPSET))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"'{path}' cannot be brought from opset {opset} to {OPSET} ({error}): export it again at {OPSET}"
        ) from error
