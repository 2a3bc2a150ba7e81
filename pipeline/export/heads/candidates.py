"""Appends a graph to a network that decodes its output to effedge's candidates: boxes, scores and classes.

As in `effedge.pipeline.models.engine_graph`, the K best (box, class) pairs lie within the K boxes with the best class
score. So the best boxes are chosen first, and only K are decoded; the result is exact. The score of a class is that of
the project: times the objectness, if the head has one. Rounding keeps the order of products, so the largest product is
that of the largest class score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from effedge.deploy.common.cli import UserError
from effedge.pipeline.export.heads.builder import Builder
from effedge.pipeline.export.heads.table import CENTRES, CORNERS, DISTANCES, GRID, Head
from effedge.pipeline.models.engine_graph import CANDIDATES

OUTPUTS = ("boxes", "scores", "classes")
LOG_SIZE_LIMIT = 10.0  # e^10 strides: no exp() overflows on a wild background cell, and no box is as large


def add_candidates(
    model: ir.Model,
    head: Head,
    classes: int,
    size: tuple[int, int],
    shapes: Mapping[str, Sequence[int]],
    path: object,
) -> None:
    """Replaces the network's outputs by candidates, in place.

    Args:
        size: (height, width) of the input.
        shapes: of the outputs, as a run has them.

    Raises:
        UserError: no output is that of such a head with so many classes.
    """
    builder = Builder("postprocessing", model.opset_imports[""])
    outputs = {value.name or "": value for value in model.graph.outputs}
    rows, count = find_rows(builder, head, classes, outputs, shapes, size)
    if rows is None:
        given = ", ".join(f"'{name}' {list(shape)}" for name, shape in shapes.items())
        cells = f"{head.cells(*size)} " if head.strides and head.boxes in (GRID, DISTANCES) else ""
        raise UserError(
            f"'{path}' has the outputs {given}, which are not those of this head for {classes} classes: expected "
            f"{cells}rows of {head.columns(classes)} columns (--head, --labels)"
        )
    if rows.dtype == ir.DataType.FLOAT16:
        rows = builder.op("Cast", rows, to=ir.DataType.FLOAT)
    kept = min(CANDIDATES, count)
    code = CENTRES if head.boxes == GRID and is_decoded(model) else head.boxes
    if code == CORNERS:
        results = sorted_detections(builder, rows, kept)
    else:
        results = best_candidates(builder, rows, kept, head, code, classes, size)
    batch = model.graph.inputs[0].shape[0]  # type: ignore[index]
    types = (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT32)
    for value, name, dtype in zip(results, OUTPUTS, types, strict=True):
        value.name, value.type = name, ir.TensorType(dtype)
        value.shape = ir.Shape([batch, kept, 4] if name == "boxes" else [batch, kept])
    builder.insert(model.graph)
    model.graph.outputs[:] = results


def is_decoded(model: ir.Model) -> bool:
    """Tells if a YOLOX decodes its boxes itself (`--decode_in_inference`): nothing else in it is exponential."""
    return any(node.op_type == "Exp" for node in model.graph)


def find_rows(
    builder: Builder,
    head: Head,
    classes: int,
    outputs: Mapping[str, ir.Value],
    shapes: Mapping[str, Sequence[int]],
    size: tuple[int, int],
) -> tuple[ir.Value | None, int]:
    """Finds the output of boxes, [N,A,columns], or [N,columns,A] where the head's columns come first; None: none.

    A NanoDet may have an output of scores and one of boxes for each level instead, of which this makes one.
    """
    columns, axis = head.columns(classes), 1 if head.columns_first else 2
    cells = head.cells(*size) if head.boxes in (GRID, DISTANCES) else None
    fitting = [
        (outputs[name], shape[3 - axis])
        for name, shape in shapes.items()
        if len(shape) == 3 and shape[axis] == columns and cells in (None, shape[3 - axis])
    ]
    if len(fitting) == 1:
        return fitting[0]
    if head.boxes != DISTANCES or len(shapes) != 2 * len(head.strides):
        return None, 0
    levels = [-(-size[0] // stride) * -(-size[1] // stride) for stride in head.strides]
    parts = []
    for width, at in ((classes, 0), (head.box_columns, -1)):
        found = [[n for n, shape in shapes.items() if tuple(shape[-2:]) == (level, width)] for level in levels]
        if not all(found):
            return None, 0
        # Where there are as many classes as columns of a box, scores come first.
        level_values = [outputs[names[at]] for names in found]
        flat = [len(shapes[names[at]]) == 2 for names in found]
        values = [
            builder.op("Unsqueeze", value, builder.integers(0)) if is_flat else value
            for value, is_flat in zip(level_values, flat, strict=True)
        ]
        parts.append(builder.op("Concat", *values, axis=1))
    return builder.op("Concat", *parts, axis=2), sum(levels)


def sorted_detections(builder: Builder, rows: ir.Value, kept: int) -> list[ir.Value]:
    """Splits the `kept` best rows of x1, y1, x2, y2, score, class; equal scores stay in their order."""
    scores = builder.op("Squeeze", builder.columns(rows, 4, 5, 2), builder.integers(2))
    best_scores, order = builder.top(scores, kept)
    best = builder.gather_rows(builder.op("Transpose", rows, perm=[0, 2, 1]), order, 6, columns_first=True)
    classes = builder.op("Squeeze", builder.columns(best, 5, 6, 2), builder.integers(2))
    return [builder.columns(best, 0, 4, 2), best_scores, builder.op("Cast", classes, to=ir.DataType.INT32)]


def best_candidates(
    builder: Builder, rows: ir.Value, kept: int, head: Head, code: str, classes: int, size: tuple[int, int]
) -> list[ir.Value]:
    """Chooses the `kept` best (box, class) pairs of all rows, and decodes their boxes."""
    axis, columns = 1 if head.columns_first else 2, head.columns(classes)
    first = head.box_columns + head.objectness if head.boxes_first else 0
    best = builder.reduce_max(builder.columns(rows, first, first + classes, axis), axis)
    if head.objectness:
        objectness = builder.columns(rows, first - 1, first, axis)
        best = builder.op("Mul", best, builder.op("Squeeze", objectness, builder.integers(axis)))
    _, chosen = builder.top(best, kept)  # [N,K]
    best_rows = builder.gather_rows(rows, chosen, columns, head.columns_first)  # [N,K,columns]
    scores = builder.columns(best_rows, first, first + classes, 2)
    if head.objectness:
        scores = builder.op("Mul", scores, builder.columns(best_rows, first - 1, first, 2))
    best_scores, pairs = builder.top(builder.op("Reshape", scores, builder.integers(0, -1)), kept)
    rank = builder.op("Div", pairs, builder.integers(classes))  # within the rows that were chosen
    class_ids = builder.op("Sub", pairs, builder.op("Mul", rank, builder.integers(classes)))
    # Whole rows are gathered, and before they are decoded: onnx-simplifier takes a Slice in front of GatherElements
    # away, which OpenVINO refuses, and `with_raw_heads` of export/compare_outputs.py would take boxes in the order of
    # their scores for a head of all rows.
    sorted_rows = builder.gather_rows(best_rows, rank, columns)
    start = 0 if head.boxes_first else classes
    best_codes = builder.columns(sorted_rows, start, start + head.box_columns, 2)
    cells = builder.op("GatherElements", chosen, rank, axis=1)
    boxes = decode_boxes(builder, best_codes, cells, head, code, size)
    return [boxes, best_scores, builder.op("Cast", class_ids, to=ir.DataType.INT32)]


def decode_boxes(
    builder: Builder, codes: ir.Value, cells: ir.Value, head: Head, code: str, size: tuple[int, int]
) -> ir.Value:
    """Decodes codes [N,K,columns] of the rows `cells` [N,K] to boxes [N,K,4], xyxy in pixels."""
    if code == CENTRES:
        return corners(builder, builder.columns(codes, 0, 2, 2), builder.columns(codes, 2, 4, 2))
    points, strides = place_cells(head, size)
    point = builder.op("Gather", builder.constant(points), cells, axis=0)  # [N,K,2], in pixels
    stride = builder.op("Gather", builder.constant(strides), cells, axis=0)  # [N,K,1]
    if code == GRID:
        shift = builder.op("Mul", builder.columns(codes, 0, 2, 2), stride)
        limit = builder.constant(np.array(LOG_SIZE_LIMIT, np.float32))
        size_in_strides = builder.op("Exp", builder.op("Clip", builder.columns(codes, 2, 4, 2), None, limit))
        return corners(builder, builder.op("Add", shift, point), builder.op("Mul", size_in_strides, stride))
    assert code == DISTANCES
    steps = head.box_columns // 4
    weights = builder.op("Softmax", builder.op("Reshape", codes, builder.integers(0, -1, 4, steps)), axis=3)
    # A sum of products, and no MatMul, which would be taken for a layer to be quantized.
    weighted = builder.op("Mul", weights, builder.constant(np.arange(steps, dtype=np.float32)))
    distances = builder.op("Mul", builder.op("ReduceSum", weighted, builder.integers(3), keepdims=0), stride)
    low = builder.op("Sub", point, builder.columns(distances, 0, 2, 2))
    high = builder.op("Add", point, builder.columns(distances, 2, 4, 2))
    return builder.op("Concat", low, high, axis=2)


def corners(builder: Builder, centre: ir.Value, size: ir.Value) -> ir.Value:
    """Makes boxes [N,K,4], xyxy, of centres and sizes [N,K,2]."""
    half = builder.op("Mul", size, builder.constant(np.array(0.5, np.float32)))
    return builder.op("Concat", builder.op("Sub", centre, half), builder.op("Add", centre, half), axis=2)


def place_cells(head: Head, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points of all levels' cells, float32 [A,2] x, y in pixels, and their strides [A,1]."""
    points, strides = [], []
    for stride in head.strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        level = (np.stack([x.ravel(), y.ravel()], axis=1) + head.centre) * stride
        points.append(level.astype(np.float32))
        strides.append(np.full((len(level), 1), stride, np.float32))
    return np.concatenate(points), np.concatenate(strides)
