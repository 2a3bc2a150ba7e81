"""Counts the latency test's errors on this machine: python tests/benchmarks/latency_trials.py ENGINE [--trials 50]

A baseline of ENGINE is recorded on the quiet machine. Then the unchanged engine is tested while a second process keeps
one core busy on and off, and, alternately, the engine with every run made 10% longer (by computing, as a slower engine
would) on the quiet machine. Prints all verdicts, then: false alarms of N, slowdowns found of N.
With --no-engine the baseline keeps no engine, and the engine is compared with the reference workload only.
"""

import argparse
import contextlib
import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

from effedge.deploy import latency_test
from effedge.deploy.timing import workload

SLOWDOWN = 0.10
LONGEST_BUSY = 1.0  # seconds, and as long idle: drawn evenly up to it


def keep_busy() -> None:
    """Computes and sleeps in turns, without end."""
    while True:
        end = time.perf_counter() + random.uniform(0, LONGEST_BUSY)
        while time.perf_counter() < end:
            sum(range(1000))
        time.sleep(random.uniform(0, LONGEST_BUSY))


@contextlib.contextmanager
def second_process(engine: str) -> Iterator[None]:
    """Runs a second process within the block that keeps one core busy on and off."""
    process = multiprocessing.Process(target=keep_busy, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def slowed_down(engine: str) -> Iterator[None]:
    """Makes every run of the engine in this folder, not of the baseline's, 10% longer within the block."""
    load = workload.load_model

    def load_slow(folder: Any, *args: Any, **kwargs: Any) -> Any:
        model = load(folder, *args, **kwargs)
        if str(folder) != engine:
            return model
        infer = model.engine.backend

        def slow(feeds: Any) -> Any:
            started = time.perf_counter()
            outputs = infer(feeds)
            end = started + (1 + SLOWDOWN) * (time.perf_counter() - started)
            while time.perf_counter() < end:
                pass
            return outputs

        model.engine.backend = slow
        return model

    workload.load_model = load_slow
    try:
        yield
    finally:
        workload.load_model = load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--no-engine", action="store_true")
    given = parser.parse_args()
    tolerance, alarms, detected = latency_test.TOLERANCE, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "baseline.json"
        latency_test.record(given.engine, path, keep=not given.no_engine)
        baseline = latency_test.read_baseline(path)
        for trial in range(1, given.trials + 1):
            for kind, circumstance in (("unchanged, busy machine", second_process), ("10% slower", slowed_down)):
                with circumstance(given.engine):
                    verdicts = latency_test.check(given.engine, baseline, tolerance / 100)
                slower = latency_test.exit_status(verdicts) == latency_test.SLOWER
                alarms += slower and circumstance is second_process
                detected += slower and circumstance is slowed_down
                sentences = "; ".join(latency_test.sentence(step, one, tolerance) for step, one in verdicts.items())
                print(f"{trial} {kind}: {sentences}", flush=True)
    print(f"{alarms} false alarms of {given.trials}, {detected} slowdowns found of {given.trials}")


if __name__ == "__main__":
    main()
