"""Searches thresholds by the error that they make at the model's outputs (method `auto`).

How much of a tensor's range INT8 should cover cannot be seen on the tensor: its largest values may be the objects, or
cells that nothing looks at. So thresholds are tried, on a ladder of percentiles, with all tensors in INT8 at once, as
the values that one tensor may clip depend on the noise of the others. First one percentile for all tensors, then
halves, quarters and eighths of the network move up or down the ladder as long as the output error (output_error.py)
falls. Then each scale group is tried by itself, with all others in float, and those with the largest error move on the
ladder as far as that helps; the result is taken if the output error of all of INT8 together does not rise by it.

The output error that a group makes by itself also gives its share of the total, by its square, as independent errors
add up in squares. By this share precision_choice.py decides which layers stay in 16 bit. (Taking one group out of INT8
where all the others are in it says little: the difference is within the noise of a trial's few samples.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.thresholds import at_percentile, signal_to_noise
from effedge.calibration.search.switched_session import SwitchedTrials
from effedge.deploy.common.messages import track

LADDER = (100.0, 99.999, 99.99, 99.95, 99.9, 99.7, 99.5, 99.0, 98.0)  # percentiles; a position on it is a rung
MOST_PARTS = 8  # of the network that move separately
LEAST_GAIN = 0.005  # of the output error: a move that gains less may be chance
LEAST_ISOLATED_GAIN = 0.1  # the same of a single group's output error
ACCEPTABLE_ERROR = 0.002  # output error at which no layer needs to stay in 16 bit
SAMPLES = (8, 64)  # of a trial, at least and at most
TOTAL_MACS = 6e12  # that all trials may take: two minutes or so on two cores
LEAST_RUNS = 256  # of the model, in all trials; taking the ranges costs 128
USEFUL_TRIALS = 300  # that a model of a hundred and fifty layers can make use of

Loss = Callable[[Sequence[int]], float]


class ThresholdSearchResult(NamedTuple):
    """The threshold of each scale group, the output error of all of INT8 together, and each group's share of it."""

    thresholds: list[float]
    output_error: float
    gains: list[float]


def trial_budget(macs: int) -> tuple[int, int]:
    """Returns (samples of a trial, trials) that are affordable for a model of so many multiply-accumulates."""
    runs = max(TOTAL_MACS / max(1, macs), LEAST_RUNS)
    samples = int(min(max(runs / USEFUL_TRIALS, SAMPLES[0]), SAMPLES[1]))
    return samples, int(min(runs / samples, 10 * USEFUL_TRIALS))


def search_thresholds(
    switched: SwitchedTrials,
    histograms: Sequence[Histogram],
    fixed: Sequence[float] | None = None,
    *,
    trials: int = USEFUL_TRIALS,
) -> ThresholdSearchResult:
    """Searches the threshold of each scale group, and measures the output error with these thresholds.

    Args:
        histograms: of each group, its tensors merged.
        fixed: thresholds of all groups, where they are settled; then only the gains are measured.
        trials: how many may be made. Where they do not suffice to try every group by itself, its gain is judged by the
            noise on its histogram.
    """
    made = 0
    with track(desc="thresholds", unit="trial") as bar:

        def count() -> None:
            nonlocal made
            made += 1  # the bar counts only where it is shown
            bar.update()

        def output_error(thresholds: Sequence[float]) -> float:
            count()
            return switched.output_error({i: value for i, value in enumerate(thresholds) if value > 0})

        def isolated_error(group: int, threshold: float) -> float:
            count()
            return switched.isolated_error(group, threshold) if threshold > 0 else 0.0

        ladders = [[at_percentile(histogram, percent) for percent in LADDER] for histogram in histograms]

        def at_rungs(rungs: Sequence[int]) -> list[float]:
            return [ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)]

        rungs: list[int] = []
        if fixed is None:
            rungs = descend(lambda rungs: output_error(at_rungs(rungs)), len(ladders), len(LADDER), trials)
        thresholds = at_rungs(rungs) if fixed is None else list(fixed)
        total = output_error(thresholds)
        if total <= ACCEPTABLE_ERROR:
            return ThresholdSearchResult(thresholds, total, [0.0] * len(thresholds))
        if made + len(thresholds) > trials + USEFUL_TRIALS // 10:
            noise = [noise_share(histogram, value) for histogram, value in zip(histograms, thresholds, strict=True)]
            gains = [total * share / max(sum(noise), total) for share in noise]
            return ThresholdSearchResult(thresholds, total, gains)
        errors = [isolated_error(group, threshold) for group, threshold in enumerate(thresholds)]
        if fixed is None:
            rungs, lower_errors = climb(
                lambda group, rung: isolated_error(group, ladders[group][rung]),
                rungs,
                errors,
                len(LADDER),
                trials + USEFUL_TRIALS // 10 - made,
            )
            together = output_error(at_rungs(rungs))
            if together <= total:
                thresholds, errors, total = at_rungs(rungs), lower_errors, together
        return ThresholdSearchResult(thresholds, total, error_shares(errors, total))


def error_shares(isolated_errors: Sequence[float], total: float) -> list[float]:
    """Returns each group's share of the output error `total`, by its error alone: errors add up in squares.

    >>> error_shares([0.3, 0.1, 0.0], 1.0)
    [0.9, 0.1, 0.0]
    """
    squares = [error * error for error in isolated_errors]
    return [round(total * square / max(sum(squares), 1e-30), 9) for square in squares]


def climb(
    isolated_error: Callable[[int, int], float],
    rungs: Sequence[int],
    errors: Sequence[float],
    rung_count: int,
    trials: int,
) -> tuple[list[int], list[float]]:
    """Moves each group on the ladder as long as its isolated error falls, the group with the largest error first.

    Args:
        isolated_error: of a group at a rung.
        rungs, errors: where each group begins, and its isolated error there.

    Returns:
        The rung of each group, and its isolated error there.
    """
    rungs, errors = list(rungs), list(errors)
    for group in np.argsort(-np.array(errors), kind="stable").tolist():
        for direction in (-1, 1):
            while trials > 0 and 0 <= rungs[group] + direction < rung_count and errors[group] > 0:
                error, trials = isolated_error(group, rungs[group] + direction), trials - 1
                if error > errors[group] * (1 - LEAST_ISOLATED_GAIN):
                    break
                rungs[group], errors[group] = rungs[group] + direction, error
    return rungs, errors


def noise_share(histogram: Histogram, threshold: float) -> float:
    """Returns the power of INT8's error on a tensor over that of its values."""
    return 10 ** (-signal_to_noise(histogram, threshold) / 10) if histogram.amax > 0 else 0.0


def descend(loss: Loss, group_count: int, rung_count: int, trials: int) -> list[int]:
    """Returns a rung for each group with a small loss, from coarse to fine, in `trials` of the loss (or `rung_count`,
    if that is more)."""
    uniform = [loss([rung] * group_count) for rung in range(rung_count)]
    left = trials - rung_count
    position, least = [int(np.argmin(uniform))] * group_count, min(uniform)
    parts, finest = 1, min(MOST_PARTS, group_count)
    while parts < finest:
        parts = min(2 * parts, finest)
        edges = [round(part * group_count / parts) for part in range(parts + 1)]
        for start, end in zip(edges, edges[1:], strict=False):
            for direction in (-1, 1):
                while left > 0:
                    moved = [
                        min(max(rung + direction, 0), rung_count - 1) if start <= group < end else rung
                        for group, rung in enumerate(position)
                    ]
                    if moved == position:
                        break
                    error, left = loss(moved), left - 1
                    if error > least * (1 - LEAST_GAIN):
                        break
                    position, least = moved, error
    return position
