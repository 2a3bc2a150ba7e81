"""Whether an engine became slower than its baseline, on a machine that other work disturbs.

Each run of the engine stands between two runs of a reference (deploy/reference.py); its latency is told in units of
their mean. A run whose two references differ, or are far above the quick ones, was disturbed and does not count. What
is compared is the median ratio of the rest, now against the baseline's, with a bootstrap interval (Efron 1979): slower
means that even the interval's lower end is above the tolerance.
"""

from typing import Any, Dict, NamedTuple, Optional

import numpy as np

from deploy.percentiles import quick

DISTURBED = 1.15  # times the references' quick ones: a disturbed reference
LEAST_QUIET = 12  # runs without which nothing is said
RESAMPLES = 2000
CONFIDENCE = 0.99  # of the interval, two-sided


class Comparison(NamedTuple):
    """`ratio`, now over the baseline, and its interval; `quiet`, the undisturbed runs now, of `runs`.

    `slower` is None where too few runs were undisturbed to tell.
    """

    ratio: float
    low: float
    high: float
    quiet: int
    runs: int
    slower: Optional[bool]


def quiet_ratios(measured: Dict[str, Any], step: str) -> np.ndarray:
    """The undisturbed runs' latencies in units of the reference.

    Args:
        measured: {"before_ms", "after_ms", "ms": {step}}, lists of n milliseconds: of the references beside each run,
            and of the engine.
    """
    before, after, engine = (
        np.asarray(row, float) for row in (measured["before_ms"], measured["after_ms"], measured["ms"][step])
    )
    limit = DISTURBED * quick([before, after])
    quiet = np.maximum(before, after) <= limit
    return engine[quiet] / ((before + after) / 2)[quiet]


def medians(ratios: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Medians of RESAMPLES resamples."""
    return np.median(ratios[random.integers(len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)


def compare(baseline: Dict[str, Any], now: Dict[str, Any], step: str, tolerance: float) -> Comparison:
    """Hold one step of a measurement against the baseline's.

    Args:
        baseline, now: as `deploy.latency_test` measures, for `quiet_ratios`.
        tolerance: how much slower is no regression, 0.05 for 5%.
    """
    old, new = quiet_ratios(baseline, step), quiet_ratios(now, step)
    runs = len(now["ms"][step])
    if min(len(old), len(new)) < LEAST_QUIET:
        return Comparison(float("nan"), float("nan"), float("nan"), len(new), runs, None)
    random = np.random.default_rng(0)  # the same measurements always give the same answer
    spread = medians(new, random) / medians(old, random)
    low, high = np.percentile(spread, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    ratio = float(np.median(new) / np.median(old))
    return Comparison(ratio, float(low), float(high), len(new), runs, bool(low > 1 + tolerance))
