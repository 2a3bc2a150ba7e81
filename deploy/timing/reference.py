"""A fixed piece of work that the latency test holds the engine's against: what slows the machine slows both.

It depends on nothing but NumPy, so that a new version of the engine's backend cannot slow it too and hide a
regression: every core the engine uses computes exponentials and sums over half a megabyte, then all wait for the last.
The engine's layers do the same many times a run. The exponentials follow the clock, the sums the second-level cache,
which neighbours on a shared machine slow apart from each other: an engine whose time varied by 3% over minutes varied
by 2.5% against the exponentials, by 2.1% against both. Each thread stays on a core of its own: where the system places
them, two are on one core for a while, as the backend's threads still wait for work on the other, and the same work took
1.3 or 2.2 ms.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from effedge.deploy.timing.machine import usable_cores

ELEMENTS = 1 << 17  # float32: 512 KiB an array, three arrays a thread: in the second-level cache
SUMS = 2  # as long as the exponentials
SHORTEST = 3.0  # ms of one run on the machine that records a baseline


class Reference:
    """`time` does the work once and returns the milliseconds."""

    def __init__(self, threads: int, rounds: int) -> None:
        self.threads, self.rounds = threads, rounds
        self.pools = [ThreadPoolExecutor(1, initializer=stay_on, initargs=(index,)) for index in range(threads)]
        base = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)
        self.arrays = [(base.copy(), np.empty_like(base), np.empty_like(base)) for _ in range(threads)]
        self.time()

    def work(self, index: int) -> None:
        source, result, total = self.arrays[index]
        for _ in range(self.rounds):
            np.exp(source, out=result)
            for _ in range(SUMS):
                np.add(source, result, out=total)

    def time(self) -> float:
        started = time.perf_counter()
        wait([pool.submit(self.work, index) for index, pool in enumerate(self.pools)])
        return 1000 * (time.perf_counter() - started)

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown()


def stay_on(index: int) -> None:
    """Keep the calling thread on one of the process's cores, where the system lets it."""
    if hasattr(os, "sched_setaffinity"):
        usable = usable_cores()
        os.sched_setaffinity(0, {usable[index % len(usable)]})


def fitted_reference(threads: int, milliseconds: float) -> Reference:
    """A reference that takes about so long here (three milliseconds at least)."""
    probe = Reference(threads, 4)
    shortest = min(probe.time() for _ in range(20))
    probe.close()
    return Reference(threads, max(4, round(4 * max(SHORTEST, milliseconds) / shortest)))
