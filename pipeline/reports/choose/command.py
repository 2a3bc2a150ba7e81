"""Chooses the most accurate model within a latency on this device.

    effedge choose --latency 30

The detectors (or the classifiers) are built with random weights and timed here with batch 1, from the decoded image to
its detections. Their latencies are put beside the published accuracy, or beside your own (--figures: a .csv with lines
such as d0,38.5, or a .json such as {"d0": 38.5}), and the most accurate model within the limit is named. A series is
measured from its smallest model up, until a model is far beyond the limit. INT8 is calibrated on one image: its speed
is that of a careful calibration, except for the layers that a careful calibration leaves in 16 bit.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import check_output_path, write_json
from effedge.deploy.common.paths import add_build_folder, json_file, output_file
from effedge.deploy.latency import PACKAGES
from effedge.deploy.timing.machine import cores, machine, versions
from effedge.engines.targets import PRECISIONS, TARGETS, Target, check_buildable_here, resolve_target, runs_here
from effedge.pipeline.reports.choose.figures import (
    DETECTION,
    TASKS,
    UNITS,
    Figure,
    published,
    read_figures,
    series_of,
    task_of,
)
from effedge.pipeline.reports.choose.measure import Cost, measure
from effedge.pipeline.reports.choose.pareto import BEYOND, Candidate, measure_series, pareto_front, pick

BUSY = 1  # processes beyond the number of cores; the timed process wants all cores
PUBLISHED_WEIGHTS = {DETECTION: "coco"}  # imagenet for other tasks


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--latency", type=float, required=True, metavar="MS", help="limit for an image")
    parser.add_argument("--task", help=f"{' or '.join(TASKS)} (default: {DETECTION})")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="your own accuracy of models: .csv or .json")
    parser.add_argument("--precision", default="fp16", help=f"{', '.join(PRECISIONS)} (default: %(default)s)")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    add_build_folder(parser, "engines go to its folder choose")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write the table to this file")
    parser.add_argument("--plot", type=output_file, metavar="FILE.png", help="draw it (needs matplotlib)")
    parser.add_quiet()
    arguments = parser.parse_args()
    if not (math.isfinite(arguments.latency) and arguments.latency > 0):
        parser.error(f"--latency {arguments.latency:g}: expected milliseconds above 0, such as 30")
    figures, target = check_arguments(arguments)
    task = task_of(figures[0].model)
    unit = UNITS[task] if arguments.figures is None else "accuracy"

    costs, left_out = measure_all(figures, target, unit, arguments)
    warn_if_busy()
    accuracy = {row.model: row.accuracy for row in figures}
    candidates = [Candidate(model, accuracy[model], cost.milliseconds) for model, cost in costs.items()]
    picked = pick(candidates, arguments.latency)
    print(table(candidates, costs, picked, unit))
    for line in left_out:
        print(line)
    print(sentence(candidates, picked, arguments.latency, unit))
    weights = PUBLISHED_WEIGHTS.get(task, "imagenet") if arguments.figures is None else "YOURS.safetensors"
    print(command(picked.model, arguments.precision, arguments.target, weights))
    if arguments.json is not None:
        report = {
            "machine": machine(),
            "versions": versions(PACKAGES),
            "target": target.name,
            "precision": arguments.precision,
            "limit_ms": arguments.latency,
            "take": picked.model,
            "within_limit": picked.milliseconds <= arguments.latency,
            "models": rows(figures, costs),
            "not_measured": left_out,
        }
        write_json(arguments.json, report)
        print(f"json: {arguments.json}")
    if arguments.plot is not None:
        from effedge.pipeline.reports.choose.plot import plot

        title = f"{arguments.precision} for {target.name} on {machine()['cpu']}, {machine()['cores']} cores"
        plot(candidates, series_of(figures), picked, arguments.latency, unit, title, arguments.plot)
        print(f"plot: {arguments.plot}")


def check_arguments(arguments: argparse.Namespace) -> tuple[list[Figure], Target]:
    """Checks the arguments before anything is built; returns the figures and the target.

    Raises:
        UserError: an unknown word, figures of another task, a target that cannot be built or timed here, a file that
            cannot be written.
    """
    choose("precision", arguments.precision, PRECISIONS)
    if arguments.task is not None:
        choose("task", arguments.task, TASKS)
    own = arguments.figures
    figures = published(arguments.task or DETECTION) if own is None else read_figures(own)
    task = task_of(figures[0].model)
    if arguments.task not in (None, task):
        raise UserError(f"--task {arguments.task} was asked for, but '{own}' is of {task}: leave --task out")
    target = resolve_target(arguments.target)
    check_buildable_here(target)
    if not runs_here(target):
        raise UserError(f"{target.name} is to be timed, and no NVIDIA GPU answers here: run this on the device itself")
    for path in (arguments.json, arguments.plot):
        if path is not None and path.parent != arguments.out:  # which is made
            check_output_path(path)
    return figures, target


def measure_all(
    figures: list[Figure], target: Target, unit: str, arguments: argparse.Namespace
) -> tuple[dict[str, Cost], list[str]]:
    """Measures the models, and prints a line for each.

    Returns:
        The costs by model, and lines that name the models that are left out.
    """
    costs: dict[str, Cost] = {}
    left_out: list[str] = []
    accuracy = {row.model: row.accuracy for row in figures}

    def milliseconds(model: str) -> float:
        costs[model] = measure(model, arguments.precision, target, arguments.out / "choose")
        return costs[model].milliseconds

    for model, latency, larger in measure_series(series_of(figures), arguments.latency, milliseconds):
        print(f"{model}: {latency:.1f} ms an image, {unit} {accuracy[model]:g}", flush=True)
        if larger:
            left_out.append(
                f"not measured: {', '.join(larger)}; {model} takes more than {BEYOND:g} times the limit, and they "
                "are the same network, larger"
            )
    return costs, left_out


def warn_if_busy() -> None:
    """Prints a note if other processes have used the cores in the last minute."""
    load = os.getloadavg()[0]
    if load > cores() + BUSY:
        print(
            f"note: {load:.0f} processes wanted the {cores()} cores here in the last minute, so these latencies are "
            "too long: measure again when the machine is quiet",
            file=sys.stderr,
        )


def rows(figures: Sequence[Figure], costs: dict[str, Cost]) -> list[dict[str, object]]:
    """Makes the rows of the JSON: the costs of each measured model, its accuracy and the source of that."""
    return [
        {**costs[row.model]._asdict(), "accuracy": row.accuracy, "source": row.source}
        for row in figures
        if row.model in costs
    ]


def table(candidates: Sequence[Candidate], costs: dict[str, Cost], picked: Candidate, unit: str) -> str:
    """Formats Markdown, fastest first; the models that no other beats in both figures are on the Pareto front."""
    best = pareto_front(candidates)
    lines = [f"| | {unit} | ms | ms, 90th percentile | engine alone, ms | MiB | |", "|---|---|---|---|---|---|---|"]
    for candidate in sorted(candidates, key=lambda candidate: candidate.milliseconds):
        cost = costs[candidate.model]
        remark = "take this" if candidate is picked else "Pareto front" if candidate in best else ""
        lines.append(
            f"| {candidate.model} | {candidate.accuracy:g} | {cost.milliseconds:.1f} | {cost.p90:.1f} | "
            f"{cost.engine:.1f} | {cost.memory_mib} | {remark} |"
        )
    return "\n".join(lines)


def sentence(candidates: Sequence[Candidate], picked: Candidate, limit: float, unit: str) -> str:
    """Names the picked model and the reason, on a line."""
    pick_text = f"take {picked.model}: {unit} {picked.accuracy:g} in {picked.milliseconds:.1f} ms"
    within = sum(candidate.milliseconds <= limit for candidate in candidates)
    if not within:
        return f"{pick_text}, the fastest: no model is within {limit:g} ms here"
    return f"{pick_text}, the most accurate of {within} within {limit:g} ms"


def command(model: str, precision: str, target: str, weights: str) -> str:
    """Returns the command that builds the picked model."""
    words = [f"make engine MODEL={model} WEIGHTS={weights} PRECISION={precision}"]
    if target != "auto":
        words.append(f"TARGET={target}")
    if precision == "int8":
        words.append("CALIBRATION=IMAGES/")
    return " ".join(words)
