"""Gives the tensors of selected nodes the type float16, and inserts Casts where the type changes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from effedge.calibration.graph.onnx_file import constant, insert_behind

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
# Inputs that are float32 whatever the data is: Resize's region and scales.
ALWAYS_FLOAT32 = {"Resize": (1, 2), "Upsample": (1,)}


def is_float32(value: ir.Value) -> bool:
    """Returns True for a tensor of float32; False for a tensor whose type shape inference left open."""
    return value.dtype == FLOAT


class HalfPrecisionPass(ir.passes.InPlacePass):
    """Makes the float32 tensors that the given nodes write float16, and casts the tensors at the border.

    1. A given node reads every float32 input as float16: a constant as a converted copy, the output of another node
       through a Cast.
    2. Every other node, and the graph's outputs, read float32, through a Cast where the writer is a given node.
    3. A given Cast to float32 becomes a Cast to float16, so an image goes from uint8 to float16 in one step.
    """

    def __init__(self, half_nodes: Collection[ir.Node]) -> None:
        super().__init__()
        self.half_nodes = half_nodes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in list(graph):
            half = node in self.half_nodes
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype not in (FLOAT, HALF):
                    continue
                wanted = HALF if half and index not in ALWAYS_FLOAT32.get(node.op_type, ()) else FLOAT
                # A Cast reads any type, so it needs no other Cast before it.
                if value.dtype != wanted and node.op_type != "Cast":
                    node.replace_input_with(index, self._as(graph, value, wanted, converted))
            if half:
                self._write_half(node)
        for index, value in enumerate(graph.outputs):
            if value.dtype == HALF:
                name = value.name  # the graph's output keeps its name
                graph.outputs[index] = self._as(graph, value, FLOAT, converted)
                value.name, graph.outputs[index].name = f"{name}_fp16", name
        return ir.passes.PassResult(model, modified=bool(self.half_nodes))

    def _write_half(self, node: ir.Node) -> None:
        for output in node.outputs:
            if is_float32(output):
                output.type = ir.TensorType(HALF)
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(HALF))

    def _as(
        self,
        graph: ir.Graph,
        value: ir.Value,
        dtype: ir.DataType,
        converted: dict[tuple[ir.Value, ir.DataType], ir.Value],
    ) -> ir.Value:
        """Returns the value in another type, which is made once, just behind the node that writes it."""
        if (value, dtype) in converted:
            return converted[value, dtype]
        name = f"{value.name}_{'fp16' if dtype == HALF else 'fp32'}"
        array = constant(value)
        if array is not None:
            tensor = ir.tensor(array.astype(np.float16), name=name)
            result = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
            graph.register_initializer(result)
        else:
            result = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
            cast = ir.node("Cast", [value], {"to": int(dtype)}, outputs=[result], name=name)
            insert_behind(graph, value, cast)
        converted[value, dtype] = result
        return result
