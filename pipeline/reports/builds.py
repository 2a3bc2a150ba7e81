"""What TensorRT makes of the models: build time, plan size and precision as built, in one table.

    effedge builds [MODEL ...] --out build --json builds.json

Every model in fp32, fp16 and int8 for a target whose builder runs here (rtx needs no GPU), and one of them also for
single GPU generations and with a dynamic batch. Weights are those that are at hand without a download, else random:
neither size nor time depends on them. For the same reason INT8 takes its ranges from two pictures and tries nothing,
which is seconds instead of minutes. So all of it lies in a folder of its own, OUT/builds: it is not for use.

A build that is up to date is not done again; its time is then that of its record. Beside the seconds on the clock there
are those of the CPU, of all cores together, which a busy machine does not stretch.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from effedge.calibration.fp16.convert import convert
from effedge.calibration.ranges.samples import list_images
from effedge.calibration.ranges.source import load_samples
from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.files import whole_file
from effedge.deploy.runtime.manifest import read_manifest
from effedge.engines.build import make_engine
from effedge.engines.build_options import NO_INT8, Choices
from effedge.engines.stage import record_path, run_stage
from effedge.engines.targets import PRECISIONS, TARGETS, Target, check_buildable_here
from effedge.pipeline.chain import Request, batch_word, build_chain
from effedge.pipeline.datasets.digits_cache import digits_folder
from effedge.pipeline.export.torch_to_onnx import Batch
from effedge.pipeline.models.zoo import MODELS
from effedge.pipeline.weights.locate import bundled_file, lite0_package_file

FAMILY = ("b0", "lite0", "det-lite0", "d0", "d1", "d2")
VARIED = "d0"
CAPABILITIES = ("7.5", "8.6", "12.0")
DYNAMIC = (1, 4, 8)
ONE = (1, 1, 1)
PICTURES = 2
HEADER = ["model", "weights", "precision", "GPUs", "batch", "build, s", "CPU, s", "plan, MB", "convolutions"]


class Case(NamedTuple):
    """One build. capabilities: the GPU generations that it is for; empty: the target's own choice."""

    model: str
    precision: str
    capabilities: tuple[str, ...] = ()
    batch: Batch = ONE


@dataclass(frozen=True)
class Row:
    """What came of a case.

    seconds, cpu_seconds: of the whole stage, on the clock and of the CPU. convolutions: by precision.
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
    """Every model at every precision; the varied one, if it is among them, in its variants too."""
    plain = [Case(model, precision) for model in models for precision in PRECISIONS]
    if VARIED not in models:
        return plain
    single = [(one,) for one in CAPABILITIES] if target.backend == "tensorrt_rtx" else []
    varied = [Case(VARIED, precision, one) for one in single for precision in PRECISIONS]
    varied = [one for one in varied if not (one.precision == "int8" and set(one.capabilities) & set(NO_INT8))]
    return plain + varied + [Case(VARIED, precision, batch=DYNAMIC) for precision in PRECISIONS]


def weights_at_hand(model: str) -> str:
    """The word for the weights of a model that need no download.

    >>> weights_at_hand("d0"), weights_at_hand("d1")
    ('digits', 'random')
    """
    if bundled_file(model).is_file():
        return "digits"
    return "imagenet" if model == "lite0" and lite0_package_file() else "random"


def build(case: Case, target: Target, out: Path, *, quiet: bool) -> Row:
    """Prepare and build a case below `out`, as far as that is not done already."""
    weights = weights_at_hand(case.model)
    wanted = Request("fp32", target, out, until="simplify", quiet=quiet)
    simplified = build_chain(case.model, weights, wanted, batch=case.batch)
    prepared = simplified
    if case.precision != "fp32":
        prepared = simplified.with_name(f"{case.precision}.onnx")
        pictures = digits_folder("detection", "calibration", size=0, count=PICTURES, quiet=quiet) / "images"
        if case.precision == "int8":
            quantize_roughly(simplified, pictures, prepared, quiet=quiet)
        else:
            convert(simplified, prepared, data=pictures, images=PICTURES, quiet=quiet)
    engine = simplified.with_name("-".join([case.precision, target.name, *case.capabilities]))
    make_engine(
        prepared,
        engine,
        precision=case.precision,
        target=target,
        choices=Choices(compute_capabilities=case.capabilities),
        quiet=quiet,
    )
    return measured(case, weights, engine)


def quantize_roughly(simplified: Path, pictures: Path, out: Path, *, quiet: bool) -> None:
    """The stage: INT8 wherever the placement rules put it, between the least and the greatest that was seen."""

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.placement import make_plan
        from effedge.calibration.placement.insert import InsertQDQPass
        from effedge.calibration.ranges.collect import collect

        model = onnx_file.load(simplified)
        names = make_plan(model).tensors
        seen = collect(model, load_samples(model, pictures, list_images(pictures), PICTURES), names, quiet=quiet)
        plan = make_plan(model, {name: "it was 0" for name in names if seen[name].amax == 0})
        thresholds = {name: max(seen[one].amax for one in group) for group in plan.groups for name in group}
        InsertQDQPass(plan.reads, thresholds, plan.layers)(model)
        onnx_file.save(model, temporary)

    tools, code = ["numpy", "onnx", "onnx-ir", "onnxruntime"], [__name__]
    options = {"pictures": pictures.parent.name}
    run_stage("calibrate", out, inputs={"onnx": simplified}, options=options, tools=tools, code=code, make=make)


def measured(case: Case, weights: str, engine: Path) -> Row:
    """The row of an engine that is built."""
    manifest: dict[str, Any] = read_manifest(engine)
    record = json.loads(record_path(engine).read_text())
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
    """A table with a line for each row."""
    lines = [HEADER, ["---"] * len(HEADER)]
    for row in rows:
        kinds = sorted(row.convolutions.items(), key=lambda item: -item[1])
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds) or "unknown"
        figures = [f"{row.seconds:.1f}", f"{row.cpu_seconds:.1f}", f"{row.megabytes:.1f}"]
        lines.append([row.model, row.weights, row.precision, row.gpus, row.batch, *figures, counted])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = Parser(prog="effedge builds", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"(default: {' '.join(FAMILY)})")
    parser.add_argument("--target", default="rtx", metavar="T", help="whose builder runs here (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    target = TARGETS[choose("target", given.target, TARGETS)]
    if target.backend == "openvino":
        raise UserError(f"target '{target.name}' has no plan to measure: give rtx, or another that TensorRT builds for")
    models = [choose("model", model, MODELS) for model in given.models] or list(FAMILY)
    check_buildable_here(target)
    rows = []
    for case in cases(models, target):
        with contextlib.redirect_stdout(sys.stderr):  # the stages' lines are progress here
            rows.append(build(case, target, given.out / "builds", quiet=given.quiet))
        if given.json is not None:  # after each, as the next takes minutes
            with whole_file(given.json) as temporary:
                temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(markdown(rows))
