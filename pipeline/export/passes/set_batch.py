"""Give a graph that was exported for one picture another batch: a number, or the symbol "N".

Exporting with a symbolic batch fills a graph with Shape, Gather and Concat to work out what each Reshape wants. But the
batch is the first dimension of every tensor here, so the first number of each constant Reshape shape becomes 0, which
ONNX reads as "keep this dimension", and nothing has to be computed. The sizes of a Resize become scales.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape


def set_batch(model: ir.Model, batch: int | str) -> None:
    """Set the batch of a graph exported for one picture, in place.

    Raises:
        ValueError: a node has the batch of one built in (Expand to a constant shape, or a Reshape that merges it).
    """
    for node in model.graph:
        if node.op_type == "Expand" and not _expands_by_ones(node):  # torch writes one of ones in front of each Tile
            raise ValueError(f"{node.name} expands to a constant shape, batch and all")
        if node.op_type == "Resize":
            _scales_for_sizes(model, node)
        if node.op_type != "Reshape":
            continue
        target = node.inputs[1]
        if target is None or target.const_value is None:
            raise ValueError(f"{node.name} computes its shape")
        shape = target.const_value.numpy()
        if shape[0] not in (0, 1):
            raise ValueError(f"{node.name} reshapes to {shape.tolist()}, which merges the batch")
        kept = np.concatenate([[0], shape[1:]]).astype(np.int64)
        node.replace_input_with(1, Tape(model.graph).initializer(ir.tensor(kept, name=f"{node.outputs[0].name}.shape")))
        node.attributes.pop("allowzero", None)  # with it, 0 would mean an empty dimension
    edges = [*model.graph.inputs, *model.graph.outputs]
    for node in model.graph:
        for output in node.outputs:
            if output not in edges:
                output.shape = None  # inferred again from the inputs
    for value in edges:
        assert value.shape is not None
        value.shape = ir.Shape([batch, *value.shape.dims[1:]])


def _scales_for_sizes(model: ir.Model, resize: ir.Node) -> None:
    """Say a Resize's constant output sizes, which hold the batch, as scales, which do not."""
    sizes = resize.inputs[3] if len(resize.inputs) > 3 else None
    source = resize.inputs[0]
    if sizes is None or sizes.const_value is None or source is None or source.shape is None:
        return
    before = np.array([dim if isinstance(dim, int) else 1 for dim in source.shape])
    after = sizes.const_value.numpy()
    scales = (after / before).astype(np.float32)
    # A reader takes floor(size * scale), and float32's 5/3 would make 4 of 3.
    scales = np.where(before * scales.astype(np.float64) < after, np.nextafter(scales, np.float32(np.inf)), scales)
    scales[0] = 1.0
    resize.replace_input_with(
        2, Tape(model.graph).initializer(ir.tensor(scales, name=f"{resize.outputs[0].name}.scales"))
    )
    resize.resize_inputs(3)


def _expands_by_ones(node: ir.Node) -> bool:
    """True if an Expand changes nothing, whatever the batch."""
    shape = node.inputs[1].const_value if node.inputs[1] is not None else None
    return shape is not None and bool((shape.numpy() == 1).all())
