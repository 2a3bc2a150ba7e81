"""Runs the stage of fine-tuning: from a float and an INT8 ONNX to an INT8 ONNX with fine-tuned weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from effedge.calibration.ranges.source import find_data, load_samples
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from effedge.deploy.common.messages import log
from effedge.engines.onnx_header import onnx_files
from effedge.engines.stage import run_stage
from effedge.pipeline.training.finetune.tuning import Tuning

HELD_OUT = 0.2  # share of the samples that the result is judged by
MOST_HELD_OUT = 32


def fine_tune(
    float_model: Path,
    int8_model: Path,
    data: Path,
    out: Path,
    *,
    tuning: Tuning | None = None,
    images_dir: Path | None = None,
    images: int | None = None,
) -> bool:
    """Writes the fine-tuned INT8 ONNX to `out`, unless that is up to date. Returns True if the stage ran.

    Args:
        data: as calibration's: a folder of images, a COCO json, an .npz or .npy.
        images: number of samples, evenly spread; None takes all.

    Raises:
        UserError: a file that is missing or no ONNX, an INT8 model of another float model, fewer than two samples,
            and as `effedge.pipeline.training.finetune.tune.tune`.
    """
    tuning = tuning or Tuning()
    tuning.check()
    for path in (float_model, int8_model):
        if not path.is_file():
            raise UserError(f"no ONNX file at '{path}': `make calibrate` leaves simplified.onnx and int8.onnx together")
    paths, inputs, options = find_data(data, images_dir, images)

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.search.isolate_group import equalized
        from effedge.calibration.search.trials import Trials
        from effedge.pipeline.training.finetune.tune import tune

        teacher, calibrated = onnx_file.load(float_model), onnx_file.load(int8_model)
        onnx_file.check_float32_scales(calibrated, int8_model)
        onnx_file.check_float(teacher, float_model)
        report = read_calibration(calibrated.metadata_props.get(CALIBRATION_KEY), int8_model)
        equalized(teacher, calibrated, float_model, int8_model)  # which raises if the one was not made of the other
        samples = load_samples(teacher, data, paths, images)
        held_out = min(max(1, round(HELD_OUT * len(samples))), MOST_HELD_OUT)
        if len(samples) < 2:
            raise UserError(
                f"'{data}' holds {len(samples)} sample: expected two or more, to learn from and to judge by"
            )
        trials = Trials(teacher, samples.spread(held_out), report.get("output_kinds"))
        tuned = calibrated.clone()
        tune(teacher, tuned, samples.beside(held_out), tuning)
        before, after = trials.output_error(calibrated), trials.output_error(tuned)
        kept = after < before
        log.info(f"finetune: output error {before:.4g} before, {after:.4g} after{'' if kept else ': left as it was'}")
        result = tuned if kept else calibrated
        report["finetuned"] = {"steps": tuning.steps if kept else 0, "before": round(before, 6)}
        report["output_error"] = round(min(before, after), 6)
        if kept:
            report.pop("held_out", None)  # of the model before
        result.metadata_props[CALIBRATION_KEY] = json.dumps(report)
        onnx_file.save(result, temporary)

    return run_stage(
        "finetune",
        out,
        inputs={
            **onnx_files(float_model),
            **{f"int8 {name}": path for name, path in onnx_files(int8_model).items()},
            **inputs,
        },
        options={**asdict(tuning), **options},
        tools=["numpy", "onnx", "onnx-ir", "onnxruntime", "pillow", "torch"],
        code=[__name__],
        make=make,
    )


def read_calibration(text: str | None, path: Path) -> dict:
    """Reads the calibration's report of an INT8 model. Raises UserError for a model without one."""
    if not text or "thresholds" not in text:
        raise UserError(f"'{path}' is no INT8 ONNX of effedge.calibration.quantize: calibrate first, then fine-tune")
    return json.loads(text)
