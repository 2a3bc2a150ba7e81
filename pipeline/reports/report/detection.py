"""Measures detectors for a report: AP by class and size, precision and recall, the best threshold, the confusions.

All of it is COCO's matching by pycocotools, but for the confusion matrix: COCO matches each class by itself, so a class
that is mistaken for another is not seen there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask

from effedge.deploy.common.cli import UserError
from effedge.pipeline.datasets.records import DataSet, Record
from effedge.pipeline.evaluation.coco_metrics import CocoMetrics, ImageDetections, metrics_of, run_cocoeval

THRESHOLDS = np.arange(0, 1, 0.01)  # steps that a user types
IOU = 0.5  # of a detection and an object that match, but for AP
# COCO's areas: small is below 32^2 pixels, large above 96^2.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}


@dataclass(frozen=True)
class OperatingPoints:
    """Precision, recall and F1 of all classes together at each of THRESHOLDS; precision is NaN where there are no
    detections."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def best(self) -> int:
        """The index of the highest F1: of several, the middle of the first row of them."""
        highest = np.flatnonzero(self.f1 == self.f1.max())
        gaps = np.flatnonzero(np.diff(highest) > 1)
        first = highest[: gaps[0] + 1] if len(gaps) else highest
        return int(first[len(first) // 2])


@dataclass(frozen=True)
class DetectorMeasurement:
    """The measurement of a detector.

    metrics: COCO's figures.
    curves: the precision at COCO's 101 recalls, mean of the classes, by IoU.
    points: the precision, recall and F1 by threshold, at an IoU of 0.5.
    """

    metrics: CocoMetrics
    curves: dict[float, np.ndarray]
    points: OperatingPoints


def measure_detector(data: DataSet, detections: Sequence[ImageDetections]) -> DetectorMeasurement:
    """Compares the detections in the data's images with the annotations.

    Raises:
        UserError: the data has no object that counts.
    """
    objects = sum(int((~record.ignored).sum()) for record in data.records)
    if not objects:
        raise UserError(
            f"the {len(data.records)} images have no labelled object that counts: give images with some in them"
        )
    evaluation = run_cocoeval(data, detections)
    # precision is [IoU, recall, class, area, boxes an image], -1 for a class without objects.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    with_objects = precision[:, :, (precision > -1).any((0, 1))]
    curves = {iou: with_objects[index].mean(-1) for iou, index in ((0.5, 0), (0.75, 5))}
    return DetectorMeasurement(metrics_of(evaluation, data), curves, operating_points(evaluation, objects))


def operating_points(evaluation: Any, objects: int) -> OperatingPoints:
    """Counts hits and mistakes above each threshold, by pycocotools' matching at the IoU of 0.5 in all areas.

    The matching goes from the best score down, so what is below a threshold changes nothing above it.
    """
    areas, images = len(evaluation.params.areaRng), len(evaluation.params.imgIds)
    scores, hits = [], []
    for index, image in enumerate(evaluation.evalImgs):
        if image is None or index // images % areas:  # classes, then areas ("all" is first), then images
            continue
        counted = ~np.asarray(image["dtIgnore"][0], bool)
        scores.append(np.asarray(image["dtScores"], np.float64)[counted])
        hits.append(np.asarray(image["dtMatches"][0])[counted] > 0)
    all_scores, all_hits = np.concatenate([*scores, []]), np.concatenate([*hits, []]).astype(bool)
    detected = at_least(all_scores)
    found = at_least(all_scores[all_hits])
    precision = np.divide(found, detected, out=np.full(len(THRESHOLDS), np.nan), where=detected > 0)
    return OperatingPoints(precision, found / objects, 2 * found / (detected + objects))


def at_least(scores: np.ndarray) -> np.ndarray:
    """Counts the scores at or above each of THRESHOLDS."""
    counts: np.ndarray = len(scores) - np.searchsorted(np.sort(scores), THRESHOLDS)
    return counts


def objects_by_size(data: DataSet) -> dict[str, int]:
    """Counts the objects that are not ignored, by COCO's sizes."""
    areas = np.concatenate([record.areas[~record.ignored] for record in data.records])
    return {name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in SIZES.items()}


def objects_by_class(data: DataSet) -> list[int]:
    """Counts the objects that are not ignored, by class id."""
    ids = np.concatenate([record.class_ids[~record.ignored] for record in data.records])
    return np.bincount(ids, minlength=len(data.labels)).tolist()


def overlaps(boxes: np.ndarray, others: np.ndarray, crowds: np.ndarray | None = None) -> np.ndarray:
    """Computes the IoU of boxes [n,4] and others [m,4], xyxy -> [n,m]; with a crowd, the share of the box that lies in
    it, as COCO does."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    flags = np.zeros(len(others), np.uint8) if crowds is None else crowds.astype(np.uint8)
    sides = [np.concatenate([each[:, :2], each[:, 2:] - each[:, :2]], 1).astype(np.float64) for each in (boxes, others)]
    return np.asarray(mask.iou(*sides, flags))


def matches(ious: np.ndarray, same_class: np.ndarray) -> list[tuple[int, int]]:
    """Pairs rows with columns whose IoU is IOU or more, each once: those of one class first, then the largest IoU.

    >>> matches(np.array([[0.9, 0.6], [0.7, 0.0]]), np.array([[False, True], [True, True]]))
    [(1, 0), (0, 1)]
    """
    rows, columns = np.nonzero(ious >= IOU)
    order = np.lexsort((-ious[rows, columns], ~same_class[rows, columns]))
    taken_rows, taken_columns, pairs = set(), set(), []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append((row, column))
    return pairs


def match_objects(record: Record, image: ImageDetections) -> tuple[list[tuple[int, int]], set[int]]:
    """Pairs the detections of an image with its objects: (detection, object), and the detections that lie on ignored
    objects, which do not count."""
    ious = overlaps(image.boxes, record.boxes, record.ignored)
    counted = np.where(record.ignored, 0, ious) if len(ious) else ious
    pairs = matches(counted, image.class_ids[:, None] == record.class_ids[None])
    paired = {row for row, _ in pairs}
    on_ignored = (np.where(record.ignored, ious, 0) >= IOU).any(1) if ious.size else np.zeros(len(ious), bool)
    return pairs, set(np.flatnonzero(on_ignored).tolist()) - paired


def confusion_matrix(data: DataSet, detections: Sequence[ImageDetections], threshold: float) -> np.ndarray:
    """Counts objects by their class (row) and that of the detection (column), int64 [classes + 1, classes + 1].

    The last row is the background: detections where there is no object, or a second one of an object. The last column
    are the objects that are not found.
    """
    classes = len(data.labels)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for record, image in zip(data.records, detections, strict=True):
        kept = above(image, threshold)
        pairs, ignored = match_objects(record, kept)
        for row, column in pairs:
            counts[record.class_ids[column], kept.class_ids[row]] += 1
        found = {column for _, column in pairs}
        for column, class_id in enumerate(record.class_ids.tolist()):
            if column not in found and not record.ignored[column]:
                counts[class_id, classes] += 1
        used = {row for row, _ in pairs} | ignored
        for row, class_id in enumerate(kept.class_ids.tolist()):
            if row not in used:
                counts[classes, class_id] += 1
    return counts


def above(image: ImageDetections, threshold: float) -> ImageDetections:
    """Returns the detections whose scores are at or above a threshold."""
    kept = image.scores >= threshold
    return ImageDetections(image.boxes[kept], image.scores[kept], image.class_ids[kept])
