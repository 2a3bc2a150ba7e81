"""Tests the agreement of records: average precision against pycocotools, and the rest by hand."""

from pathlib import Path

import numpy as np
import pytest

from effedge.engines.proof.agreement import agreement, average_precision, disagreement


def box(x0=0.0, y0=0.0, x1=100.0, y1=100.0, score=0.9, class_id=1):
    return {"box": [x0, y0, x1, y1], "score": score, "class_id": class_id, "label": str(class_id)}


def detections(*rows):
    return {"detections": list(rows)}


def classes(*scores):
    return {"classes": [{"class_id": k, "label": f"c{k}", "score": s} for k, s in scores]}


def random_records(rng, images=12, missed=0.2, moved=4):
    """Expected detections of three classes, and predicted ones that miss some, add some and are a little off."""
    expected, predicted = [], []
    for _ in range(images):
        rows = []
        for _ in range(rng.integers(1, 9)):
            x, y, width, height = rng.integers(0, 300), rng.integers(0, 300), *rng.integers(20, 120, 2)
            class_id, score = int(rng.integers(0, 3)), round(float(rng.uniform(0.2, 1)), 3)
            rows.append(box(*map(float, (x, y, x + width, y + height)), score, class_id))
        others = [
            {
                **row,
                "box": [side + float(rng.normal() * moved) for side in row["box"]],
                "score": row["score"] * rng.uniform(0.8, 1.1),
            }
            for row in rows
            if rng.uniform() > missed
        ]
        others += [box(0.0, 0.0, 50.0, 50.0, float(rng.uniform(0.2, 0.6)), int(rng.integers(0, 3)))]
        expected.append(detections(*rows))
        predicted.append(detections(*others))
    return expected, predicted


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_pycocotools(seed):
    pytest.importorskip("pycocotools")
    from effedge.pipeline.datasets.records import DataSet, Record
    from effedge.pipeline.evaluation.coco_metrics import ImageDetections, coco_metrics

    expected, predicted = random_records(np.random.default_rng(seed))

    records, answers = [], []
    for wanted, got in zip(expected, predicted):
        boxes, scores, ids = arrays(wanted["detections"])
        areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32)
        records.append(Record(Path(), boxes.astype(np.float32), ids, areas, scores < 0.3))
        answers.append(ImageDetections(*arrays(got["detections"])))
    metrics = coco_metrics(DataSet("detection", list("abc"), records), answers)
    assert average_precision(expected, predicted) == pytest.approx(metrics.figures["AP"], abs=1e-4)
    assert 0.2 < metrics.figures["AP"] < 0.95


def arrays(rows):
    boxes = np.array([row["box"] for row in rows], float).reshape(-1, 4)
    return boxes, np.array([row["score"] for row in rows], float), np.array([row["class_id"] for row in rows], int)


def test_the_figures_of_detectors_by_hand():
    """Two of three are found, with IoUs 1 and 0.9 and scores 0 and 0.1 apart; one was not expected."""
    expected = [detections(box(), box(class_id=2)), detections(box(score=0.8), box(class_id=3, score=0.29))]
    predicted = [detections(box(), box(0, 0, 40, 40, class_id=2)), detections(box(x1=90.0, score=0.7))]
    figures = agreement(expected, predicted)
    assert figures == {
        "images": 2, "expected": 3, "found": 0.6667, "confirmed": 0.6667, "extra": 1, "iou": 0.95, "iou_worst": 0.9,
        "score": 0.05, "score_worst": 0.1, "ap": pytest.approx(0.475, abs=0.03),
    }  # fmt: skip


def test_the_figures_of_classifiers_by_hand():
    expected = [classes((3, 0.9), (1, 0.1)), classes((2, 0.6), (1, 0.4))]
    figures = agreement(expected, [classes((3, 0.8), (1, 0.2)), classes((1, 0.5), (2, 0.5))])
    assert figures == {"images": 2, "top1": 0.5, "score": 0.1, "score_worst": 0.1}


def test_where_nothing_is_expected_nothing_disagrees():
    figures = agreement([detections()], [detections()])
    assert (figures["found"], figures["iou"], figures["ap"]) == (1, 1, 1)
    assert disagreement(figures, "fp32") == ""


def test_detections_that_the_device_makes_up_are_no_agreement():
    """All 10 expected ones are found, and 2 more: 10 of 12."""
    rows = [box(class_id=number) for number in range(10)]
    made_up = [box(200.0, 200.0, 240.0, 240.0, class_id=number) for number in range(2)]
    figures = agreement([detections(*rows)], [detections(*rows, *made_up)])
    assert (figures["found"], figures["confirmed"], figures["extra"]) == (1, 0.8333, 2)
    assert disagreement(figures, "int8").startswith("the CPU has 83% of the engine's detections (2 are")
    figures = agreement([detections()], [detections(*made_up)])
    assert disagreement(figures, "int8").startswith("the CPU has 0% of")


def test_a_sure_detection_that_is_unsure_on_the_cpu_is_confirmed():
    figures = agreement([detections(box(score=0.28))], [detections(box(score=0.31))])
    assert (figures["confirmed"], figures["extra"]) == (1, 0) and disagreement(figures, "fp16") == ""


def test_a_detection_counts_for_one_only():
    figures = agreement([detections(box(), box(x1=99.0))], [detections(box())])
    assert figures["found"] == 0.5 and figures["extra"] == 0


@pytest.mark.parametrize(
    ("figures", "precision", "reason"),
    [
        ({"found": 1, "iou": 0.96, "score": 0.04}, "fp16", ""),
        ({"found": 0.94, "iou": 1, "score": 0}, "int8", "94% of the detections are the CPU's, expected 95%"),
        (
            {"found": 1, "confirmed": 0.9, "extra": 2, "iou": 1, "score": 0},
            "int8",
            "the CPU has 90% of the engine's detections (2 are the engine's alone), expected 95%",
        ),
        ({"top1": 0.9, "score": 0}, "int8", "90% of the best classes are the CPU's, expected 95%"),
        ({"found": 1, "iou": 0.96, "score": 0}, "fp32", "the boxes' mean IoU with the CPU's is 0.960, expected 0.98"),
        (
            {"top1": 1, "score": 0.2},
            "int8",
            "the scores differ by 0.200 from the CPU's in the mean",
        ),
    ],
)
def test_what_is_too_far_apart(figures, precision, reason):
    told = disagreement(figures, precision)
    assert told.startswith(reason) and bool(told) == bool(reason)
