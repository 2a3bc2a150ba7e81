"""Parses the command lines of effedge's commands and reports their errors: one line and exit status 2.

`Parser` is argparse's parser with one-line errors. `run` calls a command's `main` and turns a `UserError`, Ctrl-C,
SIGTERM and SIGHUP, which the user causes, into one line. Any other exception is a defect and keeps its traceback.
"""

import argparse
import contextlib
import difflib
import errno
import math
import os
import select
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NoReturn, Optional

from effedge.deploy.common.messages import hide_progress, printable, show_messages

EXIT_USER_ERROR = 2
EXIT_SIGNAL = 128  # and the signal's number, as in a shell
HANG_UP = getattr(signal, "SIGHUP", None)  # the terminal or the ssh session has gone; Windows has no such signal
SIGNALS = tuple(int(number) for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None)
_received: List[int] = []  # signals since the command's start
STDOUT = Path("/dev/stdout")  # as the FILE of --json, which paths.json_file parses
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
        self.register("type", Path, parse_path)  # of every argument whose type is Path
        self.register("type", float, parse_finite)

    def parse_args(self, args=None, namespace=None):
        """Parses the arguments as argparse does. Where a shell asks for completions, prints these and exits instead.

        If --json goes to standard output, the JSON is all that comes there: what is printed goes to standard error
        from now on, until `run` ends.
        """
        if COMPLETING in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        parsed = super().parse_args(args, namespace)
        if getattr(parsed, "quiet", False):
            hide_progress()
        if getattr(parsed, "json", None) == STDOUT:
            sys.stdout = sys.stderr
        return parsed

    def add_quiet(self) -> None:
        """Adds the option -q, which hides progress bars."""
        self.add_argument("-q", "--quiet", action="store_true", help="no progress bars")

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {printable(' '.join(message.split()))} (--help lists the options)\n")


def parse_path(text: str) -> Path:
    """Parses an argument that is a path. Raises ArgumentTypeError for an empty one, which Path takes for the current
    folder: a variable of a script that was not set.

    >>> parse_path("build/d0").name
    'd0'
    """
    if not text:
        raise argparse.ArgumentTypeError("'' was given, expected a path")
    return Path(text)


def parse_finite(text: str) -> float:
    """Parses an argument that is a number. Raises ArgumentTypeError for NaN and infinity, which pass comparisons that
    are to refuse them, and mostly come of a script's own division.

    >>> parse_finite("1e-3")
    0.001
    """
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' was given, expected a finite number")
    return value


def number_within(text: str, most: float, expected: str) -> float:
    """Parses an argument that is a number from 0 to `most`. Raises ArgumentTypeError with what was `expected`.

    >>> number_within("0.5", 1, "a number from 0 to 1")
    0.5
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"'{text}' was given, expected {expected}")
    return value


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
def handled_signals(handle: Callable[[int], None]) -> Iterator[List[int]]:
    """Calls `handle` with the number of each signal of SIGNALS within the block, instead of what they did before.

    Yields the list of the numbers so far. Signals that are ignored stay ignored, as Ctrl-C in a background job and
    SIGHUP under nohup; off the main thread, which alone receives signals, nothing changes.
    """
    noted: List[int] = []
    previous: Dict[int, Any] = {}  # handlers, by signal

    def handler(number: int, _frame: Any) -> None:
        noted.append(number)
        _received.append(number)
        if number == HANG_UP:
            leave_terminal()
        handle(number)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, handler)
    try:
        yield noted
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def interrupt(_number: int) -> None:
    """Raises KeyboardInterrupt, as Python does for Ctrl-C."""
    raise KeyboardInterrupt


def leave_terminal() -> None:
    """Replaces a terminal by /dev/null: after SIGHUP it is gone, and a message would fail with EIO while results are
    still being kept."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                discard(stream)


def discard(stream: Any) -> None:
    """Sends all further output of a stream, with what it still holds, to /dev/null."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def stdout_error() -> Optional[OSError]:
    """Returns the reason why standard output cannot be written, such as a reader that has enough; None if it can."""
    stdout: Any = sys.__stdout__ if sys.stdout is sys.stderr else sys.stdout  # while --json goes there
    try:
        stdout.flush()  # what could not be written is still held, and fails again
        descriptor = stdout.fileno()
        os.write(descriptor, b"")  # fails where the device is full
        # Without a buffer (PYTHONUNBUFFERED) nothing is held, and the state of the pipe or disk tells.
        if not hasattr(stdout.buffer, "raw"):
            if is_left(descriptor):
                return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and os.fstatvfs(descriptor).f_bavail == 0:
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        return error if error.errno is not None else None  # a stream of a test has no descriptor
    except (AttributeError, ValueError):  # closed, or none at all
        pass
    return None


def is_left(descriptor: int) -> bool:
    """Tells if the reader of a pipe has closed it."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def say(line: str) -> None:
    """Prints a line to standard error, if that can be written."""
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command's `main` and exits with its status.

    That is 0, or 2 for a UserError and for Ctrl-C, or 128 and the number of another signal that ended the command
    (SIGTERM, SIGHUP); and what `main` exits with by itself. A UserError and a signal are a line on stderr. A reader of
    standard output that has enough, such as `head`, changes nothing; any other failure of standard output is an error.

    A library that is being imported may catch the KeyboardInterrupt and fail with an error of its own; after a signal
    any error counts as the interrupt.
    """
    show_messages()
    _received.clear()
    stdout = sys.stdout
    with handled_signals(interrupt):
        status = status_of(main)
        sys.stdout = stdout
        error = stdout_error()
        if error is not None:
            discard(sys.stdout)  # so that Python's own flush does not fail
            if not isinstance(error, BrokenPipeError):
                say(f"error: cannot write to standard output: {error.strerror}")
                status = status or EXIT_USER_ERROR
    if status and _received and _received[0] != signal.SIGINT:
        status = EXIT_SIGNAL + _received[0]
    # An interrupt inside exec() of a text, as dataclasses call it on import, has Python kill itself by SIGINT at the
    # end of `python -m`, although the interrupt was caught; the next exec() takes that back.
    exec("")
    sys.exit(status)


def status_of(main: Callable[[], None]) -> Any:
    """Runs a command's `main`; returns its exit status, once the line for a UserError or a signal is printed."""
    try:
        main()
    except SystemExit as end:
        return end.code
    except UserError as error:
        say(f"error: {' '.join(str(error).split())}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return EXIT_USER_ERROR
    except Exception as error:
        if isinstance(error, OSError) and stdout_error() is not None:
            return 0  # `run` reports it
        if not _received:
            raise
        say(INTERRUPTED)
        return EXIT_USER_ERROR
    return 0
