"""Finds out how to judge each output of a model: from its name, its shape, the operators beside it, and the float
model's values on some samples.

effedge's own detectors and classifiers say what their outputs are. Of any other model, detections are judged as
detections where it is sure that they are, and all else in blocks of columns that are alike (blocks.py). A wrong guess
at a block costs little: its error is 0 for the float model's values and grows with the distance from them, whatever
they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from effedge.calibration.output_error.blocks import BlockJudge, Part
from effedge.calibration.output_error.columns import alike, statistics
from effedge.calibration.output_error.detector_heads import detection_rows, finished_detections
from effedge.calibration.output_error.groups import (
    Findings,
    add_group_blocks,
    find_group,
    in_words,
    mean_activity,
    tell_group,
)
from effedge.calibration.output_error.measure import (
    LEAST_DETECTIONS,
    Candidates,
    DetectionJudge,
    Judge,
    OutputJudge,
    Outputs,
    classification_error,
    error_over_variance,
    label_error,
)
from effedge.calibration.output_error.readers import (
    Columns,
    DenseHead,
    FinishedDetections,
    ScoreColumns,
    Whole,
    read_dense,
)
from effedge.calibration.output_error.selections import find_selections, make_judge
from effedge.calibration.output_error.tables import RARE, Table, make_tables, nodes_in_front
from effedge.calibration.settings import BOXES, DETECTIONS, LABELS, LOGITS, SCORES, VALUES
from effedge.deploy.common.cli import choose
from effedge.deploy.common.contracts import SPEC_KEY
from effedge.engines.comparison.nearness import TEXTS
from effedge.engines.onnx_header import LAYER_OPERATORS

OWN_DETECTIONS = ("boxes", "scores", "classes")  # of effedge's own detectors
LEAST_VECTORS = 8  # to tell unlike columns by


class Choice(NamedTuple):
    """The judges of a model's outputs, and a text about each output, by its name, for the user; `guessed` says that the
    model itself does not tell what its outputs are."""

    judges: list[Judge]
    texts: dict[str, str]
    guessed: bool = True

    def lines(self) -> list[str]:
        """Returns a line about the outputs of each text."""
        names: dict[str, list[str]] = {}
        for name, text in self.texts.items():
            names.setdefault(text, []).append(f"'{name}'")
        hint = " (if that is wrong: --output-kind NAME=KIND)" if self.guessed else ""
        return [f"{', '.join(each)}: {text}{hint}" for text, each in names.items()]


def choose_judges(
    model: ir.Model,
    expected: Sequence[Outputs],
    image_size: tuple[int, int] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Choice:
    """Chooses how to judge a model's outputs.

    Args:
        expected: the float model's outputs on each sample, in the order of its graph.
        image_size: height and width of the model's input, if it is one image.
        kinds: by the user's word, of outputs by name (settings.OUTPUT_KINDS).

    Raises:
        UserError: a kind for an output that the model does not have, or that its values cannot be.
    """
    names = [value.name or "" for value in model.graph.outputs]
    for name in kinds or ():
        choose("output", name, names)
    own = None if kinds else own_choice(model, names)
    return own or JudgeChooser(model, expected, image_size, kinds or {}).choose()


def own_choice(model: ir.Model, names: Sequence[str]) -> Choice | None:
    """Returns the judge of effedge's own detectors and classifiers, which say what their outputs are; None for any
    other model."""
    spec = json.loads(model.metadata_props.get(SPEC_KEY, "{}"))
    ranks = {value.name: None if value.shape is None else len(value.shape) for value in model.graph.outputs}
    if [ranks.get(name) for name in OWN_DETECTIONS] == [3, 2, 2]:
        detections = FinishedDetections(*(names.index(name) for name in OWN_DETECTIONS))
        judge = DetectionJudge("detections", detections.read)
        return Choice([judge], dict.fromkeys(OWN_DETECTIONS, "judged as detections after NMS"), guessed=False)
    if spec.get("task") == "classification" and len(names) == 1:
        return Choice(
            [OutputJudge(names[0], 0, classification_error)], {names[0]: "logits of a classifier"}, guessed=False
        )
    return None


class JudgeChooser:
    """Chooses the judges of a model that says nothing about its outputs.

    Attributes:
        left: the outputs, by position, that no judge has yet.
    """

    def __init__(
        self,
        model: ir.Model,
        expected: Sequence[Outputs],
        image_size: tuple[int, int] | None,
        kinds: Mapping[str, str],
    ) -> None:
        self.model, self.expected, self.image_size = model, expected, image_size
        names = [value.name or "" for value in model.graph.outputs]
        self.findings = Findings(names, [kinds.get(name) for name in names])
        self.left = list(range(len(names)))
        self.judges: list[Judge] = []

    def choose(self) -> Choice:
        """Returns the judges, and what they judge."""
        self._leave_out_constants()
        for index in list(self.left):
            kind = self.findings.kinds[index]
            if kind == VALUES:
                self._judge_values(index)
            elif self.expected[0][index].dtype.kind in TEXTS:
                self._judge_output(index, label_error, "labels")
            elif kind == LOGITS and self.expected[0][index].ndim == 2 and self.expected[0][index].shape[1] > 1:
                self._judge_output(index, classification_error, "logits of a classifier")
        before = len(self.judges)
        self._judge_finished_detections()
        self._judge_selections()
        if len(self.judges) > before:
            self._tell_numbers()
        for index in list(self.left):
            arrays = self._arrays(index)
            kind = self.findings.kinds[index]
            if kind == LABELS or (kind is None and is_label(arrays[0])):
                self._judge_output(index, label_error, "labels")
            elif arrays[0].size == 0 or not all(
                array.shape == arrays[0].shape and np.isfinite(array).all() for array in arrays
            ):
                self._judge_output(index, error_over_variance, "values")
        self._judge_tables()
        for index in list(self.left):
            if self.findings.kinds[index] in (BOXES, DETECTIONS):
                self.findings.raise_wrong_kind(index, self.expected[0][index])
            self._judge_values(index, unlike=True)
        blocks = list(self.findings.blocks.values())
        texts = {name: ", ".join(self.findings.texts[index]) for index, name in enumerate(self.findings.names)}
        return Choice([*self.judges, *([BlockJudge(blocks)] if blocks else [])], texts)

    def _leave_out_constants(self) -> None:
        """Leaves out outputs that no layer makes, such as anchors: their error of 0 would hide that of the others."""
        values = self.model.graph.outputs
        made = [index for index in self.left if is_made_by_layer(values[index])]
        for index in list(self.left) if made else ():
            if index not in made and self.findings.kinds[index] is None:
                self.left.remove(index)
                self.findings.tell(index, "not judged, as no layer makes it")

    def _arrays(self, index: int) -> list[np.ndarray]:
        return [run[index] for run in self.expected]

    def _judge_output(self, index: int, error: Callable[[np.ndarray, np.ndarray], float], text: str) -> None:
        self.left.remove(index)
        self.findings.tell(index, text)
        self.judges.append(OutputJudge(self.findings.names[index], index, error))

    def _judge_detections(self, outputs: Sequence[int], read: Callable[[Outputs], Iterable[Candidates]]) -> None:
        self._judge_selected(DetectionJudge(self.findings.names[outputs[0]], read), outputs, "judged as detections")

    def _judge_selected(self, judge: Judge, outputs: Sequence[int], text: str) -> None:
        self.judges.append(judge)
        for index in outputs:
            self.left.remove(index)
            self.findings.tell(index, text)

    def _judge_finished_detections(self) -> None:
        """Judges detections that the model itself selects, in one output or in several."""
        kinds = self.findings.kinds
        for index in [index for index in self.left if kinds[index] in (None, DETECTIONS)]:
            rows = detection_rows(self.expected, index)
            if rows is not None:
                self._judge_detections([index], rows.read)
        free = [index for index in self.left if kinds[index] in (None, BOXES, SCORES, LABELS, DETECTIONS)]
        found = finished_detections(self.expected, free)
        if found is not None:
            self._judge_detections(found.outputs, found.read)

    def _judge_selections(self) -> None:
        """Judges other rows that the model selects by their values, and whose order rounding changes."""
        free = [index for index in self.left if self.findings.kinds[index] is None]
        for members in find_selections(self.model, self.expected, free):
            judge = make_judge(self.findings.names, members, self.expected)
            outputs = [member.output for member in members]
            self._judge_selected(judge, outputs, "rows that the model selects, in any order")

    def _tell_numbers(self) -> None:
        """Tells which outputs are the number of rows that the model selected; no judge has them, as the rows say it."""
        for index in [index for index in self.left if self.findings.kinds[index] is None]:
            if all(is_number(array) for array in self._arrays(index)):
                self.left.remove(index)
                self.findings.tell(index, "the number of selected rows")

    def _judge_tables(self) -> None:
        """Judges the outputs with columns and rows: detector heads as detections, all else in blocks."""
        by_rows: dict[object, list[Table]] = {}
        for table in make_tables(self.model, self.expected, self.left):
            by_rows.setdefault(table.rows, []).append(table)
            self.left.remove(table.output)
        groups = [find_group(tables, self.findings, self.image_size) for tables in by_rows.values()]
        heads: dict[int, list[DenseHead]] = {}  # of a detector's levels, by the number of classes
        told = DETECTIONS in self.findings.kinds
        for group in groups:
            if len(group.boxes) == len(group.scores) == 1:
                head = DenseHead(group.boxes[0][1], group.scores[0])
                if told or mean_activity(head.scores, self.expected) <= RARE:
                    heads.setdefault(len(head.scores.foreground), []).append(head)
        judged: list[ScoreColumns] = []
        for levels in heads.values():
            outputs = dict.fromkeys([levels[0].boxes.columns.output, levels[0].scores.columns.output])
            names = " and ".join(self.findings.names[output] for output in outputs)
            judge = DetectionJudge(names, partial(read_dense, levels))
            if told or judge.prepare(self.expected)[0].scale >= LEAST_DETECTIONS:
                self.judges.append(judge)
                judged += [head.scores for head in levels]
        for group in groups:
            as_detections = any(scores is each for scores in group.scores for each in judged)
            tell_group(group, self.findings, as_detections)
            add_group_blocks(group, self.findings, self.expected, as_detections)

    def _judge_values(self, index: int, unlike: bool = False) -> None:
        """Judges an output with few rows, such as [N,C], as one block, or if it joins `unlike` things as several."""
        self.left.remove(index)
        arrays = self._arrays(index)
        vectors = arrays[0].ndim == 2 and arrays[0].dtype.kind == "f" and len(arrays) * len(arrays[0]) >= LEAST_VECTORS
        shares = vectors and all(array.min() >= 0 and array.max() <= 1 for array in arrays)  # as of a softmax
        groups = alike(statistics(arrays, 1).spread) if unlike and vectors and not shares else []
        if len(groups) < 2:
            self.findings.tell(index, "values")
            self.findings.add_block(index, Part(Whole(index)))
            return
        for columns in groups:
            self.findings.tell(index, f"values{in_words(columns, arrays[0].shape[1])}")
            self.findings.add_block(index, Part(Columns(index, 1, columns)), columns)


def is_made_by_layer(value: ir.Value) -> bool:
    """Tells if a convolution or a matrix product is in front of a value, or an operator that is not ONNX's, such as the
    call of a branch, which may hold one."""
    return any(node.op_type in LAYER_OPERATORS or node.domain for node in nodes_in_front([value]))


def is_label(array: np.ndarray) -> bool:
    """Tells if an output is bool or integers, but of more than a byte, of which pixels and quantized values are."""
    return array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize > 1)


def is_number(array: np.ndarray) -> bool:
    """Tells if an output is one integer for each image."""
    return array.dtype.kind in "iu" and array.size == (array.shape[0] if array.ndim else 1)
