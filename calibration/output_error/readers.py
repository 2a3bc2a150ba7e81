"""Reads columns, scores and a detector's candidates from a model's outputs.

The readers are what kinds.py finds out about the outputs, and what the judges compare both models by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from effedge.calibration.output_error.columns import columns_first
from effedge.calibration.output_error.measure import LOWEST_SCORE, Candidates, Outputs

MOST_CANDIDATES = 400  # of an image: NMS keeps a hundred, of which a double has a few
SIGMOID, SOFTMAX = "Sigmoid", "Softmax"
XYXY, CXCYWH, GRID_CODES = "corners", "centres and sizes", "grid codes"
STRIDES = ((8, 16, 32), (8, 16, 32, 64))  # of YOLOX's levels
MOST_CLASSES = 1 << 16  # exact in float32 for 128 images
LARGEST_CODE = 10.0  # of a size: its exponential is a thousand cells


@dataclass(frozen=True)
class Whole:
    """Reads a whole output as one column."""

    output: int

    def read(self, outputs: Outputs) -> np.ndarray:
        return outputs[self.output][None]


@dataclass(frozen=True)
class Columns:
    """Reads some columns of an output, as [C,N,...rows] without axes of length 1: boxes [N,R,1,4] belong to scores
    [N,R,C]."""

    output: int
    axis: int
    indices: Sequence[int]

    def read(self, outputs: Outputs) -> np.ndarray:
        return self.of(outputs[self.output])

    def of(self, array: np.ndarray) -> np.ndarray:
        """Returns the columns of the output's array."""
        first, last = self.indices[0], self.indices[-1]
        columns = columns_first(array, self.axis)
        columns = columns.reshape(*columns.shape[:2], *(length for length in columns.shape[2:] if length > 1))
        return columns[first : last + 1] if last - first + 1 == len(self.indices) else columns[list(self.indices)]


@dataclass(frozen=True)
class ScoreColumns:
    """Reads scores, as [C, ...rows].

    activation: that makes probabilities of them, if they are logits.
    gate: a column that multiplies them, as an objectness does.
    foreground: the positions of those whose high values are detections: not a background's.
    """

    columns: Columns
    activation: str = ""
    gate: Columns | None = None
    foreground: Sequence[int] = ()

    def read(self, outputs: Outputs) -> np.ndarray:
        scores = activated(self.columns.read(outputs), self.activation)
        return scores if self.gate is None else scores * activated(self.gate.read(outputs), self.activation)

    def read_foreground(self, outputs: Outputs) -> np.ndarray:
        scores = self.read(outputs)
        return scores[list(self.foreground)] if len(self.foreground) < len(scores) else scores

    def activity(self, outputs: Outputs) -> np.ndarray:
        """Returns the highest score in each row [...rows]."""
        return self.read_foreground(outputs).max(axis=0)


def activated(values: np.ndarray, activation: str) -> np.ndarray:
    """Computes the probabilities of logits [C, ...rows]; softmax is over the columns."""
    if activation == SIGMOID:
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-values))
    if activation == SOFTMAX:
        powers = np.exp(values - values.max(axis=0))
        return powers / powers.sum(axis=0)
    return values


@dataclass(frozen=True)
class BoxColumns:
    """Reads boxes from four columns, as xyxy [4,N,R].

    grid: of GRID_CODES, YOLOX's: the cells' corners in cells and their strides, [3,R]. A code is the centre's offset
        from the corner in cells, and the logarithm of the size in cells (Ge et al. 2021, arXiv:2107.08430).
    """

    columns: Columns
    layout: str
    grid: np.ndarray | None = None

    def read(self, outputs: Outputs) -> np.ndarray:
        boxes = by_image(self.columns.read(outputs))
        if self.layout == XYXY:
            return boxes
        centre, size = boxes[:2], boxes[2:]
        if self.grid is not None:
            corners, strides = self.grid[:2, None], self.grid[2]
            centre, size = (centre + corners) * strides, np.exp(np.minimum(size, LARGEST_CODE)) * strides
        return np.concatenate([centre - size / 2, centre + size / 2])


def by_image(columns: np.ndarray) -> np.ndarray:
    """Returns columns [C,R] or [C,N,...rows] as [C,N,R]."""
    return columns[:, None] if columns.ndim == 2 else columns.reshape(*columns.shape[:2], -1)


def cell_grid(height: int, width: int, rows: int) -> np.ndarray | None:
    """Returns YOLOX's grid for an image [3,R], float32; None if its levels do not have that many cells."""
    for strides in STRIDES:
        sides = [(height // stride, width // stride) for stride in strides]
        if sum(down * across for down, across in sides) == rows:
            cells = [np.indices(side)[::-1].reshape(2, -1) for side in sides]
            levels = [
                np.concatenate([cell, np.full((1, cell.shape[1]), stride)])
                for cell, stride in zip(cells, strides, strict=True)
            ]
            return np.concatenate(levels, axis=1).astype(np.float32)
    return None


@dataclass(frozen=True)
class DenseHead:
    """Reads the candidates of rows that each have a box and a score for each class, before NMS."""

    boxes: BoxColumns
    scores: ScoreColumns


def read_dense(heads: Sequence[DenseHead], outputs: Outputs) -> Iterator[Candidates]:
    """Yields each image's candidates: the rows with the best scores, each with its best class, of all levels."""
    levels = []
    for head in heads:
        scores = head.scores.read_foreground(outputs)
        levels.append((head.boxes.read(outputs), by_image(scores)))
    for image in range(levels[0][0].shape[1]):
        parts = []
        for boxes, scores in levels:
            best = scores[:, image].max(axis=0)
            rows = np.flatnonzero(best >= LOWEST_SCORE)
            if len(rows) > MOST_CANDIDATES:
                rows = rows[np.argpartition(-best[rows], MOST_CANDIDATES)[:MOST_CANDIDATES]]
                rows.sort()
            parts.append(Candidates(boxes[:, image, rows].T, best[rows], scores[:, image, rows].argmax(axis=0)))
        yield Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@dataclass(frozen=True)
class FinishedDetections:
    """Reads detections after a selection within the model, from one output each: boxes [N,K,4] xyxy, scores and classes
    [N,K], or without N.

    scores: None where they are a fifth column of the boxes.
    """

    boxes: int
    scores: int | None
    classes: int

    @property
    def outputs(self) -> list[int]:
        return [index for index in (self.boxes, self.scores, self.classes) if index is not None]

    def read(self, outputs: Outputs) -> Iterator[Candidates]:
        boxes = outputs[self.boxes]
        images = boxes.shape[0] if boxes.ndim == 3 else 1
        boxes = boxes.reshape(images, *boxes.shape[-2:])
        scores = boxes[..., 4] if self.scores is None else outputs[self.scores].reshape(boxes.shape[:2])
        return map(Candidates, boxes[..., :4], scores, outputs[self.classes].reshape(boxes.shape[:2]))


class RowOrder(NamedTuple):
    """The columns of a detection: of the box's first coordinate, the score, the class, and the image's number in the
    batch, if there is one."""

    box: int
    score: int
    label: int
    image: int | None = None


@dataclass(frozen=True)
class DetectionRows:
    """Reads detections after a selection within the model, from one output [N,...,K,C] or [K,C]."""

    output: int
    order: RowOrder

    def read(self, outputs: Outputs) -> Iterator[Candidates]:
        rows = outputs[self.output]
        box, score, label, image = self.order
        images = 1 if rows.ndim == 2 or image is not None else rows.shape[0]  # of several in one, classes of their own
        for each in rows.reshape(images, int(np.prod(rows.shape[:-1])) // max(1, images), rows.shape[-1]):
            labels = each[:, label] if image is None else each[:, label] + MOST_CLASSES * each[:, image]
            yield Candidates(each[:, box : box + 4], each[:, score], labels)
