"""Makes a matrix of a product's weights that carry leading dimensions of 1.

    MatMul(x [N,..,K], W [1,..,1,K,M])  ->  MatMul(x, W [K,M])

ONNX broadcasts the leading dimensions, so both are the same where x has at least as many as W. Only a matrix has output
channels, which INT8 weights have their scales by.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from effedge.pipeline.export.passes.absorb import constant, free_name


def why_not(product: ir.Node) -> str | None:
    """Returns the reason why the weights of `product` stay as they are, or None if they become a matrix."""
    data, weight = product.inputs
    if weight is None or weight.const_value is None:
        return "its weights are computed"
    if len(weight.const_value.shape) < 3 or any(size != 1 for size in weight.const_value.shape[:-2]):
        return "its weights have no leading 1"
    if data is None or data.shape is None or len(data.shape) < len(weight.const_value.shape):
        return "the leading 1 adds a dimension to the result"
    return None


def squeeze_weight(model: ir.Model) -> int:
    """Applies the rule to the graph; returns the number of products."""
    squeezed = 0
    for product in model.graph:
        if product.op_type != "MatMul" or why_not(product):
            continue
        array = constant(product.inputs[1])
        name = free_name(model.graph, f"{product.outputs[0].name}.weight")
        matrix = Tape(model.graph).initializer(ir.tensor(array.reshape(array.shape[-2:]), name=name))
        product.replace_input_with(1, matrix)
        squeezed += 1
    return squeezed
