"""Measures how latency and memory grow with the model and the batch.

    effedge growth [--models d0 d1 ...]

Engines with random weights are built for the CPU, and timed one after the other, each in a process of its own: the
milliseconds of a run and of an image, and the peak memory of the process (the runtime, the engine and its inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import write_json
from effedge.deploy.common.messages import messages_to_stderr
from effedge.deploy.common.paths import add_build_folder, json_file, output_file
from effedge.deploy.common.plot import figure_at
from effedge.deploy.timing.machine import machine
from effedge.deploy.timing.percentiles import summarize, warm_up
from effedge.deploy.timing.workload import make_workload
from effedge.engines.targets import PRECISIONS, TARGETS
from effedge.pipeline.chain import run_chain
from effedge.pipeline.models.names import check_model
from effedge.pipeline.reports.accuracy.own_process import in_own_process, peak_memory_mib
from effedge.pipeline.request import Checkpoint, Request

FAMILY, BATCHES = ("d0", "d1", "d2", "d3", "d4"), (1, 2, 4, 8)


class Cost(NamedTuple):
    """The cost of a run of `batch` images: `milliseconds`, the median; `memory_mib`, the process's peak."""

    model: str
    batch: int
    milliseconds: float
    memory_mib: float


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(FAMILY), metavar="M", help="(default: d0 to d4)")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), metavar="N", help="(default: 1 2 4 8)")
    parser.add_argument("--precision", default="fp32", help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=20, help="runs of each (default: %(default)s)")
    add_build_folder(parser)
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write the costs to this file")
    parser.add_argument("--plot", type=output_file, metavar="FILE.png", help="draw them (needs matplotlib)")
    arguments = parser.parse_args()
    choose("precision", arguments.precision, PRECISIONS)
    for model in arguments.models:
        check_model(model)
    for number in (*arguments.batches, arguments.runs):
        if number < 1:
            raise UserError(f"{number} was given for --batches or --runs: expected 1 or more")
    costs = []
    for model in arguments.models:
        for batch in arguments.batches:
            with messages_to_stderr():  # the builders' lines are progress here
                checkpoint = Checkpoint(model, "random", batch=(batch, batch, batch))
                engine = run_chain(Request(checkpoint, arguments.precision, TARGETS["cpu"], arguments.out))
            costs.append(Cost(model, batch, *in_own_process(measure_cost, engine, arguments.runs)))
            print(line(costs[-1]), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {"machine": machine(), "costs": [cost._asdict() for cost in costs]})
        print(f"json: {arguments.json}")
    if arguments.plot is not None:
        plot(costs, arguments.precision, arguments.plot)
        print(f"plot: {arguments.plot}")


def measure_cost(engine: Path, runs: int) -> tuple[float, float]:
    """Measures (the median ms of a run, the process's peak memory in MiB)."""
    work = make_workload(engine, [])
    warm_up(work.time_engine)
    median = summarize([work.time_engine() for _ in range(runs)])["p50"]
    return median, peak_memory_mib()


def line(cost: Cost) -> str:
    """Formats a cost."""
    return (
        f"{cost.model} batch {cost.batch}: {cost.milliseconds:.1f} ms a run, {cost.milliseconds / cost.batch:.1f} ms "
        f"an image, {cost.memory_mib:.0f} MiB"
    )


def plot(costs: Sequence[Cost], precision: str, path: Path) -> None:
    """Draws milliseconds an image, and memory, over the batch, a line for each model. UserError as `figure_at`."""
    with figure_at(path, 10, 4) as figure:
        times, memory = figure.subplots(1, 2)
        for model in dict.fromkeys(cost.model for cost in costs):
            of_model = [cost for cost in costs if cost.model == model]
            batches = [cost.batch for cost in of_model]
            times.plot(batches, [cost.milliseconds / cost.batch for cost in of_model], marker="o", label=model)
            memory.plot(batches, [cost.memory_mib for cost in of_model], marker="o", label=model)
        for axes, label in ((times, "ms an image"), (memory, "peak memory, MiB")):
            axes.set_xlabel("batch, images a run")
            axes.set_xticks(sorted({cost.batch for cost in costs}))
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        memory.legend(title="model")  # one legend is enough, and the upper left of this plot is free
        figure.suptitle(f"{precision} on {machine()['cpu']}, {machine()['cores']} cores")
