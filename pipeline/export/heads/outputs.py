"""Makes one table of a network's outputs, with a row for each box: its code, its objectness and its classes' scores.

The outputs are recognised by their shapes. What shapes leave open is read off a run on random numbers: values outside 0
to 1 are logits, and boxes whose corners are all in order are decoded already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.pipeline.export.heads.builder import Builder
from effedge.pipeline.export.heads.priors import PRIORS
from effedge.pipeline.export.heads.table import DELTAS, DISTANCES, GRID, PIXELS, RELATIVE, Head

BOX_WORDS = ("box", "reg", "loc", "delta")  # in the name of an output of boxes
ROUNDING = 1e-3  # of a probability
FURTHEST = 4.0  # centres are within the image: beyond this mean they are pixels, and no fractions of it


@dataclass(frozen=True)
class Rows:
    """A table with a row for each box.

    Attributes:
        value: [N,A,columns], or [N,columns,A] where the head's columns come first.
        count: A.
        code: of the boxes, which a network may have decoded.
        logits: a sigmoid of the scores is still to be taken.
    """

    value: ir.Value
    count: int
    code: str
    logits: bool = False


@dataclass(frozen=True)
class Part:
    """Outputs of the same columns, of all levels together or for each: values by name, as a run has them."""

    columns: int
    arrays: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        """The number of boxes of an image."""
        return sum(
            len(array) if array.ndim == 2 else int(np.prod(array.shape[1:])) // self.columns
            for array in self.arrays.values()
        )

    @property
    def is_boxes(self) -> bool:
        return all(any(word in name.lower() for word in BOX_WORDS) for name in self.arrays)


def find_rows(
    builder: Builder,
    head: Head,
    classes: int,
    outputs: Mapping[str, ir.Value],
    arrays: Mapping[str, np.ndarray],
    size: tuple[int, int],
) -> Rows | None:
    """Finds the output of boxes, or makes one of several; None: there is none of such a head.

    Args:
        arrays: the outputs of a run.
        size: (height, width) of the input.

    Raises:
        UserError: nothing tells boxes and scores apart, or the boxes have a code that is not known.
    """
    columns, axis = head.columns(classes), 1 if head.columns_first else 2
    cells = head.cells(*size) if head.boxes in (GRID, DISTANCES) else None
    if not head.apart:
        fitting = [
            Rows(outputs[name], array.shape[3 - axis], head.boxes)
            for name, array in arrays.items()
            if array.ndim == 3 and array.shape[axis] == columns and cells in (None, array.shape[3 - axis])
        ]
        if len(fitting) == 1:
            return fitting[0]
    if not head.apart and head.boxes != DISTANCES:
        return None
    levels = levels_of(head, size)
    for width in head.score_columns(classes):
        parts = find_parts(head, width, levels, arrays)
        if parts is not None:
            return join_parts(builder, head, classes, levels, parts, outputs)
    return None


def levels_of(head: Head, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns the rows, columns and boxes of a cell of each level; none: they are unknown."""
    if head.boxes == DELTAS:
        levels = PRIORS[head.priors](size) if head.priors else []
        return [(level.rows, level.columns, level.per_cell) for level in levels]
    return [(-(-size[0] // stride), -(-size[1] // stride), 1) for stride in head.strides]


def find_parts(
    head: Head, width: int, levels: list[tuple[int, int, int]], arrays: Mapping[str, np.ndarray]
) -> list[Part] | None:
    """Finds the outputs of scores, of objectness, if the head has it, and of boxes, in this order; None: there are not.

    Args:
        width: the number of columns of scores.
    """
    widths = [width, *([1] if head.objectness else []), head.box_columns]
    total = sum(rows * columns * per_cell for rows, columns, per_cell in levels)
    parts = [find_part(columns, total, levels, arrays) for columns in widths]
    if not all(parts):
        return None
    chosen: list[Part] = []
    for number, (columns, alternatives) in enumerate(zip(widths, parts, strict=True)):
        by_name = [part for part in alternatives if part.is_boxes == (number == len(widths) - 1)]
        if widths.count(columns) == 1:
            named = alternatives if len(alternatives) == 1 else by_name
        elif head.box_columns == columns and head.boxes != DISTANCES:
            named = by_name
        else:  # NanoDet's scores come before its boxes; of YuNet's one class, the objectness may be either factor
            named = alternatives[widths[:number].count(columns) :][:1]
        if len(named) != 1:
            return None
        chosen.append(named[0])
    return chosen if len({part.count for part in chosen}) == 1 else None


def find_part(
    columns: int, total: int, levels: list[tuple[int, int, int]], arrays: Mapping[str, np.ndarray]
) -> list[Part]:
    """Finds the outputs that may be boxes or scores of so many columns, in the order of the model's outputs.

    Args:
        total: of boxes of all levels; 0: unknown.
    """
    whole = [
        Part(columns, {name: array})
        for name, array in arrays.items()
        if array.ndim == 3 and array.shape[2] == columns and total in (0, array.shape[1])
    ]
    if whole or not levels:
        return whole
    by_level = [[name for name, array in arrays.items() if fits_level(array.shape, level, columns)] for level in levels]
    return [Part(columns, {name: arrays[name] for name in names}) for names in zip(*by_level, strict=False)]


def fits_level(shape: tuple[int, ...], level: tuple[int, int, int], columns: int) -> bool:
    """Tells if an output is [N,boxes,columns] or [boxes,columns] of a level, or its map [N,per_cell*columns,H,W]."""
    rows, across, per_cell = level
    if len(shape) == 4:
        return shape[1:] == (per_cell * columns, rows, across)
    return len(shape) in (2, 3) and shape[-2:] == (rows * across * per_cell, columns)


def join_parts(
    builder: Builder,
    head: Head,
    classes: int,
    levels: list[tuple[int, int, int]],
    parts: list[Part],
    outputs: Mapping[str, ir.Value],
) -> Rows:
    """Joins outputs to one table: boxes, objectness and scores, or scores and boxes where the head has them so.

    Raises:
        UserError: the network does not decode its boxes, and their priors are unknown.
    """
    scores, boxes = parts[0], parts[-1]
    code = box_code(head, boxes)
    if code == DELTAS and not levels:
        where = " for another input than 300 x 300 pixels" if head.priors else ""
        raise UserError(
            f"output '{next(iter(boxes.arrays))}' has boxes relative to priors, which nothing says{where}: export the "
            "model with its boxes decoded (is_test=True in pytorch-ssd), or give another head (HEAD, --head)"
        )
    values = [join_levels(builder, part, outputs) for part in parts]
    logits = head.apart and any(
        ((array < -ROUNDING) | (array > 1 + ROUNDING)).any() for array in scores.arrays.values()
    )
    if logits and head.background:
        values[0] = builder.op("Softmax", values[0], axis=2)
    has_background = head.boxes == DELTAS and scores.columns == classes + 1
    if has_background:
        values[0] = builder.columns(values[0], 1, classes + 1, 2)
    if head.apart:
        log.info(
            f"head: scores {'become probabilities' if logits else 'are probabilities'}, boxes "
            f"{'are decoded behind the network' if code == head.boxes else 'are decoded by the network'}"
            f"{', the first class is the background' if has_background else ''}"
        )
    ordered = [values[-1], *values[1:-1], values[0]] if head.boxes_first else values
    return Rows(builder.op("Concat", *ordered, axis=2), boxes.count, code, logits=logits and not head.background)


def join_levels(builder: Builder, part: Part, outputs: Mapping[str, ir.Value]) -> ir.Value:
    """Joins the outputs of a part to [N,A,columns]; of a map the boxes of a cell are behind each other."""
    values = []
    for name, array in part.arrays.items():
        value = outputs[name]
        if array.ndim == 2:
            value = builder.op("Unsqueeze", value, builder.integers(0))
        elif array.ndim == 4:
            value = builder.op("Transpose", value, perm=[0, 2, 3, 1])
            value = builder.op("Reshape", value, builder.integers(0, -1, part.columns))
        values.append(value)
    return values[0] if len(values) == 1 else builder.op("Concat", *values, axis=1)


def box_code(head: Head, boxes: Part) -> str:
    """Returns the code of an output of boxes: DELTAS are decoded where all corners are in order."""
    [array, *more] = boxes.arrays.values()
    if head.boxes != DELTAS or more or array.ndim != 3 or not (array[..., 2:] >= array[..., :2]).all():
        return head.boxes
    return RELATIVE if np.abs(array[..., :2] + array[..., 2:]).mean() / 2 < FURTHEST else PIXELS
