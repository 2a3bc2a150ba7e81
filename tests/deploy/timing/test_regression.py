"""The latency test's verdicts on simulated measurements whose truth is known."""

import numpy as np
import pytest

from effedge.deploy.timing.interleaved import log_ratios
from effedge.deploy.timing.regression import compare


def measurement(seed, engine_ms=20.0, runs=120, noise=0.02, busy=0.0, machine=1.0, luck=0.0, loads=6):
    """`busy` of the time another process doubles all durations, in bouts of five runs; `machine` slows everything, and
    each of the loads has its luck."""
    random = np.random.default_rng(seed)
    bouts = np.repeat(random.random(2 * runs // 5 + 2) < busy, 5)[: 2 * runs].reshape(runs, 2)
    slow = machine * np.where(bouts, 2.0, 1.0) * (1 + noise * np.abs(random.normal(size=(runs, 2))))
    load = np.arange(runs) * loads // runs
    engine = engine_ms * (1 + luck * random.normal(size=loads))[load] * slow[:, 1]
    return {
        "loads": load.tolist(),
        "yardstick_ms": {"engine": (10 * slow[:, 0]).tolist()},
        "ms": {"engine": engine.tolist()},
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


def test_where_the_loads_differ_too_much_nothing_is_said():
    comparison = found(measurement(0, luck=0.3))
    assert comparison.slower is None and not comparison.settled and comparison.high - comparison.low > 0.15


def test_each_load_has_a_figure_of_its_own():
    rows = {"yardstick_ms": [10, 10, 10, 10, 99, 5], "ms": [20, 21, 23, 50, 20, 15]}
    measured = {"loads": [0, 0, 0, 0, 0, 1], **{name: {"engine": row} for name, row in rows.items()}}
    np.testing.assert_allclose(log_ratios(measured, "engine"), np.log([2.1, 3]))


def test_the_intervals_are_students_and_welchs():
    stats = pytest.importorskip("scipy.stats")
    new, old = measurement(1, luck=0.02), measurement(2, luck=0.03, runs=240, loads=12)
    comparison = compare(old, new, "engine", 0.05)
    expected = stats.ttest_ind(log_ratios(new, "engine"), log_ratios(old, "engine"), equal_var=False)
    low, high = np.exp(expected.confidence_interval(0.99))
    assert comparison.low == pytest.approx(low, abs=2e-3) and comparison.high == pytest.approx(high, abs=2e-3)
    alone = compare(None, new, "engine", 0.05)
    low, high = np.exp(stats.ttest_1samp(log_ratios(new, "engine"), 0).confidence_interval(0.99))
    assert alone.low == pytest.approx(low, rel=1e-4) and alone.high == pytest.approx(high, rel=1e-4)


@pytest.mark.parametrize("luck", [0.0, 0.02])
def test_the_interval_covers_the_truth_as_often_as_it_says(luck):
    """Of 400 pairs of measurements of one engine, the 99% interval should miss 1 about four times."""
    missed = 0
    for seed in range(400):
        comparison = found(measurement(seed, luck=luck), measurement(seed + 5000, luck=luck))
        missed += not comparison.low <= 1 <= comparison.high
    assert missed <= 10


def test_beside_the_baselines_engine_the_ratio_is_its_own():
    """No baseline was measured: what the kept engine takes is 1."""
    for seed in range(20):
        same = compare(None, measurement(seed, engine_ms=10.0, luck=0.015), "engine", 0.05)
        slow = compare(None, measurement(seed, engine_ms=11.0, luck=0.015, runs=240, loads=12), "engine", 0.05)
        assert same.slower is False and same.ratio == pytest.approx(1, abs=0.03)
        assert slow.slower and slow.ratio == pytest.approx(1.1, abs=0.03)


def test_settled_is_what_can_hardly_be_slower():
    assert found(measurement(1)).settled
    undecided = compare(None, measurement(3, engine_ms=10.5, luck=0.02), "engine", 0.05)
    assert undecided.low < 1.05 < undecided.high and undecided.slower is False and not undecided.settled


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_numbers_that_are_none_leave_the_verdict_open(bad):
    now = measurement(0)
    for run in range(20):  # all of the first load
        now["ms"]["engine"][run] = bad
    with np.errstate(all="ignore"):
        assert found(now).slower is None
        assert found(measurement(0), baseline=now).slower is None
