"""Appends a graph to a network that decodes its output to effedge's candidates: boxes, scores and classes.

As in `effedge.pipeline.models.engine_graph`, the K best (box, class) pairs lie within the K boxes with the best class
score. So the best boxes are chosen first, and only K are decoded; the result is exact. The score of a class is that of
the project: times the objectness, if the head has one. Rounding keeps the order of products, so the largest product is
that of the largest class score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from effedge.deploy.common.cli import UserError
from effedge.pipeline.export.heads.builder import Builder
from effedge.pipeline.export.heads.outputs import Rows, find_rows
from effedge.pipeline.export.heads.priors import PRIORS, priors_of
from effedge.pipeline.export.heads.table import (
    CENTRES,
    CORNERS,
    DELTAS,
    DISTANCES,
    GRID,
    PIXELS,
    RELATIVE,
    Head,
)
from effedge.pipeline.models.engine_graph import CANDIDATES, STRETCH_LIMIT

OUTPUTS = ("boxes", "scores", "classes")
LOG_SIZE_LIMIT = 10.0  # e^10 strides: no exp() overflows on a wild background cell, and no box is as large


def add_candidates(
    model: ir.Model,
    head: Head,
    classes: int,
    size: tuple[int, int],
    arrays: Mapping[str, np.ndarray],
    path: object,
) -> None:
    """Replaces the network's outputs by candidates, in place.

    Args:
        size: (height, width) of the input.
        arrays: the outputs of a run, in the model's order, by the names that the file has for them.

    Raises:
        UserError: no output is that of such a head with so many classes, or its boxes' priors are unknown.
    """
    builder = Builder("postprocessing", model.opset_imports[""])
    outputs = dict(zip(arrays, model.graph.outputs, strict=True))
    rows = find_rows(builder, head, classes, outputs, arrays, size)
    if rows is None:
        given = ", ".join(f"'{name}' {list(array.shape)}" for name, array in arrays.items())
        raise UserError(
            f"'{path}' has the outputs {given}, which are not those of this head for {classes} classes: expected "
            f"{expected_outputs(head, classes, size)} (--head, --labels){size_hint(head, size)}"
        )
    if rows.value.dtype == ir.DataType.FLOAT16:
        rows = dataclasses.replace(rows, value=builder.op("Cast", rows.value, to=ir.DataType.FLOAT))
    kept = min(CANDIDATES, rows.count)
    if rows.code == GRID and not head.apart and is_decoded(model):
        rows = dataclasses.replace(rows, code=CENTRES)
    if rows.code == CORNERS:
        results = sorted_detections(builder, rows.value, kept)
    else:
        results = best_candidates(builder, rows, kept, head, classes, size)
    batch = model.graph.inputs[0].shape[0]  # type: ignore[index]
    types = (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT32)
    for value, name, dtype in zip(results, OUTPUTS, types, strict=True):
        value.name, value.type = name, ir.TensorType(dtype)
        value.shape = ir.Shape([batch, kept, 4] if name == "boxes" else [batch, kept])
    builder.insert(model.graph)
    model.graph.outputs[:] = results


def expected_outputs(head: Head, classes: int, size: tuple[int, int]) -> str:
    """Returns the words for the outputs that a head has with so many classes."""
    if not head.apart:
        cells = f"{head.cells(*size)} " if head.strides and head.boxes in (GRID, DISTANCES) else ""
        return f"{cells}rows of {head.columns(classes)} columns"
    count = head.cells(*size)
    if head.boxes == DELTAS:
        count = sum(len(level.boxes) for level in PRIORS[head.priors](size)) if head.priors else 0
    scores = " or ".join(str(columns) for columns in head.score_columns(classes))
    objectness = ", of 1 (objectness)" if head.objectness else ""
    return f"{f'{count} ' if count else ''}rows of 4 columns (boxes){objectness} and of {scores} (scores)"


def size_hint(head: Head, size: tuple[int, int]) -> str:
    """Returns the words for a size that the cells of a head do not divide; empty for one that they do."""
    coarsest = max(head.strides)
    if head.boxes not in (GRID, DISTANCES) or not any(side % coarsest for side in size):
        return ""
    return f"; its size, {size[0]}x{size[1]}, should be multiples of {coarsest}, the stride of the coarsest level"


def is_decoded(model: ir.Model) -> bool:
    """Tells if a YOLOX decodes its boxes itself (`--decode_in_inference`): it multiplies an exponential by the stride.
    Another one may belong to a sigmoid that is written out, 1 / (1 + exp(-x))."""
    exponentials = [node.outputs[0] for node in model.graph if node.op_type == "Exp"]
    return any(reader.op_type == "Mul" for value in exponentials for reader in value.consumers())


def sorted_detections(builder: Builder, rows: ir.Value, kept: int) -> list[ir.Value]:
    """Splits the `kept` best rows of x1, y1, x2, y2, score, class; equal scores stay in their order."""
    scores = builder.op("Squeeze", builder.columns(rows, 4, 5, 2), builder.integers(2))
    best_scores, order = builder.top(scores, kept)
    best = builder.gather_rows(builder.op("Transpose", rows, perm=[0, 2, 1]), order, 6, columns_first=True)
    classes = builder.op("Squeeze", builder.columns(best, 5, 6, 2), builder.integers(2))
    return [builder.columns(best, 0, 4, 2), best_scores, builder.op("Cast", classes, to=ir.DataType.INT32)]


def best_candidates(
    builder: Builder, rows: Rows, kept: int, head: Head, classes: int, size: tuple[int, int]
) -> list[ir.Value]:
    """Chooses the `kept` best (box, class) pairs of all rows, and decodes their boxes.

    Sigmoid and root keep the order, so they are taken of those that are chosen.
    """
    axis, columns = 1 if head.columns_first else 2, head.columns(classes)
    first = head.box_columns + head.objectness if head.boxes_first else 0
    best = builder.reduce_max(builder.columns(rows.value, first, first + classes, axis), axis)
    if head.objectness:
        objectness = builder.columns(rows.value, first - 1, first, axis)
        best = builder.op("Mul", best, builder.op("Squeeze", objectness, builder.integers(axis)))
    _, chosen = builder.top(best, kept)  # [N,K]
    best_rows = builder.gather_rows(rows.value, chosen, columns, head.columns_first)  # [N,K,columns]
    scores = builder.columns(best_rows, first, first + classes, 2)
    if rows.logits:
        scores = builder.op("Sigmoid", scores)
    if head.objectness:
        scores = builder.op("Mul", scores, builder.columns(best_rows, first - 1, first, 2))
    if head.roots:
        scores = builder.op("Sqrt", scores)
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
    boxes = decode_boxes(builder, best_codes, cells, head, rows.code, size)
    return [boxes, best_scores, builder.op("Cast", class_ids, to=ir.DataType.INT32)]


def decode_boxes(
    builder: Builder, codes: ir.Value, cells: ir.Value, head: Head, code: str, size: tuple[int, int]
) -> ir.Value:
    """Decodes codes [N,K,columns] of the rows `cells` [N,K] to boxes [N,K,4], xyxy in pixels."""
    if code == CENTRES:
        return corners(builder, builder.columns(codes, 0, 2, 2), builder.columns(codes, 2, 4, 2))
    if code == PIXELS:
        return codes
    if code == RELATIVE:
        return builder.op("Mul", codes, builder.constant(np.array(size[::-1] * 2, np.float32)))
    if code == DELTAS:
        prior = builder.op("Gather", builder.constant(priors_of(head.priors, size)), cells, axis=0)  # [N,K,4]
        return decode_deltas(builder, codes, prior, head)
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


def decode_deltas(builder: Builder, codes: ir.Value, prior: ir.Value, head: Head) -> ir.Value:
    """Decodes codes [N,K,4] to boxes [N,K,4], xyxy, by their priors of centre, width and height [N,K,4].

    "SSD: Single Shot MultiBox Detector" (https://arxiv.org/abs/1512.02325), equation 2, with the variances that its
    implementations divide by. A box is at most 62.5 times its prior, as in torchvision, MMDetection and Detectron2.
    """
    centre_factor, size_factor = (builder.constant(np.array(factor, np.float32)) for factor in head.variances)
    prior_centre, prior_size = builder.columns(prior, 0, 2, 2), builder.columns(prior, 2, 4, 2)
    shift = builder.op("Mul", builder.op("Mul", builder.columns(codes, 0, 2, 2), centre_factor), prior_size)
    limit = builder.constant(np.array(STRETCH_LIMIT, np.float32))
    log_size = builder.op("Clip", builder.op("Mul", builder.columns(codes, 2, 4, 2), size_factor), None, limit)
    box_size = builder.op("Mul", builder.op("Exp", log_size), prior_size)
    return corners(builder, builder.op("Add", prior_centre, shift), box_size)


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
