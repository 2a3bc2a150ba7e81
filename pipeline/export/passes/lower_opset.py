"""Rewrites a graph in an older opset, so that one file serves every target.

onnx's own version converter cannot lower Add or Sub, whose later versions only admit more types. The rules here:

1. An operator that is the same in both opsets stays.
2. An operator whose later version only admits more types or options (WIDENED) stays, if every option that the older
   version lacks has its default.
3. ReduceMean, ReduceMax and their like take their axes from an input since opset 18: the constant becomes an attribute.

Any other operator is refused by name.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

AXES_AS_INPUT = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
WIDENED = {"Add", "Sub", "Mul", "Div", "Pow", "Relu", "LeakyRelu", "PRelu", "Where", "Cast", "Identity", "Reshape",
           "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Resize", "Split", "BatchNormalization"}  # fmt: skip


def newer_options(node: ir.Node, opset: int) -> list[str]:
    """Lists the node's attributes that its operator does not have in `opset`."""
    older = onnx.defs.get_schema(node.op_type, opset).attributes
    return [name for name in node.attributes if name not in older]


def why_not(node: ir.Node, opset: int, current: int) -> str | None:
    """Returns the reason why `node` of opset `current` cannot be written in `opset`, or None if it can."""
    if node.domain not in ("", "ai.onnx"):
        return f"{node.domain} is no ONNX domain"
    if current != opset and any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return "it holds a graph of its own"
    try:
        older, newer = (onnx.defs.get_schema(node.op_type, version) for version in (opset, current))
    except onnx.defs.SchemaError:
        return f"opset {opset} has no {node.op_type}"
    if node.op_type in AXES_AS_INPUT:
        axes = node.inputs[1] if len(node.inputs) > 1 else None
        no_op = node.attributes.get("noop_with_empty_axes")
        if axes is None and no_op is not None and no_op.as_int():
            return f"{node.op_type} of opset {opset} has no noop_with_empty_axes"
        return None if axes is None or axes.const_value is not None else "its axes are computed"
    if older.since_version == newer.since_version:
        return None
    if node.op_type not in WIDENED:
        return f"{node.op_type} changed between opset {opset} and {current}"
    for name in newer_options(node, opset):
        if name == "allowzero":  # the meaning of a 0 in the shape
            shape = node.inputs[1].const_value if node.inputs[1] is not None else None
            if shape is not None and 0 not in shape.numpy():
                continue
        if name == "num_outputs":
            if sizes_differ(node):
                return f"{node.op_type} of opset {opset} has no {name}"
            continue  # without sizes, the older Split too cuts into equal parts, as many as it has outputs
        default = onnx.helper.get_attribute_value(newer.attributes[name].default_value)
        default = default.decode() if isinstance(default, bytes) else default
        if node.attributes[name].value != default:
            return f"{node.op_type} of opset {opset} has no {name}"
    return None


def sizes_differ(split: ir.Node) -> bool:
    """Returns True if the last part of a Split into `num_outputs` parts is smaller than the others."""
    source = split.inputs[0]
    axis = split.attributes.get_int("axis", 0)
    size = source.shape[axis] if source is not None and source.shape is not None else None
    return not isinstance(size, int) or size % len(split.outputs) != 0


def obstacle(model: ir.Model, opset: int) -> str | None:
    """Returns the first node that cannot be written in `opset` with the reason, or None if all can."""
    current = model.opset_imports.get("", opset)
    for node in model.graph:
        if reason := why_not(node, opset, current):
            return f"'{node.name}' cannot be written in opset {opset}: {reason}"
    return None


def lower_opset(model: ir.Model, opset: int) -> None:
    """Rewrites `model` in place.

    Raises:
        ValueError: an operator has no counterpart in `opset`; the message names it and the reason.
    """
    if reason := obstacle(model, opset):
        raise ValueError(reason)
    for node in list(model.graph):
        if node.op_type in AXES_AS_INPUT and len(node.inputs) > 1:
            axes = node.inputs[1]
            if axes is not None and axes.const_value is not None:
                node.attributes["axes"] = ir.AttrInt64s("axes", axes.const_value.numpy().tolist())
            node.resize_inputs(1)
        for name in newer_options(node, opset):
            node.attributes.pop(name)
        node.version = None
    model.opset_imports[""] = opset
