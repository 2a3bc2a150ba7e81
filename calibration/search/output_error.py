"""Measures the output error: the distance of a changed model's outputs from the float model's, which calibration makes
small.

It needs no labels. 0 is the float model itself, 1 is as bad as no detections or a guess, whatever the outputs are:

- Candidates of a detector (by the engine's contract: boxes, scores, classes): after NMS, both models' detections are
  points in the space of the Jaccard kernel (Bouchard, Jousselme and Doré 2013 prove it positive definite): a detection
  weighs by its score, and two agree as far as they are of one class and overlap. The output error is
  |F - Q|^2 / |F|^2 = (sum_ff - 2 sum_fq + sum_qq) / sum_ff, with sum_ab = sum_ij s_i s_j IoU(i, j) [c_i = c_j].
  A squared error of logits and box codes would count every background cell, whose boxes nobody looks at.
- Logits of a classifier (by its spec): the Kullback-Leibler divergence of the softmax, over the float model's entropy
  against a guess, so that confident classes count for what they are.
- Any other outputs: the squared error over the variance, the mean of all outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from effedge.deploy.common.contracts import SPEC_KEY
from effedge.deploy.image.iou import iou_matrix
from effedge.deploy.image.nms import nms

Outputs = Sequence[np.ndarray]
OutputError = Callable[[Outputs, Outputs], float]  # (of the float model, of the changed model) on one run -> 0..

CANDIDATES = ("boxes", "scores", "classes")
LOWEST_SCORE = 0.02  # a lower score moves no figure of merit, but there are many of them
MAX_DETECTIONS = 100


def output_error_of(model: ir.Model) -> OutputError:
    """Returns the output error's function for this model's outputs, in the order of its graph."""
    names = [value.name for value in model.graph.outputs]
    spec = json.loads(model.metadata_props.get(SPEC_KEY, "{}"))
    ranks = {value.name: None if value.shape is None else len(value.shape) for value in model.graph.outputs}
    if [ranks.get(name) for name in CANDIDATES] == [3, 2, 2]:
        order = [names.index(name) for name in CANDIDATES]
        return lambda expected, got: detection_error([expected[i] for i in order], [got[i] for i in order])
    if spec.get("task") == "classification" and len(names) == 1:
        return classification_error
    return error_over_variance


def detection_error(expected: Outputs, got: Outputs) -> float:
    """Returns the mean over the batch for candidates of both models: boxes [N,K,4] xyxy, scores and classes [N,K]."""
    error, scale = 0.0, 0.0
    for row in range(len(expected[0])):
        expected_row, got_row = (_detections(*(output[row] for output in outputs)) for outputs in (expected, got))
        own = _agreement(expected_row, expected_row)
        error += own - 2 * _agreement(expected_row, got_row) + _agreement(got_row, got_row)
        scale += own
    return error / max(scale, LOWEST_SCORE**2)


class Detections(NamedTuple):
    """boxes [n,4] xyxy, scores [n], classes [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def _detections(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> Detections:
    """Returns the detections of one image after NMS, without those that are NaN or infinite."""
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores, classes = boxes[finite], scores[finite], classes[finite]
    kept = nms(boxes, scores, classes, threshold=LOWEST_SCORE, max_detections=MAX_DETECTIONS)
    return Detections(boxes[kept].astype(np.float64), scores[kept].astype(np.float64), classes[kept])


def _agreement(one: Detections, other: Detections) -> float:
    """Computes sum_ij s_i s_j IoU(i, j) [c_i = c_j]."""
    overlap = iou_matrix(one.boxes, other.boxes)
    overlap *= one.classes[:, None] == other.classes[None]
    return float(one.scores @ overlap @ other.scores)


def classification_error(expected: Outputs, got: Outputs) -> float:
    """Returns the mean over the batch for logits [N,C] of both models; 1 for logits that are not finite."""
    if not np.isfinite(got[0]).all():
        return 1.0
    expected_log, got_log = _log_softmax(expected[0]), _log_softmax(got[0])
    probabilities = np.exp(expected_log)
    divergence = (probabilities * (expected_log - got_log)).sum(axis=-1)
    information = (probabilities * (expected_log + np.log(expected_log.shape[-1]))).sum(axis=-1)
    return float(divergence.sum() / max(information.sum(), 1e-3 * len(information)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def error_over_variance(expected: Outputs, got: Outputs) -> float:
    """Returns the mean over all outputs, integers too; 1 for an output that is not finite or of another shape."""
    ratios = []
    for expected_output, got_output in zip(expected, got, strict=True):
        if expected_output.shape != got_output.shape:  # as of NonZero, where the data decides
            ratios.append(1.0)
            continue
        wanted, actual = expected_output.astype(np.float64), got_output.astype(np.float64)
        power = float(np.square(wanted - wanted.mean()).sum()) or float(np.square(wanted).sum()) or 1.0
        ratio = float(np.square(wanted - actual).sum()) / power if np.isfinite(actual).all() else 1.0
        ratios.append(ratio)
    return float(np.mean(ratios))
