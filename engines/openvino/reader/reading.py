"""Holds an ONNX node beside the OpenVINO values that the reader made of its inputs and outputs."""

from typing import Any, Dict, List, NamedTuple, Optional

from effedge.engines.onnx_header import Node


class Reading(NamedTuple):
    """A node and its values.

    Attributes:
        ov, ops: the module openvino, and its functions that make operations.
        opset: the ONNX's.
        inputs, outputs: None for an input that OpenVINO's graph does not hold under its name, such as a constant.
    """

    ov: Any
    ops: Any
    opset: int
    node: Node
    inputs: List[Optional[Any]]
    outputs: List[Any]

    def integer(self, name: str, default: int) -> int:
        """Returns an attribute that is an integer."""
        value = self.node.attributes.get(name, default)
        return signed(value) if isinstance(value, int) else default


def signed(value: int) -> int:
    """Converts an integer of the wire format, in which a negative one is 2^64 too large."""
    return value - (1 << 64) if value >= 1 << 63 else value


def static_sizes(value: Any) -> Optional[List[int]]:
    """Returns the sizes behind batch and channels; None where one is dynamic."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic or any(shape[axis].is_dynamic for axis in range(2, len(shape))):
        return None
    return [shape[axis].get_length() for axis in range(2, len(shape))]


def values_by_name(model: Any) -> Dict[str, Any]:
    """Maps each name of a tensor to the output that has it. A Result, which has one too, only passes it on."""
    operations = [operation for operation in model.get_ordered_ops() if operation.get_type_name() != "Result"]
    outputs = [output for operation in operations for output in operation.outputs()]
    return {name: output for output in outputs for name in output.get_names()}
