"""Sets the batch of a graph: of one that was exported for a single image, or of one whose batch is a symbol.

An export with a symbolic batch fills a graph with Shape, Gather and Concat, which compute the target shape of each
Reshape. So effedge exports its models for one image, and `replace_batch_of_one` rewrites the graph afterwards: the
batch is the first dimension of every tensor, so the first number of each constant Reshape shape becomes 0, which ONNX
reads as "keep this dimension", and nothing has to be computed. The sizes of a Resize become scales.

`resolve_symbolic_batch` is for a graph from any other exporter.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from effedge.deploy.common.contracts import BATCH_KEY

if TYPE_CHECKING:
    from effedge.pipeline.export.torch_to_onnx import Batch


def replace_batch_of_one(model: ir.Model, batch: int | str) -> None:
    """Gives a graph that was exported for one image another batch, in place: a number, or the symbol "N".

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


def resolve_symbolic_batch(model: ir.Model, batch: Batch) -> None:
    """Fixes the symbolic batch of a graph, or notes its bounds in the metadata, in place; a fixed batch stays.

    Shapes within the graph are removed, to be inferred again.

    Args:
        batch: (min, opt, max); if they are equal the batch becomes that number, else the symbol "N".
    """
    lowest, _, highest = batch
    first = [value.shape[0] for value in model.graph.inputs if value.shape and not isinstance(value.shape[0], int)]
    if not first:
        return
    names = {dim.value for dim in first}
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    size = lowest if lowest == highest else "N"

    def is_batch(axis: int, dim: int | ir.SymbolicDim) -> bool:
        # Dimensions without a name are not one dimension: of these only the first is the batch.
        return not isinstance(dim, int) and dim.value in names and (dim.value is not None or axis == 0)

    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([size if is_batch(axis, dim) else dim for axis, dim in enumerate(value.shape)])
    if lowest != highest:
        model.metadata_props[BATCH_KEY] = json.dumps(list(batch))


def _scales_for_sizes(model: ir.Model, resize: ir.Node) -> None:
    """Replaces the constant output sizes of a Resize, which hold the batch, by scales, which do not."""
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
    """Returns True if an Expand changes nothing, whatever the batch."""
    shape = node.inputs[1].const_value if node.inputs[1] is not None else None
    return shape is not None and bool((shape.numpy() == 1).all())
