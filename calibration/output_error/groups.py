"""Finds boxes and scores in tables with the same rows, and makes blocks of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np

from effedge.calibration.output_error.blocks import Block, Part
from effedge.calibration.output_error.columns import alike
from effedge.calibration.output_error.detector_heads import take_boxes, take_grid_codes
from effedge.calibration.output_error.measure import LEAST_DETECTIONS, Outputs
from effedge.calibration.output_error.readers import BoxColumns, ScoreColumns
from effedge.calibration.output_error.tables import RARE, Table, find_scores, runs
from effedge.calibration.settings import BOXES, DETECTIONS
from effedge.deploy.common.cli import UserError

MOST_PARTS = 4  # of columns without a gap, which a text lists


class Group(NamedTuple):
    """Tables with the same rows, and the boxes and scores that were found in them."""

    tables: list[Table]
    boxes: list[tuple[Table, BoxColumns]]
    scores: list[ScoreColumns]


@dataclass
class Findings:
    """What was found out about a model's outputs.

    names, kinds: of each output; the kind is None where it is to be guessed.
    texts: about each output, for the user.
    blocks: by what makes values of several outputs one block.
    """

    names: Sequence[str]
    kinds: Sequence[str | None]
    texts: dict[int, list[str]] = field(default_factory=dict)
    blocks: dict[object, Block] = field(default_factory=dict)

    def tell(self, output: int, text: str) -> None:
        """Adds a text about an output."""
        texts = self.texts.setdefault(output, [])
        texts += [] if text in texts else [text]

    def add_block(self, output: int, part: Part, columns: Sequence[int] = (), key: object = None) -> None:
        """Adds values to a block: to a new one, or to that of a detector's other levels, whose values have the same
        key.

        Args:
            columns: of the output, which the block's name says; none for the whole output.
        """
        name = self.names[output] + (f"[{columns[0]}:{columns[-1] + 1}]" if columns else "")
        block = self.blocks.setdefault(name if key is None else key, Block(name, []))
        block.parts.append(part)

    def raise_wrong_kind(self, output: int, array: np.ndarray) -> NoReturn:
        raise UserError(
            f"--output-kind {self.names[output]}={self.kinds[output]}: its shape is {list(array.shape)}; expected "
            "boxes [N,R,4], or [N,R,4+C] or [N,4+C,R] with scores behind the boxes, or detections [N,K,6]"
        )


def find_group(tables: list[Table], findings: Findings, image_size: tuple[int, int] | None) -> Group:
    """Finds boxes and scores among tables with the same rows.

    Raises UserError if an output is boxes or detections by the user's word only.
    """
    sure = (BOXES, DETECTIONS)
    kinds = {table.output: findings.kinds[table.output] for table in tables}
    boxes = [
        (table, found)
        for table in tables
        if kinds[table.output] in (None, *sure)
        and (found := take_boxes(table, tables, kinds[table.output] in sure)) is not None
    ]
    scores = find_scores(tables, kinds)
    if not boxes and len(scores) == 1:
        [table] = [table for table in tables if table.output == scores[0].columns.output]
        codes = take_grid_codes(table, scores[0], image_size)
        boxes = [] if codes is None else [(table, codes)]
    for table in tables:
        found_boxes = any(table is each for each, _ in boxes)
        kind = kinds[table.output]
        if (kind in sure and not found_boxes) or (kind == DETECTIONS and not scores):
            findings.raise_wrong_kind(table.output, table.arrays[0])
    return Group(tables, boxes, scores)


def tell_group(group: Group, findings: Findings, as_detections: bool) -> None:
    """Adds texts about what was found in a group."""
    sizes = {table.output: table.size for table in group.tables}
    for table, boxes in group.boxes if as_detections else ():
        where = in_words(boxes.columns.indices, table.size)
        findings.tell(table.output, f"boxes{where} ({boxes.layout})")
    for scores in group.scores:
        output, gate = scores.columns.output, scores.gate
        text = f"{'logits of ' if scores.activation else ''}scores{in_words(scores.columns.indices, sizes[output])}"
        if gate is not None and gate.output == output:
            text += f" times the objectness{in_words(gate.indices, sizes[output])}"
        elif gate is not None:
            text += f" times the objectness '{findings.names[gate.output]}'"
            findings.tell(gate.output, "objectness")
        findings.tell(output, text)
    if as_detections:
        for output in {
            *(boxes.columns.output for _, boxes in group.boxes),
            *(each.columns.output for each in group.scores),
        }:
            findings.tell(output, "judged as detections after NMS")


def add_group_blocks(group: Group, findings: Findings, expected: Sequence[Outputs], as_detections: bool) -> None:
    """Makes blocks of a group's columns, except those that are judged as detections.

    Where scores are rare, the other columns count in the rows with high ones. Outputs of a detector's levels, which are
    at the same places in their groups, are one block.
    """
    if not as_detections:
        for table, boxes in group.boxes:
            table.left = sorted([*table.left, *boxes.columns.indices])
        for scores in group.scores:
            columns = scores.columns.indices
            key: object = ("scores", len(columns), scores.activation)
            whole = any(table.output == scores.columns.output and table.size == len(columns) for table in group.tables)
            part = Part(scores, least=LEAST_DETECTIONS)
            findings.add_block(scores.columns.output, part, () if whole else columns, key)
    activities = [mean_activity(scores, expected) for scores in group.scores]
    rare = bool(activities) and min(activities) <= RARE
    weights = group.scores[int(np.argmin(activities))] if rare else None
    for position, table in enumerate(group.tables):
        for members in alike(table.statistics.spread[table.left]) if table.left else ():
            columns = [table.left[member] for member in members]
            where = " where there are scores" if rare else ""
            findings.tell(table.output, f"values{in_words(columns, table.size)}{where}")
            key = ("values", position, tuple(columns), table.size) if rare else None
            part = Part(table.columns(columns), weights)
            findings.add_block(table.output, part, () if len(columns) == table.size else columns, key)


def mean_activity(scores: ScoreColumns, expected: Sequence[Outputs]) -> float:
    """Returns the mean of the rows' highest scores: for a detector, which finds objects in few rows, next to 0."""
    return float(np.mean([scores.activity(run).mean() for run in expected]))


def in_words(columns: Sequence[int], size: int) -> str:
    """Returns a text like ' in columns 4 to 84', or nothing if these are all of `size` columns.

    >>> in_words([4, 5, 9], 16), in_words([0, 1], 2)
    (' in columns 4 to 5 and 9', '')
    """
    if len(columns) == size:
        return ""
    if len(columns) == 1:
        return f" in column {columns[0]}"
    parts = [f"{part[0]} to {part[-1]}" if len(part) > 1 else f"{part[0]}" for part in runs(columns)]
    if len(parts) > MOST_PARTS:
        return f" in {len(columns)} of the columns {columns[0]} to {columns[-1]}"
    return f" in columns {' and '.join([', '.join(parts[:-1]), parts[-1]] if parts[1:] else parts)}"
