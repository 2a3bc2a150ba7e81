"""Thresholds: the cases where the methods part, and the entropy method against a plain one."""

import numpy as np
import pytest

from effedge.calibration.ranges.histogram import COUNTED, Histogram
from effedge.calibration.ranges.thresholds import ENTROPY_CANDIDATES, at_percentile, threshold
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    for start in range(0, len(values), COUNTED):  # of a larger array a part would be counted
        histogram.add(values[start : start + COUNTED].astype(np.float32))
    return histogram


def test_one_outlier_in_ten_million_is_clipped_by_percentile_only() -> None:
    histogram = Histogram()
    histogram.add(np.float32([100.0]))
    ones = np.ones(1_000_000, np.float32)
    for _ in range(10):
        histogram.add(ones)
    assert threshold(histogram, "minmax") == 100
    assert threshold(histogram, "percentile") <= 1 + histogram.bin_width


def test_a_tensor_of_zeros_with_few_values_keeps_its_largest() -> None:
    histogram = Histogram()
    histogram.add(np.float32([5.0]))
    histogram.add(np.zeros(10_000_000, np.float32))
    assert threshold(histogram, "percentile") == 5
    assert at_percentile(histogram, 50) == 5


def test_a_percentile_of_a_hundred_is_the_largest_magnitude() -> None:
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    assert at_percentile(histogram_of(values), 100) == np.abs(values).max()


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown method 'entropi'.*minmax, percentile"):
        threshold(Histogram(), "entropi")
    with pytest.raises(UserError, match="unknown method 'entropi'.*auto, minmax, percentile"):
        Settings("entropi").check()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="float-share"):
        Settings(float_share=share).check()


def divergence(counts: list[float], stop: int, levels: int = 128) -> float:
    """Migacz 2017: the divergence of the first `stop` bins, clipped ones in the last, from `levels` steps of them."""
    reference = counts[:stop]
    steps: list[list[int]] = [[] for _ in range(levels)]
    for index in range(stop):
        steps[index * levels // stop].append(index)
    candidate = [0.0] * stop
    for step in steps:
        members = [index for index in step if counts[index] > 0]
        for index in members:
            candidate[index] = sum(counts[i] for i in members) / len(members)
    reference = [*reference[:-1], reference[-1] + sum(counts[stop:])]
    total, other = sum(reference), sum(candidate)
    result = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0:
            result += p / total * np.log((p / total) / max(q / other, 1e-7))
    return result


@pytest.mark.parametrize("draw", ["normal", "laplace", "gumbel"])
def test_the_entropy_threshold_has_the_least_divergence_of_its_candidates_and_clips(draw: str) -> None:
    values = getattr(np.random.default_rng(1), draw)(size=100_000)
    histogram = histogram_of(values)
    counts = [0.0, *map(float, histogram.counts[1:])]
    bins = int(histogram.amax / histogram.bin_width) + 1
    candidates = sorted({int(stop) for stop in np.linspace(128, bins, ENTROPY_CANDIDATES)})
    best = min(candidates, key=lambda stop: divergence(counts[:bins], stop))
    found = threshold(histogram, "entropy")
    assert found == pytest.approx(best * histogram.bin_width)
    assert found < 0.95 * histogram.amax


def test_the_entropy_of_an_even_distribution_is_kept_whole() -> None:
    even = np.linspace(0, 1, 400_000, endpoint=False)
    assert threshold(histogram_of(even), "entropy") == pytest.approx(1, rel=0.01)


def test_zeros_do_not_move_the_entropy_threshold() -> None:
    values = np.random.default_rng(1).normal(size=100_000)
    padded = np.append(values, np.zeros(900_000))  # as behind a ReLU
    assert threshold(histogram_of(padded), "entropy") == threshold(histogram_of(values), "entropy")


@pytest.mark.parametrize("values", [np.zeros(10), np.full(10, 7.0), np.array([0, 1e-3, 5e3]), np.array([1e-30])])
def test_the_entropy_threshold_of_next_to_no_values_is_within_them(values: np.ndarray) -> None:
    found = threshold(histogram_of(values), "entropy")
    assert 0 <= found <= np.float32(values.max()) and (found > 0 or not values.any())
