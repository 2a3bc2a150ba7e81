"""Folds DequantizeLinear into the FakeQuantize that OpenVINO makes of the QuantizeLinear in front of it.

    (FakeQuantize(x; low, high -> -128, 127) as i8 - zero) * scale
        = FakeQuantize(x; low, high -> (-128 - zero) * scale, (127 - zero) * scale)

In the form in which OpenVINO's ONNX reader makes the pair, OpenVINO 2026.4 moves the FakeQuantize in front of a Concat,
computes it there as u8, and loses the sign: behind the convolution that reads the Concat, 10 dB are left of 134. The
folded form, which OpenVINO's own quantizer also writes, does not have this error. Layers that are INT8 stay INT8.
"""

from typing import Any

import numpy as np

from effedge.engines.openvino.graph import constant_value, only_reader, opset


def fold_dequantize(ov: Any, model: Any) -> int:
    """Applies the rule to an OpenVINO model, in place; returns how many pairs were folded. `ov`: the module."""
    return sum(fold_pair(ov, node) for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize")


def fold_pair(ov: Any, quantize: Any) -> bool:
    """Folds the DequantizeLinear behind a FakeQuantize; returns False if there is none, or if another operation reads a
    value between them."""
    low, high = (constant_value(quantize.input_value(index).get_node()) for index in (3, 4))
    if low is None or high is None:
        return False
    node, zero, scale = quantize, np.zeros((), np.float32), None
    while scale is None:
        node = only_reader(node)
        if node is None:
            return False
        if node.get_type_name() == "Convert":
            continue
        if node.get_type_name() not in ("Subtract", "Multiply"):
            return False
        value = constant_value(node.input_value(1).get_node())
        if value is None:
            return False
        if node.get_type_name() == "Multiply":
            scale = value
        else:
            zero = value
    inputs = [quantize.input_value(index) for index in range(3)]
    ops = opset(ov)
    inputs += [ops.constant((end - zero) * scale) for end in (low, high)]
    folded = ops.fake_quantize(*inputs, quantize.get_attributes()["levels"])
    folded.set_friendly_name(node.get_friendly_name())
    node.output(0).replace(folded.output(0))
    return True
