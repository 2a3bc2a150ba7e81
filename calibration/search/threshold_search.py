"""Searches thresholds by the error that they make at the model's outputs (method `auto`).

How much of a tensor's range INT8 should cover cannot be seen on the tensor: its largest values may be the objects, or
cells that nothing looks at. So thresholds are tried, on a ladder of percentiles, with all tensors in INT8 at once, as
the values that one tensor may clip depend on the noise of the others. First one percentile for all tensors, then
halves, quarters and eighths of the network move up or down the ladder as long as the output error (output_error/)
falls. Then each scale group is tried by itself, with all others in float, and those with the largest error move on the
ladder as far as that helps; the result is taken if the output error of all of INT8 together does not rise by it.

The output error that a group makes by itself also gives its share of the total, by its square, as independent errors
add up in squares. By this share precision_choice.py decides which layers stay in 16 bit. (Taking one group out of INT8
where all the others are in it says little: the difference is within the noise of a trial's few samples.)

A trial is a run of the model for each sample, and the runs are what a search costs. So a trial ends at the first
samples if it is behind the best by more than chance (a race, as in Maron and Moore 1993, "Hoeffding races"), and of the
groups by themselves only those with the largest errors are tried on all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.samples import spread
from effedge.calibration.ranges.thresholds import at_percentile, signal_to_noise
from effedge.calibration.search.switched_session import SwitchedTrials
from effedge.deploy.common.messages import track

LADDER = (100.0, 99.999, 99.99, 99.95, 99.9, 99.7, 99.5, 99.0, 98.0)  # percentiles; a position on it is a rung
MOST_PARTS = 8  # of the network that move separately
LEAST_GAIN = 0.005  # of the output error: a move that gains less may be chance
LEAST_ISOLATED_GAIN = 0.1  # the same of a single group's output error
ACCEPTABLE_ERROR = 0.002  # output error at which no layer needs to stay in 16 bit
SAMPLES = (8, 64)  # of a trial, at least and at most
FEW_SAMPLES = 4  # each group is tried by itself on one of so many samples, if the runs suffice; on one at least
FINALISTS = 24  # groups with the largest errors there, which are tried on all samples
TOTAL_MACS = 7e11  # that all trials may take: twenty seconds or so on two cores
USEFUL_RUNS = 20000
LEAST_RUNS = 256  # of the model, in all trials; taking the ranges costs 128
RUNS_OF_SAMPLE = 80  # that a sample of the trials should have
DESCENT_SHARE = 0.5  # of the runs, for the moves of parts of the network
ISOLATED_COST = 0.5  # of a run: a group by itself needs the model behind it only
UNDECIDED = 3  # samples, below which a race has no loser
CERTAIN = 2.0  # standard errors

Errors = Iterable[float]  # of each sample


class ThresholdSearchResult(NamedTuple):
    """The threshold of each scale group, the output error of all of INT8 together, and each group's share of it."""

    thresholds: list[float]
    output_error: float
    gains: list[float]


def trial_budget(macs: int) -> tuple[int, int]:
    """Returns (samples of a trial, runs of the model in all trials) that are affordable for a model of so many
    multiply-accumulates."""
    runs = min(max(TOTAL_MACS / max(1, macs), LEAST_RUNS), USEFUL_RUNS)
    return int(min(max(runs / RUNS_OF_SAMPLE, SAMPLES[0]), SAMPLES[1])), int(runs)


def search_thresholds(
    switched: SwitchedTrials,
    histograms: Sequence[Histogram],
    fixed: Sequence[float] | None = None,
    *,
    runs: float = USEFUL_RUNS,
) -> ThresholdSearchResult:
    """Searches the threshold of each scale group, and measures the output error with these thresholds.

    Args:
        histograms: of each group, its tensors merged.
        fixed: thresholds of all groups, where they are settled; then only the gains are measured.
        runs: of the model, that the trials may take, about. Where they do not suffice to try every group by itself, its
            gain is judged by the noise on its histogram.
    """
    with track(desc="thresholds", unit="run") as bar:
        search = _Search(switched, histograms, runs, bar.update)
        rungs: list[int] | None = None
        if fixed is None:
            rungs, together = search.descend()
            thresholds = search.at_rungs(rungs)
        else:
            thresholds = list(fixed)
            together = list(search.errors(thresholds))
        total = float(np.mean(together))
        if total <= ACCEPTABLE_ERROR:
            return ThresholdSearchResult(thresholds, total, [0.0] * len(thresholds))
        if not search.few:
            noise = [noise_share(histogram, value) for histogram, value in zip(histograms, thresholds, strict=True)]
            return ThresholdSearchResult(thresholds, total, [total * share / max(sum(noise), total) for share in noise])
        isolated, finalists = search.isolate(thresholds)
        if rungs is not None:
            rungs, lower = search.climb(rungs, [(group, isolated[group]) for group in finalists])
            moved = float(np.mean(list(search.errors(search.at_rungs(rungs))))) if lower else np.inf
            if moved <= total:
                thresholds, total = search.at_rungs(rungs), moved
                isolated = [lower.get(group, errors) for group, errors in enumerate(isolated)]
        return ThresholdSearchResult(
            thresholds, total, error_shares([float(np.mean(each)) for each in isolated], total)
        )


class _Search:
    """Makes the trials of a search and counts their runs.

    Args:
        runs: of the model, that the trials may take, about.
        progress: is called for each run.
    """

    def __init__(
        self, switched: SwitchedTrials, histograms: Sequence[Histogram], runs: float, progress: Callable[[], object]
    ) -> None:
        self.switched, self.runs, self.left, self.progress = switched, runs, runs, progress
        self.ladders = [[at_percentile(histogram, percent) for percent in LADDER] for histogram in histograms]

    def at_rungs(self, rungs: Sequence[int]) -> list[float]:
        """Returns the threshold of each group at its rung."""
        return [ladder[rung] for ladder, rung in zip(self.ladders, rungs, strict=True)]

    def errors(self, thresholds: Sequence[float]) -> Iterator[float]:
        """Computes the output error of each sample with all groups in INT8, but for tensors of zeros."""
        return self._counted(self.switched.errors({i: value for i, value in enumerate(thresholds) if value > 0}))

    def isolated_errors(self, group: int, threshold: float, samples: Sequence[int] | None = None) -> Iterator[float]:
        """Computes the output error of each sample, or of some, with one group in INT8."""
        samples = range(self.switched.samples) if samples is None else samples
        if threshold == 0:  # of a tensor of zeros
            return iter([0.0] * len(samples))
        return self._counted(self.switched.isolated_errors(group, threshold, samples), ISOLATED_COST)

    def _counted(self, errors: Errors, cost: float = 1.0) -> Iterator[float]:
        for error in errors:
            self.left -= cost
            self.progress()
            yield error

    def descend(self) -> tuple[list[int], list[float]]:
        """Finds a rung for each group as `descend`, with a share of the runs."""
        return descend(
            lambda rungs: self.errors(self.at_rungs(rungs)),
            len(self.ladders),
            len(LADDER),
            lambda: self.left > self.runs * (1 - DESCENT_SHARE),
        )

    @property
    def few(self) -> Sequence[int]:
        """The samples, evenly spread, on which the runs that are left suffice to try each group by itself."""
        affordable = int(self.left / (ISOLATED_COST * len(self.ladders)))
        return spread(range(self.switched.samples), min(affordable, self.switched.samples // FEW_SAMPLES))

    def isolate(self, thresholds: Sequence[float]) -> tuple[list[list[float]], list[int]]:
        """Tries each group by itself on few samples, and those with the largest errors on all of them.

        Returns:
            The isolated errors of each group, and the groups that were tried on all samples, worst first.
        """
        few = self.few
        isolated = [list(self.isolated_errors(group, value, few)) for group, value in enumerate(thresholds)]
        finalists = np.argsort([-np.mean(errors) for errors in isolated], kind="stable").tolist()[:FINALISTS]
        for group in finalists:
            isolated[group] = list(self.isolated_errors(group, thresholds[group]))
        return isolated, finalists

    def climb(
        self, rungs: Sequence[int], errors: Sequence[tuple[int, list[float]]]
    ) -> tuple[list[int], dict[int, list[float]]]:
        """Moves groups on the ladder as `climb`, with the runs that are left."""
        return climb(
            lambda group, rung: self.isolated_errors(group, self.ladders[group][rung]),
            rungs,
            errors,
            len(LADDER),
            lambda: self.left > 0,
        )


def error_shares(isolated_errors: Sequence[float], total: float) -> list[float]:
    """Returns each group's share of the output error `total`, by its error alone: errors add up in squares.

    >>> error_shares([0.3, 0.1, 0.0], 1.0)
    [0.9, 0.1, 0.0]
    """
    squares = [error * error for error in isolated_errors]
    return [round(total * square / max(sum(squares), 1e-30), 9) for square in squares]


def race(errors: Errors, best: Sequence[float]) -> list[float] | None:
    """Runs a trial against the best one, sample by sample.

    Args:
        errors: of the trial, which is computed as it is read.
        best: the best trial's errors on the same samples.

    Returns:
        The errors on all samples; None as soon as they are larger than the best trial's by more than chance.
    """
    got: list[float] = []
    for error in errors:
        got.append(error)
        if len(got) >= UNDECIDED:
            gain, deviation = _gain(got, best)
            if gain < -CERTAIN * deviation:
                return None
    return got


def better(errors: Sequence[float] | None, best: Sequence[float], least_gain: float) -> bool:
    """Returns True if a trial's errors are smaller than the best one's by more than chance, and by `least_gain`, a
    share."""
    if errors is None:
        return False
    gain, deviation = _gain(errors, best)
    return gain > deviation and gain >= least_gain * float(np.mean(best))


def _gain(errors: Sequence[float], best: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of best - errors over the samples of both, and its standard error."""
    gains = np.subtract(best[: len(errors)], errors)
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0


def descend(
    loss: Callable[[Sequence[int]], Errors], group_count: int, rung_count: int, more: Callable[[], bool]
) -> tuple[list[int], list[float]]:
    """Finds a rung for each group with a small loss, from coarse to fine.

    Args:
        loss: the errors on each sample, with each group at a rung.
        more: returns True as long as there may be more trials. One rung for all groups is found in any case.

    Returns:
        The rung of each group, and the errors there.
    """
    position, best = [0] * group_count, list(loss([0] * group_count))
    for rung in range(1, rung_count):
        errors = race(loss([rung] * group_count), best)
        if errors is not None and np.mean(errors) < np.mean(best):
            position, best = [rung] * group_count, errors
    parts, finest = 1, min(MOST_PARTS, group_count)
    while parts < finest:
        parts = min(2 * parts, finest)
        edges = [round(part * group_count / parts) for part in range(parts + 1)]
        for start, end in zip(edges, edges[1:], strict=False):
            for direction in (-1, 1):
                while more():
                    moved = [
                        min(max(rung + direction, 0), rung_count - 1) if start <= group < end else rung
                        for group, rung in enumerate(position)
                    ]
                    errors = race(loss(moved), best) if moved != position else None
                    if errors is None or not better(errors, best, LEAST_GAIN):
                        break
                    position, best = moved, errors
    return position, best


def climb(
    isolated_errors: Callable[[int, int], Errors],
    rungs: Sequence[int],
    errors: Sequence[tuple[int, list[float]]],
    rung_count: int,
    more: Callable[[], bool],
) -> tuple[list[int], dict[int, list[float]]]:
    """Moves groups on the ladder as long as their isolated errors fall.

    Args:
        isolated_errors: of a group at a rung, on each sample.
        rungs: where each group begins.
        errors: the groups that may move, in their order, and their isolated errors where they begin.
        more: returns True as long as there may be more trials.

    Returns:
        The rung of each group, and the isolated errors of those that moved.
    """
    rungs, lower = list(rungs), dict[int, list[float]]()
    for group, best in errors:
        for direction in (-1, 1):
            while more() and 0 <= rungs[group] + direction < rung_count and np.mean(best) > 0:
                got = race(isolated_errors(group, rungs[group] + direction), best)
                if got is None or not better(got, best, LEAST_ISOLATED_GAIN):
                    break
                rungs[group], best = rungs[group] + direction, got
                lower[group] = got
    return rungs, lower


def noise_share(histogram: Histogram, threshold: float) -> float:
    """Returns the power of INT8's error on a tensor over that of its values."""
    return 10 ** (-signal_to_noise(histogram, threshold) / 10) if histogram.amax > 0 else 0.0
