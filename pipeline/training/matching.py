"""Matches anchors to the objects that they learn.

`iou` (Lin et al. 2017, section 4; effdet and google/automl agree): an anchor is positive for the object that it
overlaps most if their IoU reaches 0.5, otherwise it is background. Every object also takes the anchor that overlaps it
most, whatever the IoU, so that no object goes unlearned.

`compensated` (S3FD, Zhang et al. 2017, section 3.2): an object that fewer anchors overlap so far, because it is smaller
than all of them or lies between their scales, also takes those that overlap it most, up to a number (and all that
equal the last, as anchors of one size do around a small object) and down to an IoU of 0.1. In S3FD that number is the
mean of all objects; here it is about the number of anchors that reach 0.5 with an object of an anchor's size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effedge.deploy.image.iou import iou_matrix
from effedge.pipeline.models.anchors import encode

MATCHINGS = ("iou", "compensated")
MATCH_IOU = 0.5
ENOUGH_ANCHORS, LEAST_IOU = 20, 0.1  # of the second


class Matches(NamedTuple):
    """The p positive anchors of an image and their targets."""

    anchors: np.ndarray  # int64 [p], indices of the positive anchors
    class_ids: np.ndarray  # int64 [p]
    codes: np.ndarray  # float32 [p,4], regression targets (ty, tx, th, tw)


def match(boxes: np.ndarray, class_ids: np.ndarray, anchors: np.ndarray, matching: str = "iou") -> Matches:
    """Matches objects, boxes [n,4] xyxy in input pixels with class ids [n], to anchors [A,4]."""
    if len(boxes) == 0:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    overlaps = iou_matrix(boxes, anchors)
    least = np.full(len(boxes), MATCH_IOU)
    if matching == "compensated":
        few = np.count_nonzero(overlaps >= MATCH_IOU, axis=1) < ENOUGH_ANCHORS
        last = np.partition(overlaps, -ENOUGH_ANCHORS, axis=1)[:, -ENOUGH_ANCHORS]
        least = np.where(few, np.maximum(last, LEAST_IOU), MATCH_IOU)
    positive = overlaps >= least[:, None]
    best_object = np.where(positive, overlaps, -1).argmax(axis=0)
    best_anchor = overlaps.argmax(axis=1)
    best_object[best_anchor] = np.arange(len(boxes))
    anchor_indices = np.union1d(np.flatnonzero(positive.any(axis=0)), best_anchor)
    objects = best_object[anchor_indices]
    codes = encode(boxes[objects], anchors[anchor_indices])
    return Matches(anchor_indices, class_ids[objects].astype(np.int64), codes)
