"""Tests the histogram of latencies against NumPy's percentiles."""

import numpy as np
import pytest

from effedge.deploy.timing.percentiles import Histogram


@pytest.mark.parametrize("percent", [0, 1, 25, 50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("scale", [0.02, 5, 4000])
def test_percentiles_are_numpys(scale, percent):
    times = np.random.default_rng(0).lognormal(np.log(scale), 0.5, 4001)
    histogram = Histogram()
    for time in times:
        histogram.add(float(time))
    rank = max(1, int(np.ceil(len(times) * percent / 100)))  # NumPy 1.17 has no method="inverted_cdf"
    assert histogram.percentile(percent) == pytest.approx(np.sort(times)[rank - 1], rel=6e-4, abs=6e-4)
    assert histogram.runs == 4001


@pytest.mark.parametrize(("time", "percentile"), [(0.0, 0.001), (-1.0, 0.001), (1e12, 1e8)])
def test_what_is_out_of_range_is_counted_at_its_end(time, percentile):
    histogram = Histogram()
    histogram.add(time)
    assert histogram.percentile(50) == pytest.approx(percentile, rel=0.02)


def test_the_counts_move():
    first, second = Histogram(), Histogram()
    for time in (1.0, 2.0):
        first.add(time)
    first.move_to(second)
    assert (first.runs, second.runs) == (0, 2)
    first.add(4.0)
    first.move_to(second)
    assert second.runs == 3 and second.percentile(100) == pytest.approx(4, rel=1e-3)
