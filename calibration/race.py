"""Two engines in turns: how many times as long one takes as the other, with an interval.

Both are loaded anew several times, as each load lies differently in memory, and run in turns, the first one first and
last by turns, so that what disturbs the machine disturbs both. Of each load the lower quartiles are compared: what
disturbs is mostly over within a run, so that the ratios of single turns vary three times as much (on D0 their medians
are 0.92 to 1.02 by the load, those of the quartiles 0.96 to 0.98). The interval is a bootstrap (Efron 1979) of the
geometric mean over loads, in two stages: of the loads, then of the turns in each.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from effedge.deploy.timing.percentiles import quick
from effedge.deploy.timing.workload import make_workload

LOADS, TURNS = 4, 30
WARM_UP = 10  # runs of each; what disturbs one disturbs the other, so they need not be steady
RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """`ratio`, and between what it lies."""

    ratio: float
    low: float
    high: float


def race_engines(first: Path, second: Path) -> Interval:
    """The first engine's latency over the second's. UserError as `effedge.deploy.timing.workload.make_workload`."""
    loads = []
    for _ in range(LOADS):
        works = [make_workload(folder, [], decode=False) for folder in (first, second)]
        for work in works * WARM_UP:
            work.time_engine()
        turns = []
        for turn in range(TURNS):
            times = {index: works[index].time_engine() for index in ((0, 1) if turn % 2 else (1, 0))}
            turns.append((times[0], times[1]))
        loads.append(turns)
    return interval(np.array(loads))


def interval(times: np.ndarray) -> Interval:
    """The ratio of the times [loads, turns, 2] and its bootstrap interval; always the same for the same times."""
    random = np.random.default_rng(0)
    loads, turns, _ = times.shape
    chosen = random.integers(loads, size=(RESAMPLES, loads, 1))
    resampled = times[chosen, random.integers(turns, size=(RESAMPLES, loads, turns))]
    low, high = np.percentile(ratio(resampled), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Interval(*(round(float(value), 4) for value in (ratio(times), low, high)))


def ratio(times: np.ndarray) -> np.ndarray:
    """Of times [..., loads, turns, 2]: the first's lower quartile over the second's, the geometric mean over loads."""
    quartiles = quick(times, axis=-2)
    return np.exp(np.log(quartiles[..., 0] / quartiles[..., 1]).mean(axis=-1))
