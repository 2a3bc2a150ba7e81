"""Thresholds by the error that they make at the model's outputs (method `auto`).

How much of a tensor's range INT8 should cover cannot be seen on the tensor: its largest values may be the objects, or
cells that nothing looks at. So it is tried, on a ladder of percentiles, with all tensors in INT8 at once, as what one
of them may clip depends on the noise of the others: first one percentile for all, then halves of the network, quarters
and so on each move up or down the ladder as long as the damage (damage.py) falls.

Where the damage that is left is not yet bearable, each group of tensors is then taken out of INT8 by itself, to see
what that is worth: `keep.py` decides on that which layers stay in 16 bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from calibration.gates import Gates
from calibration.histogram import Histogram
from calibration.thresholds import at_percentile, signal_to_noise
from engines.stage import progress_disabled

LADDER = (100.0, 99.999, 99.99, 99.95, 99.9, 99.7, 99.5, 99.0, 98.0)
FINEST = 32  # parts of the network that move by themselves
WORTH = 0.005  # of the damage: a move that gains less may be luck
BEARABLE = 0.002  # damage at which no layer needs to stay in 16 bit
RUNS = (8, 64)  # samples of a trial, at least and at most
WORK = 6e12  # multiply-accumulates that all trials may take: two minutes or so on two cores
LEAST_WORK = 256  # runs of the model; taking the ranges costs 128
TRIALS = 300  # that a model of a hundred and fifty layers can make use of

Loss = Callable[[Sequence[int]], float]


class Choice(NamedTuple):
    """thresholds: of each group. damage: of all INT8 together. gain: how much less it is with a group in float."""

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
        trials: how many may be made. Where they do not suffice to take out every group, its gain is judged by the
            noise on its histogram.
    """
    made = 0
    with tqdm(desc="thresholds", unit="trial", disable=progress_disabled(quiet)) as bar:

        def damage(thresholds: Sequence[float], without: int = -1) -> float:
            nonlocal made
            made += 1  # the bar counts only where it is shown
            bar.update()
            return gates.damage({i: each for i, each in enumerate(thresholds) if each > 0 and i != without})

        if fixed is None:
            ladders = [[at_percentile(histogram, percent) for percent in LADDER] for histogram in histograms]

            def loss(rungs: Sequence[int]) -> float:
                return damage([ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)])

            rungs = descend(loss, len(ladders), len(LADDER), trials)
            fixed = [ladder[rung] for ladder, rung in zip(ladders, rungs, strict=True)]
        total = damage(fixed)
        if total <= BEARABLE:
            gain = [0.0] * len(fixed)
        elif made + len(fixed) <= trials + TRIALS // 10:
            gain = [total - damage(fixed, without=i) for i in range(len(fixed))]
        else:
            noise = [noise_share(histogram, value) for histogram, value in zip(histograms, fixed, strict=True)]
            gain = [total * share / max(sum(noise), total) for share in noise]
        return Choice(list(fixed), total, gain)


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
