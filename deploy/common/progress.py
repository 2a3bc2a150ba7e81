"""A build's progress: tqdm's bar, and where there is no tqdm, or a log is written, a line now and then."""

import os
import sys
import time
from typing import Any

LINES = "EFFEDGE_PROGRESS"  # this environment variable set to "lines": whoever reads along reads a log
EVERY = 10.0  # seconds from line to line


def open_bar(total: float, desc: str, disable: bool, **form: Any) -> Any:
    """tqdm's bar, or Lines, which has the part of its interface that the builders use.

    Args:
        disable: show nothing; lines that were asked for are shown all the same.
        form: more arguments of tqdm's.
    """
    lines = os.environ.get(LINES) == "lines"
    try:
        from tqdm import tqdm
    except ImportError:  # a board has none
        return Lines(total, desc, disable and not lines)
    return Lines(total, desc, False) if lines else tqdm(total=total, desc=desc, disable=disable, **form)


class Lines:
    def __init__(self, total: float, desc: str, disable: bool) -> None:
        self.total, self.desc, self.disable = total, desc, disable
        self.n, self.text = 0.0, ""
        self.started = self.said = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: Any) -> None:
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
        if self.disable or now - self.said < EVERY:
            return
        self.said = now
        share, seconds = 100 * self.n / self.total, now - self.started
        print(f"{self.desc}: {share:.0f}%, {seconds:.0f} s, {self.text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.disable = True
