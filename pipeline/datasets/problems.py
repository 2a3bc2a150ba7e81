"""Collects the mistakes of a data set: a line for each kind of mistake, with its first case and their number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from effedge.deploy.common.cli import UserError, say


class BrokenData(UserError):
    """The error of data that nothing can be learnt from; `lines` has a line for each kind of mistake."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = lines


class Problems:
    """A collection of mistakes, so that a user can correct all of them at once and not one a run."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.count: dict[str, int] = {}

    def add(self, kind: str, line: str) -> None:
        """Adds a mistake, a complete sentence; of every `kind` the first sentence is shown."""
        self.first.setdefault(kind, line)
        self.count[kind] = self.count.get(kind, 0) + 1

    def lines(self) -> list[str]:
        """Returns a line for each kind.

        >>> problems = Problems()
        >>> for name in "ab":
        ...     problems.add("no image", f"'{name}' is no image")
        >>> problems.lines()
        ["'a' is no image (and 1 more like this)"]
        """
        more = {kind: f" (and {count - 1} more like this)" if count > 1 else "" for kind, count in self.count.items()}
        return [line + more[kind] for kind, line in self.first.items()]

    def refuse(self) -> None:
        """Raises BrokenData if there are any mistakes."""
        if self.first:
            raise BrokenData(self.lines())


@contextlib.contextmanager
def line_by_line() -> Iterator[None]:
    """Prints the lines of its block's BrokenData, and raises the last one as UserError, which ends the script."""
    try:
        yield
    except BrokenData as error:
        for line in error.lines[:-1]:
            say(f"error: {' '.join(line.split())}")
        raise UserError(error.lines[-1]) from None
