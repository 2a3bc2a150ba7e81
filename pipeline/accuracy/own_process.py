"""A call in a process of its own: the memory that a stage reports is then that stage's, and goes when it is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
STDOUT, STDERR = 1, 2


def in_own_process(function: Callable[Given, Returned], *args: Given.args, **kwargs: Given.kwargs) -> Returned:
    """Call a module's function in a fresh process; what it prints to stdout goes to stderr.

    The caller should be small: Linux counts the peak memory of a process from that of the one that started it.
    Raises what the function raises.
    """
    start: dict[str, Any] = {"initializer": os.dup2, "initargs": (STDERR, STDOUT)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), **start) as pool:
        return pool.submit(function, *args, **kwargs).result()
