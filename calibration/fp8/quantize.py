"""Quantizes a float32 ONNX to FP8 (E4M3), for NVIDIA GPUs of compute capability 8.9 and later.

    effedge fp8 MODEL.onnx --calibration DATA --out OUT.onnx
    effedge fp16 OUT.onnx --out OUT-fp16.onnx

The second command makes FP16 of what the first leaves in float32, as TensorRT's typed networks need it. DATA is as of
effedge quantize. Data inputs of layers get one scale per tensor, weights one per output channel, both from the largest
magnitude: FP8 has the same relative precision wherever a number lies, so no threshold is searched (e4m3.py).

The layers that FP8 is no gain for stay in FP16: convolutions with groups, large kernels, few or odd channels
(placement.py). metadata_props["effedge_calibration"] names them, with the share of multiply-accumulates in FP8 and the
output error (calibration/output_error/), which is measured on samples that no range was taken from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effedge.calibration.graph.onnx_path import check_is_file
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.source import DEFAULT_IMAGES, add_data, find_data, load_samples
from effedge.calibration.report import attach_report
from effedge.calibration.settings import Settings, add_output_kinds, read_output_kinds
from effedge.deploy.common.cli import Parser
from effedge.deploy.common.contracts import CalibrationReport
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_file
from effedge.engines.onnx_header import onnx_files
from effedge.engines.stage import run_stage

if TYPE_CHECKING:
    import onnx_ir as ir

METHOD = "fp8"
JUDGES = 16  # samples that judge the result, and that no range is taken from where there are others

OutputKinds = tuple[tuple[str, str], ...]


def quantize(model: ir.Model, samples: Samples, output_kinds: OutputKinds = ()) -> tuple[ir.Model, CalibrationReport]:
    """Quantizes a float32 model (from onnx_file.load), which stays as it is.

    Args:
        samples: calibration data. Where there are more than twice JUDGES, the ranges are taken from all but JUDGES.
        output_kinds: of outputs (name, one of OUTPUT_KINDS) whose meaning is not to be guessed.

    Returns:
        The FP8 model at opset 19 or later, float32 around its FP8, and its report, which is also in its metadata.

    Raises:
        UserError: no layer that is FP8; NaN or infinity in an activation; an operator without a form at opset 19.
    """
    from onnx_ir.passes import common

    from effedge.calibration.fp8.placement import make_fp8_plan
    from effedge.calibration.fp16.quantized import raised
    from effedge.calibration.graph.macs import macs, measured_shapes
    from effedge.calibration.placement.insert import FP8, InsertQDQPass
    from effedge.calibration.post_training import ALL_ZERO, raise_nothing_to_quantize
    from effedge.calibration.ranges.collect import collect
    from effedge.calibration.search.sqnr import last_layers, sqnr
    from effedge.calibration.search.trials import Trials

    changed = raised(model.clone())
    plan = make_fp8_plan(changed)
    ranges = samples.without(JUDGES) if len(samples) > 2 * JUDGES else samples
    histograms = collect(changed, ranges, plan.tensors)
    unusable = {name: ALL_ZERO for name in plan.tensors if not histograms[name].amax}
    plan = make_fp8_plan(changed, unusable)
    if not plan.layers:
        raise_nothing_to_quantize(plan.float_layers, "FP8", "fp16 or int8")
    largest = [max(histograms[name].amax for name in group) for group in plan.groups]
    amax = {name: value for group, value in zip(plan.groups, largest, strict=True) for name in group}
    InsertQDQPass(plan.reads, amax, plan.layers, number_format=FP8)(changed)
    common.RemoveUnusedNodesPass()(changed)
    judges = samples.spread(JUDGES)
    trials = Trials(model, judges, dict(output_kinds))
    blocks = trials.block_errors(changed)
    ratios = sqnr(model, changed, judges.spread(8), last_layers(model))
    work = macs(model, measured_shapes(model, samples.load(0)))
    names = {node.outputs[0].name or "": node.name or "" for node in model.graph}
    error = round(sum(blocks.values()) / len(blocks), 6)
    rounded = {name: round(value, 6) for name, value in blocks.items()}
    report: CalibrationReport = {
        "method": METHOD,
        "images": len(ranges),
        "fp8_macs": round(sum(work[layer.name] for layer in plan.layers) / max(1, sum(work.values())), 4),
        "fp8_layers": len(plan.layers),
        "float_layers": plan.float_layers,
        "output_error": error,
        "judged_as": trials.choice.texts,
        "output_kinds": dict(output_kinds),
        "held_out": None
        if ranges is samples
        else {"samples": len(judges), "fitted": False, "output_error": error, "blocks": rounded},
        "sqnr_db": {names[tensor]: ratio for tensor, ratio in ratios.items()},
        "thresholds": amax,
    }
    attach_report(changed, report)
    return changed, report


def describe(report: CalibrationReport) -> str:
    """Returns the report of `quantize` on one line."""
    from effedge.calibration.search.sqnr import in_words

    judged = "samples that no range was taken from" if report["held_out"] else "the samples of its ranges"
    return (
        f"fp8: ranges of {report['images']} runs; {report['fp8_layers']} layers in FP8, {len(report['float_layers'])} "
        f"in 16 bit; {100 * report['fp8_macs']:.1f}% of multiply-accumulates in FP8; output error "
        f"{report['output_error']:.2g} on {judged}; {in_words(report['sqnr_db'])}"
    )


def fp8_stage(
    model: Path,
    data: Path,
    out: Path,
    *,
    output_kinds: OutputKinds = (),
    images: int | None = DEFAULT_IMAGES,
    images_dir: Path | None = None,
) -> bool:
    """Runs the stage: quantizes the ONNX file `model` to `out`, unless that is up to date.

    Args:
        images, images_dir: calibration data as in effedge.calibration.quantize.

    Returns:
        True if it ran.
    """
    Settings(output_kinds=output_kinds).check()
    check_is_file(model)
    calibration_data = find_data(data, images_dir, images)

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file
        from effedge.calibration.graph.session import check_runnable
        from effedge.calibration.search.last_word import WORTHLESS

        loaded = onnx_file.load(model)
        onnx_file.check_float(loaded, model)
        check_runnable(loaded, model)
        changed, report = quantize(loaded, load_samples(loaded, data, calibration_data.images, images), output_kinds)
        onnx_file.save(changed, temporary)
        for name, text in report["judged_as"].items():
            log.info(f"fp8: output '{name}' {text}")
        log.info(describe(report))
        if report["output_error"] > WORTHLESS:
            log.warning(
                f"warning: this FP8 model is worth little: its output error is {report['output_error']:.2g} (0 is the "
                "float model, 1 a guess); calibrate on data like that which the model will see, or build int8 or fp16"
            )

    return run_stage(
        "fp8",
        out,
        inputs={**onnx_files(model), **calibration_data.stage_inputs},
        options={"output_kinds": output_kinds, **calibration_data.stage_options},
        tools=["ml_dtypes", "numpy", "onnx", "onnx-ir", "onnxruntime", "pillow"],
        code=[__name__],
        make=make,
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="float32 ONNX, opset 11 or later")
    add_data(parser, required=True)
    add_output_kinds(parser)
    parser.add_argument("--out", type=output_file, required=True, metavar="OUT.onnx")
    parser.add_quiet()
    arguments = parser.parse_args()
    fp8_stage(
        arguments.model,
        arguments.calibration,
        arguments.out,
        output_kinds=read_output_kinds(arguments),
        images=arguments.images,
        images_dir=arguments.images_dir,
    )
