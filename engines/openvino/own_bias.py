"""Each convolution has a bias of its own, for engines on a CPU.

EfficientDet's heads use the same last convolution on every level of the pyramid. OpenVINO adds a bias within the
convolution's kernel only where nothing else reads the constant; otherwise it is a kernel more, in float32, behind each.
(D0 has ten such: 1% of INT8's time, and 10 of the kernels that a load makes.)
"""

from typing import Any, Optional

from effedge.engines.openvino.graph import opset

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def part_biases(ov: Any, model: Any) -> int:
    """Apply the rule to an OpenVINO model, in place; returns how many convolutions got a copy. `ov`: the module."""
    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add" or node.input_value(0).get_node().get_type_name() not in CONVOLUTIONS:
            continue
        shape = node.input_value(1).get_partial_shape()
        source = bias_constant(node)
        if source is None or shape.is_dynamic or len(source.output(0).get_target_inputs()) < 2:
            continue
        copy = opset(ov).constant(source.data.reshape(tuple(shape.to_shape())).copy())
        copy.set_friendly_name(f"{node.get_friendly_name()}.bias")
        node.input(1).replace_source_output(copy.output(0))
        found += 1
    return found


def bias_constant(add: Any) -> Optional[Any]:
    """The constant that the Add adds, also through a Reshape; None if it is none."""
    node = add.input_value(1).get_node()
    if node.get_type_name() == "Reshape":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
