"""Prepares an INT8 or FP8 model for float16 tensors around its INT8, as strongly typed builders want it.

A builder of a strongly typed network computes what is neither quantized nor float16 in float32, and a DequantizeLinear
writes the type of its scale. So for 16 bit around INT8 the scales of the Q/DQ pairs are float16, which ONNX has from
opset 19 on. A scale is rounded to the nearest float16: that is 0.05% at most, and no INT8 weight changes by it, as 127
times 0.05% is less than half a step. Below float16's normal range, where its numbers lie further apart, a scale is
rounded up, so that nothing clips, and the weights are rounded anew. The scales of FP8 are float16 numbers from the
start (fp8/e4m3.py).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx import version_converter

from effedge.calibration.graph.control_flow import unwrap_control_flow
from effedge.calibration.graph.onnx_file import PAIR, constant, prepare
from effedge.deploy.common.cli import UserError

OPSET = 19  # the first with float16 scales, and with FP8
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)


def is_quantized(model: ir.Model) -> bool:
    """Returns True for a model with Q/DQ pairs."""
    return any(node.op_type in PAIR for node in model.graph)


def with_fp16_scales(model: ir.Model) -> ir.Model:
    """Returns a copy of an INT8 or FP8 model (from onnx_file.load) at opset 19, all of whose scales are float16
    numbers, still in float32 tensors.

    Raises UserError if an operator has no form at opset 19.
    """
    changed = model.clone()
    rounded: dict[ir.Value, np.ndarray] = {}
    for node in changed.graph:
        scale = constant(node.inputs[1]) if node.op_type in PAIR else None
        if scale is None:
            continue
        value, data = node.inputs[1], node.inputs[0]
        assert value is not None and data is not None
        if value not in rounded:
            rounded[value] = rounded_scale(scale)
        weight = constant(data)
        if weight is not None:
            data.const_value = ir.tensor(rescaled(weight, scale / rounded[value], axis_of(node)), name=data.name)
    for value, scale in rounded.items():
        value.const_value = ir.tensor(scale, name=value.name)
    return raised(changed)


def raised(model: ir.Model) -> ir.Model:
    """Returns the model at OPSET or later: `model` itself, or a converted copy with the same names and metadata.

    Raises UserError if an operator has no form at OPSET.
    """
    if model.opset_imports.get("", 0) >= OPSET:
        return model
    try:
        converted = ir.from_proto(version_converter.convert_version(ir.to_proto(unwrap_control_flow(model)), OPSET))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the model cannot be brought to opset {OPSET}, which FP8 and FP16 around INT8 need: {error}"
        ) from error
    converted.metadata_props.update(model.metadata_props)
    return prepare(converted)


def rounded_scale(scale: np.ndarray) -> np.ndarray:
    """Rounds positive float32 scales to float16 numbers, in float32: to the nearest, or up where they are subnormal."""
    nearest = scale.astype(np.float16)
    above = np.where(nearest < scale, np.nextafter(nearest, np.float16(np.inf)), nearest)
    return np.where(scale < SMALLEST_NORMAL, above, nearest).astype(np.float32)


def rescaled(weight: np.ndarray, ratio: np.ndarray, axis: int) -> np.ndarray:
    """Rounds INT8 or FP8 weights for scales that are 1 / `ratio` times as large, one for all or one per index of
    `axis`."""
    shape = [1] * weight.ndim
    if ratio.ndim:
        shape[axis] = -1
    if weight.dtype != np.int8:
        largest = float(ml_dtypes.finfo(weight.dtype).max)
        return np.clip(weight.astype(np.float32) * ratio.reshape(shape), -largest, largest).astype(weight.dtype)
    return np.clip(np.round(weight * ratio.reshape(shape)), -127, 127).astype(np.int8)


def axis_of(node: ir.Node) -> int:
    """The axis of a DequantizeLinear's scales."""
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 1
