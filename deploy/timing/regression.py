"""Whether an engine became slower than its baseline, on a machine that other work disturbs.

In each load of the engine its runs take turns with those of a yardstick (the baseline's engine, or
deploy/timing/reference.py), so that what slows the machine slows both. A load's figure is the median ratio of such pairs
without those that were disturbed: that took much longer, together, than its quick ones. (To go by the yardstick
alone would favour it: of two equal engines the other would seem slower.) The runs of one load have its luck with
memory in common, so it is the loads that are compared, by the mean of their ratios' logarithms with Student's t
interval (Welch's, where the baseline was measured too): of half a dozen loads a bootstrap's interval would be too
narrow. Slower means that even the interval's lower end is above the tolerance.
"""

import math
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from effedge.deploy.timing.percentiles import quick

DISTURBED = 1.15  # times the quick ones, a pair's geometric mean
WIDEST = 0.15  # an interval wider than this says nothing
# Student's t that 99% lie within, by degrees of freedom from 1 on; beyond, the normal's.
T = (
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947, 2.921,
    2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750,
)  # fmt: skip
NORMAL = 2.576


class Comparison(NamedTuple):
    """`ratio`, now over the baseline, and its 99% interval; `loads` that were measured.

    `slower` is None where the loads differ too much to tell. `settled`: more of them would not make it slower.
    """

    ratio: float
    low: float
    high: float
    loads: int
    slower: Optional[bool]
    settled: bool = True


def log_ratios(measured: Dict[str, Any], step: str) -> np.ndarray:
    """Of each load, the logarithm of the engine's latency in units of the yardstick's.

    Args:
        measured: as deploy/timing/interleaved.py's.
    """
    loads = np.asarray(measured["loads"])
    engine, yardstick = (np.log(np.asarray(measured[name][step], float)) for name in ("ms", "yardstick_ms"))
    ratios, together = engine - yardstick, (engine + yardstick) / 2
    found = []
    for load in np.unique(loads):
        own = together[loads == load]
        found.append(np.median(ratios[loads == load][own <= quick(own) + math.log(DISTURBED)]))
    return np.array(found)


def student(freedom: float) -> float:
    return T[int(freedom) - 1] if freedom < len(T) + 1 else NORMAL


def difference(new: np.ndarray, old: Optional[np.ndarray]) -> Tuple[float, float]:
    """Of the means: (new less old, half the interval). No `old` is exactly 0."""
    mean, square, freedom = float(new.mean()), new.var(ddof=1) / len(new), len(new) - 1.0
    if old is not None:
        other = old.var(ddof=1) / len(old)
        mean -= float(old.mean())
        if square + other > 0:
            freedom = (square + other) ** 2 / (square**2 / (len(new) - 1) + other**2 / (len(old) - 1))
        square += other
    return mean, student(max(1.0, freedom)) * math.sqrt(square)


def compare(baseline: Optional[Dict[str, Any]], now: Dict[str, Any], step: str, tolerance: float) -> Comparison:
    """Hold one step of a measurement against the baseline's.

    Args:
        baseline, now: as deploy/timing/interleaved.py's; no baseline where the yardstick is its engine.
        tolerance: how much slower is no regression, 0.05 for 5%.
    """
    new = log_ratios(now, step)
    mean, half = difference(new, None if baseline is None else log_ratios(baseline, step))
    ratio, low, high, limit = math.exp(mean), math.exp(mean - half), math.exp(mean + half), 1 + tolerance
    slower, settled = low > limit, high <= limit
    unknown = not slower and not settled and high - low > WIDEST
    return Comparison(ratio, low, high, len(new), None if unknown else slower, settled)
