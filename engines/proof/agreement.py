"""Computes how far an engine's detections, or classes, in many images agree with the expected ones.

All are records as `effedge predict --json` writes them. The expected records are the same ONNX's on another runtime.
The self-test (effedge.engines.selftest) judges one image, in which each sure result counts; here the means count.
"""

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from effedge.deploy.image.iou import iou_matrix
from effedge.engines.selftest import SURE, TOLERANCES

LEAST_SHARE = 0.95  # of the sure detections, or best classes, that must be the same
FOUND_IOU = 0.5
# COCO's average precision is the mean over these IoUs, of the precision at these recalls.
AP_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)


def agreement(expected: Sequence[Dict[str, Any]], predicted: Sequence[Dict[str, Any]]) -> Dict[str, float]:
    """Computes how far the records of images, in the same order, agree.

    For detectors: `expected` sure detections, the share of them `found` with an IoU of a half, the share of the
    predicted sure detections that were `confirmed` by an expected one, sure or not, and how many were `extra`, mean and
    least `iou` and mean and largest difference of `score` of the pairs, and `ap`, COCO's average precision with the
    expected sure detections as the truth. For classifiers: the share of images with the same best class, `top1`, and
    the differences of its probability.
    """
    if "classes" in expected[0]:
        return class_agreement(expected, predicted)
    pairs: List[Tuple[float, float]] = []
    count = given = extra = 0
    for wanted, got in zip(expected, predicted):
        sure = [row for row in wanted["detections"] if row["score"] >= SURE]
        count += len(sure)
        pairs += [(overlap, abs(row["score"] - other["score"])) for row, other, overlap in matches(sure, got)]
        sure = [row for row in got["detections"] if row["score"] >= SURE]
        given += len(sure)
        extra += len(sure) - len(matches(sure, wanted))
    ious, scores = np.array(pairs).reshape(-1, 2).T
    return {
        "images": len(expected),
        "expected": count,
        "found": round(len(pairs) / count, 4) if count else 1.0,
        "confirmed": round(1 - extra / given, 4) if given else 1.0,
        "extra": extra,
        **spread("iou", ious, np.min, 1.0),
        **spread("score", scores, np.max, 0.0),
        "ap": round(average_precision(expected, predicted), 4),
    }


def class_agreement(expected: Sequence[Dict[str, Any]], predicted: Sequence[Dict[str, Any]]) -> Dict[str, float]:
    """Computes the agreement of a classifier's records."""
    same, differences = 0, []
    for wanted, got in zip(expected, predicted):
        best = wanted["classes"][0]
        same += got["classes"][0]["class_id"] == best["class_id"]
        scores = [row["score"] for row in got["classes"] if row["class_id"] == best["class_id"]]
        differences.append(abs(best["score"] - (scores[0] if scores else 0.0)))
    top1 = round(same / len(expected), 4)
    return {"images": len(expected), "top1": top1, **spread("score", np.array(differences), np.max, 0.0)}


def spread(name: str, values: np.ndarray, worst: Any, without: float) -> Dict[str, float]:
    """Returns the mean and the worst of values, or `without` where there are none."""
    mean, extreme = (values.mean(), worst(values)) if len(values) else (without, without)
    return {name: round(float(mean), 4), f"{name}_worst": round(float(extreme), 4)}


def matches(
    rows: Sequence[Dict[str, Any]], record: Dict[str, Any]
) -> List[Tuple[Dict[str, Any], Dict[str, Any], float]]:
    """Pairs each row with the free detection of its class in `record` that overlaps it best, best score first: (row,
    detection, IoU)."""
    free = list(record["detections"])
    pairs = []
    for row in sorted(rows, key=lambda row: -row["score"]):
        candidates = [other for other in free if other["class_id"] == row["class_id"]]
        if not candidates:
            continue
        overlaps = iou_matrix(boxes_of([row]), boxes_of(candidates))[0]
        best = int(np.argmax(overlaps))
        if overlaps[best] >= FOUND_IOU:
            pairs.append((row, candidates[best], float(overlaps[best])))
            free.remove(candidates[best])
    return pairs


def boxes_of(rows: Sequence[Dict[str, Any]]) -> np.ndarray:
    """The boxes of detections, float64 [n,4]."""
    return np.array([row["box"] for row in rows], np.float64).reshape(-1, 4)


def average_precision(expected: Sequence[Dict[str, Any]], predicted: Sequence[Dict[str, Any]]) -> float:
    """Computes COCO's average precision with the expected sure detections as the truth; 1 where there are none.

    Expected detections that are not sure are ignored objects: to find one is neither right nor wrong.
    """
    classes = {row["class_id"] for record in expected for row in record["detections"] if row["score"] >= SURE}
    figures = [class_precision(expected, predicted, class_id, iou) for class_id in classes for iou in AP_IOUS]
    return float(np.mean(figures)) if figures else 1.0


def class_precision(
    expected: Sequence[Dict[str, Any]], predicted: Sequence[Dict[str, Any]], class_id: int, least_iou: float
) -> float:
    """Computes the average precision of a class at one IoU: the mean of the best precision at RECALLS or more."""
    hits: List[Tuple[float, bool]] = []
    count = 0
    for wanted, got in zip(expected, predicted):
        truth = [row for row in wanted["detections"] if row["class_id"] == class_id]
        sure = np.array([row["score"] >= SURE for row in truth], bool)
        count += int(sure.sum())
        rows = sorted((row for row in got["detections"] if row["class_id"] == class_id), key=lambda row: -row["score"])
        overlaps = iou_matrix(boxes_of(rows), boxes_of(truth))
        taken = np.zeros(len(truth), bool)
        for row, overlap in zip(rows, overlaps):
            free = np.where(taken | (overlap < least_iou), -1.0, overlap + sure)  # the sure ones come first
            best = int(np.argmax(free)) if len(truth) else 0
            if not len(truth) or free[best] < 0:
                hits.append((row["score"], False))
                continue
            taken[best] = True
            if sure[best]:
                hits.append((row["score"], True))
    hits.sort(key=lambda hit: -hit[0])
    right = np.cumsum([hit for _, hit in hits])
    recall, precision = right / count, right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.mean([envelope[index] if index < len(hits) else 0.0 for index in at]))


def disagreement(figures: Dict[str, float], precision: str) -> str:
    """Returns why the figures of `agreement` are too far apart for a precision; empty if they are not."""
    least_iou, most = TOLERANCES[precision]
    share, what = (figures["top1"], "best classes") if "top1" in figures else (figures["found"], "detections")
    if share < LEAST_SHARE:
        return f"{100 * share:.0f}% of the {what} are the CPU's, expected {100 * LEAST_SHARE:.0f}%"
    if figures.get("confirmed", 1.0) < LEAST_SHARE:
        return (
            f"the CPU has {100 * figures['confirmed']:.0f}% of the engine's detections ({figures['extra']} are the "
            f"engine's alone), expected {100 * LEAST_SHARE:.0f}%"
        )
    if not figures.get("iou", 1.0) >= least_iou:  # NaN is no agreement
        return f"the boxes' mean IoU with the CPU's is {figures['iou']:.3f}, expected {least_iou}"
    if not figures["score"] <= most:
        return f"the scores differ by {figures['score']:.3f} from the CPU's in the mean, expected {most} at most"
    return ""
