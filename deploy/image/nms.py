"""Runs greedy, class-aware non-maximum suppression in NumPy (the R-CNN post-processing that EfficientDet uses).

NMS stays outside the engine, because TensorRT 8 to 11 and TensorRT-RTX have no NMS in common.
"""

from typing import List, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError

# Candidates decided at once: with more there are fewer calls of NumPy, but more boxes compared for nothing. 64 is the
# number of bits of NumPy's largest integer.
BLOCK = 64


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    class_ids: np.ndarray,
    *,
    threshold: float,
    iou: float = 0.5,
    max_detections: int = 100,
) -> np.ndarray:
    """Returns the indices of the boxes to keep, int64 [n], best score first.

    A box goes when its IoU with a kept, better box of the same class is more than `iou` (at exactly `iou` it stays).
    Of equal scores the one with the lower index is the better. Boxes without area overlap nothing.

    Args:
        boxes: [K,4] xyxy, finite, any unit.
        scores: [K]; those below `threshold` are left out (NaN too).
        class_ids: [K] integers.

    Raises UserError for arrays of other shapes.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]], np.float32)
    >>> nms(boxes, np.array([0.5, 0.9, 0.8]), np.array([0, 0, 1]), threshold=0.1)
    array([1, 2])
    """
    check_candidates(boxes, scores, class_ids)
    candidates = np.flatnonzero(scores >= threshold)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    corners = np.ascontiguousarray(boxes[candidates].T, dtype=np.float32)
    class_ids = class_ids[candidates]
    low, high = corners[:2], corners[2:]  # (x0, y0) and (x1, y1), [2,n]
    areas = np.prod(high - low, axis=0)

    def suppresses(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
        """bool [better,worse]: True where the better box, if kept, removes the worse one."""
        sides = np.minimum(high[:, better, None], high[:, None, worse])
        sides -= np.maximum(low[:, better, None], low[:, None, worse])
        np.maximum(sides, 0, out=sides)
        intersections = sides[0] * sides[1]
        unions = areas[better, None] + areas[None, worse] - intersections
        return (intersections > iou * unions) & (class_ids[better, None] == class_ids[None, worse])

    kept: List[int] = []
    for start in range(0, len(candidates), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(candidates)))
        if kept:
            block = block[~suppresses(np.array(kept), block).any(axis=0)]
        kept += block[best_of_block(suppresses(block, block))].tolist()
        if len(kept) >= max_detections:
            break
    return candidates[kept[:max_detections]]


def choose_boxes(
    boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, size: Tuple[int, int], threshold: float, iou: float,
    max_detections: int,
) -> np.ndarray:  # fmt: skip
    """Chooses among a detector's candidates in one image; returns the indices, int64 [n], best first.

    Boxes are clipped to the part of the letterbox that the image fills, those left without area go, and `nms` chooses
    among the rest.

    Args:
        boxes: [K,4] xyxy in the letterbox's pixels.
        size: (height, width) of the part that the image fills.

    The others are those of `nms`.

    Raises UserError for arrays of other shapes.
    """
    check_candidates(boxes, scores, class_ids)
    height, width = size
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    visible = np.flatnonzero((clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))
    candidates = (clipped[visible], scores[visible], class_ids[visible])
    return visible[nms(*candidates, threshold=threshold, iou=iou, max_detections=max_detections)]


def check_candidates(boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray) -> None:
    """Raises UserError unless boxes are [K,4], scores [K] and class ids [K], which fit into 32 bits.

    C++ would read beyond the shortest of them, and NumPy leaves out the rest of a longer one.
    """
    shapes = [array.shape for array in (boxes, scores, class_ids)]
    if scores.ndim != 1 or shapes != [(len(scores), 4), (len(scores),), (len(scores),)]:
        found = ", ".join(str(list(shape)) for shape in shapes)
        raise UserError(
            f"the engine gives boxes, scores and classes of {found}, expected [K,4], [K], [K]: build it again"
        )
    limits = np.iinfo(np.int32)
    if len(class_ids) and not limits.min <= class_ids.min() <= class_ids.max() <= limits.max:
        raise UserError(f"the engine gives the class {class_ids.max()}, expected at most {limits.max}: build it again")


def best_of_block(suppresses: np.ndarray) -> List[int]:
    """Returns the indices of the boxes that stay of n boxes, best first, n <= BLOCK.

    Each row becomes one integer, so that the whole effect of a box is a single operation of Python's.

    Args:
        suppresses: bool [n,n], True where the box of the row, if it stays, removes the box of the column.
    """
    packed = np.packbits(suppresses, axis=1, bitorder="little")
    rows = np.zeros((len(packed), BLOCK // 8), np.uint8)
    rows[:, : packed.shape[1]] = packed
    masks = rows.view("<u8")[:, 0].tolist()
    stays, left = [], (1 << len(masks)) - 1
    while left:
        best = (left & -left).bit_length() - 1
        stays.append(best)
        left &= ~(masks[best] | 1 << best)
    return stays
