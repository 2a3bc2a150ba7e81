"""Runs the reference workload, a fixed piece of work that the latency test compares an engine with.

Whatever slows the machine slows both. The workload depends on nothing but NumPy, so that a new version of the engine's
backend cannot slow it too and hide a regression. Every core that the engine uses computes exponentials and sums over
half a megabyte, then all wait for the last, as the engine's layers do many times a run. The exponentials follow the
clock, the sums the second-level cache, which neighbours on a shared machine slow apart from each other: an engine whose
time varied by 3% over minutes varied by 2.5% against the exponentials, and by 2.1% against both.

Each thread stays on a core of its own. Where the system places the threads, two are on one core for a while, as the
backend's threads still wait for work on the other, and the same work took 1.3 or 2.2 ms.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from effedge.deploy.timing.machine import usable_cores

ELEMENTS = 1 << 17  # float32: 512 KiB an array, three arrays a thread: in the second-level cache
SUMS = 2  # a round, which take as long as its exponentials
SHORTEST = 3.0  # ms of one run on the machine that records a baseline


class Reference:
    """The reference workload, of so many rounds in each of so many threads; they run until `close`."""

    def __init__(self, threads: int, rounds: int) -> None:
        self.threads, self.rounds = threads, rounds
        self.pools = [ThreadPoolExecutor(1, initializer=stay_on, initargs=(index,)) for index in range(threads)]
        base = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)
        self.arrays = [(base.copy(), np.empty_like(base), np.empty_like(base)) for _ in range(threads)]
        self.time()

    def work(self, index: int) -> None:
        """Does the work of one thread."""
        source, result, total = self.arrays[index]
        for _ in range(self.rounds):
            np.exp(source, out=result)
            for _ in range(SUMS):
                np.add(source, result, out=total)

    def time(self) -> float:
        """Does the work once and returns the milliseconds."""
        started = time.perf_counter()
        wait([pool.submit(self.work, index) for index, pool in enumerate(self.pools)])
        return 1000 * (time.perf_counter() - started)

    def close(self) -> None:
        """Ends the threads."""
        for pool in self.pools:
            pool.shutdown()


def stay_on(index: int) -> None:
    """Keeps the calling thread on one of the process's cores, where the system lets it."""
    if hasattr(os, "sched_setaffinity"):
        usable = usable_cores()
        os.sched_setaffinity(0, {usable[index % len(usable)]})


def fitted_reference(threads: int, milliseconds: float) -> Reference:
    """Makes a reference that takes about as many milliseconds here (three at least)."""
    probe = Reference(threads, 4)
    shortest = min(probe.time() for _ in range(20))
    probe.close()
    return Reference(threads, max(4, round(4 * max(SHORTEST, milliseconds) / shortest)))
