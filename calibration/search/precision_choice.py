"""Chooses the scale groups that stay in 16 bit: those that are worth most for the least arithmetic.

Every scale group has a gain, its share of the output error (threshold_search.py), and a cost, the share of the
multiply-accumulates that read it. The groups go to 16 bit in the order of gain over cost, until the rest of the output
error is acceptable, or the share of the arithmetic that may stay out of INT8 is spent. No layer is named anywhere:
depthwise convolutions on channels of unlike ranges, a detector's last layers and the like come out first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from effedge.calibration.search.threshold_search import ACCEPTABLE_ERROR

LEAST_COST = 1e-4  # of all multiply-accumulates: what a group of next to none costs, in casts
LEAST_GAIN = 0.002  # of the output error: a group that gains less stays in INT8


def ranking(gains: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Returns the indices of the groups in the order in which they should leave INT8.

    Args:
        costs: as shares of all multiply-accumulates.
    """
    worth = [gain / max(cost, LEAST_COST) for gain, cost in zip(gains, costs, strict=True)]
    return [int(index) for index in np.argsort(-np.array(worth), kind="stable")]


def choose_float_groups(
    gains: Sequence[float], output_error: float, costs: Sequence[float], max_cost: float
) -> list[int]:
    """Returns the groups to leave in 16 bit, in the order of `ranking`.

    Args:
        output_error: of all groups in INT8.
        max_cost: what the groups in 16 bit may cost together, as `costs`.
    """
    float_groups, left, room = [], output_error, max_cost
    for index in ranking(gains, costs):
        if left <= ACCEPTABLE_ERROR:
            break
        if costs[index] <= room and gains[index] > LEAST_GAIN * output_error:
            float_groups.append(index)
            left -= gains[index]
            room -= costs[index]
    return float_groups


def choose_step_by_step(
    gains: Sequence[float],
    output_error: float,
    costs: Sequence[float],
    max_cost: float,
    error_without: Callable[[Collection[int]], float],
) -> tuple[list[int], float]:
    """Chooses groups as `choose_float_groups`, and measures after each choice what is left.

    Errors do not quite add up: where one group makes most of the output error, the others' shares of it are too small.
    So what is left without the chosen groups is measured, and shared among the others.

    Args:
        error_without: measures the output error with the given groups in 16 bit.

    Returns:
        The groups, and the output error that is left without them.
    """
    chosen: list[int] = []
    # One layer stays in INT8 in any case: without any it would be no INT8 model.
    most = sum(costs) - min((cost for cost in costs if cost > 0), default=0.0)
    left, error, room = np.array(gains), output_error, min(max_cost, most)
    while more := choose_float_groups(left.tolist(), error, costs, room):
        chosen += more
        room -= sum(costs[index] for index in more)
        error = error_without(chosen)
        left[more] = 0
        left *= error / max(left.sum(), 1e-30)
    return chosen, error
