"""Quantization by truncation, where OpenVINO computes it in a kernel of vector operations.

    FakeQuantize(x)    ->    q = uint8(min(x * steps + zero_point + 1/2, 255.4)), and of that (q - zero_point) / steps

OpenVINO clamps a FakeQuantize from both sides and rounds it in an operation of its own. Converting to an integer cuts
the fraction off, which is rounding where a half was added in the same multiply-add, and what is known to lie above the
lowest step needs no clamp there. Of a kernel of twenty operations for a polynomial (swish.py) three less: 3% of an INT8
D0's time. The integers are the same, but for a tie, which goes up. Not where a dimension is open: there OpenVINO 2026.4
rounds the sum to bfloat16 in between, to whole steps, while within a kernel of known shape all is float32.
"""

from typing import Any, NamedTuple, Optional

import numpy as np

from effedge.engines.openvino.graph import constant, only_reader

STEPS = 255
HIGHEST = 255.4  # cut off it is 255
INTEGER = 1e-3


class Quantization(NamedTuple):
    """`node`, a FakeQuantize: from `low` in STEPS of `step`, and behind it `scale` times (integers - zero_point)."""

    node: Any
    low: float
    step: float
    scale: float
    zero_point: int


def quantization_behind(value: Any) -> Optional[Quantization]:
    """The FakeQuantize that alone reads `value`, if it has 256 steps, the same for all channels, and one is 0."""
    node = only_reader(value)
    if node is None or node.get_type_name() != "FakeQuantize" or node.get_attributes()["levels"] != STEPS + 1:
        return None
    bounds = [constant(node.input_value(index).get_node()) for index in range(1, 5)]
    if any(each is None or each.size != 1 for each in bounds):
        return None
    low, high, low_after, high_after = (float(each.reshape(())) for each in bounds)  # type: ignore[union-attr]
    scale = (high_after - low_after) / STEPS
    zero_point = round(-low_after / scale)
    if abs(low_after + zero_point * scale) > INTEGER * scale:
        return None
    return Quantization(node, low, (high - low) / STEPS, scale, zero_point)


def step_behind(value: Any) -> Optional[float]:
    """The step of what `value` is quantized to; None where it is not, or something else reads it too."""
    found = quantization_behind(value)
    return None if found is None else found.step


def truncate(ops: Any, value: Any, least: float) -> bool:
    """Put it in place of the FakeQuantize behind `value`.

    Args:
        ops: OpenVINO's functions that make operations.
        least: no number of `value` is below it.

    Returns:
        False if there is no `quantization_behind`, or the shape is open.
    """
    found = quantization_behind(value)
    if found is None or value.output(0).get_partial_shape().is_dynamic:
        return False
    shift = 0.5 - found.low / found.step
    result = ops.add(ops.multiply(value, number(ops, 1 / found.step)), number(ops, shift))
    if least / found.step + shift <= -1:  # above, it is cut off to 0
        result = ops.maximum(result, number(ops, 0))
    integers = ops.convert(ops.minimum(result, number(ops, HIGHEST)), np.uint8)
    back = ops.subtract(ops.convert(integers, np.float32), number(ops, found.zero_point))
    back = ops.multiply(back, number(ops, found.scale))
    back.set_friendly_name(found.node.get_friendly_name())
    found.node.output(0).replace(back.output(0))
    return True


def number(ops: Any, value: float) -> Any:
    return ops.constant(np.float32(value))
