"""What is wrong with a data set: a line for each kind of mistake, with its first case and how many there are."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from effedge.deploy.common.cli import UserError


class BrokenData(UserError):
    """Data with mistakes that nothing can be learnt from, `lines` of one kind each."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = lines


class Problems:
    """Collects mistakes, so that all of them can be mended at once and not one a run."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.count: dict[str, int] = {}

    def add(self, kind: str, line: str) -> None:
        """Take in one mistake: a whole sentence, of which the first of a `kind` is shown."""
        self.first.setdefault(kind, line)
        self.count[kind] = self.count.get(kind, 0) + 1

    def lines(self) -> list[str]:
        """
        >>> problems = Problems()
        >>> for name in "ab":
        ...     problems.add("no picture", f"'{name}' is no picture")
        >>> problems.lines()
        ["'a' is no picture (and 1 more like this)"]
        """
        more = {kind: f" (and {count - 1} more like this)" if count > 1 else "" for kind, count in self.count.items()}
        return [line + more[kind] for kind, line in self.first.items()]

    def refuse(self) -> None:
        """Raise BrokenData if there are any."""
        if self.first:
            raise BrokenData(self.lines())


@contextlib.contextmanager
def line_by_line() -> Iterator[None]:
    """Within the block, BrokenData is told in a line for each kind: the last as the UserError that ends the script."""
    try:
        yield
    except BrokenData as error:
        for line in error.lines[:-1]:
            print(f"error: {' '.join(line.split())}", file=sys.stderr)
        raise UserError(error.lines[-1]) from None
