"""Measures TensorRT's builds: build time, plan size and precision as built, in one table.

    effedge builds [MODEL ...] --out build --json builds.json

Every model is built in fp32, fp16 and int8 for a target whose builder runs here (rtx needs no GPU), and one of them
also for single GPU generations and with a dynamic batch. Weights that need a download are replaced by random ones:
neither size nor time depends on them. For the same reason INT8 takes its ranges from two images and searches no
thresholds, which takes seconds instead of minutes. The engines are therefore not for use, and have a folder of their
own, OUT/builds.

A build that is up to date is not repeated; its time is that of its record. Beside the wall-clock seconds the table has
the CPU seconds of all cores together, which a busy machine does not stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from effedge.calibration.fp16.convert import convert
from effedge.calibration.ranges.samples import list_images
from effedge.calibration.ranges.source import load_samples
from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import read_json, write_json_so_far
from effedge.deploy.common.messages import messages_to_stderr
from effedge.deploy.common.paths import add_build_folder, json_file
from effedge.deploy.runtime.manifest import read_manifest
from effedge.engines.build import make_engine
from effedge.engines.build_options import NO_INT8, BuildOptions
from effedge.engines.stage import record_path, run_stage
from effedge.engines.targets import PRECISIONS, TARGETS, TYPED, Target, check_buildable_here
from effedge.pipeline.artefact_folder import batch_word
from effedge.pipeline.chain import run_chain
from effedge.pipeline.datasets.digits_cache import digits_folder
from effedge.pipeline.export.torch_to_onnx import Batch
from effedge.pipeline.models.names import check_model
from effedge.pipeline.request import Checkpoint, Request
from effedge.pipeline.weights.locate import bundled_file, lite0_package_file

FAMILY = ("b0", "lite0", "det-lite0", "d0", "d1", "d2")
VARIED = "d0"
CAPABILITIES = ("7.5", "8.6", "12.0")
DYNAMIC = (1, 4, 8)
ONE = (1, 1, 1)
IMAGES = 2
HEADER = ["model", "weights", "precision", "GPUs", "batch", "build, s", "CPU, s", "plan, MB", "convolutions"]


class Case(NamedTuple):
    """A build. capabilities: the GPU generations that it is for; empty: the target's own choice."""

    model: str
    precision: str
    capabilities: tuple[str, ...] = ()
    batch: Batch = ONE


@dataclass(frozen=True)
class Row:
    """The result of a case.

    seconds, cpu_seconds: of the entire stage, on the clock and of the CPU.
    convolutions: their number by precision.
    """

    model: str
    weights: str
    precision: str
    gpus: str
    batch: str
    seconds: float
    cpu_seconds: float
    megabytes: float
    convolutions: dict[str, int]


def cases(models: Sequence[str], target: Target) -> list[Case]:
    """Lists every model at every precision; VARIED, if it is among the models, in its variants too."""
    plain = [Case(model, precision) for model in models for precision in PRECISIONS]
    if VARIED not in models:
        return plain
    single = CAPABILITIES if target.backend == "tensorrt_rtx" else ()
    varied = [
        Case(VARIED, precision, (capability,))
        for capability in single
        for precision in PRECISIONS
        if precision != "int8" or capability not in NO_INT8
    ]
    return plain + varied + [Case(VARIED, precision, batch=DYNAMIC) for precision in PRECISIONS]


def local_weights(model: str) -> str:
    """Names the weights of a model that need no download.

    >>> local_weights("d0"), local_weights("d1")
    ('digits', 'random')
    """
    if bundled_file(model).is_file():
        return "digits"
    return "imagenet" if model == "lite0" and lite0_package_file() else "random"


def build(case: Case, target: Target, out: Path) -> Row:
    """Prepares and builds a case below `out`, as far as that is not done already."""
    weights = local_weights(case.model)
    checkpoint = Checkpoint(case.model, weights, batch=case.batch)
    simplified = run_chain(Request(checkpoint, "fp32", target, out, until="simplify"))
    prepared = simplified
    if case.precision != "fp32":
        images = digits_folder("detection", "calibration", size=0, count=IMAGES) / "images"
        if case.precision == "int8":
            prepared = simplified.with_name("int8.onnx")
            quantize_roughly(simplified, images, prepared)
        if target.precision_by == TYPED:
            before, prepared = prepared, prepared.with_name("fp16.onnx" if prepared is simplified else "int8-fp16.onnx")
            convert(before, prepared, data=images, images=IMAGES)
    engine = simplified.with_name("-".join([case.precision, target.name, *case.capabilities]))
    make_engine(
        prepared,
        engine,
        precision=case.precision,
        target=target,
        build_options=BuildOptions(compute_capabilities=case.capabilities),
    )
    return make_row(case, weights, engine)


def quantize_roughly(simplified: Path, images: Path, out: Path) -> None:
    """Quantizes wherever the placement rules allow, with thresholds at the largest magnitudes; a stage."""

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.placement import make_plan
        from effedge.calibration.placement.insert import InsertQDQPass
        from effedge.calibration.ranges.collect import collect

        model = onnx_file.load(simplified)
        names = make_plan(model).tensors
        histograms = collect(model, load_samples(model, images, list_images(images), IMAGES), names)
        plan = make_plan(model, {name: "it was 0" for name in names if histograms[name].amax == 0})
        thresholds = {name: max(histograms[member].amax for member in group) for group in plan.groups for name in group}
        InsertQDQPass(plan.reads, thresholds, plan.layers)(model)
        onnx_file.save(model, temporary)

    tools, code = ["numpy", "onnx", "onnx-ir", "onnxruntime"], [__name__]
    options = {"images": images.parent.name}
    run_stage("calibrate", out, inputs={"onnx": simplified}, options=options, tools=tools, code=code, make=make)


def make_row(case: Case, weights: str, engine: Path) -> Row:
    """Makes the row of a built engine."""
    manifest = read_manifest(engine)
    record = read_json(record_path(engine), "remove it")
    return Row(
        model=case.model,
        weights=weights,
        precision=case.precision,
        gpus=" ".join(manifest["backend"].get("compute_capabilities", ["this one"])),
        batch=batch_word(case.batch)[1:].replace("-", ":"),
        seconds=record["seconds"],
        cpu_seconds=record["cpu_seconds"],
        megabytes=round((engine / manifest["engine"]).stat().st_size / 1e6, 1),
        convolutions=manifest["precision"]["convolutions"],
    )


def markdown(rows: Sequence[Row]) -> str:
    """Formats a table with a line for each row."""
    lines = [HEADER, ["---"] * len(HEADER)]
    for row in rows:
        kinds = sorted(row.convolutions.items(), key=lambda item: -item[1])
        convolutions = ", ".join(f"{count} {kind}" for kind, count in kinds) or "unknown"
        figures = [f"{row.seconds:.1f}", f"{row.cpu_seconds:.1f}", f"{row.megabytes:.1f}"]
        lines.append([row.model, row.weights, row.precision, row.gpus, row.batch, *figures, convolutions])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"(default: {' '.join(FAMILY)})")
    parser.add_argument("--target", default="rtx", metavar="T", help="whose builder runs here (default: %(default)s)")
    add_build_folder(parser)
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write the rows to this file")
    parser.add_quiet()
    arguments = parser.parse_args()
    target = TARGETS[choose("target", arguments.target, TARGETS)]
    if target.backend == "openvino":
        raise UserError(f"target '{target.name}' has no plan to measure: give rtx, or another that TensorRT builds for")
    models = [check_model(model) for model in arguments.models] or list(FAMILY)
    check_buildable_here(target)
    rows = []
    for case in cases(models, target):
        with messages_to_stderr():  # the stages' lines are progress here
            rows.append(build(case, target, arguments.out / "builds"))
        # After every case, as the next takes minutes.
        write_json_so_far(arguments.json, [asdict(row) for row in rows], whole=False)
    print(markdown(rows))
    write_json_so_far(arguments.json, [asdict(row) for row in rows], whole=True)
