"""Searches thresholds by the error that they make at the model's outputs (method `auto`).

How much of a tensor's range INT8 should cover cannot be seen on the tensor: its largest values may be the objects, or
cells that nothing looks at. So thresholds are tried, with all tensors in INT8 at once, as the values that one tensor
may clip depend on the noise of the others. They lie on a ladder: at each rung a threshold has the least squared error
of its tensor, with clipping weighed more or less than rounding. First each scale group is tried by itself at the middle
rung, with all others in float, and those that will stay in 16 bit for what they lose there are out of INT8 from now on:
a group that loses much would hide what the others gain. Then one rung is found for all others, and the network and
halves, quarters and eighths of it move up or down the ladder as long as the output error (output_error/) falls. At last
the groups with the largest errors by themselves move on the ladder as far as that helps; the result is taken if the
output error of INT8 together does not rise by it.

The output error that a group makes by itself also gives its share of the total, by its square, as independent errors
add up in squares. By this share precision_choice.py decides which layers stay in 16 bit. (Taking one group out of INT8
where all the others are in it says little: the difference is within the noise of a trial's few samples.)

A trial is a run of the model for each sample, and the runs are what a search costs. So a trial ends early if it is
behind (ladder.py), and of the groups by themselves only those with the largest errors are tried on all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np

from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.samples import spread
from effedge.calibration.ranges.thresholds import least_errors, signal_to_noise
from effedge.calibration.search.ladder import climb, common_rung, descend
from effedge.calibration.search.switched_session import SwitchedTrials
from effedge.deploy.common.messages import track

# Weights of the clipping's error, from which least_errors has a threshold; a position on it is a rung.
LADDER = (np.inf, 64.0, 16.0, 4.0, 1.0, 1 / 4, 1 / 16, 1 / 256, 1 / 4096)
MIDDLE = LADDER.index(1.0)
ACCEPTABLE_ERROR = 0.002  # output error at which no layer needs to stay in 16 bit
SAMPLES = (8, 48)  # of a trial, at least and at most
FEW_SAMPLES = 4  # each group is tried by itself on one of so many samples, if the runs suffice; on one at least
FINALISTS = 24  # groups with the largest errors there, which are tried on all samples
TOTAL_MACS = 5e11  # that all trials may take: ten to twenty seconds on two cores
USEFUL_RUNS = 20000
LEAST_RUNS = 256  # of the model, in all trials; taking the ranges costs 128
RUNS_OF_SAMPLE = 80  # that a sample of the trials should have
DESCENT_SHARE = 0.5  # of the runs, for the moves of parts of the network
ISOLATED_COST = 0.5  # of a run: a group by itself needs the model behind it only

Trial = TypeVar("Trial")

# Chooses groups from the gain of each, the output error of all together, and their thresholds.
Leave = Callable[[Sequence[float], float, Sequence[float]], Collection[int]]


class ThresholdSearchResult(NamedTuple):
    """The threshold of each scale group, the output error of all of INT8 together, each group's share of it, and the
    groups that were left out where the thresholds were searched."""

    thresholds: list[float]
    output_error: float
    gains: list[float]
    left_out: list[int]


def trial_budget(macs: int) -> tuple[int, int]:
    """Returns (samples of a trial, runs of the model in all trials) that are affordable for a model of so many
    multiply-accumulates."""
    runs = min(max(TOTAL_MACS / max(1, macs), LEAST_RUNS), USEFUL_RUNS)
    return int(min(max(runs / RUNS_OF_SAMPLE, SAMPLES[0]), SAMPLES[1])), int(runs)


def search_thresholds(
    switched: SwitchedTrials,
    histograms: Sequence[Histogram],
    fixed: Mapping[int, float] = MappingProxyType({}),
    *,
    runs: float = USEFUL_RUNS,
    leave: Leave = lambda gains, total, thresholds: (),
) -> ThresholdSearchResult:
    """Searches the threshold of each scale group, and measures the output error with these thresholds.

    Args:
        histograms: of each group, its tensors merged.
        fixed: thresholds of groups that are settled; where all are, only the gains are measured.
        runs: of the model, that the trials may take, about. Where they do not suffice to try every group by itself, its
            gain is judged by the noise on its histogram.
        leave: chooses the groups that are likely to stay in 16 bit, from the gains, the output error and the thresholds
            at hand. The thresholds are searched without them.
    """
    with track(desc="thresholds", unit="run") as bar:
        search = _Search(switched, histograms, fixed, runs, bar.update)
        rungs: list[int] | None = None
        thresholds = search.at_rungs([MIDDLE] * len(histograms))
        together = list(search.errors(thresholds))
        total = float(np.mean(together))
        isolated = search.isolate(thresholds) if total > ACCEPTABLE_ERROR else []
        if len(fixed) < len(histograms):
            if total > ACCEPTABLE_ERROR:
                search.left_out = frozenset(leave(search.gains(thresholds, isolated, total), total, thresholds))
            rungs, together = search.common_rung()
            rungs, together = search.descend(rungs, together)
            thresholds = search.at_rungs(rungs)
            total = search.total(thresholds, together)
        if total <= ACCEPTABLE_ERROR:
            return ThresholdSearchResult(thresholds, total, [0.0] * len(thresholds), [])
        if isolated:
            finalists = search.isolate_worst(thresholds, isolated)
            if rungs is not None:
                climbed, lower = search.climb(rungs, [(group, isolated[group]) for group in finalists])
                moved = list(search.errors(search.at_rungs(climbed))) if lower else [np.inf]
                if np.mean(moved) <= np.mean(together):
                    thresholds = search.at_rungs(climbed)
                    total = search.total(thresholds, moved)
                    isolated = [lower.get(group, errors) for group, errors in enumerate(isolated)]
        gains = search.gains(thresholds, isolated, total)
        return ThresholdSearchResult(thresholds, total, gains, sorted(search.left_out))


class _Search:
    """Makes the trials of a search and counts their runs.

    Args:
        fixed: as of `search_thresholds`.
        runs: of the model, that the trials may take, about.
        progress: is called for each run.

    Attributes:
        left: the runs that are left, and `moves`: those of them that are for moving parts of the network.
        left_out: the groups that are out of INT8, where all others are tried together.
    """

    def __init__(
        self,
        switched: SwitchedTrials,
        histograms: Sequence[Histogram],
        fixed: Mapping[int, float],
        runs: float,
        progress: Callable[[], object],
    ) -> None:
        self.switched, self.histograms, self.fixed, self.progress = switched, histograms, fixed, progress
        self.left, self.moves = runs, runs * DESCENT_SHARE if len(fixed) < len(histograms) else 0.0
        self.left_out: frozenset[int] = frozenset()
        self.ladders = [
            [fixed[index]] * len(LADDER) if index in fixed else least_errors(each, LADDER, switched.lows[index])
            for index, each in enumerate(histograms)
        ]

    def at_rungs(self, rungs: Sequence[int]) -> list[float]:
        """Returns the threshold of each group at its rung."""
        return [ladder[rung] for ladder, rung in zip(self.ladders, rungs, strict=True)]

    def errors(self, thresholds: Sequence[float]) -> Iterator[float]:
        """Computes the output error of each sample with all groups in INT8, but for those that are left out and tensors
        of zeros."""
        return self._errors(thresholds, self.left_out)

    def total(self, thresholds: Sequence[float], errors: Sequence[float]) -> float:
        """Returns the mean output error with those that are left out in INT8 too; `errors` are those without them."""
        return float(np.mean(list(self._errors(thresholds, ())) if self.left_out else errors))

    def _errors(self, thresholds: Sequence[float], without: Collection[int]) -> Iterator[float]:
        in_int8 = {index: value for index, value in enumerate(thresholds) if value > 0 and index not in without}
        return self._counted(self.switched.errors(in_int8))

    def isolated_errors(self, group: int, threshold: float) -> Iterator[float]:
        """Computes the output error of each sample with one group in INT8."""
        if threshold == 0:  # of a tensor of zeros
            return iter([0.0] * self.switched.samples)
        return self._counted(self.switched.isolated_errors(group, threshold), ISOLATED_COST)

    def _counted(self, trials: Iterable[Trial], cost: float = 1.0) -> Iterator[Trial]:
        for trial in trials:
            self.left -= cost
            self.progress()
            yield trial

    def common_rung(self) -> tuple[list[int], list[float]]:
        """Finds one rung for all groups, and the errors there; what that leaves of the moves is for parts."""
        before = self.left
        found = common_rung(lambda rungs: self.errors(self.at_rungs(rungs)), len(self.ladders), len(LADDER), MIDDLE)
        self.moves = max(0.0, self.moves - (before - self.left))
        return found

    def descend(self, rungs: Sequence[int], errors: Sequence[float]) -> tuple[list[int], list[float]]:
        """Moves parts of the network on the ladder as `descend`, with the runs for moves."""
        end = self.left - self.moves
        return descend(
            lambda rungs: self.errors(self.at_rungs(rungs)), rungs, errors, len(LADDER), lambda: self.left > end
        )

    def isolate(self, thresholds: Sequence[float]) -> list[list[float]]:
        """Tries each group by itself on few samples, evenly spread; returns their errors, none if there are too few
        runs."""
        affordable = int((self.left - self.moves) / (ISOLATED_COST * len(self.ladders)))
        few = spread(range(self.switched.samples), min(affordable, self.switched.samples // FEW_SAMPLES))
        if not few:
            return []
        isolated: list[list[float]] = [[] for _ in thresholds]
        usable = {group: value for group, value in enumerate(thresholds) if value > 0}
        for group, error in self._counted(self.switched.isolate(usable, few), ISOLATED_COST):
            isolated[group].append(error)
        return [errors or [0.0] * len(few) for errors in isolated]

    def isolate_worst(self, thresholds: Sequence[float], isolated: list[list[float]]) -> list[int]:
        """Tries the groups with the largest `isolated` errors on all samples, changes these, and returns the groups,
        worst first."""
        finalists = np.argsort([-np.mean(errors) for errors in isolated], kind="stable").tolist()[:FINALISTS]
        for group in finalists:
            isolated[group] = list(self.isolated_errors(group, thresholds[group]))
        return finalists

    def gains(self, thresholds: Sequence[float], isolated: Sequence[Sequence[float]], total: float) -> list[float]:
        """Returns each group's share of the output error, by its isolated errors, or without them by the noise on its
        histogram."""
        if isolated:
            return error_shares([float(np.mean(errors)) for errors in isolated], total)
        noise = [noise_share(histogram, value) for histogram, value in zip(self.histograms, thresholds, strict=True)]
        return [total * share / max(sum(noise), total) for share in noise]

    def climb(
        self, rungs: Sequence[int], errors: Sequence[tuple[int, list[float]]]
    ) -> tuple[list[int], dict[int, list[float]]]:
        """Moves groups on the ladder as `climb`, with the runs that are left; those that are fixed or left out stay."""
        return climb(
            lambda group, rung: self.isolated_errors(group, self.ladders[group][rung]),
            rungs,
            [(group, each) for group, each in errors if group not in self.left_out and group not in self.fixed],
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


def noise_share(histogram: Histogram, threshold: float) -> float:
    """Returns the power of INT8's error on a tensor over that of its values."""
    return 10 ** (-signal_to_noise(histogram, threshold) / 10) if histogram.amax > 0 else 0.0
