"""Judges blocks of columns by their squared error over their variance, about each column's own mean.

Each block is judged by itself, as the variance of box codes is thousands of times that of class scores. Where an output
has scores, its other columns count in the rows where the float model's scores are high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from effedge.calibration.output_error.columns import statistics
from effedge.calibration.output_error.measure import USELESS, Outputs

LEAST_WEIGHT = 0.05  # of a row without scores, as a share of the rows' mean weight


class Readable(Protocol):
    """Reads values of one meaning from a model's outputs, as [C, ...rows]."""

    def read(self, outputs: Outputs) -> np.ndarray: ...


class Scores(Readable, Protocol):
    """Reads scores; `activity` [...rows] are the highest in each row."""

    def activity(self, outputs: Outputs) -> np.ndarray: ...


class Part(NamedTuple):
    """Values, the scores that weigh their rows, and the least squared error of a run that counts as 1."""

    values: Readable
    scores: Scores | None = None
    least: float = 0.0


@dataclass(frozen=True)
class Block:
    """Values that are judged together: by all squared errors over all variances. A detector's levels are its parts."""

    name: str
    parts: list[Part]


class Wanted(NamedTuple):
    """The float model's values of a part in a run [C, ...rows], and the weights of the rows."""

    values: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True)
class BlockJudge:
    """Judges blocks of columns by their squared error over their variance."""

    members: Sequence[Block]

    @property
    def blocks(self) -> Sequence[str]:
        return [block.name for block in self.members]

    def prepare(self, expected: Sequence[Outputs]) -> list[list[tuple[list[Wanted], float]]]:
        """Returns, of each sample, each block's float values and the squared error that counts as 1."""
        runs: list[list[tuple[list[Wanted], float]]] = [[] for _ in expected]
        for block in self.members:
            wanted: list[list[Wanted]] = [[] for _ in expected]
            scale = 0.0
            for values, scores, least in block.parts:
                arrays = [values.read(outputs) for outputs in expected]
                weights = [None if scores is None else row_weights(scores.activity(outputs)) for outputs in expected]
                known = [array for array in arrays if array.size and np.isfinite(array).all()]
                column_variance = np.square(statistics(known, 0).spread).sum() if known else 0.0
                if known and column_variance == 0:
                    column_variance = np.mean([np.square(array, dtype=np.float64).sum() for array in known])
                    column_variance /= max(1, known[0][0].size)
                pairs = zip(arrays, weights, strict=True)
                sizes = [array[0].size if weight is None else weight.sum() for array, weight in pairs]
                scale += max(float(column_variance * np.mean(sizes)), least)
                for run, array, weight in zip(wanted, arrays, weights, strict=True):
                    run.append(Wanted(array, weight))
            for prepared, parts in zip(runs, wanted, strict=True):
                prepared.append((parts, scale or 1.0))
        return runs

    def errors(self, prepared: list[tuple[list[Wanted], float]], got: Outputs) -> list[float]:
        errors = []
        for block, (wanted, scale) in zip(self.members, prepared, strict=True):
            with np.errstate(all="ignore"):
                total = sum(
                    _squared_error(values.read(got), *part)
                    for (values, *_), part in zip(block.parts, wanted, strict=True)
                )
            errors.append(total / scale if np.isfinite(total) else USELESS)
        return errors


def _squared_error(got: np.ndarray, wanted: np.ndarray, weights: np.ndarray | None) -> float:
    """Returns the sum of the squared errors, weighed by row; infinity for another shape."""
    if got.shape != wanted.shape:
        return np.inf
    error = np.subtract(got, wanted, dtype=np.result_type(wanted.dtype, np.float32))
    np.square(error, out=error)
    if weights is None:
        return float(error.sum(dtype=np.float64))
    return float((error.sum(axis=0) * weights).sum())


def row_weights(activity: np.ndarray) -> np.ndarray:
    """Returns the weight of each row by its highest score, as detections weigh in detection_error.

    A small weight of all rows bounds what a wrong guess at the meaning of the scores can hide.
    """
    weights = np.square(activity, dtype=np.float64)
    return weights + LEAST_WEIGHT * (weights.mean() or 1.0)
