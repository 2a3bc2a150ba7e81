"""Latencies in numbers: percentiles, and when a machine has warmed up."""

import time
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

WINDOW = 5  # runs
STABLE = 0.03  # two windows' medians this near to each other: warm
MOST_WINDOWS = 40
MOST_SECONDS = 60.0
QUICK = 25  # percentile


def summarize(milliseconds: Sequence[float]) -> Dict[str, float]:
    """p50, p90, p99, min and mean of latencies in ms, rounded to a microsecond.

    >>> summarize([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    found = {"p50": p50, "p90": p90, "p99": p99, "min": min(milliseconds), "mean": np.mean(milliseconds)}
    return {name: round(float(value), 3) for name, value in found.items()}


def quick(times: Any, axis: Optional[int] = None) -> Any:
    """What stands for the undisturbed machine, as what disturbs a run can only make it longer: the lower quartile, of
    an array of times, along an axis or of all."""
    return np.percentile(times, QUICK, axis=axis)


def warm_up(run: Callable[[], float]) -> int:
    """Run (each call returns its ms) until the median of five agrees with that of the five before; returns how many
    runs it took. After 200, or a minute, the machine is taken as it is."""
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
    """Pictures a second, if each of these latencies is of a run of `count` and they follow one another."""
    return round(1000 * count * len(milliseconds) / sum(milliseconds), 2)
