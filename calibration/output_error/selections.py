"""Judges rows that a model selects by their values, such as the points of a TopK or the boxes of a NonMaxSuppression.

Rounding changes their order and their number, so a row is compared with the nearest one of the other model's, as in the
Chamfer distance (Barrow et al. 1977), and not with the one at its place. The error is 1 where the changed model's rows
are as far from the float model's as those of another sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from effedge.calibration.output_error.measure import Outputs
from effedge.calibration.output_error.tables import nodes_in_front, sources
from effedge.engines.comparison.nearness import nearest_distances
from effedge.engines.onnx_header import SELECTING_OPERATORS

TOP_K = "TopK"  # of the other SELECTING_OPERATORS the values decide the number of rows too
WITHOUT_VALUES = ("Shape", "Size", "ConstantOfShape")  # their results have no values of what they read
LEAST_SCALE = 0.01  # of the distance to another sample's rows, where all samples' are alike
MOST_ROWS = 512  # whose nearest ones are looked for


class Member(NamedTuple):
    """An output of selected rows.

    axis: of the rows; 0, or another behind the batch.
    nominal: its values are places that a TopK found, of which two are equal or not.
    """

    output: int
    axis: int
    nominal: bool


def find_selections(model: ir.Model, expected: Sequence[Outputs], outputs: Iterable[int]) -> list[list[Member]]:
    """Finds the outputs, among some of the model's by position, whose rows a node selects: for each selection its
    outputs."""
    found: dict[object, list[Member]] = {}
    for output in outputs:
        value, shapes = model.graph.outputs[output], [run[output].shape for run in expected]
        selecting = selecting_nodes(value)
        for axis in range(min(len(shapes[0]), 3)) if selecting else ():
            lengths = [shape[axis] for shape in shapes]
            length = value.shape[axis] if value.shape is not None else None
            if any(lengths) and any(may_select(node, length, lengths) for node in selecting):
                places = any(node.op_type == TOP_K for node in sources(value))
                nominal = places and expected[0][output].dtype.kind in "iu"
                selection = (frozenset(selecting), shapes[0][0] if axis else 1, *lengths)
                found.setdefault(selection, []).append(Member(output, axis, nominal))
                break
    return list(found.values())


def selecting_nodes(value: ir.Value) -> list[ir.Node]:
    """Lists the nodes in front of a value that select rows by values which the model computes, and of several in a row
    the last."""
    nodes = nodes_in_front([value], lambda node: has_values(node) and not selects(node))
    return [node for node in nodes if selects(node)]


def selects(node: ir.Node) -> bool:
    """Tells if a node selects rows by the values of the model's inputs, and not by their shapes alone."""
    if node.op_type not in SELECTING_OPERATORS:
        return False
    readers = [node, *filter(has_values, nodes_in_front(node.inputs, has_values))]
    return any(value is not None and value.is_graph_input() for reader in readers for value in reader.inputs)


def has_values(node: ir.Node) -> bool:
    """Tells if a node's results have values of what it reads, and not its shape alone."""
    return node.op_type not in WITHOUT_VALUES


def may_select(node: ir.Node, length: int | ir.SymbolicDim | None, lengths: Sequence[int]) -> bool:
    """Tells if an axis may be that of the rows which a node selects.

    Args:
        length: of the axis by the graph.
        lengths: on each sample.
    """
    if node.op_type == TOP_K:
        return set(lengths) == {top_k_length(node)}
    return not isinstance(length, int)


def top_k_length(node: ir.Node) -> int | None:
    """Returns the number of rows that a TopK selects, if it is known and more than one."""
    shape = node.outputs[0].shape
    if node.op_type != TOP_K or shape is None:
        return None
    length = shape[node.attributes.get_int("axis", -1)]
    return length if isinstance(length, int) and length > 1 else None


class Rows(NamedTuple):
    """The rows of one image, scaled so that two of them by chance have a squared distance of 1 [R,C], and the weight of
    each [R]."""

    values: np.ndarray
    weights: np.ndarray


class WantedRows(NamedTuple):
    """The float model's rows of each image in a run, and the distance that counts as 1."""

    images: list[Rows]
    scale: float


@dataclass(frozen=True)
class SelectionJudge:
    """Judges the outputs of one selection as rows in any order.

    scales: by which the columns of all outputs are multiplied, [C].
    score: the column whose values are the rows' weights, as the detections' scores are in measure.py.
    """

    name: str
    members: Sequence[Member]
    scales: np.ndarray
    score: int | None

    @property
    def blocks(self) -> Sequence[str]:
        return [self.name]

    def read(self, outputs: Outputs) -> list[Rows]:
        """Returns the rows of each image that are finite."""
        images = []
        for columns in read_columns(self.members, outputs):
            columns = columns[np.isfinite(columns).all(axis=1)]
            weights = np.ones(len(columns)) if self.score is None else columns[:, self.score].clip(min=0)
            images.append(Rows(columns * self.scales, weights))
        return images

    def prepare(self, expected: Sequence[Outputs]) -> list[WantedRows]:
        runs = [self.read(outputs) for outputs in expected]
        apart = [mean_error(one, other) for one, other in zip(runs, [*runs[1:], *runs[:1]], strict=True)]
        scale = max(float(np.mean(apart)), LEAST_SCALE) if len(runs) > 1 else 1.0
        return [WantedRows(images, scale) for images in runs]

    def errors(self, prepared: WantedRows, got: Outputs) -> list[float]:
        return [mean_error(prepared.images, self.read(got)) / prepared.scale]


def make_judge(names: Sequence[str], members: Sequence[Member], expected: Sequence[Outputs]) -> SelectionJudge:
    """Makes the judge of a selection's outputs, named `names`, from the float model's on some samples."""
    images = [columns for outputs in expected for columns in read_columns(members, outputs)]
    rows = np.concatenate(images)
    rows = rows[np.isfinite(rows).all(axis=1)]
    spread = rows.std(axis=0) if len(rows) else np.ones(rows.shape[1])
    sizes = [member_columns(member, expected[0]).shape[-1] for member in members]
    scales = 1 / (np.where(spread > 0, spread, 1.0) * np.sqrt(2 * len(members) * np.repeat(sizes, sizes)))
    scales[np.repeat([member.nominal for member in members], sizes)] = 1.0  # so that two that differ are 1 apart
    floats = np.repeat([expected[0][member.output].dtype.kind == "f" for member in members], sizes)
    score = next((column for column in np.flatnonzero(floats).tolist() if is_score(images, column)), None)
    return SelectionJudge(names[members[0].output], members, scales, score)


def is_score(images: Iterable[np.ndarray], column: int) -> bool:
    """Tells if a column of rows [R,C] is what they are sorted by: probabilities that fall from row to row."""
    values = [rows[:, column] for rows in images if len(rows)]
    falling = all((np.diff(each) <= 0).all() and each[-1] >= 0 and each[0] <= 1 for each in values)
    return falling and any(each[-1] < each[0] for each in values)


def read_columns(members: Sequence[Member], outputs: Outputs) -> Iterator[np.ndarray]:
    """Yields the rows of each image with the columns of all outputs, float64 [R,C]."""
    for parts in zip(*(member_columns(member, outputs) for member in members), strict=True):
        yield np.concatenate(parts, axis=1)


def member_columns(member: Member, outputs: Outputs) -> np.ndarray:
    """Returns the rows of an output, float64 [images,R,C]."""
    array = outputs[member.output].astype(np.float64)
    array = array[None] if member.axis == 0 else np.moveaxis(array, member.axis, 1)
    return array.reshape(*array.shape[:2], int(np.prod(array.shape[2:])))


def mean_error(images: Sequence[Rows], others: Sequence[Rows]) -> float:
    """Returns the mean of rows_error over the images of two runs."""
    return float(np.mean([rows_error(one, other) for one, other in zip(images, others, strict=True)]))


def rows_error(one: Rows, other: Rows) -> float:
    """Returns the mean squared distance of the rows of either from the nearest of the other, by their weights; at
    most 1."""
    (apart, weight), (other_apart, other_weight) = missed(one, other), missed(other, one)
    return (apart + other_apart) / (weight + other_weight) if weight + other_weight > 0 else 0.0


def missed(rows: Rows, among: Rows) -> tuple[float, float]:
    """Returns the sums of the rows' distances from the nearest `among` others, times their weights, and of the weights;
    of evenly spread rows, where there are many."""
    step = max(1, -(-len(rows.values) // MOST_ROWS))
    values, weights = rows.values[::step], rows.weights[::step]
    if not (len(values) and len(among.values)):
        return float(weights.sum()), float(weights.sum())
    distances = nearest_distances(values, among.values)
    return float(weights @ np.minimum(distances, 1)), float(weights.sum())
