"""Which model to take: the most accurate within the latency, and what may be left unmeasured on the way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

BEYOND = 1.5  # times the limit: the end of a series. A little beyond it, a model is still worth knowing of.


class Candidate(NamedTuple):
    """`milliseconds` of a picture; `accuracy`, more is better."""

    model: str
    accuracy: float
    milliseconds: float


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats: none is at least as fast and as accurate and better in one of the two. Fastest first.

    >>> [one.model for one in front([Candidate("a", 30, 5), Candidate("b", 29, 6), Candidate("c", 40, 9)])]
    ['a', 'c']
    """

    def beaten(one: Candidate) -> bool:
        return any(
            other.milliseconds <= one.milliseconds
            and other.accuracy >= one.accuracy
            and (other.milliseconds, other.accuracy) != (one.milliseconds, one.accuracy)
            for other in candidates
        )

    return sorted((one for one in candidates if not beaten(one)), key=lambda one: one.milliseconds)


def pick(candidates: Sequence[Candidate], limit: float) -> Candidate:
    """The most accurate within `limit` ms, of equals the fastest; if none is within it, the fastest of all, and of
    equals the most accurate. Of what is equal in both the first."""
    within = [one for one in candidates if one.milliseconds <= limit]
    if within:
        return max(within, key=lambda one: (one.accuracy, -one.milliseconds))
    return min(candidates, key=lambda one: (one.milliseconds, -one.accuracy))


def climb(
    series: Sequence[Sequence[str]], limit: float, milliseconds: Callable[[str], float]
) -> Iterator[tuple[str, float, list[str]]]:
    """Measure each series from the smallest model up, until one takes more than BEYOND times the limit.

    Yields:
        (model, its milliseconds, the larger models of its series that are therefore left out).
    """
    for models in series:
        for index, model in enumerate(models):
            found = milliseconds(model)
            ends = found > BEYOND * limit
            yield model, found, list(models[index + 1 :]) if ends else []
            if ends:
                break
