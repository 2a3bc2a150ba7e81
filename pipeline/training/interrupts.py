"""Ctrl-C, or a polite kill, in a long run: it takes effect between two steps, never in the middle of one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt, inside `deferred` blocks only at their end."""

    def __init__(self) -> None:
        self.deferring = self.pending = False

    def __enter__(self) -> Interrupts:
        self.previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self.deferring:
            raise KeyboardInterrupt
        self.pending = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that is run to its end; within another one it changes nothing."""
        if self.deferring:
            yield
            return
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt


def leave_to_parent(_worker: int) -> None:
    """For a worker process, which a terminal's Ctrl-C reaches too: the parent decides when it ends.

    That it does by SIGTERM, which may reach the worker first where a whole process group is stopped; an end without a
    word is then no failure to the parent, who has the signal too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
