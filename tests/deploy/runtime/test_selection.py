"""Selection of the candidates that are reported: values out of range, classes by name and id, NMS across classes."""

import numpy as np
import pytest

from effedge import Detector
from effedge.deploy.common.cli import UserError
from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.native.letterbox_nms.library import load_letterbox_nms
from effedge.deploy.runtime.selection import Selection, class_ids
from tests.deploy.image.test_nms import candidates, plain_nms

LABELS = ["cat", "dog", "2", "dog"]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None])
def test_a_threshold_outside_0_to_1_is_refused_before_the_engine_is_loaded(threshold):
    with pytest.raises(UserError, match=r"threshold=.*from 0 to 1"):
        Detector("nowhere", threshold=threshold)
    if threshold is not None:  # no IoU is the model's own
        with pytest.raises(UserError, match=r"iou=.*from 0 to 1"):
            Detector("nowhere", iou=threshold)


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "3"])
def test_max_detections_is_a_whole_number(most):
    with pytest.raises(UserError, match="max_detections"):
        Selection(max_detections=most).check()


def test_the_ends_of_the_ranges_are_allowed():
    for value in (0, 1, np.float32(0.5)):
        Selection(value, value, np.int64(1)).check()


def test_the_defaults_are_those_of_effedge_predict(build, monkeypatch):
    from effedge.deploy import predict

    defaults = Detector(build()).selection
    assert (defaults.threshold, defaults.max_detections) == (predict.THRESHOLD, predict.MAX_DETECTIONS) == (0.3, 100)


@pytest.mark.parametrize(
    ("classes", "ids"),
    [(None, None), ("cat", [0]), (["dog"], [1, 3]), (["2"], [2]), (["0", 2, "cat"], [0, 2]), (3, [3]), ({0, 1}, [0, 1]),
     (np.array([1, 2]), [1, 2])],
)  # fmt: skip
def test_classes_by_label_or_id(classes, ids):
    assert class_ids(classes, LABELS) == ids


@pytest.mark.parametrize(
    ("classes", "words"),
    [(["cow"], "unknown class 'cow'"), ([4], "from 0 to 3"), (["9"], "from 0 to 3"), ([-1], "from 0 to 3"),
     ([], "no classes"), ([True], "True"), ([None], "None"), ([0.5], "0.5")],
)  # fmt: skip
def test_classes_that_do_not_exist(classes, words):
    with pytest.raises(UserError, match=words):
        class_ids(classes, LABELS)


def with_candidates(detector, monkeypatch, boxes, scores, classes):
    outputs = {"boxes": boxes[None], "scores": scores[None], "classes": classes[None]}
    monkeypatch.setattr(detector.engine, "backend", lambda feeds: outputs)
    return detector(np.zeros((512, 512, 3), np.uint8))


@pytest.mark.parametrize("library", [None, "compiled"])
@pytest.mark.parametrize("seed", range(5))
def test_across_classes_it_is_plain_nms_over_all_candidates(build, monkeypatch, seed, library):
    """Against the textbook's algorithm with one class for all; a box that falls to one of another class suppresses
    nothing, so NMS over the results of the class-aware one would differ."""
    boxes, scores, classes = candidates(seed, 300, 3, 10)
    detector = Detector(build(size=(512, 512)), threshold=0.05, class_agnostic=True)
    if library and load_letterbox_nms() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(detector, "choose_boxes", load_letterbox_nms().choose_boxes if library else choose_boxes)
    result = with_candidates(detector, monkeypatch, boxes, scores, classes)
    boxes = np.clip(boxes, 0, 512)
    expected = plain_nms(boxes.tolist(), scores.tolist(), [0] * 300, np.float32(0.05), 0.5, 100)
    np.testing.assert_array_equal(result.boxes, boxes[expected])
    assert result.classes.tolist() == classes[expected].tolist()
    by_class = plain_nms(boxes.tolist(), scores.tolist(), classes.tolist(), np.float32(0.05), 0.5, 100)
    assert len(by_class) > len(expected)


def test_one_object_is_reported_once_as_its_best_class(build, monkeypatch):
    boxes = np.float32([[10, 10, 60, 60], [12, 10, 60, 62], [11, 9, 58, 60]])
    scores, classes = np.float32([0.6, 0.9, 0.5]), np.int32([0, 1, 2])
    found = with_candidates(Detector(build(size=(64, 64)), class_agnostic=True), monkeypatch, boxes, scores, classes)
    assert found.labels == ["green"]
    assert len(with_candidates(Detector(build(name="b")), monkeypatch, boxes, scores, classes)) == 3


def test_a_class_that_is_not_asked_for_suppresses_nothing_and_fills_no_place(build, monkeypatch):
    boxes = np.float32([[10, 10, 60, 60], [12, 10, 60, 62], [0, 0, 5, 5]])
    scores, classes = np.float32([0.6, 0.9, 0.5]), np.int32([0, 1, 2])
    detector = Detector(build(), threshold=0, classes=["red", 2], class_agnostic=True, max_detections=2)
    assert with_candidates(detector, monkeypatch, boxes, scores, classes).labels == ["red", "blue"]
    detector = Detector(build(name="b"), threshold=0, classes="green")
    assert with_candidates(detector, monkeypatch, boxes, scores, classes).labels == ["green"]
