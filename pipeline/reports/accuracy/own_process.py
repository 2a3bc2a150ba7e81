"""Calls a function in a process of its own, so that a stage reports its own memory, which is freed when it is done."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec, TypeVar

from effedge.deploy.timing.machine import field, read

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
STDOUT, STDERR = 1, 2
STATUS = Path("/proc/self/status")
GRACE_SECONDS = 20.0  # for an interrupted stage to remove its unfinished files


def in_own_process(
    function: Callable[Parameters, Returned], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Returned:
    """Calls a module's function in a fresh process; its stdout goes to stderr.

    If the function reads its peak memory with getrusage, the caller should be small: Linux starts the peak of a process
    at the memory of its parent (`peak_memory_mib` does not). Ctrl-C interrupts the function, and is raised here when
    the function has ended. Exceptions of the function are raised here.
    """
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=call_and_send, args=(sending, function, args, kwargs))
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
    """Blocks SIGINT within its block, also in the processes that the block starts, until they unblock it."""
    resource_tracker.ensure_running()  # started within the block, it would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def call_and_send(
    sending: Connection, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Calls the function, and sends (its result, None) or (None, its exception); sends nothing on Ctrl-C."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second SIGINT, from the parent, must not disturb the clean-up
        raise KeyboardInterrupt

    os.dup2(STDERR, STDOUT)
    if callable(signal.getsignal(signal.SIGINT)):  # else ignored, as in a job in the background
        signal.signal(signal.SIGINT, interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        try:
            result: tuple[object, Exception | None] = function(*args, **kwargs), None
        except Exception as error:
            result = None, error
        sending.send(result)


def peak_memory_mib() -> int:
    """Reads the largest resident set of this process since its program started, in MiB (Linux)."""
    return int(field(read(STATUS), "VmHWM").split()[0]) // 1024
