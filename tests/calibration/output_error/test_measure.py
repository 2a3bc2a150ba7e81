"""The judges of outputs: against plain loops, SciPy's Kullback-Leibler divergence, and cases by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import rel_entr, softmax

from effedge.calibration.output_error.kinds import choose_judges
from effedge.calibration.output_error.measure import (
    OutputError,
    classification_error,
    detection_error,
    error_over_variance,
    label_error,
)
from tests.calibration import networks

Load = Callable[[networks.Network], ir.Model]
Candidates = list[np.ndarray]  # boxes [N,K,4], scores [N,K], classes [N,K]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def agreement(one: Candidates, other: Candidates, row: int) -> float:
    total = 0.0
    for box, score, label in zip(*(array[row] for array in one), strict=True):
        for box2, score2, label2 in zip(*(array[row] for array in other), strict=True):
            total += float(score) * float(score2) * iou(box, box2) * (label == label2)
    return total


def plain_error(expected: Candidates, got: Candidates) -> float:
    rows = range(len(expected[0]))
    own = sum(agreement(expected, expected, row) for row in rows)
    error = sum(
        agreement(expected, expected, row) - 2 * agreement(expected, got, row) + agreement(got, got, row)
        for row in rows
    )
    return error / own


def candidates(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Candidates:
    return [np.float32([boxes]), np.float32([scores]), np.int64([classes])]


def random_candidates(seed: int, batch: int = 2, count: int = 12) -> Candidates:
    """Boxes that overlap, but no two of one class by half, so that NMS takes none away."""
    random = np.random.default_rng(seed)
    boxes, classes = np.zeros((batch, count, 4), np.float32), np.zeros((batch, count), np.int64)
    for row in range(batch):
        index = 0
        while index < count:
            corner, size = random.uniform(0, 60, 2), random.uniform(10, 40, 2)
            box, label = np.float32([*corner, *(corner + size)]), random.integers(3)
            near = [iou(box, boxes[row, i]) for i in range(index) if classes[row, i] == label]
            if max(near, default=0) < 0.4:
                boxes[row, index], classes[row, index] = box, label
                index += 1
    return [boxes, random.uniform(0.1, 1, (batch, count)).astype(np.float32), classes]


@pytest.mark.parametrize("seed", range(4))
def test_of_detections_it_is_the_double_sum_over_all_pairs(seed: int) -> None:
    expected, got = random_candidates(seed), random_candidates(seed + 100)
    assert detection_error(expected, got) == pytest.approx(plain_error(expected, got), rel=1e-5)
    moved = [expected[0] + np.float32(0.7), expected[1] * np.float32(0.9), expected[2]]
    assert detection_error(expected, moved) == pytest.approx(plain_error(expected, moved), rel=1e-5)
    assert 0 < detection_error(expected, moved) < 0.5


def test_of_detections_it_is_0_for_the_same_in_any_order_and_1_for_none() -> None:
    expected = random_candidates(7)
    order = np.random.default_rng(0).permutation(expected[0].shape[1])
    assert detection_error(expected, expected) == 0
    assert detection_error(expected, [array[:, order] for array in expected]) == pytest.approx(0, abs=1e-12)
    assert detection_error(expected, [expected[0], 0 * expected[1], expected[2]]) == pytest.approx(1)


BOX, OTHER, HALF = [0.0, 0.0, 20.0, 10.0], [50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("got", "error"),
    [
        pytest.param(candidates([BOX], [0.8], [1]), 2, id="another class: the lost one and the wrong one"),
        pytest.param(candidates([BOX], [0.4], [0]), 0.25, id="half the score"),
        pytest.param(candidates([HALF], [0.8], [0]), 1, id="half the box: 1 - 2 / 2 + 1"),
        pytest.param(candidates([OTHER], [0.8], [0]), 2, id="elsewhere"),
        pytest.param(candidates([BOX, OTHER], [0.8, 0.4], [0, 0]), 0.25, id="one too many"),
        pytest.param(candidates([BOX, BOX], [0.8, 0.7], [0, 0]), 0, id="a double that NMS takes away"),
        pytest.param(candidates([BOX, OTHER], [0.8, 0.001], [0, 0]), 0, id="one too weak to be looked at"),
    ],
)
def test_of_one_detection_by_hand(got: Candidates, error: float) -> None:
    assert detection_error(candidates([BOX], [0.8], [0]), got) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("part", [0, 1], ids=["boxes", "scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_candidates_that_are_no_numbers_are_as_good_as_not_there(part: int, value: float) -> None:
    expected = candidates([BOX, OTHER], [0.8, 0.4], [0, 0])
    got = [array.copy() for array in expected]
    got[part][0, 1] = value
    assert detection_error(expected, got) == pytest.approx(0.4**2 / (0.8**2 + 0.4**2))
    got[part][...] = value
    assert detection_error(expected, got) == pytest.approx(1)


def test_where_the_float_model_finds_nothing_it_is_finite() -> None:
    nothing, something = candidates([BOX], [0.0], [0]), candidates([BOX], [0.5], [0])
    assert detection_error(nothing, nothing) == 0
    assert 0 < detection_error(nothing, something) < 30  # not a thousand times a detection: it is a mean with others


def test_of_logits_it_is_scipys_divergence_over_that_of_a_guess() -> None:
    random = np.random.default_rng(0)
    expected = random.normal(0, 3, (4, 10)).astype(np.float32)
    got = (expected + random.normal(0, 0.5, (4, 10))).astype(np.float32)
    p, q = softmax(expected.astype(np.float64), axis=1), softmax(got.astype(np.float64), axis=1)
    wanted = rel_entr(p, q).sum() / rel_entr(p, np.full_like(p, 0.1)).sum()
    assert classification_error(expected, got) == pytest.approx(wanted, rel=1e-9)
    assert classification_error(expected, expected + 7) == pytest.approx(0, abs=1e-6)  # softmax is the same
    assert classification_error(expected, np.zeros_like(expected)) == pytest.approx(1)
    ruled_out = np.float32([[1, 2, -np.inf], [3, 1, -np.inf]])  # a class that the float model rules out
    assert classification_error(ruled_out, ruled_out) == 0
    assert classification_error(ruled_out, ruled_out + np.float32([1, 0, 0])) == pytest.approx(
        classification_error(ruled_out[:, :2], ruled_out[:, :2] + np.float32([1, 0]))
    )
    assert np.isfinite(classification_error(np.float32([[900, -900, 0]]), np.float32([[-900, 900, 0]])))
    assert np.isfinite(classification_error(np.zeros((1, 3), np.float32), np.float32([[1, 2, 3]])))


def test_of_a_tensor_by_itself_it_is_the_squared_error_over_the_variance() -> None:
    one = np.float32([[1, 3]])
    assert error_over_variance(one, one) == 0
    assert error_over_variance(one, np.float32([[2, 2]])) == pytest.approx(1)  # as bad as its mean
    assert error_over_variance(one, np.float32([[1, 2]])) == pytest.approx(0.5)
    constant = np.full(4, 5, np.float32)  # no variance: over the power
    assert error_over_variance(constant, constant * 0) == pytest.approx(1)
    infinite = np.float32([1, 3, np.inf])  # the float model's own infinity says nothing
    assert error_over_variance(infinite, np.float32([1, 2, np.inf])) == pytest.approx(0.5)
    assert error_over_variance(np.zeros((0, 4)), np.zeros((0, 4))) == 0


def test_of_labels_it_is_the_share_that_differs_over_that_of_the_rarer_labels() -> None:
    """A segmentation's labels: one of four pixels is no road."""
    labels = np.int64([[7, 7, 7, 2]])
    assert label_error(labels, labels) == 0
    assert label_error(labels, np.int64([[7, 7, 7, 7]])) == 1, "as bad as the most common label everywhere"
    assert label_error(labels, np.int64([[7, 3, 3, 3]])) == 3, "how far labels are from each other means nothing"
    assert label_error(np.int64([4]), np.int64([5])) == 1
    assert label_error(np.array([True, False]), np.array([True, False, False])) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_are_as_bad_as_nothing(value: float) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    broken = logits.copy()
    broken[0, 3] = value
    assert classification_error(logits, broken) == 1
    assert error_over_variance(logits, broken) == 1


@pytest.mark.parametrize("count", [0, 3, 5])
def test_outputs_whose_shape_the_data_decides_are_as_bad_as_nothing_where_it_differs(count: int) -> None:
    """As of NonZero or NonMaxSuppression in the graph: the INT8 model may find one more."""
    assert error_over_variance(np.zeros((4, 2), np.int64), np.zeros((count, 2), np.int64)) == 1


def identities(shapes: dict[str, list[int | str]]) -> networks.Network:
    net = networks.Network()
    for name, shape in shapes.items():
        net.output(net.node("Identity", [net.input(f"{name}_in", shape)], name), shape)
    return net


def measured(model: ir.Model, expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    return OutputError(choose_judges(model, [expected]).judges, [expected]).of(0, got)


def test_the_measure_is_that_of_the_models_outputs_in_their_order(load: Load) -> None:
    expected, got = random_candidates(1), random_candidates(2)
    shapes: dict[str, list[int | str]] = {
        "classes": [2, 12], "anything": [1], "scores": [2, 12], "boxes": [2, 12, 4]
    }  # fmt: skip
    ordered = [[each[2], np.zeros(1), each[1], each[0]] for each in (expected, got)]
    assert measured(load(identities(shapes)), *ordered) == detection_error(expected, got)

    spec, logits = networks.SPEC, [np.float32([[1, 2, 4]]), np.float32([[2, 2, 3]])]
    one = ir.from_proto(identities({"logits": [1, 3]}).proto(spec=spec))
    assert measured(one, [logits[0]], [logits[1]]) == classification_error(*logits)
    bare = load(identities({"logits": [1, 3]}))
    assert measured(bare, [logits[0]], [logits[1]]) == pytest.approx(error_over_variance(*logits))


def test_no_run_decides_alone_with_next_to_no_detections_or_with_most() -> None:
    """A run with nothing to find had an error of 6 beside others of 0.1, for five detections of 0.04."""
    from effedge.calibration.output_error.measure import Candidates, DetectionJudge

    score = 0.04
    runs = [candidates([BOX], [0.8], [0]), candidates([BOX], [0.0], [0]), candidates([BOX] * 3, [0.8] * 3, [0, 1, 2])]
    found = OutputError([DetectionJudge("d", lambda outputs: map(Candidates, *outputs))], runs)
    own = np.array([0.64, 0, 3 * 0.64])
    weights = 1 / (own + own.mean())
    expected = weights * [0, score**2, own[2]] / (weights * own).mean()
    got = [runs[0], candidates([BOX], [score], [0]), candidates([BOX], [0.0], [0])]
    errors = [found.of(run, outputs) for run, outputs in enumerate(got)]
    assert errors == pytest.approx(expected) and errors[1] < 0.01 and 1 < errors[2] < 2
    nothing = candidates([BOX], [0.0], [0])
    assert np.mean([found.of(run, nothing) for run in range(3)]) == pytest.approx(1)
