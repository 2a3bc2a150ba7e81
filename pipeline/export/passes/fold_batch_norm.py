"""Folds BatchNorm into the convolution in front of it, also if several convolutions share a kernel.

    BN(Conv(x, W) + b) = Conv(x, W * s) + (b - mean) * s + beta,   s = gamma / sqrt(var + eps)

The exporter does so itself if a kernel has a single reader. The heads of EfficientDet share their kernels over the
levels but not their BatchNorm: a level gets a kernel of its own (64 x 64 numbers in D0) and loses a node.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from effedge.pipeline.export.passes.absorb import absorb_affine, constant


def why_not(norm: ir.Node) -> str | None:
    """Returns the reason why `norm` cannot be folded into its producer, or None if it can."""
    source = norm.inputs[0]
    conv = source.producer() if source is not None else None
    if source is None or conv is None or conv.op_type != "Conv":
        return "no convolution in front of it"
    kernel = conv.inputs[1]
    if kernel is None or kernel.dtype != ir.DataType.FLOAT:
        return "its weights are not float32"
    if len(source.uses()) != 1 or source.is_graph_output():
        return "another node reads the convolution"
    constants = [*conv.inputs[1:], *norm.inputs[1:]]
    if any(value is None or value.const_value is None for value in constants):
        return "weights or statistics are computed"
    return None


def fold_batch_norm(model: ir.Model) -> int:
    """Applies the rule to the graph; returns the number of BatchNormalizations that were folded."""
    folded = 0
    for norm in list(model.graph):
        if norm.op_type != "BatchNormalization" or why_not(norm):
            continue
        gamma, beta, mean, var = (constant(value).astype(np.float64) for value in norm.inputs[1:5])
        scale = gamma / np.sqrt(var + norm.attributes.get_float("epsilon", 1e-5))
        absorb_affine(model, norm, scale, beta - mean * scale)
        folded += 1
    return folded
