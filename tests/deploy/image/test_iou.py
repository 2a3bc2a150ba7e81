"""IoU of boxes: worked by hand, and against counted pixels."""

import numpy as np

from effedge.deploy.image.iou import iou_matrix


def test_iou_worked_by_hand():
    a = np.float32([[0, 0, 10, 10]])
    b = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 5], [10, 0, 20, 10], [2, 2, 4, 4]])
    np.testing.assert_allclose(iou_matrix(a, b)[0], [1, 50 / 150, 0.5, 0, 0.04])


def test_iou_is_that_of_counted_pixels():
    random = np.random.default_rng(0)
    corners = random.integers(0, 24, (12, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1) + 1], axis=1)

    def mask(box):
        canvas = np.zeros((32, 32), bool)
        canvas[box[1] : box[3], box[0] : box[2]] = True
        return canvas

    masks = [mask(box) for box in boxes]
    counted = [[(p & q).sum() / (p | q).sum() for q in masks] for p in masks]
    np.testing.assert_allclose(iou_matrix(boxes.astype(np.float32), boxes.astype(np.float32)), counted, rtol=1e-6)


def test_iou_of_boxes_without_extent_is_zero():
    assert iou_matrix(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)).tolist() == [[0.0]]


def test_no_boxes_have_no_pairs():
    assert iou_matrix(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    assert iou_matrix(np.zeros((3, 4)), np.zeros((0, 4))).shape == (3, 0)
