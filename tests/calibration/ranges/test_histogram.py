"""The streaming histogram against NumPy on all values at once."""

import numpy as np
import pytest

from effedge.calibration.ranges.histogram import BINS, Histogram


def portions() -> list[np.ndarray]:
    """Portions whose ranges grow, shrink and jump over many powers of two, with zeros and negative values."""
    random = np.random.default_rng(0)
    scales = [1e-6, 3e-2, 1.0, 0.5, 37.0, 900.0, 2.0]
    return [random.normal(0, scale, (3, 1000 + i)).astype(np.float32) for i, scale in enumerate(scales)] + [
        np.zeros((5, 5), np.float32)
    ]


def test_counts_are_those_of_one_pass_over_all_values_in_memory() -> None:
    histogram = Histogram()
    for portion in portions():
        histogram.add(portion)
    everything = np.concatenate([portion.ravel() for portion in portions()])
    expected, _ = np.histogram(np.abs(everything), bins=BINS, range=(0, histogram.bin_width * BINS))
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.total == everything.size
    assert (histogram.low, histogram.high) == (everything.min(), everything.max())
    assert histogram.amax <= histogram.bin_width * BINS < 2.001 * histogram.amax


def test_order_of_the_portions_does_not_matter() -> None:
    forward, backward = Histogram(), Histogram()
    for portion in portions():
        forward.add(portion)
    for portion in reversed(portions()):
        backward.add(portion)
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert forward.exponent == backward.exponent


def test_merging_equals_adding_all_values_to_one() -> None:
    together, halves = Histogram(), (Histogram(), Histogram())
    for index, portion in enumerate(portions()):
        together.add(portion)
        halves[index % 2].add(portion)
    for first, second in (halves, halves[::-1]):
        merged = first.copy()
        merged.merge(second)
        np.testing.assert_array_equal(merged.counts, together.counts)
        assert (merged.low, merged.high) == (together.low, together.high)


@pytest.mark.parametrize("percent", [0.0, 50.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_within_one_bin_of_the_exact_one_and_never_below(percent: float) -> None:
    histogram = Histogram()
    for portion in portions():
        histogram.add(portion)
    magnitudes = np.sort(np.abs(np.concatenate([portion.ravel() for portion in portions()])))
    exact = magnitudes[max(1, int(np.ceil(len(magnitudes) * (percent / 100)))) - 1]
    assert exact <= histogram.percentile(percent) <= exact + histogram.bin_width


def test_memory_does_not_grow_with_the_values() -> None:
    histogram = Histogram()
    sizes = set()
    for _ in range(50):
        histogram.add(np.random.default_rng(1).normal(size=10_000).astype(np.float32))
        sizes.add(histogram.counts.nbytes)
    assert sizes == {BINS * 8}


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_not_finite_values_are_refused_and_leave_the_counts_alone(wrong: float) -> None:
    histogram = Histogram()
    histogram.add(np.float32([1, 2]))
    with pytest.raises(ValueError, match="not finite"):
        histogram.add(np.float32([0, wrong, 1]))
    assert histogram.total == 2


def test_zeros_alone_have_amax_and_percentile_zero() -> None:
    histogram = Histogram()
    histogram.add(np.zeros((4, 4), np.float32))
    assert histogram.amax == histogram.percentile(99.0) == 0.0
    assert histogram.total == 16


@pytest.mark.parametrize("value", [1.0, 2.0, 0.5, 1e-38, 3.4e38])
def test_powers_of_two_and_extremes_fall_inside_the_range(value: float) -> None:
    histogram = Histogram()
    histogram.add(np.float32([value, -value]))
    assert histogram.total == 2
    assert histogram.percentile(100.0) == np.float32(value)


@pytest.mark.parametrize("shape", [(1, 24, 256, 256), (1, 64, 129, 127), (1, 7, 385, 641)])
def test_of_large_arrays_a_part_is_counted_and_the_extremes_are_exact(shape: tuple[int, ...]) -> None:
    """A gradient over rows, columns and channels: counting some of them only would show in the percentiles."""
    random = np.random.default_rng(3)
    gradient = np.add.outer(np.add.outer(np.arange(shape[1]), np.arange(shape[2])), np.arange(shape[3])) / 100
    histogram, magnitudes = Histogram(), []
    for _ in range(4):
        values = (gradient + random.normal(0, 1, shape)).astype(np.float32)
        values[0, 3, 4, 5] = 77.5
        histogram.add(values)
        magnitudes.append(np.abs(values).ravel())
    everything = np.concatenate(magnitudes)
    assert everything.size <= histogram.total < 1.001 * everything.size
    assert histogram.counts[histogram.counts > 0].min() > 1, "some values stand for others"
    assert histogram.high == histogram.percentile(100) == 77.5
    for percent in (1, 10, 50, 90, 99, 99.9):
        exact = np.percentile(everything, percent)
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.02, abs=2 * histogram.bin_width)
