"""The errors of blocks: against plain NumPy on stacked samples, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from effedge.calibration.output_error.blocks import LEAST_WEIGHT, Block, BlockJudge, Part
from effedge.calibration.output_error.measure import OutputError
from effedge.calibration.output_error.readers import SIGMOID, SOFTMAX, Columns, ScoreColumns, Whole

RANDOM = np.random.default_rng(0)


def runs(count: int, *shapes: tuple[int, ...], scale: float = 1.0) -> list[list[np.ndarray]]:
    return [[(scale * RANDOM.normal(size=shape)).astype(np.float32) for shape in shapes] for _ in range(count)]


def errors(block: Block, expected: list[list[np.ndarray]], got: list[list[np.ndarray]]) -> list[float]:
    measure = OutputError([BlockJudge([block])], expected)
    return [measure.of(index, outputs) for index, outputs in enumerate(got)]


@pytest.mark.parametrize("axis", [1, 2])
def test_a_block_is_the_squared_error_over_the_variance_about_its_columns_means(axis: int) -> None:
    expected = runs(5, (1, 6, 7))
    got = [[array + RANDOM.normal(0, 0.1, array.shape).astype(np.float32) for array in run] for run in expected]
    block = Block("b", [Part(Columns(0, axis, [1, 2, 4]))])
    wanted, actual = (
        np.moveaxis(np.stack([run[0] for run in each]), axis + 1, 0)[[1, 2, 4]].reshape(3, -1)
        for each in (expected, got)
    )
    total = np.square(wanted - actual).sum() / np.square(wanted - wanted.mean(axis=1, keepdims=True)).sum()
    assert np.mean(errors(block, expected, got)) == pytest.approx(total, rel=1e-5)
    assert errors(block, expected, expected) == [0] * 5


def test_a_vector_is_judged_about_the_mean_of_all_its_values() -> None:
    expected, got = ([[np.float32([[1, 3]])], [np.float32([[5, 7]])]], [[np.float32([[1, 2]])], [np.float32([[5, 7]])]])
    assert errors(Block("v", [Part(Whole(0))]), expected, got) == pytest.approx([1 / 10, 0])  # the variance sum is 20
    one = [[np.float32([[2]])], [np.float32([[4]])]]  # of one value its changes from sample to sample
    assert errors(Block("v", [Part(Whole(0))]), one, [[np.float32([[3]])]] * 2) == pytest.approx([1, 1])
    constant = [[np.full((1, 4), 5, np.float32)]]  # no variance: over the power
    assert errors(Block("v", [Part(Whole(0))]), constant, [[constant[0][0] * 0]]) == pytest.approx([1])


def test_rows_count_by_the_square_of_their_highest_score() -> None:
    values, scores = RANDOM.normal(size=(1, 3, 4)).astype(np.float32), np.float32([[[0.9, 0.1], [0, 0.3], [0, 0]]])
    weigh = ScoreColumns(Columns(1, 2, range(2)), foreground=range(2))
    block = Block("b", [Part(Columns(0, 2, range(4)), weigh)])
    weights = np.array([0.81, 0.09, 0])
    weights += LEAST_WEIGHT * weights.mean()
    variance = values[0].var(axis=0).sum()
    for row in range(3):
        got = values.copy()
        got[0, row, 2] += 0.5
        wanted = weights[row] * 0.25 / (weights.sum() * variance)
        assert errors(block, [[values, scores]], [[got, scores]]) == pytest.approx([wanted], rel=1e-5)


def test_levels_are_one_block_in_which_one_without_objects_decides_nothing() -> None:
    """0.3 where the other level has its objects, and 0.001 of noise."""
    levels = [np.zeros((1, 1, 16), np.float32), np.zeros((1, 1, 4), np.float32)]
    levels[0][0, 0, 3] = 0.9
    got = [levels[0].copy(), levels[1] + np.float32(0.001)]
    parts = [Part(ScoreColumns(Columns(level, 1, [0]), foreground=[0])) for level in range(2)]
    assert errors(Block("scores", parts), [levels], [got])[0] < 1e-5
    got[0][0, 0, 3] = 0.6
    assert errors(Block("scores", parts), [levels], [got])[0] == pytest.approx(0.3**2 / 0.9**2, rel=0.1)


def test_logits_are_judged_as_probabilities() -> None:
    logits = RANDOM.normal(-4, 2, (1, 3, 50)).astype(np.float32)
    got = logits + RANDOM.normal(0, 0.3, logits.shape).astype(np.float32)
    for activation, probabilities in (
        (SIGMOID, [1 / (1 + np.exp(-each)) for each in (logits, got)]),
        (SOFTMAX, [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (logits, got)]),
    ):
        raw = Block("l", [Part(ScoreColumns(Columns(0, 1, range(3)), activation, foreground=range(3)))])
        plain = Block("p", [Part(Columns(0, 1, range(3)))])
        wanted = errors(plain, [[probabilities[0]]], [[probabilities[1]]])
        assert errors(raw, [[logits]], [[got]]) == pytest.approx(wanted, rel=1e-4)


def test_scores_behind_an_objectness_count_by_their_product() -> None:
    expected = np.float32([[[0.9, 0.8], [0.01, 0.9]]])  # of the second row the detector says nothing
    block = Block("s", [Part(ScoreColumns(Columns(0, 2, [1]), gate=Columns(0, 2, [0]), foreground=[0]))])
    product = expected[0, :, 0] * expected[0, :, 1]
    for row, worth in ((0, 0.9), (1, 0.01)):
        got = expected.copy()
        got[0, row, 1] -= 0.4
        wanted = (worth * 0.4) ** 2 / np.square(product - product.mean()).sum()
        assert errors(block, [[expected]], [[got]]) == pytest.approx([wanted], rel=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_or_of_another_shape_is_as_bad_as_nothing(value: float) -> None:
    expected = runs(1, (1, 3, 20))
    broken = expected[0][0].copy()
    broken[0, 1, 4] = value
    for block in (Block("w", [Part(Whole(0))]), Block("c", [Part(Columns(0, 1, range(3)))])):
        assert errors(block, expected, [[broken]]) == [1]
        assert errors(block, expected, [[broken[:, :, 1:]]]) == [1]


def test_what_is_next_to_nothing_is_divided_by_the_least_that_counts() -> None:
    """As of scores on images in which the float model finds nothing: INT8's other noise there is no loss."""
    expected = runs(4, (1, 2, 50), scale=1e-4)
    got = [[array + np.float32(1e-4) for array in run] for run in expected]
    values = Columns(0, 1, [0, 1])
    assert np.mean(errors(Block("b", [Part(values)]), expected, got)) == pytest.approx(1, rel=0.3)
    total = float(np.square(got[0][0] - expected[0][0]).sum())
    assert errors(Block("b", [Part(values, least=0.01)]), expected, got)[0] == pytest.approx(total / 0.01, rel=1e-4)
