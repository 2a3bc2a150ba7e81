"""Finds the scores among a model's outputs, by their values and the operators that make or read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from effedge.calibration.output_error.columns import Shape, Statistics, column_axis, rows_of, statistics
from effedge.calibration.output_error.measure import Outputs
from effedge.calibration.output_error.readers import SIGMOID, SOFTMAX, Columns, ScoreColumns, activated
from effedge.calibration.settings import DETECTIONS, LOGITS, SCORES

PROBABILITY_OPERATORS = {SIGMOID, SOFTMAX, "HardSigmoid"}
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Slice", "Split", "Concat"}
LEAST_ROWS = 16  # of a table: of fewer, statistics say little
SPARSE = 0.2  # the mean of scores that no sigmoid or softmax is seen to make is less
RARE = 0.1  # the mean of an objectness, or of the rows' highest scores, is less where they say which rows matter
ACTIVE = 0.25  # a score, of which no detector's background has many
LEAST_ACTIVE = 8  # rows that tell an objectness
LOGIT_MEAN = -2.5  # scores are rare: a probability of less than a tenth
LEAST_LOGIT_MEAN = -20.0  # decibels may be lower: as logits they would all be 0
POSITIVE = 0.16  # the share of rare logits above 0, of a normal distribution more than its deviation below 0
LOGIT_HIGH = -1.0  # and some of them are high
BACKGROUND_SHARE = 0.8  # of the rows, in which the background has the highest of an SSD's logits


@dataclass
class Table:
    """A float output as columns and rows.

    arrays: on each sample, of one shape and finite.
    parts: the columns in front of which a Concat of the graph joins two tensors.
    made_by, read_by: the operators whose results its values are, and those that read it, through any that only move
        values.
    rows: the other axes, without those of length 1; tables with the same rows may belong together.
    left: the columns that no judge has yet.
    """

    output: int
    name: str
    axis: int
    arrays: list[np.ndarray]
    parts: Collection[int] = ()
    made_by: Collection[str] = ()
    read_by: Collection[str] = ()
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.statistics: Statistics = statistics(self.arrays, self.axis)
        self.size = self.arrays[0].shape[self.axis]
        self.left = list(range(self.size))
        rows = rows_of(self.arrays[0].shape, self.axis)
        self.rows: Shape = tuple(length for length in rows if length > 1)
        self.flat = sum(length > 1 for length in rows[1:]) <= 1  # no map

    def columns(self, indices: Sequence[int] | None = None) -> Columns:
        return Columns(self.output, self.axis, self.left if indices is None else indices)

    def take(self, indices: Sequence[int]) -> None:
        self.left = [column for column in self.left if column not in set(indices)]


def make_tables(model: ir.Model, expected: Sequence[Outputs], outputs: Collection[int]) -> list[Table]:
    """Returns the tables among some of the model's outputs, by their positions."""
    tables = []
    shapes = [array.shape for array in expected[0]]
    for output in outputs:
        arrays = [run[output] for run in expected]
        shape, value = shapes[output], model.graph.outputs[output]
        if arrays[0].dtype.kind != "f" or any(array.shape != shape for array in arrays) or len(shape) < 2:
            continue
        if not all(np.isfinite(array).all() for array in arrays) or arrays[0].size == 0:
            continue
        axis = column_axis(arrays[0], [other for index, other in enumerate(shapes) if index != output])
        if np.prod(rows_of(shape, axis), dtype=int) < LEAST_ROWS:
            continue
        made_by = {node.op_type for node in sources(value)}
        read_by = {use.op_type for use in value.consumers()}
        tables.append(Table(output, value.name or "", axis, arrays, joints(value, axis), made_by, read_by))
    return tables


def sources(value: ir.Value | None, depth: int = 32) -> list[ir.Node]:
    """Returns the nodes whose results `value` holds, behind those that only move values."""
    node = None if value is None else value.producer()
    if node is None or depth == 0:
        return []
    if node.op_type not in MOVES:
        return [node]
    moved = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return [source for each in moved for source in sources(each, depth - 1)]


def nodes_in_front(
    values: Iterable[ir.Value | None], passed: Callable[[ir.Node], bool] = lambda node: True
) -> Iterator[ir.Node]:
    """Yields each node in front of some values once, and goes on in front of those that are `passed`."""
    seen, waiting = set[ir.Node](), list(values)
    while waiting:
        value = waiting.pop()
        node = None if value is None else value.producer()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += node.inputs if passed(node) else ()


def joints(value: ir.Value | None, axis: int) -> set[int]:
    """Returns the positions on the axis in front of which a Concat joins two tensors; levels, which other Concats join,
    are taken to be alike."""
    node = None if value is None else value.producer()
    if node is None or value is None or value.shape is None:
        return set()
    shapes = [None if each is None else each.shape for each in node.inputs]
    if node.op_type in ("Identity", "Cast", "Sigmoid"):
        return joints(node.inputs[0], axis)
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(len(value.shape)))))
        return joints(node.inputs[0], order[axis])
    if node.op_type == "Reshape":  # of levels, from [N,C,H,W] to [N,C,R]
        shape = shapes[0]
        same = shape is not None and len(shape) > axis and list(shape[: axis + 1]) == list(value.shape[: axis + 1])
        return joints(node.inputs[0], axis) if same else set()
    if node.op_type != "Concat":
        return set()
    joined = node.attributes.get_int("axis", 0) % len(value.shape)
    if joined != axis:
        return joints(node.inputs[0], axis)
    sizes = [shape[axis] if shape is not None else None for shape in shapes]
    if not all(isinstance(size, int) for size in sizes):
        return set()
    return {int(edge) for edge in np.cumsum(sizes)[:-1]}  # type: ignore[arg-type]


def runs(columns: Sequence[int], cuts: Collection[int] = ()) -> list[list[int]]:
    """Divides ascending columns into runs without a gap.

    >>> runs([0, 1, 4, 5, 6], cuts=[5])
    [[0, 1], [4], [5, 6]]
    """
    result: list[list[int]] = []
    for column in columns:
        if result and result[-1][-1] == column - 1 and column not in cuts:
            result[-1].append(column)
        else:
            result.append([column])
    return result


def find_scores(group: Sequence[Table], kinds: Mapping[int, str | None]) -> list[ScoreColumns]:
    """Finds scores in tables with the same rows: probabilities, and logits whose probabilities are rare.

    Args:
        kinds: of the outputs by the user's word; None where it is to be guessed.

    Returns:
        The scores of each table that has some. They are taken out of the tables.
    """
    found: list[tuple[Table, ScoreColumns]] = []
    for table in (table for table in group if table.left):
        others = [other for other in group if other is not table]
        kind = kinds[table.output]
        probable = bool(table.statistics.probable[table.left].all())
        are_scores = kind == SCORES or (kind == DETECTIONS and probable)
        scores = None if kind == LOGITS else probabilities(table, others, forced=are_scores)
        scores = scores or logits(table, others, forced=kind in (LOGITS, DETECTIONS))
        if scores is not None:
            found.append((table, scores))
            table.take([*scores.columns.indices, *(scores.gate.indices if scores.gate else ())])
    if len(found) == 2:  # an objectness in an output of its own
        for (gate_table, gate), (table, scores) in (found, found[::-1]):
            boxes = any(other.size == 4 for other in group)
            if boxes and gate_table.size == 1 and scores.gate is None and scores.activation == gate.activation:
                joined = ScoreColumns(scores.columns, scores.activation, gate.columns, scores.foreground)
                if is_gate(joined, gate_table, table):
                    return [joined]
    return [scores for _, scores in found]


def probabilities(table: Table, others: Sequence[Table], forced: bool) -> ScoreColumns | None:
    """Finds probabilities among a table's columns.

    Args:
        others: the tables with the same rows.
    """
    parts = runs([column for column in table.left if forced or table.statistics.probable[column]], table.parts)
    boxes = bool(parts) and len(parts[0]) == 4 and (len(parts) > 1 or (table.size == 4 and bool(others)))
    parts = parts[1:] if boxes and not forced else parts  # boxes in units of the image
    if not parts:
        return None
    sparse = [part for part in parts if table.statistics.mean[part].mean() <= SPARSE]
    made = bool(set(table.made_by) & PROBABILITY_OPERATORS)
    if not forced and not made and not sparse:
        return None
    parts = parts if forced else sparse or parts  # not the places of boxes within their cells
    columns = [column for part in parts for column in part]
    return gated(table, others, parts) or ScoreColumns(table.columns(columns), foreground=foreground(table, columns))


def gated(
    table: Table, others: Sequence[Table], parts: Sequence[list[int]], activation: str = ""
) -> ScoreColumns | None:
    """Finds an objectness in front of class scores, within one table; `parts` are the runs of its scores.

    It has boxes in front of it, behind it, or in a table beside it: the first of some maps of keypoints is none.
    """
    if len(parts) > 2 or (len(parts) == 2 and len(parts[0]) > 1):
        return None
    first, *rest = [column for part in parts for column in part]
    boxes_beside = first >= 4 or (rest and rest[0] - first > 4) or any(other.size == 4 for other in others)
    if not rest or not boxes_beside:
        return None
    scores = ScoreColumns(table.columns(rest), activation, table.columns([first]), foreground(table, rest))
    return scores if is_gate(scores, table, table) else None


def is_gate(scores: ScoreColumns, gate_table: Table, table: Table) -> bool:
    """Tells if the gate of scores is an objectness: rare, and where it is high, a class's score is high too.

    (Where the first of several classes is high, it is alone. Where an objectness is low, the others may be anything.)
    """
    assert scores.gate is not None
    gates = [activated(scores.gate.of(array)[0], scores.activation) for array in gate_table.arrays]
    objectness = np.stack(gates).ravel()
    if objectness.mean() > RARE:
        return False
    highest = np.stack([scores.columns.of(array).max(axis=0) for array in table.arrays]).ravel()
    active = objectness >= max(ACTIVE, float(objectness.max()) / 2)
    if int(active.sum()) < LEAST_ACTIVE:
        return False
    return float(activated(np.median(highest[active])[None], scores.activation)[0]) >= ACTIVE


def foreground(table: Table, columns: Sequence[int]) -> list[int]:
    """Returns the positions in `columns` of those that are rarely high, which a background is not; all, if none is."""
    rare = [index for index, column in enumerate(columns) if table.statistics.mean[column] <= 0.5]
    return rare or list(range(len(columns)))


def logits(table: Table, others: Sequence[Table], forced: bool) -> ScoreColumns | None:
    """Finds logits among a table's columns: of rare detections, which a sigmoid makes probabilities of, or those of an
    SSD, which a softmax does.

    Args:
        others: the tables with the same rows.
    """
    mean, high = table.statistics.mean, table.statistics.high
    rare = [
        column
        for column in table.left
        if LEAST_LOGIT_MEAN < mean[column] < LOGIT_MEAN and table.statistics.positive[column] < POSITIVE
    ]
    parts = runs(rare, table.parts)
    # Scores begin or end a table, or follow a box: no coordinate in the midst of others is one.
    placed = bool(parts) and (parts[0][0] in (0, 4) or rare[-1] == table.size - 1)
    single = forced and len(table.left) == 1  # a softmax of it would be 1
    if SIGMOID in table.read_by or single or (placed and len(parts) <= 3 and high[rare].max() > LOGIT_HIGH):
        columns = table.left if SIGMOID in table.read_by or single else rare
        everything = ScoreColumns(table.columns(columns), SIGMOID, foreground=list(range(len(columns))))
        return gated(table, others, runs(columns, table.parts), SIGMOID) or everything
    boxes = table.size != 4 and any(other.size == 4 for other in others)
    columns = table.left
    best = np.concatenate([table.columns().of(array).argmax(axis=0).ravel() for array in table.arrays])
    counts = np.bincount(best, minlength=len(columns))
    background = int(counts.argmax())
    wins = len(columns) > 1 and counts[background] >= BACKGROUND_SHARE * len(best)
    if forced or SOFTMAX in table.read_by or (boxes and wins and len(columns) == table.size):
        objects = [position for position in range(len(columns)) if not wins or position != background]
        return ScoreColumns(table.columns(columns), SOFTMAX, foreground=objects)
    return None
