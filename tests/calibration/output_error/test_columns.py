"""The axis of the columns, and columns that are alike: on arrays of known make."""

from __future__ import annotations

import numpy as np
import pytest

from effedge.calibration.output_error.columns import alike, column_axis, statistics

RANDOM = np.random.default_rng(0)


def test_the_statistics_are_numpys_over_all_samples() -> None:
    arrays = [RANDOM.normal(3, 2, (1, 5, 7)).astype(np.float32) for _ in range(4)]
    for axis, columns in ((1, 5), (2, 7)):
        together = np.moveaxis(np.stack(arrays), axis + 1, 0).reshape(columns, -1)
        low, high, mean, spread, positive = statistics(arrays, axis)
        np.testing.assert_allclose(low, together.min(axis=1))
        np.testing.assert_allclose(high, together.max(axis=1))
        np.testing.assert_allclose(mean, together.mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(spread, together.std(axis=1), rtol=1e-5)
        np.testing.assert_allclose(positive, (together > 0).mean(axis=1))


@pytest.mark.parametrize(
    ("shape", "others", "axis"),
    [
        pytest.param((1, 84, 8400), [], 1, id="YOLOv8"),
        pytest.param((1, 3549, 85), [], 2, id="YOLOX"),
        pytest.param((1, 300, 365), [(1, 300, 4)], 2, id="more classes than boxes, beside the boxes"),
        pytest.param((1, 1600, 1), [(1, 400, 1), (1, 1600, 4)], 2, id="levels"),
        pytest.param((1, 21, 64, 48), [], 1, id="map"),
        pytest.param((1, 3, 20, 20, 85), [], 4, id="anchors"),
        pytest.param((1, 900, 1, 4), [(1, 900, 80)], 3, id="YOLOv4"),
        pytest.param((6, 512), [], 1, id="vectors"),
    ],
)
def test_the_columns_are_the_channels_or_the_shorter_axis(
    shape: tuple[int, ...], others: list[tuple[int, ...]], axis: int
) -> None:
    assert column_axis(RANDOM.normal(size=shape), others) == axis


@pytest.mark.parametrize("classes", [1, 365])
def test_the_rows_of_a_detector_s_levels_are_no_columns_though_they_explain_the_values(classes: int) -> None:
    """As of SCRFD's distances, which are nearly the same to all four sides of a cell."""
    shapes = [(1, rows, columns) for columns in (classes, 4) for rows in (1280, 320, 80)]
    for shape in shapes:
        cells = RANDOM.normal(size=(1, shape[1], 1)) + RANDOM.normal(0, 0.1, shape)
        assert column_axis(cells, [other for other in shapes if other != shape]) == 2


@pytest.mark.parametrize("shape", [(1, 16, 85), (1, 85, 16)])
def test_columns_that_explain_the_values_are_columns_though_there_are_more_of_them(shape: tuple[int, ...]) -> None:
    """A YOLO of sixteen cells."""
    axis = shape.index(85)
    size = np.where(np.arange(85) < 4, 100.0, 0.01)
    values = np.abs(RANDOM.normal(size=shape)) * np.expand_dims(size, 1 if axis == 2 else 0)[None, ...].reshape(
        [1, 1, 85] if axis == 2 else [1, 85, 1]
    )
    assert column_axis(values, []) == axis


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decades", [0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("size", [8, 64, 512])
def test_features_of_many_sizes_in_no_order_are_one_block(size: int, decades: float, seed: int) -> None:
    """As of an embedding, some of whose features are a thousand times larger than others."""
    levels = np.random.default_rng(seed).normal(0, decades, size)
    assert alike(10**levels) == [list(range(size))]


@pytest.mark.parametrize("seed", range(5))
def test_a_step_of_an_order_of_magnitude_divides_blocks_and_equal_levels_are_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes, scores = [90.0, 70.0, 30.0, 45.0], 10 ** random.normal(-1.5, 0.4, 81)
    assert alike(np.array([*boxes, *scores])) == [list(range(4)), list(range(4, 85))]
    anchors = alike(np.tile([*boxes, *scores], 3))
    assert anchors == [[column for column in range(255) if (column % 85 < 4) == first] for first in (True, False)]
    assert alike(np.array([12.0, 0.3, 0.2])) == [[0], [1, 2]], "an age and two probabilities"
    assert alike(np.array([2.0, 1.0, 0.5, 0.4])) == [[0, 1, 2, 3]]


def test_columns_that_never_change_belong_to_those_around() -> None:
    assert alike(np.array([0.0, 5.0, 0.0, 4.0])) == [[0, 1, 2, 3]]
    assert alike(np.zeros(3)) == [[0, 1, 2]]
    assert alike(np.array([90.0, 80.0, 0.0, 30.0, 0.1, 0.0, 0.05])) == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_map_that_was_made_flat_is_one_group_at_once() -> None:
    """A step between its halves would take minutes to find."""
    spread = np.repeat([1.0, 1000.0], 1 << 17)
    assert [len(group) for group in alike(spread)] == [1 << 18]
    assert [len(group) for group in alike(spread[(1 << 17) - 500 : (1 << 17) + 500])] == [500, 500]
