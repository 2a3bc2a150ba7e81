"""Which groups stay in 16 bit: cases by hand, and the share as a limit."""

from __future__ import annotations

import numpy as np
import pytest

from effedge.calibration.search.precision_choice import keep_in_float, ranking
from effedge.calibration.search.threshold_search import BEARABLE


def test_the_ranking_is_by_gain_for_cost() -> None:
    assert ranking([0.1, 0.3, 0.2], [0.1, 0.6, 0.1]) == [2, 0, 1]  # 1, 0.5, 2
    assert ranking([0.1, -0.1, 0.0], [0.5, 0.5, 0.5]) == [0, 2, 1]
    assert ranking([1.0, 1.0, 1.0], [0.2, 0.2, 0.2]) == [0, 1, 2], "of equals the first in the graph comes first"


def test_a_cost_of_0_is_no_infinite_worth() -> None:
    assert ranking([1e-6, 0.5, 0.0], [0.0, 0.01, 0.0]) == [1, 0, 2]


@pytest.mark.parametrize(
    ("share", "kept"),
    [(1.0, [2, 0, 1]), (0.75, [2, 0]), (0.2, [2, 0]), (0.15, [2]), (0.05, []), (0.0, [])],
)
def test_groups_go_by_rank_as_far_as_the_share_reaches(share: float, kept: list[int]) -> None:
    assert keep_in_float([0.1, 0.3, 0.2], 0.7, [0.1, 0.6, 0.1], share) == kept


def test_one_that_is_too_dear_lets_a_cheaper_one_behind_it_pass() -> None:
    assert keep_in_float([0.6, 0.1], 0.8, [0.3, 0.1], 0.2) == [1]


def test_it_stops_where_the_rest_of_the_damage_is_bearable() -> None:
    gain, cost = [0.5, 0.3, 0.2], [0.1, 0.1, 0.1]
    assert keep_in_float(gain, 0.8 + BEARABLE / 2, cost, 1) == [0, 1]
    assert keep_in_float(gain, 0.8 + BEARABLE * 2, cost, 1) == [0, 1, 2]
    assert keep_in_float(gain, BEARABLE, cost, 1) == []


def test_groups_that_gain_nothing_or_next_to_nothing_stay_in_int8() -> None:
    assert keep_in_float([0.0, -0.2, 0.1, 1e-7], 0.9, [0.0, 0.0, 0.1, 0.0], 1) == [2]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_costs_no_more_than_the_share(seed: int) -> None:
    random = np.random.default_rng(seed)
    gain, cost = random.exponential(size=40), random.dirichlet(np.ones(40))
    for share in (0.01, 0.1, 0.5, 0.9):
        kept = keep_in_float(list(gain), float(gain.sum()), list(cost), share)
        assert sum(cost[kept]) <= share + 1e-9 and len(set(kept)) == len(kept)
        room, worth_it = share - sum(cost[kept]), [index for index in range(40) if gain[index] > 0.01 * gain.sum()]
        assert all(cost[index] > room - 1e-9 for index in worth_it if index not in kept)
