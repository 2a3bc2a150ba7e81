"""Puts a graph in front of a network that makes its input of effedge's image: uint8 RGB [N,H,W,3], letterboxed.

    image -> Cast -> Transpose -> Gather (RGB to BGR) -> (pixel - mean) / std -> the network

The mean is not folded into the first convolution, because its padding is zero behind the subtraction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.pipeline.export.heads.builder import Builder
from effedge.pipeline.export.heads.table import ClassifierHead, Head
from effedge.pipeline.export.input_size import RGB, image_size

IMAGE = "image"


def add_image_input(model: ir.Model, head: Head | ClassifierHead, path: object) -> tuple[int, int]:
    """Replaces the network's input by `image`, in place; returns (height, width).

    A network that takes integers gets the pixels as they are, in the head's order of colours.

    Raises:
        UserError: the model has more than one input, or none of images.
    """
    network_input = model.graph.inputs[0]
    size = image_size(network_input.shape)
    if len(model.graph.inputs) != 1 or size is None:
        shapes = ", ".join(f"'{value.name}' {value.shape}" for value in model.graph.inputs)
        raise UserError(f"'{path}' has the inputs {shapes}: a head (--head) is for one, [N,3,H,W]")
    assert network_input.shape is not None
    height, width, channels_first = size
    image = ir.Value(
        name=IMAGE,
        type=ir.TensorType(ir.DataType.UINT8),
        shape=ir.Shape([network_input.shape[0], height, width, RGB]),
    )
    builder = Builder("preprocessing", model.opset_imports[""])
    pixels = builder.op("Cast", image, to=ir.DataType.FLOAT)
    if channels_first:
        pixels = builder.op("Transpose", pixels, perm=[0, 3, 1, 2])
    axes = (RGB, 1, 1) if channels_first else (RGB,)
    if head.bgr:
        pixels = builder.op("Gather", pixels, builder.integers(2, 1, 0), axis=1 if channels_first else 3)
    takes_bytes = network_input.dtype is not None and network_input.dtype.is_integer()
    if takes_bytes:
        log.info(f"head: the network takes {network_input.dtype} pixels, 0 to 255, and normalizes them itself")
    if any(head.mean) and not takes_bytes:
        pixels = builder.op("Sub", pixels, builder.constant(np.array(head.mean, np.float32).reshape(axes)))
    if set(head.std) != {1.0} and not takes_bytes:
        scale = (1 / np.array(head.std)).astype(np.float32)
        pixels = builder.op("Mul", pixels, builder.constant(scale.reshape(axes)))
    if network_input.dtype not in (None, ir.DataType.FLOAT):
        pixels = builder.op("Cast", pixels, to=network_input.dtype)
    network_input.replace_all_uses_with(pixels)
    builder.insert(model.graph, in_front=True)
    model.graph.inputs[:] = [image]
    return height, width


def batch_bounds(model: ir.Model, batch: Sequence[int]) -> list[int]:
    """Returns (smallest, usual, largest) of a model's batch: its own, or `batch` where that is a symbol."""
    own = model.graph.inputs[0].shape[0]  # type: ignore[index]
    return [own] * 3 if isinstance(own, int) else list(batch)
