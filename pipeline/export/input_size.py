"""Fixes the height and width of inputs of images, where a file leaves them open."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import Header, image_sides
from effedge.pipeline.models.tables import Size

if TYPE_CHECKING:
    import onnx_ir as ir

RGB = 3


def image_size(shape: Iterable[object] | None) -> tuple[int, int, bool] | None:
    """Returns (height, width) of an input of RGB images, and if its channels come first; None: it is no such input."""
    sizes = [size if isinstance(size, int) else 0 for size in shape or ()]
    if len(sizes) == 4 and sizes[1] == RGB and sizes[2] > 0 and sizes[3] > 0:
        return sizes[2], sizes[3], True
    if len(sizes) == 4 and sizes[3] == RGB and sizes[1] > 0 and sizes[2] > 0:
        return sizes[1], sizes[2], False
    return None


def fixed_shape(dims: Sequence[int | str], name: str, path: object, size: Size | None) -> tuple[int | str, ...]:
    """Returns the shape of an input with a height and width that are numbers; of no images, the shape as it is.

    Args:
        dims: the input's shape, a symbol, which may have no name, where it is dynamic.
        name, path: the input and its file, for the message.
        size: of what is dynamic; None: nothing may be.

    Raises:
        UserError: the height or width is dynamic and no size is given, or it is a number and another size is given.
    """
    where = image_sides(dims)
    if where is None:
        return tuple(dims)
    sides = dims[where]
    shown = f"input '{name}' of '{path}' has shape {[dim or '?' for dim in dims]}"
    if size is None:
        if all(isinstance(side, int) for side in sides):
            return tuple(dims)
        raise UserError(
            f"{shown}, and an engine has one height and width: give those that it is to have, SIZE=640 or "
            "SIZE=HEIGHTxWIDTH (--size)"
        )
    if any(isinstance(side, int) and side != given for side, given in zip(sides, size, strict=True)):
        raise UserError(f"{shown}, and SIZE (--size) {size} was given, which is for a dynamic one: leave it out")
    return (*dims[: where.start], *size, *dims[where.stop :])


def fix_header(header: Header, path: object, size: Size | None) -> Header:
    """Returns the header of a file whose inputs of images have a fixed size; arguments and errors as `fixed_shape`.

    Raises:
        UserError: a size for a file without an input of images.
    """
    if size is not None and all(image_sides(dims) is None for _, dims in header.inputs.values()):
        shapes = ", ".join(f"'{name}' {dims}" for name, (_, dims) in header.inputs.items())
        raise UserError(f"SIZE (--size) {size} was given, and '{path}' has no input of images, but {shapes}")
    inputs = {
        name: (element, dims if dims is None else fixed_shape(dims, name, path, size))
        for name, (element, dims) in header.inputs.items()
    }
    return dataclasses.replace(header, inputs=inputs)


def fix_size(model: ir.Model, path: object, size: Size | None) -> None:
    """Fixes the height and width of a graph's inputs of images, in place; arguments and errors as `fixed_shape`.

    Shapes within the graph are removed where anything changed, to be inferred again.
    """
    import onnx_ir as ir

    for value in model.graph.inputs:
        dims = tuple(dim if isinstance(dim, int) else dim.value or "" for dim in value.shape or ())
        fixed = fixed_shape(dims, str(value.name), path, size)
        if fixed != dims:
            value.shape = ir.Shape([dim or None for dim in fixed])
            for inner in (output for node in model.graph for output in node.outputs):
                if not inner.is_graph_output():
                    inner.shape = None
