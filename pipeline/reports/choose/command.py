"""Which model to take for this device and a latency: effedge choose --latency 30

The detectors (or the classifiers) are built with random weights and timed here, from the decoded picture to what was
found in it, batch 1. Their latencies are set beside the published accuracy, or your own (--figures: a .csv with lines
such as d0,38.5, or a .json such as {"d0": 38.5}), and the most accurate within the limit is named. A series is
measured from its smallest model up, as far as it matters. INT8 is calibrated on one picture: its speed is that of a
careful calibration, but for what that leaves in 16 bit.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import check_place, whole_file
from effedge.deploy.latency import PACKAGES
from effedge.deploy.timing.machine import cores, machine, versions
from effedge.engines.targets import PRECISIONS, TARGETS, check_buildable_here, resolve_target, runs_here
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
from effedge.pipeline.reports.choose.pareto import BEYOND, Candidate, climb, front, pick

BUSY = 1  # processes beyond the cores; the one that is timed wants all of them
PUBLISHED_WEIGHTS = {DETECTION: "coco"}  # else imagenet


def main() -> None:
    parser = Parser(prog="effedge choose", description=__doc__)
    parser.add_argument("--latency", type=float, required=True, metavar="MS", help="that a picture may take")
    parser.add_argument("--task", help=f"{' or '.join(TASKS)} (default: {DETECTION})")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="your own accuracy of models: .csv or .json")
    parser.add_argument("--precision", default="fp16", help=f"{', '.join(PRECISIONS)} (default: %(default)s)")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build"), help="engines go to its folder choose (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    if not (math.isfinite(given.latency) and given.latency > 0):
        parser.error(f"--latency {given.latency:g}: expected milliseconds above 0, such as 30")
    choose("precision", given.precision, PRECISIONS)
    if given.task is not None:
        choose("task", given.task, TASKS)
    figures = read_figures(given.figures) if given.figures is not None else published(given.task or DETECTION)
    task = task_of(figures[0].model)
    if given.task not in (None, task):
        raise UserError(f"--task {given.task} was asked for, but '{given.figures}' is of {task}: leave --task out")
    target = resolve_target(given.target)
    check_buildable_here(target)
    if not runs_here(target):
        raise UserError(f"{target.name} is to be timed, and no NVIDIA GPU answers here: run this on the device itself")
    for path in (given.json, given.plot):
        if path is not None and path.parent != given.out:  # which is made
            check_place(path)

    costs: dict[str, Cost] = {}
    left_out: list[str] = []
    unit = UNITS[task] if given.figures is None else "accuracy"
    accuracy = {row.model: row.accuracy for row in figures}

    def milliseconds(model: str) -> float:
        costs[model] = measure(model, given.precision, target, given.out / "choose", given.quiet)
        return costs[model].milliseconds

    series = series_of(figures)
    for model, found, larger in climb(series, given.latency, milliseconds):
        print(f"{model}: {found:.1f} ms a picture, {unit} {accuracy[model]:g}", flush=True)
        if larger:
            left_out.append(
                f"not measured: {', '.join(larger)}; {model} takes more than {BEYOND:g} times the limit, and they "
                "are the same network, larger"
            )
    load = os.getloadavg()[0]
    if load > cores() + BUSY:
        print(
            f"note: {load:.0f} processes wanted the {cores()} cores here in the last minute, so these latencies are "
            "too long: measure again when the machine is quiet",
            file=sys.stderr,
        )
    candidates = [Candidate(model, accuracy[model], cost.milliseconds) for model, cost in costs.items()]
    taken = pick(candidates, given.latency)
    print(table(candidates, costs, taken, unit))
    for line in left_out:
        print(line)
    print(sentence(candidates, taken, given.latency, unit))
    weights = PUBLISHED_WEIGHTS.get(task, "imagenet") if given.figures is None else "YOURS.safetensors"
    print(command(taken.model, given.precision, given.target, weights))
    if given.json is not None:
        report = {
            "machine": machine(),
            "versions": versions(PACKAGES),
            "target": target.name,
            "precision": given.precision,
            "limit_ms": given.latency,
            "take": taken.model,
            "within_limit": taken.milliseconds <= given.latency,
            "models": rows(figures, costs),
            "not_measured": left_out,
        }
        with whole_file(given.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
        print(f"json: {given.json}")
    if given.plot is not None:
        from effedge.pipeline.reports.choose.plot import plot

        title = f"{given.precision} for {target.name} on {machine()['cpu']}, {machine()['cores']} cores"
        plot(candidates, series, taken, given.latency, unit, title, given.plot)
        print(f"plot: {given.plot}")


def rows(figures: Sequence[Figure], costs: dict[str, Cost]) -> list[dict[str, object]]:
    """For the JSON: what is known of each measured model, and where its accuracy is from."""
    return [
        {**costs[row.model]._asdict(), "accuracy": row.accuracy, "source": row.source}
        for row in figures
        if row.model in costs
    ]


def table(candidates: Sequence[Candidate], costs: dict[str, Cost], taken: Candidate, unit: str) -> str:
    """Markdown, fastest first; what no other model beats in both is on the Pareto front."""
    best = front(candidates)
    lines = [f"| | {unit} | ms | ms, 90th percentile | engine alone, ms | MiB | |", "|---|---|---|---|---|---|---|"]
    for one in sorted(candidates, key=lambda one: one.milliseconds):
        cost = costs[one.model]
        words = "take this" if one is taken else "Pareto front" if one in best else ""
        lines.append(
            f"| {one.model} | {one.accuracy:g} | {cost.milliseconds:.1f} | {cost.p90:.1f} | {cost.engine:.1f} | "
            f"{cost.memory_mib} | {words} |"
        )
    return "\n".join(lines)


def sentence(candidates: Sequence[Candidate], taken: Candidate, limit: float, unit: str) -> str:
    """What to take and why, on a line."""
    what = f"take {taken.model}: {unit} {taken.accuracy:g} in {taken.milliseconds:.1f} ms"
    within = sum(one.milliseconds <= limit for one in candidates)
    if not within:
        return f"{what}, the fastest: no model is within {limit:g} ms here"
    return f"{what}, the most accurate of {within} within {limit:g} ms"


def command(model: str, precision: str, target: str, weights: str) -> str:
    """What to type next."""
    words = [f"make engine MODEL={model} WEIGHTS={weights} PRECISION={precision}"]
    if target != "auto":
        words.append(f"TARGET={target}")
    if precision == "int8":
        words.append("CALIBRATION=PICTURES/")
    return " ".join(words)
