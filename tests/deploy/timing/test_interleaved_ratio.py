"""Races of two functions: what decides, and when they end. The clock is made up."""

from types import SimpleNamespace

import numpy as np
import pytest

from effedge.deploy.timing import interleaved_ratio


@pytest.fixture
def clock(monkeypatch):
    """A clock that only those who run move."""
    made = SimpleNamespace(now=0.0)
    made.perf_counter = lambda: made.now
    monkeypatch.setattr(interleaved_ratio, "time", made)
    return made


@pytest.mark.parametrize(
    ("seconds", "pairs"), [(0.001, interleaved_ratio.PAIRS), (0.02, 42), (10.0, interleaved_ratio.LEAST_PAIRS)]
)
def test_the_race_is_of_pairs_and_ends_in_time(clock, seconds, pairs):
    runs = {0.8: 0, 1.0: 0}

    def runner(share):
        def run():
            runs[share] += 1
            clock.now += share * seconds

        return run

    assert interleaved_ratio.time_ratio(runner(0.8), runner(1.0)) == pytest.approx(0.8)
    assert runs[0.8] == runs[1.0]
    assert runs[0.8] - interleaved_ratio.WARM_UP == pytest.approx(pairs, abs=1)


def test_runs_that_something_disturbed_do_not_decide(clock):
    random = np.random.default_rng(0)

    def runner(seconds):
        def run():
            clock.now += seconds * random.choice([1.0, random.uniform(1, 3)])

        return run

    assert interleaved_ratio.time_ratio(runner(0.0008), runner(0.001)) == pytest.approx(0.8, abs=0.01)
