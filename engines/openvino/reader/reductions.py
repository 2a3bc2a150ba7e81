"""Corrects ReduceL1, ReduceLogSum and ReduceLogSumExp of opset 13 to 17, in OpenVINO's graph.

OpenVINO 2026.4 looks for the axes of these three among the inputs, as ONNX has them from opset 18 on, and without any
reduces all. Here they are computed from the axes of the attribute; ReduceLogSumExp with its largest value taken out, so
that no exponential overflows.
"""

from typing import Any, List, Optional

import numpy as np

from effedge.engines.openvino.reader.reading import Reading, signed

AXES_ARE_AN_ATTRIBUTE = 18  # the first opset where they are none


def reduction(reading: Reading) -> Optional[List[Any]]:
    """Returns the corrected output of the reduction; None where its axes are not an attribute."""
    value = reading.inputs[0]
    if reading.opset >= AXES_ARE_AN_ATTRIBUTE or "axes" not in reading.node.lists or value is None:
        return None
    ops, keep = reading.ops, bool(reading.integer("keepdims", 1))
    axes = ops.constant(np.array([signed(axis) for axis in reading.node.lists["axes"]]))
    if reading.node.op == "ReduceL1":
        return [ops.reduce_l1(value, axes, keep).output(0)]
    if reading.node.op == "ReduceLogSum":
        return [ops.log(ops.reduce_sum(value, axes, keep)).output(0)]
    largest = ops.reduce_max(value, axes, True)
    total = ops.log(ops.reduce_sum(ops.exp(ops.subtract(value, largest)), axes, True))
    result = ops.add(total, largest)
    return [(result if keep else ops.squeeze(result, axes)).output(0)]
