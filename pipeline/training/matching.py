"""Anchor matching: which anchor learns which object (Lin et al. 2017, section 4; effdet and google/automl agree).

An anchor is positive for the object that it overlaps most if their IoU reaches 0.5, otherwise background; and each
object takes the anchor that overlaps it most, whatever the IoU, so that no object goes unlearned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effedge.pipeline.models.anchors import encode

MATCH_IOU = 0.5


class Matches(NamedTuple):
    anchors: np.ndarray  # int64 [p], indices of the positive anchors
    class_ids: np.ndarray  # int64 [p]
    codes: np.ndarray  # float32 [p,4], regression targets (ty, tx, th, tw)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: a [n,4] and b [m,4], xyxy -> [n,m]."""
    # Coordinate by coordinate: an axis of four or two in the innermost loop is five times as slow.
    (left_a, top_a, right_a, bottom_a), (left_b, top_b, right_b, bottom_b) = a.T[..., None], np.ascontiguousarray(b.T)
    width = np.minimum(right_a, right_b) - np.maximum(left_a, left_b)
    height = np.minimum(bottom_a, bottom_b) - np.maximum(top_a, top_b)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = (right_a - left_a) * (bottom_a - top_a), (right_b - left_b) * (bottom_b - top_b)
    return overlap / np.maximum(area_a + area_b - overlap, 1e-9)


def match(boxes: np.ndarray, class_ids: np.ndarray, anchors: np.ndarray) -> Matches:
    """Match objects, boxes [n,4] xyxy in input pixels with class ids [n], to anchors [A,4]."""
    if len(boxes) == 0:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    overlaps = iou_matrix(boxes, anchors)
    best_object = overlaps.argmax(axis=0)
    positive = overlaps.max(axis=0) >= MATCH_IOU
    best_anchor = overlaps.argmax(axis=1)
    best_object[best_anchor] = np.arange(len(boxes))
    positive[best_anchor] = True
    chosen = np.flatnonzero(positive)
    owners = best_object[chosen]
    return Matches(chosen, class_ids[owners].astype(np.int64), encode(boxes[owners], anchors[chosen]))
