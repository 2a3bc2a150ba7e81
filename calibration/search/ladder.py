"""Moves scale groups on a ladder of thresholds, rung by rung, as long as trials say that their errors fall.

A trial is read sample by sample, and ends at the first samples if it is behind the best by more than chance (a race, as
in Maron and Moore 1993, "Hoeffding races").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

MOST_PARTS = 8  # of the network that move separately
LEAST_GAIN = 0.005  # of the output error: a move that gains less may be chance
LEAST_ISOLATED_GAIN = 0.1  # the same of a single group's output error
UNDECIDED = 3  # samples, below which a race has no loser
CERTAIN = 2.0  # standard errors

Errors = Iterable[float]  # of each sample


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


def common_rung(
    loss: Callable[[Sequence[int]], Errors], group_count: int, rung_count: int, first: int = 0
) -> tuple[list[int], list[float]]:
    """Finds the rung with the least loss that all groups are at; returns it for each group, and the errors there.

    Args:
        loss: the errors on each sample, with each group at a rung.
        first: the rung that is tried first, then those next to it: near the best one, so that the others lose early.
    """
    position, best = [first] * group_count, list(loss([first] * group_count))
    for rung in sorted(range(rung_count), key=lambda rung: abs(rung - first))[1:]:
        errors = race(loss([rung] * group_count), best)
        if errors is not None and np.mean(errors) < np.mean(best):
            position, best = [rung] * group_count, errors
    return position, best


def descend(
    loss: Callable[[Sequence[int]], Errors],
    rungs: Sequence[int],
    errors: Sequence[float],
    rung_count: int,
    more: Callable[[], bool],
) -> tuple[list[int], list[float]]:
    """Moves all groups, halves, quarters and eighths of them on the ladder as long as the loss falls.

    Args:
        loss: as of `common_rung`.
        rungs, errors: of each group where the descent begins, and the errors there.
        more: returns True as long as there may be more trials.

    Returns:
        The rung of each group, and the errors there.
    """
    position, best = list(rungs), list(errors)
    count = len(position)
    finest, parts = min(MOST_PARTS, count), 1
    while True:
        edges = [round(part * count / parts) for part in range(parts + 1)]
        for start, end in zip(edges, edges[1:], strict=False):
            for direction in (-1, 1):
                while more():
                    moved = [
                        min(max(rung + direction, 0), rung_count - 1) if start <= group < end else rung
                        for group, rung in enumerate(position)
                    ]
                    tried = race(loss(moved), best) if moved != position else None
                    if tried is None or not better(tried, best, LEAST_GAIN):
                        break
                    position, best = moved, tried
        if parts == finest:
            return position, best
        parts = min(2 * parts, finest)


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
