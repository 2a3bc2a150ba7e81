"""Tests the measure of two runs' outputs, with differences of known size."""

import numpy as np
import pytest

from effedge.engines.comparison.compare import EXACT_IOU
from effedge.engines.comparison.nearness import DIFFERENT, EQUAL, decibels, nearness

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(2, 3, 40)).astype(np.float32)


@pytest.mark.parametrize("share", [1e-1, 1e-2, 1e-3])
def test_noise_of_a_known_share_has_its_decibels(share):
    assert decibels(VALUES, VALUES * (1 + share)) == pytest.approx(-20 * np.log10(share), abs=0.01)


def test_equal_outputs_are_equal():
    assert decibels(VALUES, VALUES.copy()) == EQUAL
    with_nan = np.where(VALUES > 1, np.nan, np.where(VALUES < -1, -np.inf, VALUES))
    assert decibels(with_nan, with_nan.copy()) == EQUAL


@pytest.mark.parametrize(
    "other",
    [
        VALUES[:1],
        VALUES.astype(np.int64),
        np.where(VALUES > 1, np.nan, VALUES),
        np.where(VALUES > 1, np.inf, VALUES),
        None,
    ],
    ids=["shape", "kind", "NaN", "infinite", "missing"],
)
def test_what_is_no_rounding_is_different(other):
    assert decibels(VALUES, other) == DIFFERENT


def test_an_output_that_cancels_to_zero_is_held_to_an_absolute_difference():
    zero = np.zeros((1, 50), np.float32)
    assert decibels(zero, zero + 1e-7) > 60
    assert decibels(zero, zero + 1e-2) < 0


def test_one_integer_of_many_may_differ():
    classes = np.arange(1000)
    other = classes.copy()
    other[3] = 999
    assert decibels(classes, other) == EQUAL
    assert decibels(classes, classes[::-1].copy()) < 10


def candidates(count=20):
    boxes = np.stack([[x * 50, 0, x * 50 + 40, 40] for x in range(count)]).astype(np.float32)
    return {
        "boxes": boxes[None],
        "scores": np.linspace(0.9, 0.1, count, dtype=np.float32)[None],
        "classes": np.arange(count)[None] % 3,
    }


DETECTION = {"task": "detection"}


def test_candidates_of_almost_equal_score_may_change_places():
    expected, actual = candidates(), candidates()
    for outputs in (expected, actual):
        outputs["scores"] = outputs["scores"].copy()
        outputs["scores"][0, 4:6] = 0.7
    for name in ("boxes", "classes"):
        actual[name] = actual[name][:, [0, 1, 2, 3, 5, 4, *range(6, 20)]]
    assert nearness(expected, actual, DETECTION) == {"boxes": EQUAL, "scores": EQUAL, "classes": EQUAL}
    assert nearness(expected, actual, {})["boxes"] < 60


def test_boxes_elsewhere_are_different():
    actual = candidates()
    actual["boxes"] = actual["boxes"] + 500
    assert nearness(candidates(), actual, DETECTION)["boxes"] == DIFFERENT
    actual = candidates()
    actual["classes"] = actual["classes"] + 1
    assert nearness(candidates(), actual, DETECTION)["classes"] == DIFFERENT


def test_in_float32_boxes_are_the_same_but_for_rounding():
    expected, wider = candidates(), candidates()
    corners, ends = wider["boxes"][..., :2], wider["boxes"][..., 2:]
    wider["boxes"] = np.concatenate([corners, corners + 1.1 * (ends - corners)], axis=2)
    assert nearness(expected, wider, DETECTION)["boxes"] == EQUAL
    assert nearness(expected, wider, DETECTION, least_iou=EXACT_IOU)["boxes"] == DIFFERENT
    assert nearness(expected, candidates(), DETECTION, least_iou=EXACT_IOU)["boxes"] == EQUAL


def test_texts_are_the_same_whatever_type_of_array_holds_them():
    """ONNX Runtime gives objects, OpenVINO texts of one length."""
    expected = {"label": np.array(["cat", "dog"], dtype=object)}
    assert nearness(expected, {"label": np.array(["cat", "dog"])}, {})["label"] == EQUAL
    assert nearness(expected, {"label": np.array(["cat", "cow"])}, {})["label"] == DIFFERENT


@pytest.mark.parametrize("corners", [[2, 1, 0, 3], [0, 1, 0, 3], [0, 1, 0, 1]], ids=["swapped", "no width", "a point"])
def test_boxes_without_area_are_their_own_counterparts(corners):
    expected, moved = candidates(), candidates()
    expected["boxes"] = moved["boxes"] = expected["boxes"][:, :, corners]
    assert nearness(expected, expected, DETECTION)["boxes"] == EQUAL
    moved["boxes"] = moved["boxes"] + 500
    assert nearness(expected, moved, DETECTION)["boxes"] == DIFFERENT


def test_candidates_beneath_the_noise_of_scores_do_not_count():
    expected, actual = candidates(), candidates()
    expected["scores"] = np.full((1, 20), 0.5, np.float32)
    actual["scores"] = expected["scores"] + RNG.normal(size=(1, 20)).astype(np.float32) * 1e-4
    actual["boxes"] = actual["boxes"][:, ::-1]
    assert nearness(expected, actual, DETECTION)["boxes"] == EQUAL


def test_the_maximum_of_nothing_may_be_minus_infinity_or_the_lowest_number():
    lowest = np.finfo(np.float32).min
    infinite, finite = np.where(VALUES < -1, -np.inf, VALUES), np.where(VALUES < -1, lowest, VALUES)
    for expected, actual in ((infinite, finite), (finite, infinite), (finite, finite)):
        assert decibels(expected.astype(np.float32), actual.astype(np.float32)) == EQUAL
    assert decibels(infinite, -finite) == DIFFERENT
    assert decibels(infinite.astype(np.float32), np.where(VALUES < -1, -1e30, VALUES).astype(np.float32)) == DIFFERENT


def test_rows_that_a_model_selects_are_compared_in_any_order_and_number():
    rows = np.random.RandomState(0).uniform(0, 300, (20, 7)).astype(np.float32)
    expected = {"rows": rows}
    for actual in (rows[::-1], rows[[1, 0, *range(2, 20)]]):
        assert nearness(expected, {"rows": actual}, {})["rows"] < 60
        assert nearness(expected, {"rows": actual}, {}, ["rows"])["rows"] == EQUAL
        assert nearness({"rows": rows[None]}, {"rows": actual[None]}, {}, ["rows"])["rows"] == EQUAL
    assert nearness(expected, {"rows": rows[:19]}, {})["rows"] == DIFFERENT
    nearest = np.square(rows[:19] - rows[19]).sum(axis=1).min()
    wanted = 10 * np.log10((np.square(rows).sum() + np.square(rows[:19]).sum()) / nearest)
    assert nearness(expected, {"rows": rows[:19]}, {}, ["rows"])["rows"] == pytest.approx(wanted, abs=0.06)
    assert nearness(expected, {"rows": rows + 300}, {}, ["rows"])["rows"] < 5
    for other in (rows[:0], rows[:, :6], rows.astype(np.int32), rows * np.nan, "rows"):
        assert nearness(expected, {"rows": other}, {}, ["rows"])["rows"] == DIFFERENT
    assert nearness({"rows": rows[:0]}, {"rows": rows[:0]}, {}, ["rows"])["rows"] == EQUAL
    assert nearness({"places": np.arange(9)}, {"places": np.arange(9)[::-1]}, {}, ["places"])["places"] == EQUAL
    scores = {"scores": np.linspace(1, 0, 50, dtype=np.float32)[None]}  # sorted, so that their places count
    lower = {"scores": scores["scores"] * np.float32(0.9)}
    assert nearness(scores, lower, {}, ["scores"]) == nearness(scores, lower, {}) == {"scores": 20.0}
    assert nearness(scores, {"scores": scores["scores"][:, :49]}, {}, ["scores"])["scores"] > 30
