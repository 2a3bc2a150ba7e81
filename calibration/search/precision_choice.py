"""Which layers stay in 16 bit: those that are worth most for the least arithmetic.

Every group of tensors that share a scale has a gain, its share of the damage (choice.py), and a cost, the share of the
multiply-accumulates that read it. The groups go to 16 bit by gain for cost, until what is left of the damage is
bearable, or the share of the arithmetic that may stay out of INT8 is spent. No layer is named anywhere: depthwise
convolutions on spread-out channels, a detector's last layers and the like come out first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effedge.calibration.search.threshold_search import BEARABLE

LEAST_COST = 1e-4  # of all multiply-accumulates: what a group of next to none costs, in casts
WORTH = 0.002  # of the damage: a layer that gains less stays in INT8


def ranking(gain: Sequence[float], cost: Sequence[float]) -> list[int]:
    """Indices of the groups, those that should leave INT8 first in front.

    Args:
        cost: as a share of all multiply-accumulates.
    """
    worth = [each / max(share, LEAST_COST) for each, share in zip(gain, cost, strict=True)]
    return [int(index) for index in np.argsort(-np.array(worth), kind="stable")]


def keep_in_float(gain: Sequence[float], damage: float, cost: Sequence[float], share: float) -> list[int]:
    """The groups to leave in 16 bit, in the order of `ranking`.

    Args:
        damage: of all groups in INT8.
        share: what those in 16 bit may cost together, as `cost`.
    """
    kept, left, room = [], damage, share
    for index in ranking(gain, cost):
        if left <= BEARABLE:
            break
        if cost[index] <= room and gain[index] > WORTH * damage:
            kept.append(index)
            left -= gain[index]
            room -= cost[index]
    return kept
