"""Measures the output error: the distance of a changed model's outputs from the float model's, which calibration makes
small.

It needs no labels. 0 is the float model itself, 1 is as bad as no detections or a guess, whatever the outputs are.
kinds.py decides which of these judges a model's outputs:

- Detections (effedge's own candidates, and detector heads whose boxes and scores are known): after NMS, both models'
  detections are points in the space of the Jaccard kernel (Bouchard, Jousselme and Doré 2013 prove it positive
  definite): a detection weighs by its score, and two agree as far as they are of one class and overlap. The error is
  |F - Q|^2 / |F|^2 = (sum_ff - 2 sum_fq + sum_qq) / sum_ff, with sum_ab = sum_ij s_i s_j IoU(i, j) [c_i = c_j].
  A squared error of logits and box codes would count every background cell, whose boxes nobody looks at. Neither the
  images with most detections decide the mean over all images nor those with next to none (run_scales).
- Logits of a classifier (by its spec): the Kullback-Leibler divergence of the softmax, over the float model's entropy
  against a guess, so that confident classes count for what they are.
- Rows that the model selects by their values, as a TopK does: each by its distance from the nearest row of the other
  model's (selections.py), as rounding changes their order and number.
- Labels (integers, bool): the share that differs, over the share that differs from the most common label.
- Any other outputs: the squared error over the variance, in blocks of columns of one meaning (blocks.py).

The output error of a model is the mean of its blocks', which are the same whether a model concatenates its outputs or
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from effedge.deploy.image.iou import iou_matrix
from effedge.deploy.image.nms import nms

Outputs = Sequence[np.ndarray]

LOWEST_SCORE = 0.02  # a lower score moves no figure of merit, but there are many of them
MAX_DETECTIONS = 100
LEAST_DETECTIONS = 0.01  # the squared scores of a run in which something is found: one of 0.1
USELESS = 1.0  # the error of what is not finite or of another shape


class Judge(Protocol):
    """Judges some blocks of a model's outputs, which `blocks` names for reports."""

    @property
    def blocks(self) -> Sequence[str]: ...

    def prepare(self, expected: Sequence[Outputs]) -> list[Any]:
        """Computes what the float model's outputs on each sample contribute to the errors."""
        ...

    def errors(self, prepared: Any, got: Outputs) -> list[float]:
        """Returns the error of each block on one sample; their mean over all samples is the block's error."""
        ...


class OutputError:
    """Measures the output error on samples, of which it keeps the float model's outputs.

    Args:
        judges: of kinds.choose_judges.
        expected: the float model's outputs on each sample.
    """

    def __init__(self, judges: Sequence[Judge], expected: Sequence[Outputs]) -> None:
        self.judges = judges
        self.blocks = [name for judge in judges for name in judge.blocks]
        prepared = [judge.prepare(expected) for judge in judges]
        self.samples = list(zip(*prepared, strict=True))  # of each sample, what each judge prepared

    def of_blocks(self, sample: int, got: Outputs) -> list[float]:
        """Returns the error of each of `blocks` for a changed model's outputs on a sample, given by its position."""
        pairs = zip(self.judges, self.samples[sample], strict=True)
        return [error for judge, prepared in pairs for error in judge.errors(prepared, got)]

    def of(self, sample: int, got: Outputs) -> float:
        """Returns the output error of a changed model's outputs on a sample."""
        return float(np.mean(self.of_blocks(sample, got)))


class Candidates(NamedTuple):
    """The candidates of one image: boxes [n,4] xyxy, scores [n], classes [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class WantedDetections(NamedTuple):
    """The float model's detections of each image in a run, their agreement with themselves, and the error that makes
    1."""

    images: list[Candidates]
    own: list[float]
    scale: float


@dataclass(frozen=True)
class DetectionJudge:
    """Judges detections after NMS.

    read: returns the candidates of each image in the batch.
    """

    name: str
    read: Callable[[Outputs], Iterable[Candidates]]

    @property
    def blocks(self) -> Sequence[str]:
        return [self.name]

    def prepare(self, expected: Sequence[Outputs]) -> list[WantedDetections]:
        images = [[best_of(candidates) for candidates in self.read(outputs)] for outputs in expected]
        own = [[_agreement(detections, detections) for detections in run] for run in images]
        scales = run_scales(np.array([sum(run) for run in own]))
        return [WantedDetections(*run) for run in zip(images, own, scales.tolist(), strict=True)]

    def errors(self, prepared: WantedDetections, got: Outputs) -> list[float]:
        error = 0.0
        for expected, own, candidates in zip(prepared.images, prepared.own, self.read(got), strict=True):
            detections = best_of(candidates)
            error += own - 2 * _agreement(expected, detections) + _agreement(detections, detections)
        return [error / max(prepared.scale, LEAST_DETECTIONS)]


def run_scales(own: np.ndarray) -> np.ndarray:
    """Returns what each run's error is divided by, so that the mean over all runs is 1 without any detections.

    Divided by the run's own detections alone, a run in which the float model finds next to nothing would decide (one
    detection of score 0.03 beside another model's five made an error of 6); divided by the mean, the run with most.
    So it is their sum.

    Args:
        own: the agreement of each run's detections with themselves.

    >>> run_scales(np.array([2.0, 2.0])), run_scales(np.array([0.0, 4.0]))
    (array([2., 2.]), array([0.66666667, 2.        ]))
    """
    sums = own + own.mean()
    if not sums.any():
        return sums
    return sums * float((own / sums).mean())


def detection_error(expected: Outputs, got: Outputs) -> float:
    """Returns the mean over the batch for candidates of both models: boxes [N,K,4] xyxy, scores and classes [N,K]."""
    judge = DetectionJudge("", lambda outputs: map(Candidates, *outputs))
    return judge.errors(judge.prepare([expected])[0], got)[0]


def best_of(candidates: Candidates) -> Candidates:
    """Returns the detections of one image after NMS, without those that are NaN or infinite."""
    boxes, scores, classes = candidates
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores, classes = boxes[finite], scores[finite], classes[finite]
    kept = nms(boxes, scores, classes, threshold=LOWEST_SCORE, max_detections=MAX_DETECTIONS)
    return Candidates(boxes[kept].astype(np.float64), scores[kept].astype(np.float64), classes[kept])


def _agreement(one: Candidates, other: Candidates) -> float:
    """Computes sum_ij s_i s_j IoU(i, j) [c_i = c_j]."""
    overlap = iou_matrix(one.boxes, other.boxes)
    overlap *= one.classes[:, None] == other.classes[None]
    return float(one.scores @ overlap @ other.scores)


@dataclass(frozen=True)
class OutputJudge:
    """Judges one output by a function of both models' arrays."""

    name: str
    output: int
    error: Callable[[np.ndarray, np.ndarray], float]

    @property
    def blocks(self) -> Sequence[str]:
        return [self.name]

    def prepare(self, expected: Sequence[Outputs]) -> list[np.ndarray]:
        return [outputs[self.output] for outputs in expected]

    def errors(self, prepared: np.ndarray, got: Outputs) -> list[float]:
        return [self.error(prepared, got[self.output])]


def classification_error(expected: np.ndarray, got: np.ndarray) -> float:
    """Returns the mean over the batch for logits [N,C] of both models; 1 for logits that are not finite. Classes that
    the float model rules out by an infinite logit do not count."""
    known = np.isfinite(expected).all(axis=0)
    expected, got = expected[:, known], got[:, known]
    if not np.isfinite(got).all():
        return USELESS
    expected_log, got_log = _log_softmax(expected), _log_softmax(got)
    probabilities = np.exp(expected_log)
    divergence = (probabilities * (expected_log - got_log)).sum(axis=-1)
    information = (probabilities * (expected_log + np.log(expected_log.shape[-1]))).sum(axis=-1)
    return float(divergence.sum() / max(information.sum(), 1e-3 * len(information)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def error_over_variance(expected: np.ndarray, got: np.ndarray) -> float:
    """Returns the squared error over the variance of one tensor; 1 where the changed model's is not finite, or of
    another shape.

    It is for outputs whose shape depends on the data, or that the float model too makes infinite in places, which do
    not count.
    """
    if expected.shape != got.shape:  # as of NonZero, where the data decides
        return USELESS
    known = np.isfinite(expected)
    wanted, actual = expected[known].astype(np.float64), got[known].astype(np.float64)
    power = float(np.square(wanted - wanted.mean()).sum()) if wanted.size else 0.0
    power = power or float(np.square(wanted).sum()) or 1.0
    return float(np.square(wanted - actual).sum()) / power if np.isfinite(actual).all() else USELESS


def label_error(expected: np.ndarray, got: np.ndarray) -> float:
    """Returns the share of labels that differ, over the share that differs from the most common label of the float
    model, a twentieth at least (or 1, if it has but one label)."""
    if expected.shape != got.shape:
        return USELESS
    _, counts = np.unique(expected, return_counts=True)
    others = expected.size - int(counts.max(initial=0))
    scale = max(others, expected.size / 20) if others else max(1, expected.size)
    return float((expected != got).sum()) / scale
