"""Folds a multiplication by a scalar into the convolution in front of it.

    c * (Conv(x, W) + b) = Conv(x, c * W) + c * b

The BiFPN's first layer multiplies the backbone's projected features by its fusion weights: a projection with a single
reader absorbs its weight.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from effedge.pipeline.export.passes.absorb import absorb_affine


def why_not(product: ir.Node) -> str | None:
    """Returns the reason why `product` cannot be folded into a convolution, or None if it can."""
    constants = [value for value in product.inputs if value is not None and value.const_value is not None]
    if len(constants) != 1 or constants[0].const_value.size != 1:  # type: ignore[union-attr]
        return "no multiplication by one number"
    source = next(value for value in product.inputs if value is not constants[0])
    conv = source.producer() if source is not None else None
    if source is None or conv is None or conv.op_type != "Conv":
        return "no convolution in front of it"
    kernel = conv.inputs[1]
    if kernel is None or kernel.dtype != ir.DataType.FLOAT:
        return "its weights are not float32"
    if len(source.uses()) != 1 or source.is_graph_output():
        return "another node reads the convolution"
    if any(value is None or value.const_value is None for value in conv.inputs[1:]):
        return "the convolution's weights are computed"
    return None


def fold_scale(model: ir.Model) -> int:
    """Applies the rule to the graph; returns the number of multiplications that were folded."""
    folded = 0
    for product in list(model.graph):
        if product.op_type != "Mul" or why_not(product):
            continue
        factor = next(v.const_value for v in product.inputs if v is not None and v.const_value is not None)
        absorb_affine(model, product, factor.numpy().astype(np.float64).reshape(()), np.zeros(()))
        folded += 1
    return folded
