"""Judges whether an engine became slower than its baseline, from two measurements (deploy/timing/interleaved.py).

The figures that are compared are the loads' (deploy/timing/comparison.py). The engine is slower if even the lower end
of the 99% interval is above the tolerance.
"""

from typing import NamedTuple, Optional

from effedge.deploy.timing.comparison import interval
from effedge.deploy.timing.interleaved import Measurement, log_ratios

WIDEST = 0.15  # an interval wider than this says nothing


class Verdict(NamedTuple):
    """The engine's latency over the baseline's: `ratio`, its 99% interval, and the number of loads that were measured.

    slower: None where the loads differ too much to tell.
    settled: more loads would not make it slower.
    """

    ratio: float
    low: float
    high: float
    loads: int
    slower: Optional[bool]
    settled: bool = True


def compare(baseline: Optional[Measurement], now: Measurement, step: str, tolerance: float) -> Verdict:
    """Holds one step of a measurement against the baseline's.

    Args:
        baseline: None where the yardstick is the baseline's engine: then its latency is 1 by itself.
        tolerance: how much slower is no regression, 0.05 for 5%.
    """
    figures = log_ratios(now, step)
    ratio, low, high = interval(figures, None if baseline is None else log_ratios(baseline, step))
    limit = 1 + tolerance
    slower, settled = low > limit, high <= limit
    unknown = not slower and not settled and not high - low <= WIDEST  # also where they are not finite
    return Verdict(ratio, low, high, len(figures), None if unknown else slower, settled)
