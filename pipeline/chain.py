"""The whole way from a checkpoint to an engine: what `make engine` runs.

    python -m pipeline.chain d0 --precision int8 --target cpu

Load and export, simplify, calibrate or convert, build: each stage is skipped while its record says that it is up to
date, so a second precision re-uses the export, and a second call does nothing. The engine's folder is printed last.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import safe_open

from calibration.fp16 import convert
from calibration.quantize import calibrate
from calibration.samples import ARRAY_SUFFIXES, list_images
from calibration.thresholds import METHODS
from deploy.cli import Parser, UserError, choose, run
from engines.build import make_engine
from engines.targets import PRECISIONS, TARGETS, TYPED, Target, check_buildable_here, resolve_target
from pipeline.digits_cache import digits_folder
from pipeline.export import Batch, export_stage, parse_batch
from pipeline.locate import locate_weights
from pipeline.published import KINDS
from pipeline.simplify import simplify_stage
from pipeline.zoo import MODELS, input_size, is_detector

CALIBRATION_IMAGES = 128
FP16_IMAGES = 16  # only overflow matters there
STAGES = ("export", "simplify", "calibrate", "engine")


def artefact_name(model: str, weights: str, size: int | None, batch: Batch) -> str:
    """The folder of a model's artefacts: d0-digits, d0-mine-640, b0-digits-b1-4-8.

    >>> artefact_name("d0", "runs/mine.pth", 640, (1, 1, 1))
    'd0-mine-640'
    """
    word = weights if weights in (*KINDS, "digits", "random") else re.sub(r"[^\w.]+", "_", Path(weights).stem)
    parts = [model, word]
    if size is not None:
        parts.append(str(size))
    if batch != (1, 1, 1):
        parts.append("b" + "-".join(map(str, batch if len(set(batch)) > 1 else batch[:1])))
    return "-".join(parts)


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


def build_chain(
    model: str,
    weights: str,
    precision: str,
    target: Target,
    *,
    out: Path,
    size: int | None = None,
    batch: Batch = (1, 1, 1),
    classes: int | None = None,
    labels: Path | None = None,
    calibration: Path | None = None,
    method: str = "percentile",
    until: str = "engine",
    compute_capabilities: tuple[str, ...] = (),
    quiet: bool = False,
) -> Path:
    """Run the stages up to `until`; returns the path of the last artefact.

    Args:
        out: the folder under which each model has its own.
        calibration: a folder of images, a COCO json or an .npz; for fp16 it may be left out.

    Raises:
        UserError: whatever is wrong with an argument, before the first long stage where that can be known.
    """
    choose("model", model, MODELS)
    choose("precision", precision, PRECISIONS)
    folder = out / artefact_name(model, weights, size, batch)
    check_buildable_here(target)
    locate_weights(model, weights, quiet=quiet)
    exported, simplified, prepared = (folder / name for name in ("model.onnx", "simplified.onnx", f"{precision}.onnx"))
    int8, half = precision == "int8", precision == "fp16" and target.precision_by == TYPED
    if (int8 or half) and STAGES.index(until) >= STAGES.index("calibrate"):
        # Whatever is wrong with it shall be known before the export, not after.
        calibration = calibration_data(model, weights, calibration, quiet, needed=int8)
        if calibration is not None and calibration.suffix not in ARRAY_SUFFIXES:
            list_images(calibration)

    export_stage(
        exported, model, weights, size=size, batch=batch, classes=classes, labels=labels, quiet=quiet
    )  # fmt: skip
    if until == "export":
        return exported
    simplify_stage(exported, simplified)
    if until == "simplify":
        return simplified
    if int8:
        assert calibration is not None
        calibrate(simplified, calibration, prepared, method=method, images=CALIBRATION_IMAGES, quiet=quiet)
    elif half:
        convert(simplified, prepared, data=calibration, images=FP16_IMAGES, quiet=quiet)
    else:
        prepared = simplified
    if until == "calibrate":
        return prepared
    engine = folder / f"{precision}-{target.name}"
    make_engine(
        prepared, engine, precision=precision, target=target, compute_capabilities=compute_capabilities, quiet=quiet
    )
    return engine


def main() -> None:
    parser = Parser(prog="pipeline.chain", description=__doc__)
    parser.add_argument("model", help=", ".join(MODELS))
    parser.add_argument("--precision", default="int8", help="fp32, fp16 or int8 (default: %(default)s)")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    parser.add_argument("--weights", default="digits", help="digits, random, imagenet, coco, ... or a checkpoint")
    parser.add_argument("--size", type=int, help="side of the input in pixels (default: the weights' own)")
    parser.add_argument("--batch", default="1", help="N, or MIN:OPT:MAX for a dynamic batch")
    parser.add_argument("--classes", type=int, help="number of classes that the checkpoint must have")
    parser.add_argument("--labels", type=Path, help="a text file with a class name a line")
    parser.add_argument("--calibration", type=Path, help="pictures for INT8: a folder, a COCO json or an .npz")
    parser.add_argument("--method", default="percentile", help=f"ranges by {' or '.join(METHODS)}")
    parser.add_argument("--compute-capability", nargs="+", default=[], metavar="X.Y", help="of rtx; portable if absent")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of all artefacts (%(default)s)")
    parser.add_argument("--until", default="engine", help=f"stop after {', '.join(STAGES)}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    choose("model", given.model, MODELS)
    choose("precision", given.precision, PRECISIONS)
    last = build_chain(
        given.model,
        given.weights,
        given.precision,
        resolve_target(given.target),
        out=given.out,
        size=given.size,
        batch=parse_batch(given.batch),
        classes=given.classes,
        labels=given.labels,
        calibration=given.calibration,
        method=choose("method", given.method, METHODS),
        until=choose("stage", given.until, STAGES),
        compute_capabilities=tuple(given.compute_capability),
        quiet=given.quiet,
    )
    print(last)


if __name__ == "__main__":
    run(main)
