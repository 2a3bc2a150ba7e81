"""Puts a graph in front of a network that makes its input of effedge's image: uint8 RGB [N,H,W,3], letterboxed.

    image -> Cast -> Transpose -> Gather (RGB to BGR) -> (pixel - mean) / std -> the network

The mean is not folded into the first convolution, because its padding is zero behind the subtraction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import Header
from effedge.pipeline.export.heads.builder import Builder
from effedge.pipeline.export.heads.table import Head
from effedge.pipeline.models.tables import Size

IMAGE, CHANNELS = "image", 3


def image_size(shape: Iterable[object] | None) -> tuple[int, int, bool] | None:
    """Returns (height, width) of an input of images, and if its channels come first; None: it is no such input."""
    sizes = [size if isinstance(size, int) else 0 for size in shape or ()]
    if len(sizes) == 4 and sizes[1] == CHANNELS and sizes[2] > 0 and sizes[3] > 0:
        return sizes[2], sizes[3], True
    if len(sizes) == 4 and sizes[3] == CHANNELS and sizes[1] > 0 and sizes[2] > 0:
        return sizes[1], sizes[2], False
    return None


def fixed_shape(dims: Sequence[int | str], name: str, path: object, size: Size | None) -> tuple[int | str, ...]:
    """Returns the shape of an input of images with a height and width that are numbers, as a head's boxes need them.

    Args:
        dims: the input's shape, a symbol, which may have no name, where it is dynamic; a shape that is not that of
            images is returned as it is.
        name, path: the input and its file, for the message.
        size: of what is dynamic; None: nothing may be.

    Raises:
        UserError: the height or width is dynamic and no size is given, or it is a number and another size is given.
    """
    if len(dims) != 4 or CHANNELS not in (dims[1], dims[3]):
        return tuple(dims)
    first = 2 if dims[1] == CHANNELS else 1
    sides = dims[first : first + 2]
    shown = f"input '{name}' of '{path}' has shape {[dim or '?' for dim in dims]}"
    if size is None:
        if all(isinstance(side, int) for side in sides):
            return tuple(dims)
        raise UserError(
            f"{shown}, and a detector's head (--head) needs a fixed height and width: give the size that the engine is "
            "to have, SIZE=640 or SIZE=HEIGHTxWIDTH (--size)"
        )
    if any(isinstance(side, int) and side != given for side, given in zip(sides, size, strict=True)):
        raise UserError(f"{shown}, and SIZE (--size) {size} was given, which is for a dynamic one: leave it out")
    return (*dims[:first], *size, *dims[first + 2 :])


def fix_header(header: Header, path: object, size: Size | None) -> Header:
    """Returns the header of a file whose inputs of images have a fixed size; arguments and errors as `fixed_shape`."""
    inputs = {
        name: (element, dims if dims is None else fixed_shape(dims, name, path, size))
        for name, (element, dims) in header.inputs.items()
    }
    return dataclasses.replace(header, inputs=inputs)


def fix_size(model: ir.Model, path: object, size: Size | None) -> None:
    """Fixes the height and width of a graph's inputs of images, in place; arguments and errors as `fixed_shape`.

    Shapes within the graph are removed where anything changed, to be inferred again.
    """
    for value in model.graph.inputs:
        dims = tuple(dim if isinstance(dim, int) else dim.value or "" for dim in value.shape or ())
        fixed = fixed_shape(dims, str(value.name), path, size)
        if fixed != dims:
            value.shape = ir.Shape([dim or None for dim in fixed])
            for inner in (output for node in model.graph for output in node.outputs):
                if not inner.is_graph_output():
                    inner.shape = None


def add_image_input(model: ir.Model, head: Head, path: object) -> tuple[int, int]:
    """Replaces the network's input by `image`, in place; returns (height, width).

    Raises:
        UserError: the model has more than one input, or none of images.
    """
    network_input = model.graph.inputs[0]
    size = image_size(network_input.shape)
    if len(model.graph.inputs) != 1 or size is None:
        shapes = ", ".join(f"'{value.name}' {value.shape}" for value in model.graph.inputs)
        raise UserError(f"'{path}' has the inputs {shapes}: a detector's head (--head) is for one, [N,3,H,W]")
    assert network_input.shape is not None
    height, width, channels_first = size
    image = ir.Value(
        name=IMAGE,
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape([network_input.shape[0], height, width, CHANNELS]),
    )
    builder = Builder("preprocessing", model.opset_imports[""])
    pixels = builder.op("Cast", image, to=ir.DataType.FLOAT)
    if channels_first:
        pixels = builder.op("Transpose", pixels, perm=[0, 3, 1, 2])
    axes = (CHANNELS, 1, 1) if channels_first else (CHANNELS,)
    if head.bgr:
        pixels = builder.op("Gather", pixels, builder.integers(2, 1, 0), axis=1 if channels_first else 3)
    if any(head.mean):
        pixels = builder.op("Sub", pixels, builder.constant(np.array(head.mean, np.float32).reshape(axes)))
    if set(head.std) != {1.0}:
        scale = (1 / np.array(head.std)).astype(np.float32)
        pixels = builder.op("Mul", pixels, builder.constant(scale.reshape(axes)))
    if network_input.dtype not in (None, ir.DataType.FLOAT):
        pixels = builder.op("Cast", pixels, to=network_input.dtype)
    network_input.replace_all_uses_with(pixels)
    builder.insert(model.graph, in_front=True)
    model.graph.inputs[:] = [image]
    return height, width
