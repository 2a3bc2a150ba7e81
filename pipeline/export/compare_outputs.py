"""Runs a graph in ONNX Runtime, and measures the difference between the outputs of two runs.

A simplified graph is compared with the graph that it was made of: by `difference_by_range` for the models of effedge,
whose outputs are known, and by `difference_by_magnitude` for any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effedge.engines.comparison.nearness import CANDIDATES, INTEGERS_THAT_MAY_DIFFER
from effedge.engines.comparison.reference import Reference

if TYPE_CHECKING:
    import onnx

Outputs = Mapping[str, np.ndarray]
Difference = Callable[[Outputs, Outputs], float]  # of a reference and another run, 0 for equal ones

TOLERANCE = 1e-4  # a difference up to this is rounding
LEAST_SCORE_RANGE = 0.01  # of scores that are all next to 0 or 1, which rounding puts into any order


def run_outputs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], source: Path) -> dict[str, np.ndarray]:
    """Runs a graph as it is written, without ONNX Runtime's own optimizations; returns the outputs by name.

    Args:
        feeds: the inputs by name; those that the graph does not have are left out.

    Raises:
        UserError: ONNX Runtime cannot run the model, which came from `source`.
    """
    return Reference(model.SerializeToString(), source).run(feeds)


def with_raw_heads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copies a model of effedge, with a detector's class logits [N,A,C] and box codes [N,A,4] as more outputs.

    Candidates are selected from these, and alone would hide much: scores that are all 1 or 0, or another order of equal
    ones.
    """
    import onnx

    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    heads = [
        node.input[0]
        for node in model.graph.node
        if node.op_type in ("ReduceMax", "GatherElements") and made_by.get(node.input[0]) == "Concat"
    ]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index, head in enumerate(dict.fromkeys(heads)):  # simplification may rename a head, so it gets a name here
        name = f"raw_head_{index}"
        copy.graph.node.append(onnx.helper.make_node("Identity", [head], [name]))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def difference_by_range(reference: Outputs, other: Outputs) -> float:
    """Measures the largest difference relative to each output's range; infinite where a value is not finite.

    Candidates of almost equal score may change places, so a detector's are compared as a set: for each candidate that
    is clearly above the last score, the nearest of the other run's candidates of its class counts.
    """
    if not all(np.isfinite(array).all() for outputs in (reference, other) for array in outputs.values()):
        return float("inf")
    worst = 0.0
    for name in reference.keys() - set(CANDIDATES):
        apart = np.abs(reference[name] - other[name]).max() / max(np.ptp(reference[name]), 1e-6)
        worst = max(worst, float(apart))
    if "boxes" not in reference:
        return worst
    arrays = [outputs[name] for outputs in (reference, other) for name in CANDIDATES]
    for boxes, scores, classes, other_boxes, other_scores, other_classes in zip(*arrays, strict=True):
        score_range, box_range = max(np.ptp(scores), LEAST_SCORE_RANGE), max(np.ptp(boxes), 1e-6)
        worst = max(worst, float(np.abs(scores - other_scores).max() / score_range))
        for index in np.flatnonzero(scores > scores[-1] + TOLERANCE * score_range):
            distance = np.maximum(
                np.abs(other_boxes - boxes[index]).max(axis=1) / box_range,
                np.abs(other_scores - scores[index]) / score_range,
            )
            worst = max(worst, float(np.where(other_classes == classes[index], distance, np.inf).min()))
    return worst


def difference_by_magnitude(reference: Outputs, other: Outputs) -> float:
    """Measures the largest difference relative to each output's largest magnitude.

    It is infinite where the runs differ in more than rounding: in type or shape, in where they are NaN or infinite, or
    in more than INTEGERS_THAT_MAY_DIFFER of an output's integers.
    """
    worst = 0.0
    for name, expected in reference.items():
        actual = other[name]
        if not isinstance(expected, np.ndarray) or expected.shape != actual.shape or expected.dtype != actual.dtype:
            return np.inf
        if expected.dtype.kind != "f":
            if expected.size and np.mean(expected != actual) > INTEGERS_THAT_MAY_DIFFER:
                return np.inf
            continue
        finite = np.isfinite(expected)
        same_elsewhere = np.array_equal(expected[~finite], actual[~finite], equal_nan=True)
        if not same_elsewhere or not np.isfinite(actual[finite]).all():
            return np.inf
        if finite.any():
            distance = np.abs(expected[finite].astype(np.float64) - actual[finite]).max()
            worst = max(worst, float(distance / max(np.abs(expected[finite]).max(), 1e-6)))
    return worst
