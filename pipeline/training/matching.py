"""Matches anchors to the objects that they learn (Lin et al. 2017, section 4; effdet and google/automl agree).

An anchor is positive for the object that it overlaps most if their IoU reaches 0.5, otherwise it is background. Every
object also takes the anchor that overlaps it most, whatever the IoU, so that no object goes unlearned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effedge.deploy.image.iou import iou_matrix
from effedge.pipeline.models.anchors import encode

MATCH_IOU = 0.5


class Matches(NamedTuple):
    """The p positive anchors of an image and their targets."""

    anchors: np.ndarray  # int64 [p], indices of the positive anchors
    class_ids: np.ndarray  # int64 [p]
    codes: np.ndarray  # float32 [p,4], regression targets (ty, tx, th, tw)


def match(boxes: np.ndarray, class_ids: np.ndarray, anchors: np.ndarray) -> Matches:
    """Matches objects, boxes [n,4] xyxy in input pixels with class ids [n], to anchors [A,4]."""
    if len(boxes) == 0:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    overlaps = iou_matrix(boxes, anchors)
    best_object = overlaps.argmax(axis=0)
    positive = overlaps.max(axis=0) >= MATCH_IOU
    best_anchor = overlaps.argmax(axis=1)
    best_object[best_anchor] = np.arange(len(boxes))
    positive[best_anchor] = True
    anchor_indices = np.flatnonzero(positive)
    objects = best_object[anchor_indices]
    codes = encode(boxes[objects], anchors[anchor_indices])
    return Matches(anchor_indices, class_ids[objects].astype(np.int64), codes)
