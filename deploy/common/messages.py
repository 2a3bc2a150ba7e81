"""Prints the messages of effedge's commands and shows their progress.

A message is a record of the logger `effedge`: `log.info` reports the work of a stage, `log.warning` warns the user.
`show_messages`, which every command calls, prints the former to standard output and the latter to standard error. A
program that uses effedge as a library prints warnings only, as Python's logging does by itself.

`track` draws a progress bar on a terminal. Where tqdm is missing, as on a board, or a log is written (the environment
variable EFFEDGE_PROGRESS is "lines"), it prints a line now and then instead.
"""

import contextlib
import logging
import os
import sys
import time
from typing import Any, Iterable, Iterator, Optional

log = logging.getLogger("effedge")
_progress = logging.getLogger("effedge.progress")  # its `disabled` is whether -q was given
LINES = "EFFEDGE_PROGRESS"
SECONDS_BETWEEN_LINES = 10.0
# Characters that a terminal takes as commands (C0 and C1, ECMA-48), that begin a line, or that turn the direction of
# writing (Unicode 15.0, sections 5.8 and 23.2), each with what is printed in its place.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
CONTROLS.update({code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))})


def printable(text: str, keep: str = "") -> str:
    """Replaces a text's control characters, but those to `keep`, so that no class's or file's name commands a terminal.

    >>> printable("a" + chr(27) + "[2J")
    'a\\\\x1b[2J'
    """
    return text.translate({code: escape for code, escape in CONTROLS.items() if chr(code) not in keep})


class MessageHandler(logging.Handler):
    """Prints information to standard output, or to standard error within `messages_to_stderr`, and warnings to the
    latter; above a progress bar, if there is one."""

    to_stderr = False

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if self.to_stderr or record.levelno >= logging.WARNING else sys.stdout
        message = printable(record.getMessage(), keep="\n\t")
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        if tqdm is not None:
            tqdm.write(message, file=stream)
            stream.flush()
        else:
            print(message, file=stream, flush=True)


def show_messages() -> MessageHandler:
    """Prints messages from now on; returns the handler. A second call changes nothing."""
    for handler in log.handlers:
        if isinstance(handler, MessageHandler):
            return handler
    handler = MessageHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return handler


@contextlib.contextmanager
def messages_to_stderr() -> Iterator[None]:
    """Prints all messages to standard error within the block: standard output is for a result alone."""
    handler = show_messages()
    before, handler.to_stderr = handler.to_stderr, True
    try:
        yield
    finally:
        handler.to_stderr = before


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hides messages, except warnings, and progress within the block."""
    level, hidden = log.level, _progress.disabled
    log.setLevel(logging.WARNING)
    _progress.disabled = True
    try:
        yield
    finally:
        log.setLevel(level)
        _progress.disabled = hidden


def hide_progress() -> None:
    """Hides progress from now on, as a command's -q does."""
    _progress.disabled = True


def progress_hidden() -> bool:
    """Returns True after `hide_progress`, within `silence`, and where standard error is no terminal."""
    return _progress.disabled or not sys.stderr.isatty()


def track(
    items: Optional[Iterable[Any]] = None, desc: str = "", unit: str = "", total: Optional[float] = None, **form: Any
) -> Any:
    """Shows the progress through `items`, which are yielded, or through `total` by calls of the bar's `update`.

    Args:
        items: an iterable; None for a bar that is updated by hand, in a `with` block.
        desc, unit, total, form: as tqdm's.

    Returns:
        tqdm's bar, or a LineBar, which has the part of its interface that effedge uses.
    """
    lines = os.environ.get(LINES) == "lines"
    try:
        from tqdm import tqdm
    except ImportError:  # a board has none
        return LineBar(items, desc, total, not lines and progress_hidden())
    if lines:
        return LineBar(items, desc, total, False)
    return tqdm(items, desc=desc, unit=unit or "it", total=total, disable=progress_hidden(), **form)


class LineBar:
    """Progress as lines of text on standard error, SECONDS_BETWEEN_LINES apart."""

    def __init__(self, items: Optional[Iterable[Any]], desc: str, total: Optional[float], disable: bool) -> None:
        self.items, self.desc, self.disable = items, desc, disable
        self.total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
        self.n, self.text = 0.0, ""
        self.started = self.printed = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for item in self.items or ():
            yield item
            self.update()

    def __enter__(self) -> "LineBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, by: float = 1) -> None:
        self.n += by
        self.refresh()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self.text = text
        if refresh:
            self.refresh()

    def refresh(self) -> None:
        now = time.monotonic()
        if self.disable or now - self.printed < SECONDS_BETWEEN_LINES:
            return
        self.printed = now
        share = f"{100 * self.n / self.total:.0f}%" if self.total else f"{self.n:g}"
        seconds = now - self.started
        print(f"{self.desc}: {share}, {seconds:.0f} s, {self.text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.disable = True
