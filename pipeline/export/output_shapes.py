"""Corrects the shapes that a graph states for its outputs, as the engine's manifest repeats them.

ONNX Runtime runs a graph whatever it states of its outputs, so wrong and missing shapes are in many files, and shape
inference believes a stated size. A size that a run contradicts becomes the symbol `<output>_<index>`, and so do all
sizes of an output without a shape, which onnx-simplifier refuses. On the simplified graph, shape inference finds what
can be known of these.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx


def symbol(value: onnx.ValueInfoProto, index: int) -> str:
    """Returns the name of an output's unknown dimension; `effedge.calibration.graph.unknown_sizes` has the same."""
    return f"{value.name}_{index}"


def name_wrong_sizes(model: onnx.ModelProto, outputs: Mapping[str, np.ndarray]) -> None:
    """Replaces the sizes that a run's outputs contradict by symbols, in place."""
    for value in model.graph.output:
        shape, actual = value.type.tensor_type.shape, np.shape(outputs[value.name])
        if not value.type.tensor_type.HasField("shape") or len(shape.dim) != len(actual):
            shape.SetInParent()
            del shape.dim[:]
            shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in actual)
        for index, (dim, size) in enumerate(zip(shape.dim, actual, strict=True)):
            if not dim.dim_param and dim.dim_value != size:
                dim.dim_param = symbol(value, index)


def infer_named_sizes(model: onnx.ModelProto) -> None:
    """Replaces the symbols of `name_wrong_sizes` by what shape inference finds without them, in place."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(bare, data_prop=True).graph.output}
    for value in model.graph.output:
        dims, found = value.type.tensor_type.shape.dim, inferred[value.name].type.tensor_type.shape.dim
        for index, (dim, other) in enumerate(zip(dims, found, strict=False)):
            if dim.dim_param == symbol(value, index) and other.WhichOneof("value"):
                dim.CopyFrom(other)
