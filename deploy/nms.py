"""Greedy, class-aware non-maximum suppression in NumPy (the R-CNN post-processing that EfficientDet uses).

It stays outside the engine: no TensorRT from 8 to 11 and TensorRT-RTX has one NMS in common.
"""

import numpy as np


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    class_ids: np.ndarray,
    *,
    threshold: float,
    iou: float = 0.5,
    max_detections: int = 100,
) -> np.ndarray:
    """Indices of the boxes to keep, int64 [n], best score first.

    A box goes when its IoU with a kept, better box of the same class is more than `iou` (at exactly `iou` it stays).
    Of equal scores the one with the lower index is the better. Boxes without area overlap nothing.

    Args:
        boxes: [K,4] xyxy, finite, any unit.
        scores: [K]; those below `threshold` are left out (NaN too).
        class_ids: [K] integers.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]], np.float32)
    >>> nms(boxes, np.array([0.5, 0.9, 0.8]), np.array([0, 0, 1]), threshold=0.1)
    array([1, 2])
    """
    candidates = np.flatnonzero(scores >= threshold)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    corners = np.ascontiguousarray(boxes[candidates].T, dtype=np.float32)
    class_ids = class_ids[candidates]
    low, high = corners[:2], corners[2:]  # (x0, y0) and (x1, y1), [2,n]
    areas = np.prod(high - low, axis=0)
    gone = np.zeros(len(candidates), bool)
    kept = []
    for index in range(len(candidates)):
        if gone[index]:
            continue
        kept.append(index)
        if len(kept) == max_detections:
            break
        rest = slice(index + 1, None)  # the better ones are decided already
        here = slice(index, index + 1)
        sides = np.minimum(high[:, rest], high[:, here]) - np.maximum(low[:, rest], low[:, here])
        np.maximum(sides, 0, out=sides)
        intersections = sides[0] * sides[1]
        unions = areas[rest] + areas[index] - intersections
        gone[rest] |= (intersections > iou * unions) & (class_ids[rest] == class_ids[index])
    return candidates[kept]
