"""Checks the choice of the groups that stay in 16 bit: cases by hand, and the share as a limit."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from effedge.calibration.search.precision_choice import choose_float_groups, choose_step_by_step, ranking
from effedge.calibration.search.threshold_search import ACCEPTABLE_ERROR


def test_the_ranking_is_by_gain_for_cost() -> None:
    assert ranking([0.1, 0.3, 0.2], [0.1, 0.6, 0.1]) == [2, 0, 1]  # 1, 0.5, 2
    assert ranking([0.1, -0.1, 0.0], [0.5, 0.5, 0.5]) == [0, 2, 1]
    assert ranking([1.0, 1.0, 1.0], [0.2, 0.2, 0.2]) == [0, 1, 2], "of equals the first in the graph comes first"


def test_a_cost_of_0_is_no_infinite_worth() -> None:
    assert ranking([1e-6, 0.5, 0.0], [0.0, 0.01, 0.0]) == [1, 0, 2]


@pytest.mark.parametrize(
    ("share", "float_groups"),
    [(1.0, [2, 0, 1]), (0.75, [2, 0]), (0.2, [2, 0]), (0.15, [2]), (0.05, []), (0.0, [])],
)
def test_groups_go_by_rank_as_far_as_the_share_reaches(share: float, float_groups: list[int]) -> None:
    assert choose_float_groups([0.1, 0.3, 0.2], 0.7, [0.1, 0.6, 0.1], share) == float_groups


def test_one_that_is_too_dear_lets_a_cheaper_one_behind_it_pass() -> None:
    assert choose_float_groups([0.6, 0.1], 0.8, [0.3, 0.1], 0.2) == [1]


def test_it_stops_where_the_rest_of_the_output_error_is_acceptable() -> None:
    gains, costs = [0.5, 0.3, 0.2], [0.1, 0.1, 0.1]
    assert choose_float_groups(gains, 0.8 + ACCEPTABLE_ERROR / 2, costs, 1) == [0, 1]
    assert choose_float_groups(gains, 0.8 + ACCEPTABLE_ERROR * 2, costs, 1) == [0, 1, 2]
    assert choose_float_groups(gains, ACCEPTABLE_ERROR, costs, 1) == []


def test_groups_that_gain_nothing_or_next_to_nothing_stay_in_int8() -> None:
    assert choose_float_groups([0.0, -0.2, 0.1, 1e-7], 0.9, [0.0, 0.0, 0.1, 0.0], 1) == [2]


@pytest.mark.parametrize("seed", range(5))
def test_the_groups_in_16_bit_cost_no_more_than_the_share(seed: int) -> None:
    random = np.random.default_rng(seed)
    gains, costs = random.exponential(size=40), random.dirichlet(np.ones(40))
    for share in (0.01, 0.1, 0.5, 0.9):
        float_groups = choose_float_groups(list(gains), float(gains.sum()), list(costs), share)
        assert sum(costs[float_groups]) <= share + 1e-9 and len(set(float_groups)) == len(float_groups)
        room = share - sum(costs[float_groups])
        worth_it = [index for index in range(40) if gains[index] > 0.01 * gains.sum()]
        assert all(costs[index] > room - 1e-9 for index in worth_it if index not in float_groups)


def test_what_one_groups_error_hides_is_measured_without_it() -> None:
    """The first group makes all of the output error; without it the second makes half as much."""

    def error_without(groups: Collection[int]) -> float:
        return 1.0 if 0 not in groups else 0.5 if 1 not in groups else 1e-4

    gains, costs = [1.0, 1e-3, 1e-6], [0.1, 0.1, 0.1]
    assert choose_float_groups(gains, 1.0, costs, 1) == [0]
    assert choose_step_by_step(gains, 1.0, costs, 1, error_without) == ([0, 1], 1e-4)
    assert choose_step_by_step(gains, 1.0, costs, 0.15, error_without) == ([0], 0.5)
