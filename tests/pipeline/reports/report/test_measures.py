"""The figures of a report, against cases worked out by hand and scikit-learn."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.classification import Classification
from effedge.pipeline.datasets.records import DataSet, Record, class_record
from effedge.pipeline.evaluation.coco_metrics import ImageDetections, coco_metrics
from effedge.pipeline.reports.report import detection as detectors
from effedge.pipeline.reports.report.accuracy import Row, by_change, confused_pairs, confusion, misses
from effedge.pipeline.reports.report.changes import detection_changes
from effedge.pipeline.reports.report.classification import measure_classifier
from effedge.pipeline.reports.report.figures import LEFT, RIGHT, TOP, WIDTH, histogram, line_chart

MODULES = ("figures", "render", "detection", "provenance")
A, B, C = [0, 0, 20, 20], [30, 0, 50, 20], [0, 30, 20, 50]


def record(boxes, class_ids, ignored=None):
    boxes = np.float32(boxes).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Record(Path("x.jpg"), boxes, np.array(class_ids), areas, np.array(ignored or [False] * len(boxes)))


def found(boxes, scores, class_ids):
    return ImageDetections(np.float32(boxes).reshape(-1, 4), np.float32(scores), np.array(class_ids, np.int64))


@pytest.mark.parametrize("name", MODULES)
def test_the_docstrings_examples(name):
    module = importlib.import_module(f"effedge.pipeline.reports.report.{name}")
    assert doctest.testmod(module).failed == 0


def test_precision_recall_and_f1_by_threshold():
    data = DataSet("detection", ["cat"], [record([A, B], [0, 0])])
    measured = detectors.measure_detector(data, [found([A, C, B], [0.9, 0.6, 0.4], [0, 0, 0])])
    points = measured.points

    def at(threshold):
        index = round(100 * threshold)
        return points.precision[index], points.recall[index], points.f1[index]

    assert at(0.7) == pytest.approx((1, 1 / 2, 2 / 3))
    assert at(0.5) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert at(0.3) == pytest.approx((2 / 3, 1, 4 / 5))
    assert np.isnan(at(0.95)[0]) and at(0.95)[1:] == (0, 0)
    assert 0 <= detectors.THRESHOLDS[points.best] <= 0.4 and points.f1[points.best] == pytest.approx(0.8)


def test_the_precision_curve_has_cocos_ap():
    rng = np.random.default_rng(0)
    records, images = [], []
    for _ in range(20):
        corners = rng.integers(0, 200, (6, 2))
        boxes = np.concatenate([corners, corners + rng.integers(20, 60, (6, 2))], 1)
        records.append(record(boxes, rng.integers(0, 3, 6)))
        images.append(found(boxes + rng.integers(-8, 9, (6, 4)), rng.random(6), rng.integers(0, 3, 6)))
    data = DataSet("detection", ["cat", "dog", "eel"], records)
    figures, measured = coco_metrics(data, images).figures, detectors.measure_detector(data, images)
    assert measured.metrics.figures == figures
    assert measured.curves[0.5].mean() == pytest.approx(figures["AP50"], abs=1e-6)
    assert measured.curves[0.75].mean() == pytest.approx(figures["AP75"], abs=1e-6)


def test_a_class_that_is_taken_for_another_is_off_the_diagonal():
    data = DataSet("detection", ["cat", "dog"], [record([A, B, C], [0, 1, 1], [False, False, True])])
    image = found([A, A, [60, 0, 80, 20], C, B], [0.9, 0.8, 0.7, 0.6, 0.1], [1, 1, 0, 0, 1])
    # The cat is taken for a dog, twice: the second one has no object. A cat is where nothing is. What lies on the
    # ignored dog does not count. The dog's own detection is below the threshold.
    assert detectors.confusion_matrix(data, [image], 0.5).tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert detectors.confusion_matrix(data, [image], 0.05).tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 0]]


def test_the_right_class_is_matched_before_the_larger_overlap():
    data = DataSet("detection", ["cat", "dog"], [record([A], [0])])
    image = found([A, [0, 0, 20, 16]], [0.9, 0.8], [1, 0])
    assert detectors.confusion_matrix(data, [image], 0.5).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_objects_are_counted_by_size_and_class_without_the_ignored():
    data = DataSet("detection", ["cat", "dog"], [record([A, [0, 0, 50, 50], [0, 0, 99, 99], B], [0, 1, 1, 0],
                                                        [False, False, False, True])])  # fmt: skip
    assert detectors.objects_by_size(data) == {"small": 1, "medium": 1, "large": 1}
    assert detectors.objects_by_class(data) == [1, 2]


def test_images_without_objects_are_an_error():
    data = DataSet("detection", ["cat"], [record([A], [0], [True])])
    with pytest.raises(UserError, match="no labelled object that counts"):
        detectors.measure_detector(data, [found([], [], [])])


def test_a_detection_is_lost_or_new_by_the_threshold_and_counts_by_its_score():
    reference = found([A, B], [0.9, 0.5], [0, 0])
    other = found([A, B, C], [0.3, 0.45, 0.8], [0, 0, 1])
    changes = detection_changes(reference, other, 0.4)
    assert [(each.lost, each.index) for each in changes] == [(False, 2), (True, 0)]
    assert changes[1].before == pytest.approx(0.9) and changes[1].after == pytest.approx(0.3)
    assert detection_changes(reference, reference, 0.4) == []
    moved = found([A, B], [0.9, 0.5], [1, 0])  # another class is another detection
    assert {(each.lost, each.index) for each in detection_changes(reference, moved, 0.4)} == {(True, 0), (False, 0)}


def test_a_classifiers_confusions_are_scikit_learns():
    rng = np.random.default_rng(1)
    truth, best = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    data = DataSet("classification", list("abcd"), [class_record(Path("x"), class_id) for class_id in truth])
    results = [Classification([10 + each, 3], [str(each), "x"], [0.7, 0.1]) for each in best]
    measured = measure_classifier(data, [10, 11, 12, 13], results)
    assert measured.confusion[:4, :4].tolist() == sklearn_confusion(truth, best).tolist()
    assert measured.figures["top-1"] == pytest.approx((truth == best).mean()) and not measured.confusion[4:].any()
    assert measured.per_class[2] == pytest.approx((best[truth == 2] == 2).mean())


def test_a_result_of_a_class_that_the_data_lacks_has_its_column():
    data = DataSet("classification", ["a", "b"], [class_record(Path("x"), 0)])
    measured = measure_classifier(data, [0, None], [Classification([7], ["z"], [1.0])])
    shown = confusion(measured.confusion, ["a", "b", ""], ["a", "b", "a class that the data does not have"])
    assert shown.rows == ["a", "b"] and shown.counts == [[0, 0, 1], [0, 0, 0]]
    assert measured.per_class == [0.0, None]


def test_the_pairs_that_are_confused_most():
    first, second = np.array([[9, 2, 0], [1, 9, 0], [0, 0, 9]]), np.array([[9, 0, 0], [4, 9, 0], [0, 0, 9]])
    pairs = confused_pairs([first, second], ["a", "b", "c"], ["a", "b", "c"])
    assert pairs == [("b", "a", [1, 4]), ("a", "b", [2, 0])]


def test_what_detectors_miss_and_invent_is_counted_over_all_classes():
    matrix = np.array([[9, 2, 3], [1, 9, 4], [5, 6, 0]])
    assert misses([matrix]) == [("any class", "not found", [7]), ("background", "any class", [11])]


def test_many_classes_come_by_their_change_and_few_in_their_order():
    rows = [Row(str(index), 1, [0.5, 0.5 - index / 100]) for index in range(21)]
    assert [row.name for row in by_change(rows)][:2] == ["20", "19"]
    assert by_change(rows[:20]) == rows[:20]
    assert Row("x", 1, [None, 0.5]).changes == [None, None]


def test_a_curve_spans_the_axes():
    ends = {(2, "x"): (np.array([0.0, 0.5, 1.0]), np.array([1.0, np.nan, 0.0]))}
    chart = line_chart("title", ("x", "y"), ends, {})
    assert chart.curves[0].points.split() == [f"{LEFT:.1f},{TOP:.1f}", f"{WIDTH - RIGHT:.1f},194.0"]


def test_a_histogram_holds_every_run():
    chart = histogram("x", 0, [1.0, 1.0, 2.0, 99.0], {"p50": 1.5}, (0.0, 10.0))
    heights = sorted(height for *_, height in chart.bars)
    assert len(heights) == 3 and heights[2] == pytest.approx(2 * heights[0]) and chart.y_ticks[-1].label == "2"
