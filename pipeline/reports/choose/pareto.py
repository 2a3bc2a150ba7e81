"""Picks the most accurate model within a latency, and decides which models need not be measured for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

BEYOND = 1.5  # times the limit: the end of a series. A model a little beyond the limit is still of interest.


class Candidate(NamedTuple):
    """A model with its milliseconds an image and its accuracy, of which more is better."""

    model: str
    accuracy: float
    milliseconds: float


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Selects the candidates that no other beats, fastest first.

    A candidate beats another if it is at least as fast and as accurate, and better in one of the two.

    >>> [c.model for c in pareto_front([Candidate("a", 30, 5), Candidate("b", 29, 6), Candidate("c", 40, 9)])]
    ['a', 'c']
    """

    def is_beaten(candidate: Candidate) -> bool:
        return any(
            other.milliseconds <= candidate.milliseconds
            and other.accuracy >= candidate.accuracy
            and (other.milliseconds, other.accuracy) != (candidate.milliseconds, candidate.accuracy)
            for other in candidates
        )

    return sorted((c for c in candidates if not is_beaten(c)), key=lambda candidate: candidate.milliseconds)


def pick(candidates: Sequence[Candidate], limit: float) -> Candidate:
    """Picks the most accurate candidate within `limit` ms, among equals the fastest.

    If no candidate is within the limit, it is the fastest of all, among equals the most accurate. Among candidates that
    are equal in both it is the first.
    """
    within = [candidate for candidate in candidates if candidate.milliseconds <= limit]
    if within:
        return max(within, key=lambda candidate: (candidate.accuracy, -candidate.milliseconds))
    return min(candidates, key=lambda candidate: (candidate.milliseconds, -candidate.accuracy))


def measure_series(
    series: Sequence[Sequence[str]], limit: float, milliseconds: Callable[[str], float]
) -> Iterator[tuple[str, float, list[str]]]:
    """Measures each series from the smallest model up, until a model takes more than BEYOND times the limit.

    Yields:
        (model, its milliseconds, the larger models of its series that are therefore left out).
    """
    for models in series:
        for index, model in enumerate(models):
            latency = milliseconds(model)
            ends = latency > BEYOND * limit
            yield model, latency, list(models[index + 1 :]) if ends else []
            if ends:
                break
