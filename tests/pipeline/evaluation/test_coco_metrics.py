"""COCO's figures, against cases that can be worked out by hand and against pycocotools on its own files."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from effedge.pipeline.datasets.records import DataSet, Record
from effedge.pipeline.evaluation.coco_metrics import ImageDetections, coco_metrics


def record(boxes, class_ids, ignored=None):
    boxes = np.float32(boxes).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Record(Path("x.jpg"), boxes, np.array(class_ids), areas, np.array(ignored or [False] * len(boxes)))


def detections(boxes, scores, class_ids):
    return ImageDetections(np.float32(boxes).reshape(-1, 4), np.float32(scores), np.array(class_ids, np.int64))


NOTHING = detections([], [], [])
LARGE, SMALL = [0, 0, 200, 100], [300, 0, 320, 20]


def test_perfect_answers_score_one_and_absent_sizes_have_no_figure(capsys):
    data = DataSet("detection", ["cat", "dog", None, "eel"], [record([LARGE, SMALL], [0, 3])])
    metrics = coco_metrics(data, [detections([LARGE, SMALL], [0.9, 0.8], [0, 3])])
    assert metrics.figures == {
        "AP": 1.0, "AP50": 1.0, "AP75": 1.0, "AP small": 1.0, "AP medium": None, "AP large": 1.0, "AR100": 1.0,
    }  # fmt: skip
    assert metrics.per_class == {"cat": 1.0, "dog": None, "eel": 1.0}
    assert capsys.readouterr().out == ""


def test_a_box_that_overlaps_by_seven_tenths_counts_for_five_of_ten_thresholds():
    data = DataSet("detection", ["cat"], [record([[0, 0, 100, 100]], [0])])
    metrics = coco_metrics(data, [detections([[0, 0, 100, 72]], [0.5], [0])])  # IoU 0.72: 0.50, 0.55, ..., 0.70
    assert metrics.figures["AP"] == pytest.approx(0.5)
    assert metrics.figures["AP50"] == 1.0 and metrics.figures["AP75"] == 0.0


def test_a_better_scored_mistake_halves_the_precision():
    data = DataSet("detection", ["cat"], [record([LARGE], [0])])
    metrics = coco_metrics(data, [detections([SMALL, LARGE], [0.9, 0.1], [0, 0])])
    assert metrics.figures["AP"] == pytest.approx(0.5)


def test_the_right_box_of_the_wrong_class_or_in_the_wrong_image_is_nothing():
    data = DataSet("detection", ["cat", "dog"], [record([LARGE], [0]), record([], [])])
    assert coco_metrics(data, [detections([LARGE], [0.9], [1]), NOTHING]).figures["AP"] == 0.0
    assert coco_metrics(data, [NOTHING, detections([LARGE], [0.9], [0])]).figures["AP"] == 0.0
    assert coco_metrics(data, [NOTHING, NOTHING]).figures["AP"] == 0.0


def test_an_ignored_object_is_neither_missed_nor_a_mistake():
    data = DataSet("detection", ["cat"], [record([LARGE, SMALL], [0, 0], [False, True])])
    assert coco_metrics(data, [detections([LARGE], [0.9], [0])]).figures["AP"] == 1.0
    assert coco_metrics(data, [detections([SMALL, LARGE], [0.9, 0.8], [0, 0])]).figures["AP"] == 1.0


def test_pycocotools_says_the_same_of_its_own_files(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)
    truth, answers, records, results = [], [], [], []
    for image_id in range(1, 31):
        corner = random.uniform(0, 300, (6, 2))
        boxes = np.float32(np.concatenate([corner, corner + random.uniform(5, 150, (6, 2))], 1))
        classes = random.integers(0, 3, 6)
        ignored = random.random(6) < 0.1
        records.append(record(boxes, classes, ignored.tolist()))
        near = np.float32(boxes + random.normal(0, 4, boxes.shape))
        scores = np.float32(random.random(6))
        results.append(detections(near, scores, classes))
        for box, class_id, crowd in zip(boxes.tolist(), classes.tolist(), ignored.tolist(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            truth.append({
                "id": len(truth) + 1, "image_id": image_id, "category_id": class_id * 10 + 5, "bbox": bbox,
                "area": bbox[2] * bbox[3], "iscrowd": int(crowd),
            })  # fmt: skip
        for box, class_id, score in zip(near.tolist(), classes.tolist(), scores.tolist(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            answers.append({"image_id": image_id, "category_id": class_id * 10 + 5, "bbox": bbox, "score": score})
    categories = [{"id": class_id * 10 + 5, "name": str(class_id)} for class_id in range(3)]
    images = [{"id": image_id} for image_id in range(1, 31)]
    content = {"images": images, "annotations": truth, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "answers.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = coco_metrics(DataSet("detection", ["0", "1", "2"], records), results)
    expected = evaluation.stats[[0, 1, 2, 3, 4, 5, 8]]
    assert 0.1 < expected[0] < 0.9
    np.testing.assert_allclose(list(metrics.figures.values()), expected, atol=1e-6)
    assert np.mean(list(metrics.per_class.values())) == pytest.approx(expected[0], abs=1e-6)
