"""The moves on the ladder of thresholds, on synthetic losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from effedge.calibration.search import ladder
from effedge.calibration.search.ladder import better, climb, common_rung, descend, race


class Counted:
    """A loss that counts how often it was asked, and may be asked `limit` times."""

    def __init__(self, loss: Callable[[Sequence[int]], float], limit: int = 10_000) -> None:
        self.loss, self.limit, self.calls = loss, limit, 0

    def __call__(self, rungs: Sequence[int]) -> list[float]:
        self.calls += 1
        return [self.loss(rungs)]

    def more(self) -> bool:
        return self.calls < self.limit


def found_by(loss: Counted, groups: int, rungs: int) -> tuple[list[int], list[float]]:
    """One rung for all, and the descent from there."""
    return descend(loss, *common_rung(loss, groups, rungs), rungs, loss.more)


def bowl(target: Sequence[int], limit: int = 10_000) -> Counted:
    """Separable: the squared distance of each group to its own best rung."""
    return Counted(lambda rungs: 1e-3 + sum((a - b) ** 2 for a, b in zip(rungs, target, strict=True)), limit)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 8, 13, 16])
@pytest.mark.parametrize("seed", range(3))
def test_the_descent_finds_the_best_rung_of_every_group_of_a_separable_loss(
    groups: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "MOST_PARTS", 16)  # it goes to single groups
    target = [int(rung) for rung in np.random.default_rng(seed).integers(0, 7, groups)]
    loss = bowl(target)
    assert found_by(loss, groups, 7) == (target, [1e-3])


@pytest.mark.parametrize("trials", [7, 8, 20, 50])
def test_the_descent_keeps_to_its_trials_and_never_returns_worse_than_one_rung_for_all(trials: int) -> None:
    loss = bowl([0, 6] * 8, trials)
    found, errors = found_by(loss, 16, 7)
    assert loss.calls <= trials
    assert loss(found) == errors
    assert errors[0] <= min(loss([rung] * 16)[0] for rung in range(7))


def test_without_trials_it_takes_the_best_single_rung() -> None:
    loss = bowl([2, 2, 3, 2], 0)
    assert found_by(loss, 4, 9)[0] == [2, 2, 2, 2]
    assert loss.calls == 9


@pytest.mark.parametrize("first", range(7))
def test_the_common_rung_is_the_same_wherever_the_trials_begin_and_the_nearest_come_first(first: int) -> None:
    tried: list[int] = []

    def loss(rungs: Sequence[int]) -> list[float]:
        assert len(set(rungs)) == 1
        tried.append(rungs[0])
        return [float(abs(rungs[0] - 4))]

    assert common_rung(loss, 3, 7, first) == ([4, 4, 4], [0.0])
    assert sorted(tried) == list(range(7))
    distances = [abs(rung - first) for rung in tried]
    assert distances == sorted(distances)


def test_a_move_that_gains_next_to_nothing_is_not_made() -> None:
    loss = Counted(lambda rungs: 1 - 1e-6 * sum(rungs[:2]))
    assert found_by(loss, 4, 5)[0] == [4, 4, 4, 4]  # the best for all
    loss = Counted(lambda rungs: 1 + abs(sum(rungs) - 8) - 1e-6 * rungs[0])
    assert found_by(loss, 4, 5)[0] == [2, 2, 2, 2]


def test_a_race_ends_when_the_trial_is_behind_by_more_than_chance() -> None:
    def run(errors: Sequence[float]) -> tuple[list[float] | None, int]:
        waiting = iter(errors)
        return race(waiting, best), len(list(waiting))

    best = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    assert run([2.0, 3.1, 2.0, 3.0, 0.0, 0.0]) == (None, 3), "each sample is worse by the same"
    luck = [5.0, 0.0, 1.0, 2.0, 1.0, 2.5]
    assert run(luck) == (luck, 0), "one sample alone decides nothing"
    assert run([0.5] * 6) == ([0.5] * 6, 0)


def test_what_is_better_on_a_sample_or_two_only_is_not_better() -> None:
    best = [1.0] * 8
    assert better([0.9, 0.8] * 4, best, 0.05)
    assert not better([0.9, 0.8] * 4, best, 0.2), "a gain of 0.15"
    assert not better([0.0, *[1.02] * 7], best, 0.05), "the mean is smaller by one sample"
    assert not better(None, best, 0.0)


def test_a_group_climbs_as_far_as_its_isolated_error_falls() -> None:
    best, calls = [3, 0, 5, 2], list[tuple[int, int]]()

    def isolated_errors(group: int, rung: int) -> list[float]:
        calls.append((group, rung))
        return [1.0 + group + 0.5 * abs(rung - best[group])]

    start = [0, 0, 7, 2]
    errors = [(group, isolated_errors(group, start[group])) for group in (3, 2, 0, 1)]
    calls.clear()
    rungs, lower = climb(isolated_errors, start, errors, 8, lambda: True)
    assert rungs == best and lower == {0: [1], 2: [3]} and start == [0, 0, 7, 2]
    assert calls[0][0] == 3, "in the order that was given"
    calls.clear()
    assert climb(isolated_errors, start, errors, 8, lambda: not calls)[0] != best
    assert len(calls) == 1, "no more trials than there may be"


def test_an_improvement_of_a_group_that_may_be_luck_moves_nothing() -> None:
    assert climb(lambda group, rung: [1 - 0.05 * rung], [0], [(0, [1.0])], 8, lambda: True) == ([0], {})
