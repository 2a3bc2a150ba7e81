"""Defers Ctrl-C, SIGTERM and SIGHUP to the end of a training step, so that a step is never cut in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from effedge.deploy.common.cli import handled_signals, interrupt


class Interrupts:
    """A context in which these signals raise KeyboardInterrupt, inside `deferred` blocks only at their end."""

    def __init__(self) -> None:
        self.deferring = self.pending = False

    def __enter__(self) -> Interrupts:
        self.handled = handled_signals(self._handle)
        self.handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.handled.__exit__(None, None, None)

    def _handle(self, number: int) -> None:
        if not self.deferring:
            interrupt(number)
        self.pending = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Runs its block to the end before an interrupt is raised; nested blocks change nothing."""
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
    """Makes a worker process ignore a terminal's Ctrl-C and its end, and end without a word on SIGTERM.

    The parent decides when the worker ends, and sends SIGTERM. Where a process group is stopped, SIGTERM may reach the
    worker first; its silent end is no failure then, because the parent has the signal too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
