"""Corrects Softmax before opset 13, in OpenVINO's graph.

Until opset 12, Softmax was over all axes from `axis` (1 by default) to the last, which OpenVINO reads as over `axis`
alone:

    Softmax(x)  ->  Reshape(Softmax(Reshape(x; [sizes before axis, the others as one])); shape of x)
"""

from typing import Any, List, Optional

import numpy as np

from effedge.engines.openvino.reader.reading import Reading

OVER_ONE_AXIS = 13  # the first opset where it is


def softmax(reading: Reading) -> Optional[List[Any]]:
    """Returns the corrected output of a Softmax; None where it is over the last axis alone, or of unknown rank."""
    operation = reading.outputs[0].get_node()
    if reading.opset >= OVER_ONE_AXIS or operation.get_type_name() != "Softmax":
        return None
    value = operation.input_value(0)
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    axis = reading.integer("axis", 1) % len(shape)
    if axis == len(shape) - 1:
        return None
    ops = reading.ops
    # A 0 keeps each axis in front, so that only the others need be joined, whose sizes may be dynamic.
    joined = ops.reshape(value, ops.constant(np.array([0] * axis + [-1])), True)
    original = ops.constant(np.array(shape.to_shape())) if shape.is_static else ops.shape_of(value)
    return [ops.reshape(ops.softmax(joined, axis), original, False).output(0)]
