"""Whether an engine finds what it should in the bundled picture: expected detections, or classes, against found ones.

Both are records as `effedge predict --json` writes them. The expected ones are the same ONNX's on another runtime, so
that they agree only within a tolerance: of the overlap of boxes (IoU), and of scores.
"""

from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np

SURE = 0.3  # the lowest score of what must be found; what lies within the tolerance below it may be
# By precision: the least IoU, and the largest difference of scores.
TOLERANCES = {"fp32": (0.98, 0.02), "fp16": (0.95, 0.05), "int8": (0.9, 0.1)}


class Outcome(NamedTuple):
    """expected: how many had to be found. iou, score: the worst of the pairs (1 and 0 without any). problems: what
    does not agree, in words."""

    expected: int
    iou: float
    score: float
    problems: List[str]


def compare(expected: Dict[str, Any], found: Dict[str, Any], precision: str) -> Outcome:
    """Two records of one picture. Whatever is sure in the one must have its like in the other."""
    if "classes" in expected:
        return compare_classes(expected["classes"], found["classes"], TOLERANCES[precision][1])
    return compare_detections(expected["detections"], found["detections"], *TOLERANCES[precision])


def compare_detections(
    expected: Sequence[Dict[str, Any]], found: Sequence[Dict[str, Any]], least_iou: float, most_apart: float
) -> Outcome:
    iou, apart = 1.0, 0.0
    problems = []
    for one, other, verb in ((expected, found, "not found"), (found, expected, "not expected")):
        for row in one:
            if row["score"] < SURE:
                continue
            likes = [like for like in other if like["class_id"] == row["class_id"]]
            overlaps = [overlap(row["box"], like["box"]) for like in likes]
            if not overlaps or max(overlaps) < least_iou:
                nearest = f"; nearest at IoU {max(overlaps):.3f}" if overlaps else ""
                problems.append(f"'{row['label']}' ({row['score']:.2f}) at {row['box']} was {verb}{nearest}")
                continue
            best = int(np.argmax(overlaps))
            difference = abs(likes[best]["score"] - row["score"])
            iou, apart = min(iou, overlaps[best]), max(apart, difference)
            if difference > most_apart:
                problems.append(f"'{row['label']}' at {row['box']}: scores {row['score']} and {likes[best]['score']}")
    return Outcome(sum(row["score"] >= SURE for row in expected), iou, apart, problems)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The IoU of two boxes, xyxy.

    >>> overlap([0, 0, 2, 2], [0, 0, 2, 1])
    0.5
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common) if common else 0.0


def compare_classes(expected: Sequence[Dict[str, Any]], found: Sequence[Dict[str, Any]], most_apart: float) -> Outcome:
    """The best class of each must be among the five best of the other, with its probability."""
    apart = 0.0
    problems = []
    for one, other, verb in ((expected, found, "not found"), (found, expected, "not expected")):
        best = one[0]
        likes = [row["score"] for row in other if row["class_id"] == best["class_id"]]
        if not likes:
            problems.append(f"'{best['label']}' ({best['score']:.2f}) was {verb}")
            continue
        apart = max(apart, abs(likes[0] - best["score"]))
        if abs(likes[0] - best["score"]) > most_apart:
            problems.append(f"'{best['label']}': probabilities {best['score']} and {likes[0]}")
    return Outcome(1, 1.0, apart, problems)
