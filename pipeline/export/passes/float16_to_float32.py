"""Brings a graph from float16 to float32, as every stage behind it expects; its inputs and outputs stay float16.

    x: float16 -> Cast(float32) -> the same graph in float32 -> Cast(float16) -> y: float16

float32 holds every float16 number, so weights stay exactly what they were, and only the rounding of each operator's
result to float16 goes. A target's float16 comes back with the precision that is asked for (calibration/fp16/).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
TYPE_ATTRIBUTES = ("to", "dtype")  # of Cast, and of EyeLike, RandomNormal and their like


def float16_to_float32(model: ir.Model) -> int:
    """Applies the conversion in place, to graphs within nodes too; returns the number of tensors that were float16.

    `model` must be free of functions.
    """
    if not has_float16(model):
        return 0  # shape inference would make tensors of sequences
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)  # for the types of tensors within
    ends = [value for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype == HALF]
    changed = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        inputs = () if graph is model.graph else graph.inputs
        made = (value for node in graph for value in node.outputs)
        for value in (*inputs, *graph.initializers.values(), *made):
            if value.dtype == HALF:
                value.type = ir.TensorType(FLOAT)
                changed += 1
            if value.const_value is not None and value.const_value.dtype == HALF:
                value.const_value = as_float32(value.const_value)
        for node in graph:
            convert_attributes(node)
    for value in dict.fromkeys(ends):
        if value.is_graph_input():
            cast_input(model.graph, value)
        else:
            cast_output(model.graph, value)
    return changed


def has_float16(model: ir.Model) -> bool:
    """Tells if an input, a constant or the type that a node makes is float16."""
    for graph in (model.graph, *model.graph.subgraphs()):
        if any(value.dtype == HALF for value in (*graph.inputs, *graph.initializers.values(), *graph.outputs)):
            return True
        attributes = [(name, each) for node in graph for name, each in node.attributes.items()]
        for name, each in attributes:
            if each.type == ir.AttributeType.TENSOR and each.as_tensor().dtype == HALF:
                return True
            if each.type == ir.AttributeType.INT and name in TYPE_ATTRIBUTES and each.as_int() == HALF:
                return True
    return False


def as_float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Returns a float16 tensor's values as float32, under the same name."""
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def convert_attributes(node: ir.Node) -> None:
    """Makes float32 of the float16 in a node's attributes: tensors, and the type of what the node makes."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == HALF:
            node.attributes[name] = ir.AttrTensor(name, as_float32(attribute.as_tensor()))
        elif attribute.type == ir.AttributeType.INT and name in TYPE_ATTRIBUTES and attribute.as_int() == HALF:
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))


def cast_input(graph: ir.Graph, value: ir.Value) -> None:
    """Inserts a Cast to float32 behind a float16 input."""
    cast = ir.node("Cast", [value], {"to": int(FLOAT)}, name=f"{value.name}_to_float32")
    cast.outputs[0].name, cast.outputs[0].shape = f"{value.name}_float32", value.shape
    cast.outputs[0].type = ir.TensorType(FLOAT)
    for reader, index in value.uses():
        if reader is not cast:
            reader.replace_input_with(index, cast.outputs[0])
    graph.insert_before(graph[0], cast)


def cast_output(graph: ir.Graph, value: ir.Value) -> None:
    """Inserts a Cast to float16 in front of an output, which keeps its name."""
    name = value.name
    value.name = f"{name}_float32"
    for node in graph:  # OpenVINO calls the Cast by its output's name, and reports a layer of that name under another
        node.name = f"{name}_float32" if node.name == name else node.name
    result = ir.Value(name=name, type=ir.TensorType(HALF), shape=value.shape)
    graph.append(ir.node("Cast", [value], {"to": int(HALF)}, outputs=[result], name=f"{name}_to_float16"))
    graph.outputs[:] = [result if output is value else output for output in graph.outputs]
