"""A call in a process of its own: the memory that a stage reports is then that stage's, and goes when it is done."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from effedge.deploy.timing.machine import field, read

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
STDOUT, STDERR = 1, 2
STATUS = Path("/proc/self/status")
GRACE_SECONDS = 20.0  # for an interrupted stage to remove what it has begun


def in_own_process(function: Callable[Given, Returned], *args: Given.args, **kwargs: Given.kwargs) -> Returned:
    """Call a module's function in a fresh process; what it prints to stdout goes to stderr.

    Where the function asks getrusage for its peak memory, the caller should be small: Linux counts that of a process
    from the one that started it (`peak_memory_mib` does not). Ctrl-C interrupts the function, and is raised here when
    that has ended. Raises what the function raises.
    """
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sending, function, args, kwargs))
    try:
        with held_interrupts():
            process.start()
        sending.close()
        returned, error = receiving.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function} ended without an answer, exit code {process.exitcode}") from None
    except BaseException:
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)  # a terminal sends it to both, `kill` only to this one
            process.join(GRACE_SECONDS)
            process.kill()
        raise
    process.join()
    if error is not None:
        raise error
    return returned


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """A block in which SIGINT waits; also in the processes that it starts, until they let it through."""
    resource_tracker.ensure_running()  # which lets SIGINT through, should it be started within
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def answer(sending: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What the process does: send (what the function returns, None), or (None, its exception); nothing on Ctrl-C."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one, from the parent, shall not disturb the clearing up
        raise KeyboardInterrupt

    os.dup2(STDERR, STDOUT)
    if callable(signal.getsignal(signal.SIGINT)):  # else ignored, as in a job in the background
        signal.signal(signal.SIGINT, interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        try:
            result: tuple[Any, Exception | None] = function(*args, **kwargs), None
        except Exception as error:
            result = None, error
        sending.send(result)


def peak_memory_mib() -> int:
    """The largest resident set of this process since its program began, in MiB (Linux)."""
    return int(field(read(STATUS), "VmHWM").split()[0]) // 1024
