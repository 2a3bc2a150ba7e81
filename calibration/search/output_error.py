"""How far a changed model's outputs are from the float model's: the one number that calibration makes small.

It needs no labels. 0 is the float model itself, 1 is as bad as finding nothing, whatever the outputs are:

- candidates of a detector (by the engine's contract: boxes, scores, classes): after NMS, both models' detections are
  points in the space of the Jaccard kernel (Bouchard, Jousselme and Doré 2013 prove it positive definite): a detection
  weighs by its score, and two agree as far as they are of one class and overlap. The damage is
  |F - Q|^2 / |F|^2 = (sum_ff - 2 sum_fq + sum_qq) / sum_ff, with sum_ab = sum_ij s_i s_j IoU(i, j) [c_i = c_j].
  A squared error of logits and box codes would count every background cell, whose boxes nobody looks at.
- logits of a classifier (by its spec): the Kullback-Leibler divergence of the softmax, over the float model's entropy
  against a guess, so that confident classes count for what they are.
- anything else: the squared error over the variance, the mean of all outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from effedge.deploy.image.nms import nms

Outputs = Sequence[np.ndarray]
Damage = Callable[[Outputs, Outputs], float]  # (of the float model, of the changed one) on one run -> 0..

SPEC = "effedge"
CANDIDATES = ("boxes", "scores", "classes")
LOWEST_SCORE = 0.02  # what is below it moves no figure of merit, but there is a lot of it
MOST = 100


def damage_of(model: ir.Model) -> Damage:
    """The measure for this model's outputs, in the order of its graph."""
    names = [value.name for value in model.graph.outputs]
    spec = json.loads(model.metadata_props.get(SPEC, "{}"))
    ranks = {value.name: None if value.shape is None else len(value.shape) for value in model.graph.outputs}
    if [ranks.get(name) for name in CANDIDATES] == [3, 2, 2]:
        order = [names.index(name) for name in CANDIDATES]
        return lambda expected, got: detection_damage([expected[i] for i in order], [got[i] for i in order])
    if spec.get("task") == "classification" and len(names) == 1:
        return classification_damage
    return error_over_variance


def detection_damage(expected: Outputs, got: Outputs) -> float:
    """The mean over the batch for candidates (boxes [N,K,4] xyxy, scores [N,K], classes [N,K]) of both models."""
    total = [0.0, 0.0]
    for row in range(len(expected[0])):
        ours, theirs = (_kept(*(output[row] for output in outputs)) for outputs in (expected, got))
        own = _agreement(ours, ours)
        total[0] += own - 2 * _agreement(ours, theirs) + _agreement(theirs, theirs)
        total[1] += own
    return total[0] / max(total[1], LOWEST_SCORE**2)


Kept = tuple[np.ndarray, np.ndarray, np.ndarray]


def _kept(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> Kept:
    """The detections after NMS: boxes [n,4], scores [n], classes [n]; none of them if the model computed no numbers."""
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes, scores, classes = boxes[finite], scores[finite], classes[finite]
    chosen = nms(boxes, scores, classes, threshold=LOWEST_SCORE, max_detections=MOST)
    return boxes[chosen].astype(np.float64), scores[chosen].astype(np.float64), classes[chosen]


def _agreement(one: Kept, other: Kept) -> float:
    """sum_ij s_i s_j IoU(i, j) [c_i = c_j]."""
    boxes, others = one[0][:, None], other[0][None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    intersections = np.clip(sides, 0, None).prod(axis=2)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(axis=2) for each in (boxes, others)]
    overlap = intersections / np.maximum(areas[0] + areas[1] - intersections, 1e-9)
    overlap *= one[2][:, None] == other[2][None]
    return float(one[1] @ overlap @ other[1])


def classification_damage(expected: Outputs, got: Outputs) -> float:
    """The mean over the batch for logits [N,C] of both models."""
    if not np.isfinite(got[0]).all():
        return 1.0
    ours, theirs = _log_softmax(expected[0]), _log_softmax(got[0])
    probabilities = np.exp(ours)
    divergence = (probabilities * (ours - theirs)).sum(axis=-1)
    information = (probabilities * (ours + np.log(ours.shape[-1]))).sum(axis=-1)
    return float(divergence.sum() / max(information.sum(), 1e-3 * len(information)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def error_over_variance(expected: Outputs, got: Outputs) -> float:
    """The mean over all float outputs; one that is not finite, or an integer that differs, counts as it deserves."""
    ratios = []
    for ours, theirs in zip(expected, got, strict=True):
        if ours.shape != theirs.shape:  # as of NonZero, where the data decides
            ratios.append(1.0)
            continue
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        spread = float(np.square(ours - ours.mean()).sum()) or float(np.square(ours).sum()) or 1.0
        ratio = float(np.square(ours - theirs).sum()) / spread if np.isfinite(theirs).all() else 1.0
        ratios.append(ratio)
    return float(np.mean(ratios))
