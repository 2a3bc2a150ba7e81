"""Two engines in turns: how many times as long one takes as the other, with an interval.

Both are loaded anew several times, as each load lies differently in memory, and run in pairs, the first one first and
last by turns, so that what disturbs the machine disturbs both. The interval is a bootstrap (Efron 1979) of the median
over pairs, in two stages: of the loads, then of the pairs in each.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from deploy.workload import make_workload

LOADS, PAIRS = 4, 30
WARM_UP = 10  # runs of each; what disturbs one of a pair disturbs the other, so they need not be steady
RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """`ratio`, and between what it lies."""

    ratio: float
    low: float
    high: float


def race_engines(first: Path, second: Path) -> Interval:
    """The first engine's latency over the second's. UserError as `deploy.workload.make_workload`."""
    rows = []
    for _ in range(LOADS):
        works = [make_workload(folder, [], decode=False) for folder in (first, second)]
        for work in works * WARM_UP:
            work.time_engine()
        ratios = []
        for turn in range(PAIRS):
            order = (0, 1) if turn % 2 else (1, 0)
            times = {index: works[index].time_engine() for index in order}
            ratios.append(times[0] / times[1])
        rows.append(ratios)
    return interval(np.array(rows))


def interval(ratios: np.ndarray) -> Interval:
    """The median of the ratios [loads, pairs], and its bootstrap interval; always the same for the same ratios."""
    random = np.random.default_rng(0)
    loads, pairs = ratios.shape
    chosen = random.integers(loads, size=(RESAMPLES, loads, 1))
    resampled = ratios[chosen, random.integers(pairs, size=(RESAMPLES, loads, pairs))]
    medians = np.median(resampled.reshape(RESAMPLES, -1), axis=1)
    low, high = np.percentile(medians, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Interval(*(round(float(value), 4) for value in (np.median(ratios), low, high)))
