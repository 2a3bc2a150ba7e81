"""The latency test's statistics on made-up measurements whose truth is known."""

import numpy as np
import pytest

from deploy.regression import LEAST_QUIET, compare, quiet_ratios


def measurement(seed, engine_ms=20.0, runs=120, noise=0.02, busy=0.0, machine=1.0):
    """`busy` of the time another process doubles all durations, in bouts of five runs; `machine` slows everything."""
    random = np.random.default_rng(seed)
    bouts = np.repeat(random.random(runs // 5 + 2) < busy, 5)
    slow = machine * np.where(bouts, 2.0, 1.0)

    def jitter(count):
        return 1 + noise * np.abs(random.normal(size=count))

    references = (10 * slow[: runs + 1] * jitter(runs + 1)).tolist()
    return {
        "before_ms": references[:-1],
        "after_ms": references[1:],
        "ms": {"engine": (engine_ms * slow[:runs] * jitter(runs)).tolist()},
    }


def found(now, baseline=None, tolerance=0.05):
    return compare(baseline or measurement(1000), now, "engine", tolerance)


@pytest.mark.parametrize("busy", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("machine", [0.7, 1.0, 1.5])
def test_an_unchanged_engine_is_not_slower_however_busy_or_slow_the_machine(busy, machine):
    for seed in range(20):
        comparison = found(measurement(seed, busy=busy, machine=machine))
        assert comparison.slower is False
        assert comparison.ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("busy", [0.0, 0.5])
def test_a_tenth_slower_is_found(busy):
    for seed in range(20):
        comparison = found(measurement(seed, engine_ms=22.0, busy=busy))
        assert comparison.slower and comparison.low < 1.1 < comparison.high + 0.02


def test_within_the_tolerance_is_not_slower():
    assert found(measurement(1, engine_ms=20.6)).slower is False
    assert found(measurement(1, engine_ms=20.6), tolerance=0.0).slower is True


def test_a_faster_engine_is_not_slower():
    assert found(measurement(1, engine_ms=10)).slower is False


def test_where_hardly_a_run_is_undisturbed_nothing_is_said():
    random = np.random.default_rng(0)
    now = measurement(0, runs=60)
    now["before_ms"], now["after_ms"] = (10 * random.uniform(1, 30, (2, 60))).tolist()
    comparison = found(now)
    assert comparison.slower is None and comparison.quiet < LEAST_QUIET and np.isnan(comparison.ratio)


def test_a_run_counts_by_its_neighbours_and_in_their_mean():
    references = [10, 10, 11, 10, 30, 10, 10]
    rows = {"before_ms": references[:-1], "after_ms": references[1:], "ms": {"engine": [20, 21, 21, 40, 60, 30]}}
    assert quiet_ratios(rows, "engine").tolist() == [2, 2, 2, 3]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Of 200 pairs of measurements of one engine, the 99% interval should miss 1 about twice."""
    missed = 0
    for seed in range(200):
        comparison = found(measurement(seed), measurement(seed + 5000))
        missed += not comparison.low <= 1 <= comparison.high
    assert missed <= 8
