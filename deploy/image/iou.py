"""Computes the intersection over union (IoU) of boxes.

Two places compute it in their own way. `nms` compares the intersection with a share of the union, without a division,
in the float32 operations of its C++ and CUDA twins. `pipeline/datasets/anchor_fit.py` takes an anchor's area from its
shape rather than from its corners, which differs in the last bits.
"""

import numpy as np

LEAST_UNION = 1e-9  # so that boxes without area do not divide by zero


def iou_matrix(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Computes the IoU of every pair: boxes [n,4] and others [m,4], both xyxy in one unit -> [n,m].

    Boxes without area overlap nothing.

    >>> iou_matrix(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [2, 0, 4, 2]]))
    array([[0.5, 0. ]])
    """
    # Coordinate by coordinate: an axis of four or two in the innermost loop is five times as slow.
    left, top, right, bottom = boxes.T[..., None]
    other_left, other_top, other_right, other_bottom = np.ascontiguousarray(others.T)
    width = np.minimum(right, other_right) - np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    areas, other_areas = (right - left) * (bottom - top), (other_right - other_left) * (other_bottom - other_top)
    return intersection / np.maximum(areas + other_areas - intersection, LEAST_UNION)
