"""A fixed piece of work that the latency test holds the engine's against: what slows the machine slows both.

It depends on nothing but NumPy, so that a new version of the engine's backend cannot slow it too and hide a
regression: every core the engine uses computes exponentials and sums over half a megabyte, then all wait for the last.
The engine's layers do the same many times a run.
"""

import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

ELEMENTS = 1 << 17  # float32: 512 KiB an array, two arrays a thread: in the second-level cache
SHORTEST = 3.0  # ms of one run on the machine that records a baseline


class Reference:
    """`time` does the work once and returns the milliseconds."""

    def __init__(self, threads: int, rounds: int) -> None:
        self.threads, self.rounds = threads, rounds
        self.pool = ThreadPoolExecutor(threads)
        base = np.linspace(-1, 1, ELEMENTS, dtype=np.float32)
        self.arrays = [(base.copy(), np.empty_like(base)) for _ in range(threads)]
        self.time()

    def work(self, index: int) -> None:
        source, result = self.arrays[index]
        for _ in range(self.rounds):
            np.exp(source, out=result)
            np.add(result, source, out=result)

    def time(self) -> float:
        started = time.perf_counter()
        wait([self.pool.submit(self.work, index) for index in range(self.threads)])
        return 1000 * (time.perf_counter() - started)

    def close(self) -> None:
        self.pool.shutdown()


def fitted_reference(threads: int, milliseconds: float) -> Reference:
    """A reference that takes about so long here (three milliseconds at least)."""
    probe = Reference(threads, 4)
    shortest = min(probe.time() for _ in range(20))
    probe.close()
    return Reference(threads, max(4, round(4 * max(SHORTEST, milliseconds) / shortest)))
