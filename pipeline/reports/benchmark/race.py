"""Contenders in turns: all are loaded, then each does a few runs while the others wait, for several rounds."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from effedge.deploy.common.cli import UserError
from effedge.engines.stage import progress_disabled
from effedge.pipeline.reports.benchmark.contenders import Contender

WARM_UP = 10  # runs of each before the first round


class Row(NamedTuple):
    """`rounds` has the latencies in ms of each round."""

    name: str
    rounds: list[list[float]]

    @property
    def latencies(self) -> list[float]:
        return [value for one in self.rounds for value in one]

    @property
    def median(self) -> float:
        return round(statistics.median(self.latencies), 3)

    @property
    def best(self) -> float:
        return round(min(self.latencies), 3)


def race(contenders: Sequence[Contender], *, rounds: int, runs: int, quiet: bool = False) -> list[Row]:
    """Time each contender `rounds` times `runs`, in turns.

    Raises:
        UserError: a contender that cannot be loaded, with its reason.
    """
    rows = [Row(contender.name, []) for contender in contenders]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(process_of(contender)) for contender in contenders]
        total = len(processes) * (rounds + 1)
        bar = stack.enter_context(tqdm(total=total, desc="racing", unit="turn", disable=progress_disabled(quiet)))
        for contender, process in zip(contenders, processes, strict=True):
            bar.set_postfix_str(f"warming up {contender.name}")
            turn(contender, process, WARM_UP)
            bar.update()
        for _ in range(rounds):
            for row, contender, process in zip(rows, contenders, processes, strict=True):
                bar.set_postfix_str(contender.name)
                row.rounds.append(turn(contender, process, runs))
                bar.update()
    return rows


@contextlib.contextmanager
def process_of(contender: Contender) -> Iterator[subprocess.Popen[str]]:
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


def turn(contender: Contender, process: subprocess.Popen[str], runs: int) -> list[float]:
    """One turn's latencies in ms."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then it has said why, or will have ended
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
    """Markdown: medians, bests, and how many times as long as the fastest, as the median over rounds of the ratio."""
    fastest = min(rows, key=lambda row: row.median)
    lines = ["| | median ms | best ms | times the fastest |", "|---|---|---|---|"]
    for row in rows:
        pairs = zip(row.rounds, fastest.rounds, strict=True)
        ratio = statistics.median(statistics.median(mine) / statistics.median(its) for mine, its in pairs)
        lines.append(f"| {row.name} | {row.median:.1f} | {row.best:.1f} | {ratio:.2f} |")
    return "\n".join(lines)
