"""How time and memory grow with the model and the batch: effedge growth [--models d0 d1 ...]

Engines with random weights, for the CPU, each timed on its own in a process of its own: milliseconds a run and a
picture, and the most memory that the process had (the runtime, the engine and its inputs).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import whole_file
from effedge.deploy.common.plot import figure_at
from effedge.deploy.timing.machine import machine
from effedge.deploy.timing.percentiles import summarize, warm_up
from effedge.deploy.timing.workload import make_workload
from effedge.engines.targets import PRECISIONS, TARGETS
from effedge.pipeline.chain import Request, build_chain
from effedge.pipeline.models.zoo import MODELS
from effedge.pipeline.reports.accuracy.own_process import in_own_process, peak_memory_mib

FAMILY, BATCHES = ("d0", "d1", "d2", "d3", "d4"), (1, 2, 4, 8)


class Cost(NamedTuple):
    """Of a run of `batch` pictures: `milliseconds`, the median; `memory_mib`, the process's peak."""

    model: str
    batch: int
    milliseconds: float
    memory_mib: float


def main() -> None:
    parser = Parser(prog="effedge growth", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(FAMILY), metavar="M", help="(default: d0 to d4)")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), metavar="N", help="(default: 1 2 4 8)")
    parser.add_argument("--precision", default="fp32", help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=20, help="runs of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the costs to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them (needs matplotlib)")
    given = parser.parse_args()
    choose("precision", given.precision, PRECISIONS)
    for model in given.models:
        choose("model", model, MODELS)
    for number in (*given.batches, given.runs):
        if number < 1:
            raise UserError(f"{number} was given for --batches or --runs: expected 1 or more")
    costs = []
    for model in given.models:
        for batch in given.batches:
            with contextlib.redirect_stdout(sys.stderr):  # the builders' lines are progress here
                wanted = Request(given.precision, TARGETS["cpu"], given.out)
                engine = build_chain(model, "random", wanted, batch=(batch, batch, batch))
            costs.append(Cost(model, batch, *in_own_process(cost, engine, given.runs)))
            print(line(costs[-1]), flush=True)
    if given.json is not None:
        with whole_file(given.json) as temporary:
            rows = [one._asdict() for one in costs]
            temporary.write_text(json.dumps({"machine": machine(), "costs": rows}, indent=1) + "\n")
        print(f"json: {given.json}")
    if given.plot is not None:
        plot(costs, given.precision, given.plot)
        print(f"plot: {given.plot}")


def cost(engine: Path, runs: int) -> tuple[float, float]:
    """(median ms of a run, the process's peak memory in MiB)."""
    work = make_workload(engine, [])
    warm_up(work.time_engine)
    median = summarize([work.time_engine() for _ in range(runs)])["p50"]
    return median, peak_memory_mib()


def line(one: Cost) -> str:
    return (
        f"{one.model} batch {one.batch}: {one.milliseconds:.1f} ms a run, {one.milliseconds / one.batch:.1f} ms a "
        f"picture, {one.memory_mib:.0f} MiB"
    )


def plot(costs: Sequence[Cost], precision: str, path: Path) -> None:
    """Milliseconds a picture, and memory, over the batch, a line for each model. UserError as `figure_at`."""
    with figure_at(path, 10, 4) as figure:
        times, memory = figure.subplots(1, 2)
        for model in dict.fromkeys(one.model for one in costs):
            mine = [one for one in costs if one.model == model]
            batches = [one.batch for one in mine]
            times.plot(batches, [one.milliseconds / one.batch for one in mine], marker="o", label=model)
            memory.plot(batches, [one.memory_mib for one in mine], marker="o", label=model)
        for axes, label in ((times, "ms a picture"), (memory, "peak memory, MiB")):
            axes.set_xlabel("batch")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        memory.legend()  # one is enough, and here the upper left is free
        figure.suptitle(f"{precision} on {machine()['cpu']}, {machine()['cores']} cores")
