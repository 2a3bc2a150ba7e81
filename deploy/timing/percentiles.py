"""Computes percentiles and rates of latencies, and warms a machine up before they are taken."""

import math
import time
from typing import Callable, Dict, List, Sequence, Union

import numpy as np

WINDOW = 5  # runs
STABLE = 0.03  # the machine is warm once two windows' medians are this near to each other
MOST_WINDOWS = 40
MOST_SECONDS = 60.0
QUICK = 25  # percentile


def summarize(milliseconds: Sequence[float]) -> Dict[str, float]:
    """Computes p50, p90, p99, min and mean of latencies in ms, rounded to a microsecond.

    >>> summarize([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    figures = {"p50": p50, "p90": p90, "p99": p99, "min": min(milliseconds), "mean": np.mean(milliseconds)}
    return {name: round(float(value), 3) for name, value in figures.items()}


class Histogram:
    """Counts latencies in bins of equal ratio, so that the memory that it takes does not grow with their number.

    A percentile is exact to half the bins' ratio, 0.05%, between a microsecond and 28 hours.
    """

    LEAST = 1e-3  # ms
    RATIO = 1.001
    BINS = 25350  # up to 1e8 ms

    def __init__(self) -> None:
        self.counts = np.zeros(self.BINS, np.int64)

    def add(self, milliseconds: float) -> None:
        """Counts a run."""
        index = math.log(max(milliseconds, self.LEAST) / self.LEAST) / math.log(self.RATIO)
        self.counts[min(int(index), self.BINS - 1)] += 1

    @property
    def runs(self) -> int:
        return int(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """Returns the smallest latency in ms, rounded to a microsecond, that so many per cent of the runs do not
        exceed."""
        rank = max(1, math.ceil(self.runs * percent / 100))
        index = int(np.searchsorted(np.cumsum(self.counts), rank))
        return round(self.LEAST * self.RATIO ** (index + 0.5), 3)

    def move_to(self, other: "Histogram") -> None:
        """Adds the counts to those of `other`, and begins anew."""
        other.counts += self.counts
        self.counts[:] = 0


def quick(times: Union[Sequence[float], np.ndarray]) -> float:
    """Computes the lower quartile, which stands for the undisturbed machine: a disturbance only makes runs longer."""
    return float(np.percentile(times, QUICK))


def warm_up(run: Callable[[], float]) -> int:
    """Runs (each call returns its ms) until the median of five runs agrees with that of the five before them.

    After 200 runs, or a minute, the machine is taken as it is. Returns the number of runs.
    """
    before = float("nan")  # agrees with nothing
    end = time.monotonic() + MOST_SECONDS
    window: List[float] = []
    for count in range(1, MOST_WINDOWS * WINDOW + 1):
        window.append(run())
        if time.monotonic() > end:
            return count
        if len(window) == WINDOW:
            median = float(np.median(window))
            if abs(median - before) <= STABLE * before:
                return count
            before, window = median, []
    return MOST_WINDOWS * WINDOW


def per_second(milliseconds: Sequence[float], count: int) -> float:
    """Computes the images a second of runs of `count` images that follow one another, by their latencies."""
    return round(1000 * count * len(milliseconds) / sum(milliseconds), 2)
