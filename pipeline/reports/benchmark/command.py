"""Compares the latency of effedge's engines with that of PyTorch, ONNX Runtime and OpenVINO.

    effedge benchmark d0 [--rounds 5]

The contenders on a CPU are effedge's engines at every precision, PyTorch (eager and torch.compile), and ONNX Runtime
and OpenVINO on a plain torch.onnx.export of the same weights; on a GPU they are effedge's engines, and PyTorch in
float32 and FP16, eager, as a CUDA graph and compiled. Every contender has a process of its own. The processes are timed
alternately (interleaved timing), batch 1, so that a disturbance of the machine reaches all contenders.
effedge's engines take the uint8 image from the CPU's memory and end with decoded candidates there. The others take a
normalized float image, which on a GPU lies in its memory already, and end with the heads' outputs, which is less work.
"""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import write_json
from effedge.deploy.common.messages import log, messages_to_stderr
from effedge.deploy.common.paths import add_build_folder, json_file, output_file
from effedge.deploy.timing.gpu_facts import gpus
from effedge.deploy.timing.machine import machine, versions
from effedge.engines.build_request import NoSuchPrecisionError
from effedge.engines.gpu import first_gpu
from effedge.engines.targets import PRECISIONS, TARGETS, resolve_target
from effedge.pipeline.chain import run_chain
from effedge.pipeline.models.names import check_model
from effedge.pipeline.models.tables import MODELS
from effedge.pipeline.reports.benchmark.contenders import PACKAGES, Contender, rivals, rivals_on_gpu
from effedge.pipeline.reports.benchmark.race import Row, race, table
from effedge.pipeline.request import Checkpoint, Request


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", help=", ".join(MODELS))
    parser.add_argument("--weights", default="digits", help="as of the chain (default: %(default)s)")
    parser.add_argument("--target", default="auto", help="cpu, or the GPU at hand: rtx, trt (default: %(default)s)")
    parser.add_argument("--calibration", type=Path, help="images for INT8, where the weights bring none")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all contenders (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=30, help="runs of a contender in a round (default: %(default)s)")
    add_build_folder(parser)
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write all latencies to this file")
    parser.add_argument(
        "--plot", type=output_file, metavar="FILE.png", help="draw medians and spread (needs matplotlib)"
    )
    parser.add_quiet()
    arguments = parser.parse_args()
    for name in ("rounds", "runs"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)}: expected 1 or more")
    check_model(arguments.model)
    target = resolve_target(choose("target", arguments.target, ["auto", *TARGETS]))
    contenders = []
    with messages_to_stderr():  # the builders' lines are progress here
        for precision in PRECISIONS:
            checkpoint = Checkpoint(arguments.model, arguments.weights)
            request = Request(checkpoint, precision, target, arguments.out, calibration=arguments.calibration)
            try:
                engine = run_chain(request)
            except NoSuchPrecisionError as missing:
                log.warning(f"note: effedge {precision} is left out: {missing}")
                continue
            contenders.append(Contender(f"effedge {precision}", "engine", (str(engine),)))
        if target.on_cpu:
            contenders += rivals(arguments.model, arguments.weights, engine.parent / "plain.onnx")
        else:
            contenders += rivals_on_gpu(arguments.model, arguments.weights)
    rows = race(contenders, rounds=arguments.rounds, runs=arguments.runs)
    print(table(rows))
    if arguments.json is not None:
        write_latencies(rows, arguments.model, arguments.json)
        print(f"json: {arguments.json}")
    if arguments.plot is not None:
        from effedge.pipeline.reports.benchmark.plot import plot

        gpu = None if target.on_cpu else first_gpu()
        device = f"{machine()['cpu']}, {machine()['cores']} cores" if gpu is None else gpu.name
        plot(rows, f"{arguments.model}, batch 1, {device}", arguments.plot)
        print(f"plot: {arguments.plot}")


def write_latencies(rows: list[Row], model: str, path: Path) -> None:
    """Writes all latencies, with the machine and the versions that they were measured on."""
    figures = {row.name: {"median_ms": row.median, "best_ms": row.best, "rounds_ms": row.rounds} for row in rows}
    report = {"model": model, "machine": machine(), "gpus": gpus(), "versions": versions(PACKAGES)}
    report["contenders"] = figures
    write_json(path, report)
