"""Times contenders alternately: all are loaded, then one after the other does a few runs, for several rounds."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import track
from effedge.deploy.timing.comparison import interleave, log_ratio
from effedge.deploy.timing.percentiles import quick
from effedge.pipeline.reports.benchmark.contenders import Contender

WARM_UP = 10  # runs of every contender before the first round


class Row(NamedTuple):
    """A contender's latencies in ms, by round."""

    name: str
    rounds: list[list[float]]

    @property
    def latencies(self) -> list[float]:
        return [latency for latencies in self.rounds for latency in latencies]

    @property
    def median(self) -> float:
        return round(statistics.median(self.latencies), 3)

    @property
    def best(self) -> float:
        return round(min(self.latencies), 3)


def race(contenders: Sequence[Contender], *, rounds: int, runs: int) -> list[Row]:
    """Times every contender `rounds` times `runs`, alternately.

    Raises:
        UserError: a contender that cannot be loaded, with its reason.
    """
    rows = [Row(contender.name, []) for contender in contenders]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(process_of(contender)) for contender in contenders]
        total = len(processes) * (rounds + 1)
        bar = stack.enter_context(track(total=total, desc="racing", unit="timing"))

        def show_and_time(contender: Contender, process: subprocess.Popen[str], runs: int, label: str) -> list[float]:
            bar.set_postfix_str(label)
            latencies = time_runs(contender, process, runs)
            bar.update()
            return latencies

        pairs = list(zip(contenders, processes, strict=True))
        for contender, process in pairs:
            show_and_time(contender, process, WARM_UP, f"warming up {contender.name}")
        measurements = [partial(show_and_time, *pair, runs, pair[0].name) for pair in pairs]
        for results in interleave(measurements, rounds):
            for row, latencies in zip(rows, results, strict=True):
                row.rounds.append(latencies)
    return rows


@contextlib.contextmanager
def process_of(contender: Contender) -> Iterator[subprocess.Popen[str]]:
    """Starts a contender's process; it is killed at the end of the block."""
    command = [
        sys.executable,
        "-m",
        "effedge.pipeline.reports.benchmark.contenders",
        contender.kind,
        *contender.arguments,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def time_runs(contender: Contender, process: subprocess.Popen[str], runs: int) -> list[float]:
    """Measures the latencies of a contender's next runs, in ms."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then it has printed its error, or will have ended
        process.stdin.write(f"{runs}\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{contender.name} ended with status {process.wait()}: {process.args!r}")
    answer = json.loads(line)
    if isinstance(answer, dict):
        raise UserError(f"{contender.name} cannot run: {answer['error']}")
    return answer


def table(rows: Sequence[Row]) -> str:
    """Formats Markdown: medians, bests, and the ratio to the fastest, by `log_ratio` of the rounds' lower quartiles.

    A machine that is slower for some rounds slows all contenders in them.
    """
    fastest = min(rows, key=lambda row: row.median)
    lines = ["| | median ms | best ms | times the fastest |", "|---|---|---|---|"]
    for row in rows:
        ratio = math.exp(log_ratio(*([quick(latencies) for latencies in one.rounds] for one in (row, fastest))))
        lines.append(f"| {row.name} | {row.median:.1f} | {row.best:.1f} | {ratio:.2f} |")
    return "\n".join(lines)
