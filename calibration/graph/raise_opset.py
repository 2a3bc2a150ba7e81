"""Brings a model of an older opset to 13, the first opset whose QuantizeLinear has a scale per channel.

onnx's own version converter does it, which knows the adapters of each step: axes of Squeeze, Unsqueeze and ReduceSum
and sizes of Split become inputs, Softmax takes an axis of its own. From 11 on nothing else changes. Before it Resize,
Pad, Slice and others had other forms, so that conversion is for a caller who compares the outputs with the original's.
Of these the converter leaves a Resize without its coordinates, which up to opset 10 were i / scale (`place_samples`).
Opset 7 is the oldest: before it an operator broadcast where an attribute said so, and ONNX Runtime runs no such file.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx import version_converter

from effedge.deploy.common.cli import UserError

OLDEST_OPSET = 7
VERIFIED_BELOW = 11
OPSET = 13


def raise_opset(model: ir.Model, path: object, verified: bool = False) -> ir.Model:
    """Returns the model at OPSET or later: `model` itself, or a converted copy with the same names and metadata.

    Args:
        model: with its weights in memory.
        path: the name of the model in errors.
        verified: the caller compares outputs before and after, without which an opset below 11 is refused.

    Raises:
        UserError: an opset that is too old, or an operator that cannot be brought to OPSET.
    """
    opset = model.opset_imports.get("", OPSET)  # none: every operator is of another domain
    if opset >= OPSET:
        return model
    if opset < OLDEST_OPSET:
        raise UserError(f"'{path}' is of opset {opset}, expected {OLDEST_OPSET} or later: export it again at {OPSET}")
    if opset < VERIFIED_BELOW and not verified:
        raise UserError(
            f"'{path}' is of opset {opset}, expected {VERIFIED_BELOW} or later here: effedge engine --onnx brings it "
            f"to {OPSET} (--until simplify) and verifies it"
        )
    try:
        raised = ir.from_proto(version_converter.convert_version(ir.to_proto(model), OPSET))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"'{path}' cannot be brought from opset {opset} to {OPSET} ({reason}): export it again at {OPSET}"
        ) from error
    if opset < VERIFIED_BELOW:
        for node in raised.graph.all_nodes():
            if node.op_type == "Resize":
                place_samples(node)
    return raised


def place_samples(resize: ir.Node) -> None:
    """Gives a Resize that comes from opset 10 or an Upsample the coordinates of that time, which are no default later.

    To the nearest, ONNX Runtime rounded them down, and up where the result is smaller (`Simple` in its upsample.h).
    """
    scales = ir.convenience.get_const_tensor(resize.inputs[2]) if resize.inputs[2] is not None else None
    smaller = scales is not None and bool((scales.numpy() < 1).any())
    values = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if smaller else "floor"}
    resize.attributes.update({name: ir.AttrString(name, value) for name, value in values.items()})
