"""The whole way from a checkpoint, or from anybody's ONNX, to an engine: what `make engine` runs.

    effedge engine d0 --precision int8 --target cpu
    effedge engine --onnx net.onnx --calibration arrays.npz --precision int8 --target cpu

Load and export, simplify, calibrate or convert, build: each stage is skipped while its record says that it is up to
date, so a second precision re-uses the export, and a second call does nothing. The engine's folder is printed last.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from safetensors import safe_open

from effedge.calibration.by_latency import check_runs_here, pay_stage
from effedge.calibration.fp16.convert import convert
from effedge.calibration.quantize import calibrate
from effedge.calibration.ranges.samples import ARRAY_SUFFIXES, list_images
from effedge.calibration.settings import DEFAULT, Settings, add_settings, read_settings
from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.engines.build import make_engine
from effedge.engines.build_options import DEFAULT as DEFAULT_CHOICES
from effedge.engines.build_options import Choices, add_choices, read_choices
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import (
    PRECISIONS,
    TARGETS,
    TYPED,
    Target,
    check_buildable_here,
    check_precision,
    resolve_target,
)
from effedge.pipeline.datasets.digits_cache import digits_folder
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.evaluation.accuracy_limit import check_drop, drop_budget, read_labelled
from effedge.pipeline.export.foreign_model import check_inputs, simplify_any_stage
from effedge.pipeline.export.simplify import simplify_stage
from effedge.pipeline.export.torch_to_onnx import Batch, export_stage, parse_batch
from effedge.pipeline.models.zoo import MODELS, input_size, is_detector
from effedge.pipeline.training.finetune.stage import fine_tune
from effedge.pipeline.training.finetune.tuning import Tuning
from effedge.pipeline.weights.locate import locate_weights
from effedge.pipeline.weights.published import KINDS

CALIBRATION_IMAGES = 128
FP16_IMAGES = 16  # only overflow matters there
STAGES = ("export", "simplify", "calibrate", "engine", "bundle")  # a bundle is in place of an engine
MODELS_SHORT = "b0 to d7x, --help lists them"


def artefact_name(model: str, weights: str, size: int | None, batch: Batch) -> str:
    """The folder of a model's artefacts: d0-digits, d0-mine-640, b0-digits-b1-4-8.

    >>> artefact_name("d0", "runs/mine.pth", 640, (1, 1, 1))
    'd0-mine-640'
    """
    word = weights if weights in (*KINDS, "digits", "random") else file_word(Path(weights))
    parts = [model, word]
    if size is not None:
        parts.append(str(size))
    if batch != (1, 1, 1):
        parts.append(batch_word(batch))
    return "-".join(parts)


def file_word(path: Path) -> str:
    return re.sub(r"[^\w.]+", "_", path.stem)


def batch_word(batch: Batch) -> str:
    return "b" + "-".join(map(str, batch if len(set(batch)) > 1 else batch[:1]))


def calibration_data(model: str, weights: str, given: Path | None, quiet: bool, needed: bool) -> Path | None:
    """The pictures that ranges are taken from: the user's, or the drawn digits where those are what the model knows.

    Raises:
        UserError: a model that was trained on other pictures, and `needed` ones are not given.
    """
    if given is not None:
        return given
    if weights not in ("digits", "random"):
        if needed:
            raise UserError(
                f"INT8 of {model} with weights '{weights}' needs pictures like those that it will see: "
                "give a folder of about a hundred with CALIBRATION (--calibration)"
            )
        return None
    # Crops for a classifier of digits; random weights know no pictures, and take the larger ones.
    if is_detector(model) or weights == "random":
        return digits_folder("detection", "calibration", size=0, count=CALIBRATION_IMAGES, quiet=quiet) / "images"
    file = locate_weights(model, weights)
    with safe_open(str(file), framework="np") as checkpoint:
        size = int((checkpoint.metadata() or {}).get("size", input_size(model)))
    return digits_folder("classification", "calibration", size=size, count=CALIBRATION_IMAGES, quiet=quiet)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is wanted of a model, wherever that comes from.

    Attributes:
        out: the folder under which each model has its own.
        calibration: a folder of images, a COCO json, or an .npz with an array per input; for fp16 it may be left out.
        max_drop: the points of AP or top-1 that INT8 may lose on `validation`, which takes the place of the settings'
            share of arithmetic in 16 bit.
        validation: labelled pictures; for weights `digits` by default the drawn calibration pictures.
        by_latency: leave the layers in 16 bit that are not faster in INT8 on the target.
        until: the last stage to run.
        finetune: steps of quantization-aware fine-tuning on the calibration pictures, after calibration; 0: none.
        choices: of a TensorRT build, here or from a bundle on the device.
        picture: what a bundle tests itself on.
    """

    precision: str
    target: Target
    out: Path
    calibration: Path | None = None
    settings: Settings = DEFAULT
    max_drop: float | None = None
    validation: str | None = None
    by_latency: bool = False
    until: str = "engine"
    choices: Choices = DEFAULT_CHOICES
    picture: Path | None = None
    quiet: bool = False
    finetune: int = 0

    def check(self) -> None:
        """UserError for what cannot be, whatever the model."""
        check_precision(self.precision, self.target)
        choose("stage", self.until, STAGES)
        check_drop(self.max_drop, self.validation, self.precision)
        if self.finetune < 0 or self.finetune and self.precision != "int8":
            raise UserError(f"--finetune {self.finetune} (FINETUNE): expected a number of steps, with PRECISION=int8")
        self.choices.check(self.target, self.precision)
        if self.until == "engine":  # the stages before it are for the host, whatever the target
            check_buildable_here(self.target)
        if self.by_latency:
            if self.precision != "int8":
                raise UserError(
                    f"BY_LATENCY (--by-latency) is of INT8, and {self.precision} was asked for: leave it out, or give "
                    "PRECISION=int8"
                )
            check_runs_here(self.target)

    @property
    def reads_data(self) -> bool:
        """True if a stage up to `until` takes ranges from pictures or arrays."""
        wanted = self.precision == "int8" or self.precision == "fp16" and self.target.precision_by == TYPED
        return wanted and STAGES.index(self.until) >= STAGES.index("calibrate")


def build_chain(
    model: str,
    weights: str,
    request: Request,
    *,
    size: int | None = None,
    batch: Batch = (1, 1, 1),
    classes: int | None = None,
    labels: Path | None = None,
) -> Path:
    """Run the stages; returns the path of the last artefact.

    Raises:
        UserError: whatever is wrong with an argument, before the first long stage where that can be known.
    """
    choose("model", model, MODELS)
    request.check()
    quiet = request.quiet
    folder = request.out / artefact_name(model, weights, size, batch)
    locate_weights(model, weights, quiet=quiet)
    exported, simplified = folder / "model.onnx", folder / "simplified.onnx"
    calibration, labelled = request.calibration, None
    if request.reads_data:
        # Whatever is wrong with it shall be known before the export, not after.
        calibration = calibration_data(model, weights, calibration, quiet, needed=request.precision == "int8")
        if calibration is not None and calibration.suffix not in ARRAY_SUFFIXES:
            list_images(calibration)
        if request.max_drop is not None:
            known = calibration_data(model, weights, None, quiet, needed=False) if weights == "digits" else None
            task = "detection" if is_detector(model) else "classification"
            labelled = read_labelled(request.validation, known, task)

    export_stage(
        exported, model, weights, size=size, batch=batch, classes=classes, labels=labels, quiet=quiet
    )  # fmt: skip
    if request.until == "export":
        return exported
    simplify_stage(exported, simplified)
    return from_simplified(simplified, request, calibration, labelled)


def build_onnx_chain(onnx: Path, request: Request, *, batch: Batch | None = None) -> Path:
    """The same from an ONNX file on, whoever made it; its artefacts go to a folder with the file's name.

    Calibration by images, and a limit to the drop, are for a model that carries effedge's spec. INT8 needs calibration.

    Args:
        batch: of a model whose own is dynamic; by default 1.

    Raises:
        UserError: as build_chain; a model that is no float ONNX with inputs of known sizes.
    """
    if request.until == "export":
        raise UserError(f"'{onnx}' is exported already: leave --until out, or give one of {', '.join(STAGES[1:])}")
    request.check()
    calibration = request.calibration
    header = read_header(onnx)
    quantized = next((node for node in header.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")), None)
    if quantized is not None:
        raise UserError(f"'{onnx}' is already quantized ({quantized.op} '{quantized.name}'): give the float model")
    check_inputs(header, onnx, batch)
    if header.spec and batch:
        raise UserError(f"'{onnx}' has its batch, {header.batch}, from its export: leave BATCH (--batch) out")
    if calibration is None and request.precision == "int8" and request.reads_data:
        raise UserError(
            f"INT8 of '{onnx}' needs data like what it will see: give an .npz with an array for each of its inputs "
            f"({', '.join(header.inputs)}) with CALIBRATION (--calibration), or build PRECISION=fp16"
        )
    arrays = None
    if calibration is not None:
        if calibration.suffix in ARRAY_SUFFIXES and calibration.is_file():
            arrays = calibration
        elif not header.spec and calibration.exists():
            raise UserError(
                f"'{calibration}' holds images, but '{onnx}' does not say how it wants them: give an .npz with an "
                f"array for each of its inputs ({', '.join(header.inputs)})"
            )
        else:
            list_images(calibration)
    labelled = None
    if request.max_drop is not None and request.reads_data:
        if not header.spec:
            raise UserError(
                f"MAX_DROP (--max-drop) needs accuracy, and '{onnx}' does not say what its outputs mean: "
                "effedge quantize --max-damage needs no labels"
            )
        labelled = read_labelled(request.validation, None, header.spec["task"])
    simplified = request.out / "-".join([file_word(onnx), *([batch_word(batch)] if batch else [])]) / "simplified.onnx"
    if header.spec:
        simplify_stage(onnx, simplified)
    else:
        simplify_any_stage(onnx, simplified, batch=batch or (1, 1, 1), data=arrays)
    return from_simplified(simplified, request, calibration, labelled)


def from_simplified(simplified: Path, request: Request, calibration: Path | None, labelled: DataSet | None) -> Path:
    """The stages behind the simplified ONNX, beside it; returns the path of the last artefact."""
    if request.until == "simplify":
        return simplified
    prepared, precision, target, quiet = simplified, request.precision, request.target, request.quiet
    if precision == "int8":
        assert calibration is not None
        prepared = simplified.with_name("int8-zero-points.onnx" if target.zero_points else "int8.onnx")
        budget = None
        if request.max_drop is not None and labelled is not None:
            budget = drop_budget(request.max_drop, labelled, read_header(simplified).spec, quiet=quiet)
        calibrate(
            simplified,
            calibration,
            prepared,
            settings=dataclasses.replace(request.settings, zero_points=target.zero_points),
            budget=budget,
            images=CALIBRATION_IMAGES,
            quiet=quiet,
        )
        if request.finetune:
            calibrated, prepared = prepared, prepared.with_name(f"{prepared.stem}-finetuned.onnx")
            tuning = Tuning(steps=request.finetune)
            fine_tune(simplified, calibrated, calibration, prepared, tuning=tuning, quiet=quiet)
        if request.by_latency:
            int8, prepared = prepared, prepared.with_name(f"{prepared.stem}-{target.name}.onnx")
            pay_stage(int8, prepared, target, quiet=quiet)
    elif precision == "fp16" and target.precision_by == TYPED:
        prepared = simplified.with_name("fp16.onnx")
        convert(simplified, prepared, data=calibration, images=FP16_IMAGES, quiet=quiet)
    if request.until == "calibrate":
        return prepared
    if request.until == "bundle":
        from effedge.pipeline.shipping.bundle import bundle_stage

        return bundle_stage(
            prepared,
            precision=precision,
            target=target,
            choices=request.choices,
            picture=request.picture,
            calibration=calibration,
        )
    engine = simplified.with_name(f"{precision}-{target.name}")
    make_engine(
        prepared,
        engine,
        precision=precision,
        target=target,
        choices=request.choices,
        quiet=quiet,
    )
    return engine


def main() -> None:
    parser = Parser(prog="effedge engine", description=__doc__)
    parser.add_argument("model", nargs="?", help=", ".join(MODELS))
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="instead of a model: an ONNX file, whoever made it")
    parser.add_argument("--precision", default="int8", help="fp32, fp16 or int8 (default: %(default)s)")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    parser.add_argument("--weights", help="digits (the default), random, imagenet, coco, ... or a checkpoint")
    parser.add_argument("--size", type=int, help="side of the input in pixels (default: the weights' own)")
    parser.add_argument("--batch", help="N, or MIN:OPT:MAX for a dynamic batch (default: 1, or the ONNX file's own)")
    parser.add_argument("--classes", type=int, help="number of classes that the checkpoint must have")
    parser.add_argument("--labels", type=Path, help="a text file with a class name a line")
    parser.add_argument("--calibration", type=Path, help="for INT8: a folder of pictures, a COCO json or an .npz")
    add_settings(parser)
    parser.add_argument("--max-drop", type=float, metavar="X", help="points of AP or top-1 that INT8 may lose")
    finetune = "steps of quantization-aware fine-tuning on the calibration pictures, such as 300 (default: none)"
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS", help=finetune)
    parser.add_argument(
        "--validation",
        metavar="DATA",
        help="labelled pictures for --max-drop, as effedge.pipeline.evaluation.evaluate's",
    )
    parser.add_argument(
        "--by-latency", action="store_true", help="of INT8: what is not faster in it on the target stays in 16 bit"
    )
    add_choices(parser)
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--until", default="engine", help=f"stop after {', '.join(STAGES)} (in place of an engine)")
    parser.add_argument("--selftest-image", type=Path, metavar="FILE", help="the image that a bundle tests itself on")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    if (given.model is None) == (given.onnx is None):
        found = "neither was given" if given.onnx is None else f"'{given.model}' and '{given.onnx}' were given"
        parser.error(f"expected either a model ({MODELS_SHORT}) or --onnx FILE, {found}")
    choose("precision", given.precision, PRECISIONS)
    if given.onnx is None:
        choose("model", given.model, MODELS)
    else:
        for option in ("weights", "size", "classes", "labels"):
            if getattr(given, option) is not None:
                parser.error(
                    f"--{option} is for the models of effedge, and --onnx '{given.onnx}' was given: leave it out"
                )
    choose("stage", given.until, STAGES)
    request = Request(
        precision=given.precision,
        target=resolve_target(given.target),
        out=given.out,
        calibration=given.calibration,
        settings=read_settings(given),
        max_drop=given.max_drop,
        validation=given.validation,
        by_latency=given.by_latency,
        until=given.until,
        picture=given.selftest_image,
        choices=read_choices(given),
        quiet=given.quiet,
        finetune=given.finetune,
    )
    batch = None if given.batch is None else parse_batch(given.batch)
    if given.onnx is not None:
        last = build_onnx_chain(given.onnx, request, batch=batch)
    else:
        last = build_chain(
            given.model,
            given.weights or "digits",
            request,
            size=given.size,
            batch=batch or (1, 1, 1),
            classes=given.classes,
            labels=given.labels,
        )
    print(last)
