"""The difference between the outputs of two runs, worked by hand."""

import numpy as np
import pytest

from effedge.pipeline.export.compare_outputs import TOLERANCE, difference_by_magnitude, difference_by_range


def run_of(**changes):
    """Outputs of a detector: four candidates, the last two of nearly one score."""
    outputs = {
        "boxes": np.float32([[[0, 0, 10, 10], [20, 0, 40, 30], [5, 5, 9, 9], [7, 7, 90, 90]]]),
        "scores": np.float32([[0.9, 0.6, 0.30000001, 0.3]]),
        "classes": np.int32([[3, 1, 0, 2]]),
        "raw_head_0": np.float32([[[-2.0, 1.0], [0.0, 3.0]]]),
    }
    for name, (index, value) in changes.items():
        outputs[name][index] = value
    return outputs


def test_equal_runs_do_not_differ():
    assert difference_by_range(run_of(), run_of()) == 0.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"raw_head_0": ((0, 0, 0), -2.005)}, 0.005 / 5),
        ({"scores": ((0, 1), 0.603)}, 0.003 / 0.6),
        ({"boxes": ((0, 0, 2), 10.9)}, 0.9 / 90),
    ],
    ids=["head", "score", "box"],
)
def test_the_difference_by_range_is_relative_to_the_outputs_range(change, expected):
    assert difference_by_range(run_of(), run_of(**change)) == pytest.approx(expected, rel=1e-3)


def test_another_class_is_an_infinite_difference():
    assert difference_by_range(run_of(), run_of(classes=((0, 1), 0))) == np.inf


@pytest.mark.parametrize("name", ["raw_head_0", "scores", "boxes"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("both", [False, True])
def test_what_is_no_number_never_passes(name, value, both):
    other = run_of(**{name: (0, value)})
    with np.errstate(invalid="ignore"):
        assert not difference_by_range(other if both else run_of(), other) <= TOLERANCE


def test_candidates_whose_scores_are_all_next_to_1_may_change_places():
    """As of a detector with random weights, whose logits a sigmoid makes 1 but for rounding."""
    runs = run_of(), run_of()
    for run, last in zip(runs, (1 - 6e-8, 1 - 2.4e-7), strict=True):
        run["scores"][:] = np.float32([1, 1, 1 - 6e-8, last])
    runs[1]["boxes"], runs[1]["classes"] = runs[0]["boxes"][:, ::-1], runs[0]["classes"][:, ::-1]
    assert difference_by_range(*runs) <= TOLERANCE


def test_candidates_of_one_score_may_change_places():
    swapped = run_of()
    for name in ("boxes", "classes"):
        swapped[name][:, [2, 3]] = swapped[name][:, [3, 2]]
    assert difference_by_range(run_of(), swapped) <= TOLERANCE


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0),
        ([1.0, -4.0], [1.02, -4.0], 0.02 / 4),
        ([100.0], [100.001], 1e-5),  # one number has no range
        ([0.0, 0.0], [0.0, 0.0], 0),
        ([np.nan, np.inf, 2.0], [np.nan, np.inf, 2.0], 0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [np.nan, 2.0], np.inf),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([1.0, 2.0], [[1.0, 2.0]], np.inf),
        (np.arange(200), np.where(np.arange(200) == 7, 8, np.arange(200)), 0),  # an argmax that changed
        (np.arange(200), np.arange(200) // 2, np.inf),
        (np.float32([1]), np.float64([1]), np.inf),
    ],
)
def test_the_difference_by_magnitude(reference, other, expected):
    difference = difference_by_magnitude({"y": np.asarray(reference)}, {"y": np.asarray(other)})
    assert difference == pytest.approx(expected, rel=1e-3)
