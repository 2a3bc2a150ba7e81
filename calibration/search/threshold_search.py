"""Thresholds by the error that they make at the model's outputs (method `auto`).

How much of a tensor's range INT8 should cover cannot be seen on the tensor: its largest values may be the objects, or
cells that nothing looks at. So it is tried, on a ladder of percentiles, with all tensors in INT8 at once, as what one
of them may clip depends on the noise of the others: first one percentile for all, then halves of the network, quarters
move up or down the ladder as long as the damage (damage.py) falls. Then each group of tensors is tried by itself, all
others in float, and those that do most move on the ladder as far as that helps; this is kept if all of INT8 together
does no more damage with it.

What a group does by itself is also its share of the damage, squared, as independent errors add up in squares: on that
`keep.py` decides which layers stay in 16 bit. (Taking one group out of INT8 where all the others are in it says little:
the difference is smaller than the luck of the few samples of a trial.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.thresholds import at_percentile, signal_to_noise
from effedge.calibration.search.switched_session import Gates
from effedge.engines.stage import progress_disabled

LADDER = (100.0, 99.999, 99.99, 99.95, 99.9, 99.7, 99.5, 99.0, 98.0)
FINEST = 8  # parts of the network that move by themselves
WORTH = 0.005  # of the damage: a move that gains less may be luck
WORTH_ALONE = 0.1  # the same of a single group's
BEARABLE = 0.002  # damage at which no layer needs to stay in 16 bit
RUNS = (8, 64)  # samples of a trial, at least and at most
WORK = 6e12  # multiply-accumulates that all trials may take: two minutes or so on two cores
LEAST_WORK = 256  # runs of the model; taking the ranges costs 128
TRIALS = 300  # that a model of a hundred and fifty layers can make use of

Loss = Callable[[Sequence[int]], float]


class Choice(NamedTuple):
    """thresholds: of each group. damage: of all INT8 together. gain: how much of it each group makes."""

    thresholds: list[float]
    damage: float
    gain: list[float]


def affordable(macs: int) -> tuple[int, int]:
    """(samples of a trial, trials) for a model of so many multiply-accumulates."""
    runs = max(WORK / max(1, macs), LEAST_WORK)
    samples = int(min(max(runs / TRIALS, RUNS[0]), RUNS[1]))
    return samples, int(min(runs / samples, 10 * TRIALS))


def choose_thresholds(
    gates: Gates,
    histograms: Sequence[Histogram],
    fixed: Sequence[float] | None = None,
    *,
    trials: int = TRIALS,
    quiet: bool = False,
) -> Choice:
    """Find the threshold of each group of `gates` and what INT8 costs there.

    Args:
        histograms: of each group, merged.
        fixed: thresholds of each group that are given; then only the gains are measured.
        trials: how many may be made. Where they do not suffice to try every group by itself, its gain is judged by the
            noise on its histogram.
    """
    made = 0
    with tqdm(desc="thresholds", unit="trial", disable=progress_disabled(quiet)) as bar:

        def count() -> None:
            nonlocal made
            made += 1  # the bar counts only where it is shown
            bar.update()

        def damage(thresholds: Sequence[float]) -> float:
            count()
            return gates.damage({i: each for i, each in enumerate(thresholds) if each > 0})

        def by_itself(group: int, value: float) -> float:
            count()
            return gates.alone(group, value) if value > 0 else 0.0

        ladders = [[at_percentile(histogram, percent) for percent in LADDER] for histogram in histograms]

        def at(rungs: Sequence[int]) -> list[float]:
            return [ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)]

        def alone(group: int, rung: int) -> float:
            return by_itself(group, ladders[group][rung])

        rungs: list[int] = []
        if fixed is None:
            rungs = descend(lambda rungs: damage(at(rungs)), len(ladders), len(LADDER), trials)
        chosen = at(rungs) if fixed is None else list(fixed)
        total = damage(chosen)
        if total <= BEARABLE:
            return Choice(chosen, total, [0.0] * len(chosen))
        if made + len(chosen) > trials + TRIALS // 10:
            noise = [noise_share(histogram, value) for histogram, value in zip(histograms, chosen, strict=True)]
            return Choice(chosen, total, [total * share / max(sum(noise), total) for share in noise])
        does = [by_itself(group, value) for group, value in enumerate(chosen)]
        if fixed is None:
            moved, less = climb(alone, rungs, does, len(LADDER), trials + TRIALS // 10 - made)
            together = damage(at(moved))
            if together <= total:
                chosen, does, total = at(moved), less, together
        return Choice(chosen, total, shares(does, total))


def shares(does: Sequence[float], total: float) -> list[float]:
    """How much of the damage `total` each group makes, by what it `does` by itself: errors add up in squares.

    >>> shares([0.3, 0.1, 0.0], 1.0)
    [0.9, 0.1, 0.0]
    """
    squares = [each * each for each in does]
    return [round(total * square / max(sum(squares), 1e-30), 9) for square in squares]


def climb(
    alone: Callable[[int, int], float], rungs: Sequence[int], does: Sequence[float], top: int, trials: int
) -> tuple[list[int], list[float]]:
    """Move each group on the ladder as long as what it does by itself falls, those that do most first.

    Args:
        alone: what a group does at a rung. `does`: at the `rungs` where they are.
        top: the number of rungs.

    Returns:
        The rungs, and what each group does there.
    """
    rungs, does = list(rungs), list(does)
    for group in np.argsort(-np.array(does), kind="stable").tolist():
        for step in (-1, 1):
            while trials > 0 and 0 <= rungs[group] + step < top and does[group] > 0:
                there, trials = alone(group, rungs[group] + step), trials - 1
                if there > does[group] * (1 - WORTH_ALONE):
                    break
                rungs[group], does[group] = rungs[group] + step, there
    return rungs, does


def noise_share(histogram: Histogram, value: float) -> float:
    """The power of INT8's error on a tensor over that of its values."""
    return 10 ** (-signal_to_noise(histogram, value) / 10) if histogram.amax > 0 else 0.0


def descend(loss: Loss, groups: int, rungs: int, trials: int) -> list[int]:
    """A rung for each group with a small loss, from coarse to fine, in `trials` of the loss (or as many as rungs)."""
    uniform = [loss([rung] * groups) for rung in range(rungs)]
    left = trials - rungs
    position, least = [int(np.argmin(uniform))] * groups, min(uniform)
    parts, finest = 1, min(FINEST, groups)
    while parts < finest:
        parts = min(2 * parts, finest)
        edges = [round(part * groups / parts) for part in range(parts + 1)]
        for start, end in zip(edges, edges[1:], strict=False):
            for step in (-1, 1):
                while left > 0:
                    moved = [
                        min(max(rung + step, 0), rungs - 1) if start <= group < end else rung
                        for group, rung in enumerate(position)
                    ]
                    if moved == position:
                        break
                    there, left = loss(moved), left - 1
                    if there > least * (1 - WORTH):
                        break
                    position, least = moved, there
    return position
