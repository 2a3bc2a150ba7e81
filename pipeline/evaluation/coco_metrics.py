"""Computes COCO's average precision (cocodataset.org, "Detection evaluation") by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effedge.pipeline.datasets.records import DataSet

# The indices of COCOeval.stats, as COCOeval.summarize fills it.
FIGURES = {"AP": 0, "AP50": 1, "AP75": 2, "AP small": 3, "AP medium": 4, "AP large": 5, "AR100": 8}


class ImageDetections(NamedTuple):
    """The detections in an image: boxes [n,4] xyxy in pixels, scores [n], class ids [n] of the data set."""

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray


class CocoMetrics(NamedTuple):
    """Figures in 0..1, or None where the data has no object of that class or size.

    figures: AP is over IoU 0.50 to 0.95; small is below 32^2 pixels, large above 96^2; AR100 counts 100 boxes an image.
    per_class: AP by label.
    """

    figures: dict[str, float | None]
    per_class: dict[str, float | None]


def coco_metrics(data: DataSet, detections: Sequence[ImageDetections]) -> CocoMetrics:
    """Compares the detections in the data's images, in their order, with the annotations."""
    return metrics_of(run_cocoeval(data, detections), data)


def run_cocoeval(data: DataSet, detections: Sequence[ImageDetections]) -> COCOeval:
    """Returns pycocotools' evaluation of the detections in the data's images, in their order; its category k is the
    data's class id k.

    Ignored objects (crowds, VOC's difficult ones) count neither as missed nor, when they are detected, as mistakes.
    """
    truth = [
        _annotation(image_id, class_id, box, area=float(area), iscrowd=int(ignored))
        for image_id, record in enumerate(data.records, 1)
        for box, class_id, area, ignored in zip(
            record.boxes, record.class_ids, record.areas, record.ignored, strict=True
        )
    ]
    answers = [
        _annotation(image_id, class_id, box, area=float(np.prod(box[2:] - box[:2])), score=float(score))
        for image_id, image in enumerate(detections, 1)
        for box, score, class_id in zip(image.boxes, image.scores, image.class_ids, strict=True)
    ]
    # pycocotools reports its progress by print.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(data, truth), _coco(data, answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def metrics_of(evaluation: COCOeval, data: DataSet) -> CocoMetrics:
    """Reads the figures of an evaluation of the data."""
    # precision is [IoU, recall, class, area, boxes an image]; the first area is "all", the last number of boxes 100.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return CocoMetrics(
        {name: _figure(evaluation.stats[index]) for name, index in FIGURES.items()},
        {
            str(label): _figure(precision[:, :, class_id].mean())
            for class_id, label in enumerate(data.labels)
            if label is not None
        },
    )


def _figure(value: float) -> float | None:
    """Rounds a figure; None for the -1 that pycocotools gives where there is nothing to measure."""
    return round(float(value), 6) if value >= 0 else None


def _annotation(image_id: int, class_id: int, box: np.ndarray, **more: float) -> dict[str, object]:
    """Writes a box in COCO's format: [x, y, width, height]; category ids begin at 1."""
    x0, y0, x1, y1 = map(float, box)
    return {"image_id": image_id, "category_id": int(class_id) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], **more}


def _coco(data: DataSet, annotations: list[dict[str, object]]) -> COCO:
    """Makes pycocotools' index of a list of annotations."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in range(1, len(data.records) + 1)],
        "categories": [{"id": index + 1, "name": label} for index, label in enumerate(data.labels)],
        "annotations": [{"iscrowd": 0, **annotation, "id": index} for index, annotation in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco
