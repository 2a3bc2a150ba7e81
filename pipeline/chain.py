"""Makes an engine of a checkpoint, or of an ONNX file from any exporter, in stages: what `make engine` runs.

    effedge engine d0 --precision int8 --target cpu
    effedge engine --onnx net.onnx --calibration arrays.npz --precision int8 --target cpu

The stages are: load and export, simplify, calibrate or convert, build. Each is skipped while its record says that it is
up to date, so a second precision re-uses the export, and a second call makes nothing. It ends with a table of what the
engine is and does here, beside the FP32 engine if there is one, and the engine's folder as the last line.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from effedge.calibration.by_latency import by_latency_stage
from effedge.calibration.fp8.quantize import fp8_stage
from effedge.calibration.fp16.convert import convert
from effedge.calibration.quantize import calibrate
from effedge.calibration.ranges.samples import ARRAY_SUFFIXES, list_images
from effedge.calibration.ranges.usable_images import first_usable
from effedge.calibration.settings import add_settings, read_settings
from effedge.calibration.tensorrt_cache import ranges_stages
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import add_build_folder
from effedge.engines.build import make_engine
from effedge.engines.build_options import add_build_options, read_build_options
from effedge.engines.build_request import BuildRequest
from effedge.engines.onnx_header import Header, read_header
from effedge.engines.targets import FP8, TARGETS, TYPED, resolve_target
from effedge.pipeline.artefact_folder import artefact_folder
from effedge.pipeline.datasets.digits_cache import digits_folder
from effedge.pipeline.datasets.records import DataSet
from effedge.pipeline.evaluation.accuracy_limit import add_limit, drop_budget, read_labelled, read_limit
from effedge.pipeline.export.foreign_model import check_float_onnx, simplify_foreign_stage
from effedge.pipeline.export.heads.attach import attach_stage, header_with_head
from effedge.pipeline.export.input_size import fix_header
from effedge.pipeline.export.simplify import simplify_stage
from effedge.pipeline.export.torch_to_onnx import HeadOptions, export_stage
from effedge.pipeline.models.tables import input_size, is_detector, parse_size
from effedge.pipeline.reports.engine_table import engine_table
from effedge.pipeline.request import STAGES, Checkpoint, OnnxFile, Request, add_source, read_source
from effedge.pipeline.training.finetune.stage import fine_tune
from effedge.pipeline.training.finetune.tuning import Tuning
from effedge.pipeline.weights.locate import BUNDLED, locate_weights

CALIBRATION_IMAGES = 128
FP16_IMAGES = 16  # only overflow matters there
FP8_IMAGES = 64  # only the largest magnitudes matter there, and 16 images judge the result


class ChainData(NamedTuple):
    """The data that a chain reads: calibration images or arrays, and the labelled images of an accuracy limit."""

    calibration: Path | None
    labelled: DataSet | None = None


def run_chain(request: Request) -> Path:
    """Run the stages up to `request.until`; returns the path of the last artefact.

    Raises:
        UserError: whatever is wrong with the model or the data, before the first long stage where that can be known.
    """
    if isinstance(request.source, OnnxFile):
        source = request.source
        header = fix_header(read_header(source.path), source.path, source.size)
        check_float_onnx(header, source.path, source.batch)
        header = header_with_head(header, source.path, source.head)
        data = data_of_onnx(source, header, request)
        with artefact_folder(request) as folder:
            return chain_of_onnx(source, header, folder, request, data)
    locate_weights(request.source.model, request.source.weights)
    data = data_of_checkpoint(request.source, request)
    with artefact_folder(request) as folder:
        return chain_of_checkpoint(request.source, folder, request, data)


def chain_of_checkpoint(checkpoint: Checkpoint, folder: Path, request: Request, data: ChainData) -> Path:
    """Run the stages from the export on."""
    exported, simplified = folder / "model.onnx", folder / "simplified.onnx"
    export_stage(
        exported,
        checkpoint.model,
        checkpoint.weights,
        size=checkpoint.size,
        batch=checkpoint.batch,
        heads=HeadOptions(checkpoint.classes, checkpoint.labels, checkpoint.anchors),
    )
    if request.until == "export":
        return exported
    simplify_stage(exported, simplified)
    return chain_of_simplified(simplified, request, data)


def chain_of_onnx(onnx: OnnxFile, header: Header, folder: Path, request: Request, data: ChainData) -> Path:
    """Run the stages from the simplification on."""
    simplified = folder / "simplified.onnx"
    if onnx.head is not None:
        detector = folder / "model.onnx"
        attach_stage(onnx.path, detector, onnx.head, onnx.labels, onnx.batch or (1, 1, 1), onnx.size)
        simplify_stage(detector, simplified)
    elif header.spec:
        simplify_stage(onnx.path, simplified)
    else:
        arrays = data.calibration if data.calibration and data.calibration.suffix in ARRAY_SUFFIXES else None
        simplify_foreign_stage(onnx.path, simplified, batch=onnx.batch or (1, 1, 1), data=arrays, size=onnx.size)
    return chain_of_simplified(simplified, request, data)


def chain_of_simplified(simplified: Path, request: Request, data: ChainData) -> Path:
    """Run the stages behind the simplified ONNX; their artefacts lie beside it."""
    if request.until == "simplify":
        return simplified
    prepared, ranges = simplified, None
    if request.precision == "int8":
        prepared = quantized(simplified, request, data)
        if takes_ranges(request):
            assert data.calibration is not None  # as in `quantized`
            prepared, ranges = ranges_stages(prepared, data.calibration, images=CALIBRATION_IMAGES)
    elif request.precision == FP8:
        prepared = quantized_to_fp8(simplified, request, data)
    elif request.precision == "fp16" and request.target.precision_by == TYPED:
        prepared = simplified.with_name("fp16.onnx")
        convert(simplified, prepared, data=data.calibration, images=FP16_IMAGES)
    if request.until == "calibrate":
        return prepared
    if request.until == "bundle":
        from effedge.pipeline.shipping.bundle import bundle_stage

        build = BuildRequest(
            prepared, read_header(prepared), request.precision, request.target, request.build_options, ranges
        )
        return bundle_stage(
            build,
            image=request.selftest_image,
            calibration=data.calibration,
            proof_images=request.proof_images,
        )
    engine = simplified.with_name(f"{request.precision}-{request.target.name}")
    build_options = request.build_options
    if data.calibration is not None and not build_options.compare_on:
        arrays = data.calibration.suffix in ARRAY_SUFFIXES
        sample = data.calibration if arrays else first_usable(list_images(data.calibration))
        build_options = dataclasses.replace(build_options, compare_on=str(sample))
    make_engine(
        prepared, engine, precision=request.precision, target=request.target, build_options=build_options, ranges=ranges
    )
    return engine


def quantized(simplified: Path, request: Request, data: ChainData) -> Path:
    """Run the stages that make the INT8 ONNX, for typed targets with FP16 around it; returns its path."""
    assert data.calibration is not None  # INT8 needs data, and a chain without it has ended
    target = request.target
    int8 = simplified.with_name("int8-zero-points.onnx" if target.zero_points else "int8.onnx")
    budget = None
    if request.accuracy_limit is not None and data.labelled is not None:
        budget = drop_budget(request.accuracy_limit, data.labelled, read_header(simplified).spec)
    kinds = request.settings.float_kinds
    settings = dataclasses.replace(
        request.settings,
        zero_points=target.zero_points,
        float_kinds=target.float_kinds if kinds is None else kinds,
    )
    calibrate(simplified, data.calibration, int8, settings=settings, budget=budget, images=CALIBRATION_IMAGES)
    if request.finetune:
        calibrated, int8 = int8, int8.with_name(f"{int8.stem}-finetuned.onnx")
        fine_tune(simplified, calibrated, data.calibration, int8, tuning=Tuning(steps=request.finetune))
    if request.by_latency:
        before, int8 = int8, int8.with_name(f"{int8.stem}-{target.name}.onnx")
        by_latency_stage(before, int8, target)
    if target.precision_by == TYPED and not takes_ranges(request):  # what is not INT8 would be float32 there
        before, int8 = int8, int8.with_name(f"{int8.stem}-fp16.onnx")
        convert(before, int8, data=data.calibration, images=FP16_IMAGES)
    return int8


def takes_ranges(request: Request) -> bool:
    """Tells if the engine's INT8 is by ranges, from a float ONNX."""
    return request.target.takes_ranges(request.build_options.dla)


def quantized_to_fp8(simplified: Path, request: Request, data: ChainData) -> Path:
    """Run the stages that make the FP8 ONNX, with FP16 around it; returns its path."""
    assert data.calibration is not None  # as INT8
    fp8, with_fp16 = simplified.with_name("fp8.onnx"), simplified.with_name("fp8-fp16.onnx")
    kinds = request.settings.output_kinds
    fp8_stage(simplified, data.calibration, fp8, output_kinds=kinds, images=FP8_IMAGES)
    convert(fp8, with_fp16, data=data.calibration, images=FP16_IMAGES)
    return with_fp16


def data_of_checkpoint(checkpoint: Checkpoint, request: Request) -> ChainData:
    """The data for a model of effedge's tables.

    Raises:
        UserError: data that is missing, or is no images.
    """
    if not request.reads_data:
        return ChainData(request.calibration)
    calibration = request.calibration or calibration_images(checkpoint, needed=request.is_quantized)
    if calibration is not None and calibration.suffix not in ARRAY_SUFFIXES:
        list_images(calibration)
    if request.accuracy_limit is None:
        return ChainData(calibration)
    drawn = calibration_images(checkpoint, needed=False) if checkpoint.weights == "digits" else None
    task = "detection" if is_detector(checkpoint.model) else "classification"
    return ChainData(calibration, read_labelled(request.accuracy_limit.validation, drawn, task))


def calibration_images(checkpoint: Checkpoint, needed: bool) -> Path | None:
    """The drawn digits, or the images that come with the weights, where they are what the model was trained on.

    Raises:
        UserError: a model that was trained on other images, where some are `needed`.
    """
    model, weights = checkpoint.model, checkpoint.weights
    if BUNDLED.get(weights) is not None:
        return BUNDLED[weights]
    if weights not in ("digits", "random"):
        if needed:
            raise UserError(
                f"INT8 or FP8 of {model} with weights '{weights}' needs images like those that it will see: "
                "give a folder of about a hundred with CALIBRATION (--calibration)"
            )
        return None
    # Crops for a classifier of digits; random weights were trained on nothing, and take the larger images.
    if is_detector(model) or weights == "random":
        return digits_folder("detection", "calibration", size=0, count=CALIBRATION_IMAGES) / "images"
    file = locate_weights(model, weights)
    with safe_open(str(file), framework="np") as checkpoint_file:
        size = parse_size((checkpoint_file.metadata() or {}).get("size", str(input_size(model))))
    return digits_folder("classification", "calibration", size=max(size), count=CALIBRATION_IMAGES)


def data_of_onnx(onnx: OnnxFile, header: Header, request: Request) -> ChainData:
    """The data for an ONNX file; images, and an accuracy limit, are for a file that carries effedge's spec.

    Raises:
        UserError: data that is missing, or that the file cannot take.
    """
    calibration, inputs = request.calibration, ", ".join(header.inputs)
    if calibration is None and request.is_quantized and request.reads_data:
        kind = "a folder of images" if header.spec else f"an .npz with an array for each of its inputs, {inputs},"
        raise UserError(
            f"{request.precision.upper()} of '{onnx.path}' needs data like what it will see: give {kind} with "
            "CALIBRATION (--calibration), or build PRECISION=fp16"
        )
    if calibration is not None and not (calibration.suffix in ARRAY_SUFFIXES and calibration.is_file()):
        if not header.spec and calibration.exists():
            raise UserError(
                f"'{calibration}' holds images, but '{onnx.path}' does not say how it wants them: give its HEAD "
                f"(--head), or an .npz with an array for each of its inputs ({inputs})"
            )
        list_images(calibration)
    if request.accuracy_limit is None or not request.reads_data:
        return ChainData(calibration)
    if not header.spec:
        raise UserError(
            f"MAX_DROP (--max-drop) needs accuracy, and '{onnx.path}' does not say what its outputs mean: "
            "effedge quantize --max-output-error needs no labels"
        )
    return ChainData(calibration, read_labelled(request.accuracy_limit.validation, None, header.spec["task"]))


def main() -> None:
    parser = Parser(description=__doc__)
    add_source(parser)
    parser.add_argument("--precision", default="int8", help="fp32, fp16, int8 or fp8 (default: %(default)s)")
    parser.add_argument("--target", default="auto", help=f"auto, {', '.join(TARGETS)} (default: %(default)s)")
    parser.add_argument("--calibration", type=Path, help="for INT8 and FP8: a folder of images, a COCO json or an .npz")
    add_settings(parser)
    add_limit(parser)
    finetune = "steps of quantization-aware fine-tuning on the calibration images, such as 300 (default: none)"
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS", help=finetune)
    parser.add_argument(
        "--by-latency", action="store_true", help="of INT8: what is not faster in it on the target stays in 16 bit"
    )
    add_build_options(parser)
    add_build_folder(parser)
    parser.add_argument("--name", help="name of the model's folder under OUT (default: of the model, or of its file)")
    parser.add_argument("--until", default="engine", help=f"stop after {', '.join(STAGES)} (in place of an engine)")
    parser.add_argument("--selftest-image", type=Path, metavar="FILE", help="the image that a bundle tests itself on")
    parser.add_quiet()
    arguments = parser.parse_args()
    request = Request(
        read_source(arguments, parser),
        arguments.precision,
        resolve_target(arguments.target),
        arguments.out,
        name=arguments.name,
        calibration=arguments.calibration,
        settings=read_settings(arguments),
        accuracy_limit=read_limit(arguments),
        finetune=arguments.finetune,
        by_latency=arguments.by_latency,
        until=arguments.until,
        build_options=read_build_options(arguments),
        selftest_image=arguments.selftest_image,
    )
    made = run_chain(request)
    if request.until == "engine":
        log.info(engine_table(made, request))
    print(made)
