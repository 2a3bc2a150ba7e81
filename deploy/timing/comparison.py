"""Compares the latencies of two functions, on a machine that other work disturbs, by a ratio and its interval.

1. The functions' runs are interleaved (`interleave`), so that whatever slows the machine slows both.
2. A load gives one figure (`log_ratio`), because its runs share the memory that it happened to get, which moves a
   latency by 2%. For an interval the functions are loaded anew several times.
3. The loads' figures give the ratio (their geometric mean) and its interval by Student's t (`interval`), as a bootstrap
   (Efron 1979) of half a dozen loads is too narrow.

A disturbance only makes runs longer, and it comes in two kinds. Another process slows all runs for a while: then
neighbouring runs of both functions are slowed alike, and their ratio is right. A short one is over within a run, so
that the ratios of single runs vary (the medians of four loads of EfficientDet-D0 were 0.92 to 1.02, the ratios of their
lower quartiles 0.96 to 0.98): therefore `log_ratio` leaves out the runs that were not quick, and compares each run with
three of the other function's.

The ratio of a load's lower quartiles is no better, as both functions need not have had the same share of quiet moments.
Of 30 loads of two equal D0s, 20 rounds each, on two cores with other work, `log_ratio` varied by 2.6%, with the run of
the same round only by 3.3%, the ratio of the quartiles by 6.6%; on a quiet machine by 0.6%, 0.6% and 1.4%. In
simulations of a machine that is half as fast for 60% of the time, in bouts of five runs, 100 comparisons of six loads
were off by more than 3% 39 times with the quartiles and never with `log_ratio`. (Where half of the runs take up to
half as long again, a simulation gives 3.1%, 3.3% and 1.1%.)
"""

import math
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import numpy as np

from effedge.deploy.timing.percentiles import quick

Result = TypeVar("Result")

DISTURBED = 1.15  # times the quick pairs' geometric mean
ROUNDS, LEAST_ROUNDS, SECONDS = 300, 5, 1.5  # of `time_ratio`
WARM_UP = 3  # runs of each before them
# Student's t, by the confidence and then by the degrees of freedom from 1 on; beyond these, the normal's.
T: Dict[float, Tuple[float, ...]] = {
    0.95: (
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
        2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ),
    0.99: (
        63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947, 2.921,
        2.898, 2.878, 2.861, 2.845, 2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750,
    ),
}  # fmt: skip
NORMAL = {0.95: 1.960, 0.99: 2.576}


class Interval(NamedTuple):
    """How many times as long the first function takes as the second: the ratio, and its interval's ends."""

    ratio: float
    low: float
    high: float


def interleave(functions: Sequence[Callable[[], Result]], rounds: int) -> Iterator[List[Result]]:
    """Calls every function once a round, in reverse order every other round, and yields their results by round.

    The results of a round have the order of `functions`. By the reversal each of two functions follows itself as often
    as the other, as the caches and threads that a function leaves behind are part of the next one's latency.
    """
    indices = range(len(functions))
    for number in range(rounds):
        results = {index: functions[index]() for index in (reversed(indices) if number % 2 else indices)}
        yield [results[index] for index in indices]


def time_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Interleaves runs of two functions for about SECONDS, and returns how many times as long the first takes.

    There is no interval: the choice between two forms of an engine asks for the likelier of the two only.
    """
    for function in (first, second) * WARM_UP:
        function()
    times: List[List[float]] = []
    started = time.perf_counter()
    for row in interleave([lambda: seconds_of(first), lambda: seconds_of(second)], ROUNDS):
        times.append(row)
        if len(times) >= LEAST_ROUNDS and time.perf_counter() - started >= SECONDS:
            break
    return math.exp(log_ratio(*zip(*times)))


def seconds_of(function: Callable[[], object]) -> float:
    """The duration of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def log_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The logarithm of the first function's latency over the second's in one load.

    Each run is paired with the other function's runs of the same round and of the rounds beside it. The pairs whose
    geometric mean is more than DISTURBED times the lower quartile of all are left out, and the median ratio of the rest
    stands for the load. (To leave out pairs by the second function alone would favour it: of two equal functions the
    first would seem slower.)

    Args:
        first, second: their latencies by round, in any unit.
    """
    rounds = np.arange(len(first))
    one, other = np.nonzero(np.abs(rounds[:, None] - rounds) <= 1)
    ours, theirs = np.log(np.asarray(first, float))[one], np.log(np.asarray(second, float))[other]
    ratios, together = ours - theirs, (ours + theirs) / 2
    return float(np.median(ratios[together <= quick(together) + math.log(DISTURBED)]))


def interval(log_ratios: np.ndarray, baseline: Optional[np.ndarray] = None, confidence: float = 0.99) -> Interval:
    """The ratio of two functions by the figures of their loads, with Student's t interval, to four decimals.

    Args:
        log_ratios: `log_ratio` of each load, two or more.
        baseline: the figures of another measurement, whose ratio is to be 1; then the interval is Welch's.
        confidence: a key of T.
    """
    mean, square, freedom = float(log_ratios.mean()), log_ratios.var(ddof=1) / len(log_ratios), len(log_ratios) - 1.0
    if baseline is not None:
        other = baseline.var(ddof=1) / len(baseline)
        mean -= float(baseline.mean())
        if square + other > 0:
            freedom = (square + other) ** 2 / (square**2 / (len(log_ratios) - 1) + other**2 / (len(baseline) - 1))
        square += other
    half = student(max(1.0, freedom), confidence) * math.sqrt(square)
    return Interval(*(round(math.exp(value), 4) for value in (mean, mean - half, mean + half)))


def student(freedom: float, confidence: float) -> float:
    """Student's t that a share of `confidence` lies within, for the whole number of degrees of freedom below."""
    table = T[confidence]
    return table[int(freedom) - 1] if freedom < len(table) + 1 else NORMAL[confidence]
