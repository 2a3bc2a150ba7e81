"""Gives each convolution a bias constant of its own, for engines on a CPU.

EfficientDet's heads use the same last convolution on every level of the pyramid. OpenVINO adds a bias within the
convolution's kernel only where no other operation reads the constant; otherwise it adds it in a separate float32 kernel
behind each convolution. D0 has ten such convolutions: 1% of INT8's time, and 10 of the kernels that loading compiles.
"""

from typing import Any, Optional

from effedge.engines.openvino.graph import opset

CONVOLUTIONS = ("Convolution", "GroupConvolution")


def copy_shared_biases(ov: Any, model: Any) -> int:
    """Applies the rule to an OpenVINO model, in place; returns how many convolutions got a copy. `ov`: the module."""
    copies = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Add" or node.input_value(0).get_node().get_type_name() not in CONVOLUTIONS:
            continue
        shape = node.input_value(1).get_partial_shape()
        bias = bias_constant(node)
        if bias is None or shape.is_dynamic or len(bias.output(0).get_target_inputs()) < 2:
            continue
        copy = opset(ov).constant(bias.data.reshape(tuple(shape.to_shape())).copy())
        copy.set_friendly_name(f"{node.get_friendly_name()}.bias")
        node.input(1).replace_source_output(copy.output(0))
        copies += 1
    return copies


def bias_constant(add: Any) -> Optional[Any]:
    """Returns the constant that the Add adds, also through a Reshape; None if it adds no constant."""
    node = add.input_value(1).get_node()
    if node.get_type_name() == "Reshape":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
