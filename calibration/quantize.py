"""Quantizes a float32 ONNX to INT8: the stage and its command (post_training.py does the work).

    effedge quantize MODEL.onnx --calibration DATA --out OUT.onnx

DATA is an .npz (one array per input, first axis = samples), an .npy (one input), a folder of images, or a COCO json
with --images-dir. Images go through the model's own preprocessing (metadata_props["effedge"]).

The INT8 ONNX keeps the float model's inputs, outputs and metadata; metadata_props["effedge_calibration"] says how it
was made: method, images, the share of multiply-accumulates in INT8, the layers left in float with the reason for each,
the output error, each group's sensitivity, and the SQNR in dB at the last layers.

The output error (calibration/output_error/) is the distance of the INT8 model's outputs from the float model's: 0 is
the float model, 1 as bad as no detections. A line says how each output is judged; --output-kind corrects a wrong guess.
Of the samples that choose nothing, some judge the result.

--max-output-error X leaves as many layers in 16 bit as it takes to keep the output error at X or below, on these
samples too, and fails if that is not enough. `make engine MAX_DROP=...` does the same with accuracy on labelled data.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from effedge.calibration.graph.onnx_path import check_is_file
from effedge.calibration.ranges.source import DEFAULT_IMAGES, add_data, find_data, load_samples
from effedge.calibration.settings import DEFAULT, Budget, Settings, add_settings, read_settings
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_file
from effedge.engines.onnx_header import onnx_files
from effedge.engines.stage import run_stage


def calibrate(
    model: Path,
    data: Path,
    out: Path,
    *,
    settings: Settings = DEFAULT,
    budget: Budget | None = None,
    images: int | None = DEFAULT_IMAGES,
    images_dir: Path | None = None,
) -> bool:
    """Runs the stage: quantizes the ONNX file `model` to `out`, unless that is up to date.

    The stage is keyed by the content of the model and of the calibration data, not by their names or dates.

    Args:
        budget: the accuracy that may be lost; it takes the place of the settings' share of arithmetic in 16 bit.
        images: calibrate on that many images, evenly spread over the data; None takes all.

    Returns:
        True if it ran.
    """
    settings.check()
    check_is_file(model)
    calibration_data = find_data(data, images_dir, images)

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.graph.session import check_runnable
        from effedge.calibration.post_training import PostTrainingQuantizer, describe
        from effedge.calibration.search.accuracy_budget import meet_budget
        from effedge.calibration.search.last_word import say_last_word, worst_layers

        loaded = onnx_file.load(model)
        onnx_file.check_float(loaded, model)
        check_runnable(loaded, model)
        samples = load_samples(loaded, data, calibration_data.images, images)
        quantizer = PostTrainingQuantizer(loaded, samples, settings)
        for line in quantizer.trials.choice.lines():
            log.info(f"calibrate: output {line}")
        if budget is None:
            changed, report = quantizer.build(quantizer.choose_float_groups())
        else:
            accuracy = budget.accuracy or (lambda model: -quantizer.limited_error(model))
            try:
                changed, report = meet_budget(quantizer, accuracy, budget.max_drop, budget.unit)
            except UserError as error:
                if budget.accuracy is None:
                    layers = worst_layers(quantizer, *quantizer.build([]))
                    raise UserError(f"{error} (most by themselves lose {layers})") from error
                raise
        say_last_word(quantizer, changed, report)
        onnx_file.save(changed, temporary)
        log.info(describe(report))

    return run_stage(
        "calibrate",
        out,
        inputs={**onnx_files(model), **calibration_data.stage_inputs},
        options={
            **asdict(settings),
            **calibration_data.stage_options,
            **(budget.stage_options() if budget else {}),
        },
        tools=["numpy", "onnx", "onnx-ir", "onnxruntime", "pillow"],
        code=[__name__, *(budget.code if budget else ())],
        make=make,
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="float32 ONNX, opset 11 or later")
    add_data(parser, required=True)
    add_settings(parser)
    zero = "zero points where they make the steps finer: for CPUs, as TensorRT takes none"
    parser.add_argument("--zero-points", action="store_true", help=zero)
    parser.add_argument("--max-output-error", type=float, metavar="X", help="in place of --float-share: see above")
    parser.add_argument("--out", type=output_file, required=True, metavar="OUT.onnx")
    parser.add_quiet()
    arguments = parser.parse_args()
    max_error = arguments.max_output_error
    if max_error is not None and not 0 <= max_error <= 1:
        raise UserError(
            f"--max-output-error {max_error:g}: expected 0 (the float model) to 1 (as bad as no detections)"
        )
    calibrate(
        arguments.model,
        arguments.calibration,
        arguments.out,
        settings=replace(read_settings(arguments), zero_points=arguments.zero_points),
        budget=None if max_error is None else Budget(max_error),
        images=arguments.images,
        images_dir=arguments.images_dir,
    )
