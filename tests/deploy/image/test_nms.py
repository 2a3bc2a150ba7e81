"""NMS against the algorithm written out pair by pair in Python floats, and against hand-worked cases."""

import time

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.nms import choose_boxes, nms


def plain_iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def plain_nms(boxes, scores, class_ids, threshold, iou, max_detections) -> list:
    """One class at a time, the textbook way: take the best left, drop what overlaps it; then the best of all."""
    kept = []
    for class_id in sorted(set(class_ids)):
        left = [i for i in range(len(scores)) if class_ids[i] == class_id and scores[i] >= threshold]
        while left:
            best = left[0]
            for i in left:
                if scores[i] > scores[best]:
                    best = i
            kept.append(best)
            left = [i for i in left if i != best and plain_iou(boxes[i], boxes[best]) <= iou]
    return sorted(kept, key=lambda i: (-scores[i], i))[:max_detections]


def candidates(seed: int, count: int, classes: int, objects: int):
    """Boxes as a detector gives them: many around each of a few objects, some with equal scores. Whole pixels, so that
    an IoU of exactly one half happens and is exact in float32."""
    rng = np.random.default_rng(seed)
    centres, sides = rng.uniform(50, 450, (objects, 2)), rng.uniform(8, 100, (objects, 2))
    which = rng.integers(0, objects, count)
    centre = centres[which] + rng.normal(0, 6, (count, 2))
    side = sides[which] * rng.uniform(0.6, 1.4, (count, 2))
    boxes = np.round(np.concatenate([centre - side / 2, centre + side / 2], 1)).astype(np.float32)
    scores = np.round(rng.uniform(0, 1, count), 2).astype(np.float32)
    return boxes, scores, rng.integers(0, classes, count).astype(np.int32)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("count", "classes", "objects"), [(300, 3, 10), (1000, 90, 40), (60, 1, 60)])
@pytest.mark.parametrize(("threshold", "iou", "most"), [(0.05, 0.5, 100), (0.0, 0.3, 1000), (0.6, 0.7, 7)])
def test_equals_the_plain_algorithm(seed, count, classes, objects, threshold, iou, most):
    boxes, scores, class_ids = candidates(seed, count, classes, objects)
    kept = nms(boxes, scores, class_ids, threshold=threshold, iou=iou, max_detections=most)
    expected = plain_nms(boxes.tolist(), scores.tolist(), class_ids.tolist(), np.float32(threshold), iou, most)
    assert kept.tolist() == expected


def test_a_box_at_exactly_the_iou_stays_and_one_above_goes():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.01]])  # IoU with the first: 0.5 and 0.501
    assert nms(boxes[:2], np.float32([0.9, 0.8]), np.int32([0, 0]), threshold=0).tolist() == [0, 1]
    assert nms(boxes[[0, 2]], np.float32([0.9, 0.8]), np.int32([0, 0]), threshold=0).tolist() == [0]


def test_boxes_of_other_classes_do_not_suppress():
    boxes = np.float32([[0, 0, 10, 10]] * 3)
    assert nms(boxes, np.float32([0.5, 0.7, 0.6]), np.int32([0, 1, 0]), threshold=0).tolist() == [1, 2]


def test_a_suppressed_box_does_not_suppress():
    boxes = np.float32([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # neighbours overlap by 7/13, ends by 4/16
    assert nms(boxes, np.float32([0.9, 0.8, 0.7]), np.int32([0, 0, 0]), threshold=0).tolist() == [0, 2]


def test_equal_scores_go_by_index_whatever_their_number():
    boxes = np.float32([[i * 20, 0, i * 20 + 10, 10] for i in range(50)])
    kept = nms(boxes, np.full(50, 0.5, np.float32), np.zeros(50, np.int32), threshold=0.5, max_detections=30)
    assert kept.tolist() == list(range(30))


def test_scores_need_not_be_sorted_and_the_threshold_itself_counts():
    boxes = np.float32([[i * 20, 0, i * 20 + 10, 10] for i in range(4)])
    scores = np.float32([0.25, 0.9, np.nan, 0.5])
    assert nms(boxes, scores, np.zeros(4, np.int32), threshold=0.25).tolist() == [1, 3, 0]


def test_nothing_in_nothing_out():
    empty = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), threshold=0.0)
    none = nms(np.float32([[0, 0, 1, 1]]), np.float32([0.1]), np.int32([0]), threshold=0.5)
    assert empty.shape == none.shape == (0,)
    assert empty.dtype == none.dtype == np.int64


def test_boxes_without_area_suppress_nothing():
    boxes = np.float32([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    assert nms(boxes, np.float32([0.9, 0.8, 0.7]), np.int32([0, 0, 0]), threshold=0).tolist() == [0, 1, 2]


def test_a_thousand_candidates_take_milliseconds():
    boxes, scores, class_ids = candidates(0, 1000, 90, 40)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        nms(boxes, scores, class_ids, threshold=0.0)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.005  # about 0.4 ms; the margin is for slow and busy machines, a loop over pairs takes 500


@pytest.mark.parametrize("longer", ["boxes", "scores", "class_ids"])
def test_arrays_that_do_not_belong_together_are_refused(longer):
    """As in C++ (tests/deploy/native/letterbox_nms/test_library.py)."""
    arrays = {"boxes": np.zeros((3, 4), np.float32), "scores": np.ones(3, np.float32), "class_ids": np.zeros(3, int)}
    arrays[longer] = np.concatenate([arrays[longer]] * 2)
    with pytest.raises(UserError, match=r"expected \[K,4\], \[K\], \[K\]"):
        nms(*arrays.values(), threshold=0.5)
    with pytest.raises(UserError, match=r"expected \[K,4\], \[K\], \[K\]"):
        choose_boxes(*arrays.values(), (9, 9), 0.5, 0.5, 100)
