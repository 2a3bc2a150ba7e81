"""How every script of effedge speaks to its user: one line for a mistake, exit status 2.

`Parser` is argparse's parser with one-line errors; `run` calls a script's `main` and turns the two things that a
user can cause, a `UserError` and Ctrl-C, into that line. Anything else is a defect and keeps its traceback.
"""

import argparse
import contextlib
import difflib
import os
import signal
import sys
import threading
from typing import Any, Callable, Iterable, Iterator, List, NoReturn

EXIT_USER_ERROR = 2
COMPLETING = "_ARGCOMPLETE"  # the environment variable of a shell that completes a line, by argcomplete
INTERRUPTED = "interrupted: nothing half-written was kept; run the same command to go on"


class UserError(Exception):
    """Something the user gave cannot be used; one line: what was given, what was expected, what to do."""


class Parser(argparse.ArgumentParser):
    """argparse's parser, with the error on one line (argparse prints the whole usage before it)."""

    def __init__(self, **kwargs):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """As argparse's; where a shell asks how the line may go on, answer that, and end."""
        if COMPLETING in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {' '.join(message.split())} (--help lists the options)\n")


def choose(kind: str, given: str, known: Iterable[str]) -> str:
    """Return `given` if it is one of `known`; otherwise raise a UserError that names the nearest one.

    >>> choose("model", "d0", ["d0", "d1"])
    'd0'
    """
    names = list(known)
    if given in names:
        return given
    # A longer name for the same thing (efficientdet-d0) has ours within it; a slip of the finger is only like it.
    within = sorted((name for name in names if name in given.lower()), key=len)
    nearest = within[-1] if within else difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.0)[0]
    raise UserError(f"unknown {kind} '{given}': did you mean '{nearest}'? expected one of {', '.join(names)}")


@contextlib.contextmanager
def noted_interrupts() -> Iterator[List[int]]:
    """Within the block Ctrl-C raises KeyboardInterrupt, as ever, and its number is put into the list that is yielded.

    Does nothing off the main thread, which alone receives signals, and where Ctrl-C is ignored, as in a job in the
    background.
    """
    noted: List[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield noted
        return

    def handler(number: int, _frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, previous)


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script's `main`; exit 0, or 2 with one line on stderr for a UserError or Ctrl-C.

    A library that is being imported may catch the KeyboardInterrupt and fail with an error of its own: after a Ctrl-C
    that is the interrupt too.
    """
    with noted_interrupts() as noted:
        try:
            main()
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except Exception:
            if not noted:
                raise
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
    sys.exit(0)
