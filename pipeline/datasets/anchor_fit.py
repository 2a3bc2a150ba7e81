"""Measures how well a model's anchors fit the objects of a data set, and suggests anchors that fit better.

An object's fit is its IoU with the anchor that overlaps it most, as `effedge.pipeline.training.matching` pairs them.
From 0.5 on an anchor learns the object as a match; below that it learns the object all the same, but from further away.
Redmon and Farhadi 2017 ("YOLO9000", section 2, "Dimension clusters") choose anchors by k-means over the shapes of the
boxes with the distance 1 - IoU. A head here has three scales times three aspect ratios, so the ratios are clustered by
themselves, and the scale is searched. Every class counts alike, as in average precision: counted by objects, the
suggestion would give up a few small objects among many large ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effedge.pipeline.models.anchors import ASPECTS, SCALES, Aspects, level_sizes
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.matching import MATCH_IOU

SCALE_GRID = tuple(float(scale) for scale in np.round(np.geomspace(1.0, 8.0, 19), 2))  # six an octave
SAMPLE = 5000  # objects that a search measures
ROUNDS = 50  # of k-means, which converges much earlier
GAIN = 0.02  # of mean IoU; a smaller gain is not worth another head


class Anchors(NamedTuple):
    """The parameters of the anchors of an input of `size`."""

    size: Size
    levels: int
    scale: float
    aspects: Aspects = ASPECTS


def best_overlaps(boxes: np.ndarray, anchors: Anchors) -> np.ndarray:
    """Computes the IoU [n] of boxes [n,4], xyxy in input pixels, with the anchor that overlaps them most.

    Among the anchors of one shape this is the anchor on the nearest cell, so the others need no computation.
    """
    best = np.zeros(len(boxes))
    x0, y0, x1, y1 = boxes.T.astype(np.float64)
    area = (x1 - x0) * (y1 - y0)
    for rows, columns in level_sizes(anchors.size, anchors.levels):
        stride_y, stride_x = anchors.size.height / rows, anchors.size.width / columns
        cx = (np.clip(np.floor((x0 + x1) / 2 / stride_x), 0, columns - 1) + 0.5) * stride_x
        cy = (np.clip(np.floor((y0 + y1) / 2 / stride_y), 0, rows - 1) + 0.5) * stride_y
        for octave in range(SCALES):
            base = anchors.scale * 2.0 ** (octave / SCALES)
            for w, h in anchors.aspects:
                width, height = base * stride_x * w, base * stride_y * h
                across = np.minimum(x1, cx + width / 2) - np.maximum(x0, cx - width / 2)
                down = np.minimum(y1, cy + height / 2) - np.maximum(y0, cy - height / 2)
                shared = np.maximum(across, 0) * np.maximum(down, 0)
                best = np.maximum(best, shared / (area + width * height - shared))
    return best


def smallest_area(anchors: Anchors) -> float:
    """Computes the area of the smallest anchor, in pixels."""
    rows, columns = level_sizes(anchors.size, anchors.levels)[0]
    height, width = anchors.size
    return anchors.scale**2 * height / rows * width / columns * min(w * h for w, h in anchors.aspects)


def cluster_aspects(boxes: np.ndarray, count: int = len(ASPECTS)) -> Aspects:
    """Clusters the aspect ratios of boxes [n,4] into `count` (width, height) factors of area 1, the squarest first.

    The IoU of two boxes of area 1 with one centre falls with the distance of the logarithms of their ratios, so k-means
    with the distance 1 - IoU is k-means along that axis.
    """
    ratios = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    centres = np.quantile(ratios, (np.arange(count) + 0.5) / count)
    for _ in range(ROUNDS):
        nearest = np.abs(ratios[:, None] - centres).argmin(axis=1)
        members = [ratios[nearest == index] for index in range(count)]
        moved = np.array([own.mean() if len(own) else old for own, old in zip(members, centres, strict=True)])
        if np.allclose(moved, centres):
            break
        centres = moved
    centres = centres[np.argsort(np.abs(centres), kind="stable")]
    return tuple((round(float(np.exp(c / 2)), 2), round(float(np.exp(-c / 2)), 2)) for c in centres)


def class_balanced_mean(values: np.ndarray, class_ids: np.ndarray) -> float:
    """Computes the mean over the classes of each class's mean of values [n]."""
    return float(np.mean([values[class_ids == index].mean() for index in np.unique(class_ids)]))


def suggest_anchors(boxes: np.ndarray, class_ids: np.ndarray, anchors: Anchors) -> Anchors:
    """Searches the scale and ratios of anchors that fit boxes [n,4] of classes [n] best, by a sample of the boxes.

    Anchors that match fewer objects than `anchors` do are not suggested, whatever their mean IoU.
    """
    step = max(1, len(boxes) // SAMPLE)
    sample, sample_ids = boxes[::step], class_ids[::step]

    def measure(candidate: Anchors) -> tuple[float, float]:
        fits = best_overlaps(sample, candidate)
        return class_balanced_mean(fits, sample_ids), class_balanced_mean(fits >= MATCH_IOU, sample_ids)

    best, (best_fit, least_matched) = anchors, measure(anchors)
    for aspects in (anchors.aspects, cluster_aspects(sample)):
        for scale in SCALE_GRID:
            candidate = anchors._replace(scale=scale, aspects=aspects)
            fit, matched = measure(candidate)
            if fit > best_fit and matched >= least_matched:
                best, best_fit = candidate, fit
    return best
