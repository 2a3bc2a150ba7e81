"""Parses the command lines of effedge's commands and reports their errors: one line and exit status 2.

`Parser` is argparse's parser with one-line errors. `run` calls a command's `main` and turns a `UserError` and Ctrl-C,
which the user causes, into one line. Any other exception is a defect and keeps its traceback.
"""

import argparse
import contextlib
import difflib
import os
import signal
import sys
import threading
from typing import Any, Callable, Iterable, Iterator, List, NoReturn

from effedge.deploy.common.messages import hide_progress, show_messages

EXIT_USER_ERROR = 2
COMPLETING = "_ARGCOMPLETE"  # the environment variable of a shell that completes a line, by argcomplete
INTERRUPTED = "interrupted: nothing half-written was kept; run the same command to go on"


class UserError(Exception):
    """An input of the user cannot be used. The message is one line: what was given, what was expected, what to do."""


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors on one line (argparse prints the usage before them)."""

    def __init__(self, **kwargs):
        kwargs.setdefault("prog", os.path.basename(sys.argv[0]))  # which is "effedge quantize" in a command
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None):
        """Parses the arguments as argparse does. Where a shell asks for completions, prints these and exits instead."""
        if COMPLETING in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        parsed = super().parse_args(args, namespace)
        if getattr(parsed, "quiet", False):
            hide_progress()
        return parsed

    def add_quiet(self) -> None:
        """Adds the option -q, which hides progress bars."""
        self.add_argument("-q", "--quiet", action="store_true", help="no progress bars")

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {' '.join(message.split())} (--help lists the options)\n")


def choose(kind: str, given: str, known: Iterable[str]) -> str:
    """Returns `given` if it is one of the names `known`; else raises a UserError with the nearest name.

    >>> choose("model", "d0", ["d0", "d1"])
    'd0'
    """
    names = list(known)
    if given in names:
        return given
    # A slip of the finger is nearly the name; a longer name for the same thing (efficientdet-d0) has it within.
    alike = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.8)
    within = sorted((name for name in names if name in given.lower()), key=len, reverse=True)
    nearest = (alike or within or difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.0))[0]
    raise UserError(f"unknown {kind} '{given}': did you mean '{nearest}'? expected one of {', '.join(names)}")


@contextlib.contextmanager
def noted_interrupts() -> Iterator[List[int]]:
    """Yields a list to which each Ctrl-C within the block appends its signal number before it raises KeyboardInterrupt.

    In other threads than the main one, which alone receives signals, and where Ctrl-C is ignored, as in a background
    job, the list stays empty.
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
    """Runs a command's `main` and exits with status 0, or for a UserError or Ctrl-C with status 2 and a line on stderr.

    A library that is being imported may catch the KeyboardInterrupt and fail with an error of its own; after a Ctrl-C
    any error counts as the interrupt.
    """
    show_messages()
    with noted_interrupts() as noted:
        try:
            main()
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except BrokenPipeError:  # whoever read the output, such as `head`, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush has a reader
            sys.exit(0)
        except KeyboardInterrupt:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except Exception:
            if not noted:
                raise
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
    sys.exit(0)
