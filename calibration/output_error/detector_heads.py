"""Recognizes a detector's outputs by their shapes and the float model's values: detections after a selection within the
model, and heads with a box and scores for every cell (YOLOv5 to v12, YOLOX, decoded SSDs)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effedge.calibration.output_error.columns import CLOSE
from effedge.calibration.output_error.measure import Outputs
from effedge.calibration.output_error.readers import (
    CXCYWH,
    GRID_CODES,
    XYXY,
    BoxColumns,
    DetectionRows,
    FinishedDetections,
    RowOrder,
    ScoreColumns,
    cell_grid,
)
from effedge.calibration.output_error.tables import Table

MOST_WRONG = 0.01  # the share of boxes with a corner on the wrong side, or without size
CELL_SHARE = 0.7  # of the variance of the boxes' places, that the cell explains: a distance has less than half
# The columns of the box's first coordinate, the score, the class and the image's number in the batch.
ROW_ORDERS: dict[int, tuple[RowOrder, ...]] = {
    6: (RowOrder(0, 4, 5), RowOrder(2, 1, 0)),
    7: (RowOrder(1, 6, 5, 0), RowOrder(3, 2, 1, 0)),  # of YOLOv7's export with NMS; of Caffe's and OpenVINO's SSD
}


def finished_detections(expected: Sequence[Outputs], outputs: Sequence[int]) -> FinishedDetections | None:
    """Finds boxes [N,K,4] or [K,4] xyxy, scores and classes [N,K] or [K] among outputs, each the only one; the scores
    may be a fifth column of the boxes."""
    shapes = {index: [run[index].shape for run in expected] for index in outputs}
    boxes = [index for index in outputs if shapes[index][0][-1:] in ((4,), (5,)) and len(shapes[index][0]) in (2, 3)]
    if len(boxes) != 1 or not all(is_xyxy(np.moveaxis(run[boxes[0]][..., :4], -1, 0)) for run in expected):
        return None
    rows = [shape[:-1] for shape in shapes[boxes[0]]]
    beside = [index for index in outputs if shapes[index] == rows]
    classes = [index for index in beside if all(integral(run[index]) for run in expected)]
    scores: list[int | None]
    if shapes[boxes[0]][0][-1] == 5:
        scores = [None] if all(probable(run[boxes[0]][..., 4]) for run in expected) else []
    else:
        floats = [index for index in beside if index not in classes and expected[0][index].dtype.kind == "f"]
        scores = [index for index in floats if all(probable(run[index]) for run in expected)]
    return FinishedDetections(boxes[0], scores[0], classes[0]) if len(scores) == len(classes) == 1 else None


def detection_rows(expected: Sequence[Outputs], output: int) -> DetectionRows | None:
    """Finds detections [...,K,6] or [...,K,7] (ROW_ORDERS)."""
    arrays = [run[output] for run in expected]
    size = arrays[0].shape[-1] if arrays[0].ndim in (2, 3, 4) else 0
    if size not in ROW_ORDERS or any(array.shape[-1:] != (size,) or array.dtype.kind != "f" for array in arrays):
        return None
    rows = np.concatenate([array.reshape(-1, size) for array in arrays])
    for order in ROW_ORDERS[size]:
        boxes = rows[:, order.box : order.box + 4].T
        whole = integral(rows[:, order.label]) and (order.image is None or integral(rows[:, order.image]))
        if len(rows) and whole and probable(rows[:, order.score]) and is_xyxy(boxes) and boxes.any():
            return DetectionRows(output, order)
    return None


def integral(array: np.ndarray) -> bool:
    """Tells if all values are whole numbers, from -1 on, which stands for no detection."""
    return array.dtype.kind in "iu" or bool((np.round(array) == array).all() and (array >= -1).all())


def probable(array: np.ndarray) -> bool:
    """Tells if all values are within 0 to 1."""
    return bool(((array >= -CLOSE) & (array <= 1 + CLOSE)).all())


def is_xyxy(boxes: np.ndarray) -> bool:
    """Tells if boxes [4,...] have their corners on the right sides."""
    wrong = (boxes[2] < boxes[0]) | (boxes[3] < boxes[1])
    return bool(np.isfinite(boxes).all()) and float(wrong.mean() if wrong.size else 0.0) <= MOST_WRONG


def box_layout(arrays: Sequence[np.ndarray], sure: bool = False) -> str | None:
    """Returns the layout of boxes [4,...rows] on each sample; None if they may be no boxes.

    Of dense heads the cell decides where a box is, so that it is nearly the same on all samples. Of distances to the
    sides, which are positive too, and of offsets from an anchor in front of larger sizes, the image decides.

    Args:
        sure: that they are boxes, by the user's word.
    """
    boxes = np.stack([array.reshape(4, -1) for array in arrays])  # [S,4,R]
    if is_xyxy(np.moveaxis(boxes, 1, 0)):
        layout, places = XYXY, boxes
    elif sure or float((boxes[:, 2:] <= 0).mean()) <= MOST_WRONG:
        layout, places = CXCYWH, boxes[:, :2]
    else:
        return None
    total = places.var(axis=(0, 2))
    by_cell = places.mean(axis=0).var(axis=-1)
    if sure or (len(arrays) > 1 and (total > 0).all() and (by_cell >= CELL_SHARE * total).all()):
        return layout
    return None


def take_boxes(table: Table, group: Sequence[Table], sure: bool = False) -> BoxColumns | None:
    """Takes decoded boxes out of a table: its first four columns, if scores are behind them or beside the table."""
    if not table.flat or table.size < 4 or (table.size == 4 and len(group) == 1 and not sure):
        return None
    columns = table.columns(range(4))
    layout = box_layout([columns.of(array) for array in table.arrays], sure)
    if layout is None:
        return None
    table.take(range(4))
    return BoxColumns(columns, layout)


def take_grid_codes(table: Table, scores: ScoreColumns, size: tuple[int, int] | None) -> BoxColumns | None:
    """Takes YOLOX's box codes out of a table, which are in front of an objectness and the classes' scores.

    Args:
        scores: of the same table.
        size: of the model's images: height, width.
    """
    behind = scores.gate is not None and [*scores.gate.indices, *scores.columns.indices] == list(range(4, table.size))
    cells = table.columns(range(4)).of(table.arrays[0]).shape[-1]
    grid = cell_grid(*size, cells) if behind and size is not None and table.flat else None
    if grid is None or table.left != [0, 1, 2, 3]:
        return None
    table.take(range(4))
    return BoxColumns(table.columns(range(4)), GRID_CODES, grid)
