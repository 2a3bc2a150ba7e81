"""Our engines of a model against the usual ways to run it here: effedge benchmark d0 [--rounds 5]

The contenders are effedge's engines at each precision, PyTorch (eager and torch.compile), and ONNX Runtime and OpenVINO
on a plain torch.onnx.export of the same weights; for a GPU's target PyTorch in float32 and FP16, eager, as a CUDA graph
and compiled. Each is timed in a process of its own, batch 1, in turns, so that what disturbs the machine disturbs all.
effedge's engines take the uint8 picture, from the CPU's memory, and end with decoded candidates there; the others take
a normalized float picture, on a GPU one that lies there already, and end with the heads' outputs, which is less work.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import whole_file
from effedge.deploy.timing.gpu_facts import gpus
from effedge.deploy.timing.machine import machine, versions
from effedge.engines.gpu import first_gpu
from effedge.engines.targets import PRECISIONS, TARGETS, resolve_target
from effedge.pipeline.chain import Request, build_chain
from effedge.pipeline.models.zoo import MODELS
from effedge.pipeline.reports.benchmark.contenders import PACKAGES, Contender, rivals, rivals_on_gpu
from effedge.pipeline.reports.benchmark.race import Row, race, table


def main() -> None:
    parser = Parser(prog="effedge benchmark", description=__doc__)
    parser.add_argument("model", help=", ".join(MODELS))
    parser.add_argument("--weights", default="digits", help="as of the chain (default: %(default)s)")
    parser.add_argument("--target", default="auto", help="cpu, or the GPU at hand: rtx, trt (default: %(default)s)")
    parser.add_argument("--calibration", type=Path, help="pictures for INT8, where the weights bring none")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=30, help="runs in a turn (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all latencies to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw medians and spread (needs matplotlib)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    for name in ("rounds", "runs"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} {getattr(given, name)}: expected 1 or more")
    choose("model", given.model, MODELS)
    target = resolve_target(choose("target", given.target, ["auto", *TARGETS]))
    contenders = []
    with contextlib.redirect_stdout(sys.stderr):  # the builders' lines are progress here
        for precision in PRECISIONS:
            wanted = Request(precision, target, given.out, calibration=given.calibration, quiet=given.quiet)
            engine = build_chain(given.model, given.weights, wanted)
            contenders.append(Contender(f"effedge {precision}", "engine", (str(engine),)))
        if target.on_cpu:
            contenders += rivals(given.model, given.weights, engine.parent / "plain.onnx", given.quiet)
        else:
            contenders += rivals_on_gpu(given.model, given.weights)
    rows = race(contenders, rounds=given.rounds, runs=given.runs, quiet=given.quiet)
    print(table(rows))
    if given.json is not None:
        write_json(rows, given.model, given.json)
        print(f"json: {given.json}")
    if given.plot is not None:
        from effedge.pipeline.reports.benchmark.plot import plot

        gpu = None if target.on_cpu else first_gpu()
        where = f"{machine()['cpu']}, {machine()['cores']} cores" if gpu is None else gpu.name
        plot(rows, f"{given.model}, batch 1, {where}", given.plot)
        print(f"plot: {given.plot}")


def write_json(rows: list[Row], model: str, path: Path) -> None:
    """All latencies, with what they were measured on."""
    figures = {row.name: {"median_ms": row.median, "best_ms": row.best, "rounds_ms": row.rounds} for row in rows}
    report = {"model": model, "machine": machine(), "gpus": gpus(), "versions": versions(PACKAGES)}
    report["contenders"] = figures
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
