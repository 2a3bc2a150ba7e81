"""Replaces FakeQuantize by a conversion to integers, where OpenVINO computes it in a kernel of vector operations.

    FakeQuantize(x)    ->    q = uint8(min(x * steps + zero_point + 1/2, 255.4)), then (q - zero_point) / steps

OpenVINO clamps a FakeQuantize on both sides and rounds it in a separate operation. A conversion to an integer cuts off
the fraction, which equals rounding if 1/2 was added in the same multiply-add. Where the value is known to lie above the
lowest step, no lower clamp is needed. Of the twenty operations in a polynomial's kernel (swish.py) this saves three: 3%
of an INT8 D0's time. The integers are the same, except for a tie, which is rounded up.

The rule is not applied where a dimension is dynamic: there OpenVINO 2026.4 rounds the sum to bfloat16 in between, that
is, to whole steps, whereas a kernel of known shape computes in float32 throughout.
"""

from typing import Any, NamedTuple, Optional

import numpy as np

from effedge.engines.openvino.graph import constant_value, only_reader

STEPS = 255
HIGHEST = 255.4  # is cut off to 255
INTEGER_TOLERANCE = 1e-3  # of a step, within which a zero point counts as an integer


class Quantization(NamedTuple):
    """A FakeQuantize, `node`: STEPS steps of size `step` from `low` on, then (integer - zero_point) * scale."""

    node: Any
    low: float
    step: float
    scale: float
    zero_point: int


def quantization_behind(value: Any) -> Optional[Quantization]:
    """Returns the FakeQuantize that is the only reader of `value`, if it has 256 levels, the same for all channels, and
    maps an integer to 0; else None."""
    node = only_reader(value)
    if node is None or node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != STEPS + 1:
        return None
    bounds = [constant_value(node.input_value(index).get_node()) for index in range(1, 5)]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return None
    low, high, low_after, high_after = (float(bound.reshape(())) for bound in bounds)  # type: ignore[union-attr]
    scale = (high_after - low_after) / STEPS
    zero_point = round(-low_after / scale)
    if abs(low_after + zero_point * scale) > INTEGER_TOLERANCE * scale:
        return None
    return Quantization(node, low, (high - low) / STEPS, scale, zero_point)


def step_behind(value: Any) -> Optional[float]:
    """Returns the step to which `value` is quantized; None where there is no `quantization_behind` it."""
    quantization = quantization_behind(value)
    return None if quantization is None else quantization.step


def truncate(ops: Any, value: Any, least: float) -> bool:
    """Replaces the FakeQuantize behind `value`.

    Args:
        ops: OpenVINO's functions that make operations.
        least: a lower bound of `value`.

    Returns:
        False if there is no `quantization_behind` the value, or its shape is dynamic.
    """
    quantization = quantization_behind(value)
    if quantization is None or value.output(0).get_partial_shape().is_dynamic:
        return False
    shift = 0.5 - quantization.low / quantization.step
    result = ops.add(ops.multiply(value, scalar(ops, 1 / quantization.step)), scalar(ops, shift))
    if least / quantization.step + shift <= -1:  # a value above -1 is cut off to 0
        result = ops.maximum(result, scalar(ops, 0))
    integers = ops.convert(ops.minimum(result, scalar(ops, HIGHEST)), np.uint8)
    dequantized = ops.subtract(ops.convert(integers, np.float32), scalar(ops, quantization.zero_point))
    dequantized = ops.multiply(dequantized, scalar(ops, quantization.scale))
    dequantized.set_friendly_name(quantization.node.get_friendly_name())
    quantization.node.output(0).replace(dequantized.output(0))
    return True


def scalar(ops: Any, value: float) -> Any:
    """Makes a float32 constant."""
    return ops.constant(np.float32(value))
