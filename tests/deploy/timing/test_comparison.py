"""The comparison of two latencies: turns, the figure of a load, and the interval over loads; times are simulated."""

from types import SimpleNamespace

import numpy as np
import pytest

from effedge.deploy.timing import comparison
from effedge.deploy.timing.comparison import NORMAL, Interval, T, interleave, interval, log_ratio, time_ratio


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the timed functions move."""
    simulated = SimpleNamespace(now=0.0)
    simulated.perf_counter = lambda: simulated.now
    monkeypatch.setattr(comparison, "time", simulated)
    return simulated


def turns(ratios, noise=0.0, seed=0):
    """Times of two functions [loads, rounds, 2], of about 17 ms and these ratios."""
    disturbed = np.exp(np.random.default_rng(seed).normal(0, noise, (*ratios.shape, 2)))
    return 17 * disturbed * np.stack([ratios, np.ones_like(ratios)], axis=-1)


def compare(times) -> Interval:
    """The ratio of times [loads, rounds, 2] with its 95% interval."""
    return interval(np.array([log_ratio(load[:, 0], load[:, 1]) for load in times]), confidence=0.95)


def test_functions_take_turns_in_an_order_that_is_reversed_every_other_round():
    calls = []
    rounds = interleave([lambda name=name: calls.append(name) or name for name in "abc"], 3)
    assert list(rounds) == [["a", "b", "c"]] * 3 and "".join(calls) == "abccbaabc"


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0.001, comparison.ROUNDS), (0.02, 42), (10.0, comparison.LEAST_ROUNDS)]
)
def test_two_functions_are_timed_for_as_many_rounds_as_time_allows(clock, seconds, rounds):
    runs = {0.8: 0, 1.0: 0}

    def runner(share):
        def run():
            runs[share] += 1
            clock.now += share * seconds

        return run

    assert time_ratio(runner(0.8), runner(1.0)) == pytest.approx(0.8)
    assert runs[0.8] == runs[1.0]
    assert runs[0.8] - comparison.WARM_UP == pytest.approx(rounds, abs=1)


def test_runs_that_something_disturbed_do_not_decide(clock):
    random = np.random.default_rng(0)

    def runner(seconds):
        def run():
            clock.now += seconds * random.choice([1.0, random.uniform(1, 3)])

        return run

    assert time_ratio(runner(0.0008), runner(0.001)) == pytest.approx(0.8, abs=0.01)


def test_a_load_counts_by_the_median_of_its_undisturbed_pairs():
    assert log_ratio([20, 21, 23, 50, 20], [10, 10, 10, 10, 99]) == pytest.approx(np.log(2.1))
    assert log_ratio([15], [5]) == pytest.approx(np.log(3))


def test_runs_of_which_every_other_one_is_disturbed_say_nothing():
    """Every other run of the one, and then of the other, takes up to twice as long."""
    times = turns(np.full((4, 30), 0.95), noise=0.005)
    for index in range(2):
        disturbed = np.random.default_rng(index).uniform(1, 2, times.shape[:2])
        times[..., index] *= np.where(np.arange(30) % 2 == index, 1, disturbed)
    found = compare(times)
    assert found.ratio == pytest.approx(0.95, abs=0.01) and found.high < 0.98


def test_disturbances_of_single_runs_favour_neither():
    """Of two equal functions, on a machine where any run may take up to twice as long."""
    means = []
    for seed in range(30):
        times = np.random.default_rng(seed).uniform(10, 20, (2, 12, 20))
        means.append(np.mean([log_ratio(first, second) for first, second in zip(*times)]))
    assert abs(np.mean(means)) < 0.02


def test_the_interval_of_equal_ratios_is_no_wider_than_they_are():
    assert compare(turns(np.full((4, 30), 1.2))) == (1.2, 1.2, 1.2)


def test_the_interval_knows_that_loads_differ():
    """Four loads at 0.97 to 1.03: thirty turns in each tell no more than four numbers do."""
    pairs = np.random.default_rng(0).normal(0, 0.002, (4, 30))
    same, different = (compare(turns(each)) for each in (1 + pairs, np.array([[0.97], [0.99], [1.01], [1.03]]) + pairs))
    assert same.high - same.low < 0.003 < 0.025 < different.high - different.low


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draws = [compare(turns(np.full((4, 30), 1.1), noise=0.05, seed=seed)) for seed in range(60)]
    assert sum(one.low <= 1.1 <= one.high for one in draws) >= 50


@pytest.mark.parametrize("confidence", sorted(T))
def test_the_table_is_students(confidence):
    stats = pytest.importorskip("scipy.stats")
    share, table = (1 + confidence) / 2, T[confidence]
    np.testing.assert_allclose(table, [stats.t.ppf(share, freedom) for freedom in range(1, len(table) + 1)], atol=5e-4)
    assert pytest.approx(stats.norm.ppf(share), abs=5e-4) == NORMAL[confidence]
