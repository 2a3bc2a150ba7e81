"""Converts a float32 ONNX to FP16, or what an INT8 or FP8 ONNX computes beside that, for strongly typed networks, whose
builders take each tensor's type from the ONNX.

    effedge fp16 MODEL.onnx --out OUT.onnx [--calibration DATA]

Inputs and outputs keep their types. In float16 are the layers with weights, everything on the way to them, and behind
them what only moves or selects values. The rest stays float32:

1. The computations behind the last layers: a detector's scores and box decoding. Above 1024 neighbouring float16
   numbers are 1 px apart, and float16 scores tie by the dozen, which makes their order a matter of luck.
2. Means and sums over a map (squeeze-and-excite's pooling): the sum of a 256 x 256 map passes float16's 65504
   wherever the accumulator is float16 as well. Their result is 1 x 1, so the cast behind them costs nothing.
3. Nodes with a constant that float16 cannot hold (beyond 65504, or too small to keep 10 bits of it), and, if there is
   calibration data, nodes that read or write a tensor that went beyond 65504. The outcome names them.

Casts stand only where the type changes, one per tensor. Normalization is folded into the first convolution, so the
uint8 image is cast to float16, which holds 0..255 exactly. In an INT8 ONNX the scales of the Q/DQ pairs become float16
too (quantized.py), and with them the outputs of the INT8 layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.calibration.graph.onnx_path import check_is_file
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.source import DEFAULT_IMAGES, CalibrationData, add_data, find_data, load_samples
from effedge.calibration.report import attach_report
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY, CalibrationReport
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_file
from effedge.engines.onnx_header import LAYER_OPERATORS, onnx_files
from effedge.engines.stage import run_stage

if TYPE_CHECKING:
    import onnx_ir as ir


def to_fp16(model: ir.Model, samples: Samples | None = None) -> tuple[ir.Model, CalibrationReport]:
    """Converts a float32 or INT8 model (from onnx_file.load), which stays as it is.

    Args:
        samples: calibration data, to find the tensors that float16 cannot hold; None trusts that there are none.

    Returns:
        The converted model and its report, which is also in its metadata: of an INT8 model the calibration's, with
        `fp16_layers` and `float32_nodes` added.

    Raises:
        UserError: no layer with weights, a node with a subgraph, NaN or infinity in the calibration run.
    """
    from onnx_ir.passes import common

    from effedge.calibration.fp16.half_precision_pass import HalfPrecisionPass, is_float32
    from effedge.calibration.fp16.node_selection import find_unfit_nodes, holds_infinity, select_nodes
    from effedge.calibration.fp16.quantized import is_quantized, with_fp16_scales
    from effedge.calibration.ranges.collect import collect_amax

    quantized = is_quantized(model)
    if quantized:
        model = with_fp16_scales(model)
    changed = model.clone()
    selected = select_nodes(changed.graph)
    if not selected:
        raise UserError("the model has no convolution and no matrix product, so nothing to convert: build it as fp32")
    amax: dict[str, float] = {}
    if samples is not None:
        infinite = holds_infinity(changed.graph)
        written = [value for node in selected for value in node.outputs if value not in infinite]
        names = [value.name or "" for value in written if is_float32(value)]
        amax = collect_amax(model, samples, names)
    unfit = find_unfit_nodes(selected, amax)
    half_nodes = {node for node in selected if node not in unfit}
    HalfPrecisionPass(half_nodes)(changed)
    common.RemoveUnusedNodesPass()(changed)
    layers = sum(node.op_type in LAYER_OPERATORS for node in half_nodes)
    float32_nodes = {node.name or "": reason for node, reason in unfit.items()}
    images = 0 if samples is None else len(samples)
    report: CalibrationReport = {"method": "fp16", "images": images, "float_layers": float32_nodes}
    if quantized:
        calibrated = json.loads(changed.metadata_props.get(CALIBRATION_KEY, "{}"))  # none in a foreign INT8 model
        report = {"images": images, "float_layers": {}, **calibrated, "float32_nodes": float32_nodes}
    report["fp16_layers"] = layers
    attach_report(changed, report)
    return changed, report


def describe(report: CalibrationReport) -> str:
    """Returns the report of `to_fp16` on one line; nodes out of range are named, those of the other rules counted."""
    unfit = report.get("float32_nodes", report["float_layers"])
    named = [f"'{name}' ({why})" for name, why in unfit.items() if "65504" in why or "small" in why]
    quantized = "FP8" if "fp8_layers" in report else "INT8"
    around = f" around {quantized}" if "float32_nodes" in report else ""
    ranges = "" if around else f" (ranges of {report['images']} runs)" if report["images"] else " (no ranges given)"
    return (
        f"fp16: {report['fp16_layers']} layers with weights in float16{around}, {len(unfit)} nodes kept in "
        f"float32, of them out of range: {', '.join(named) or 'none'}{ranges}"
    )


def convert(
    model: Path,
    out: Path,
    *,
    data: Path | None = None,
    images: int | None = DEFAULT_IMAGES,
    images_dir: Path | None = None,
) -> bool:
    """Runs the stage: converts the ONNX file `model` to `out`, unless that is up to date.

    Args:
        data, images, images_dir: calibration data as in effedge.calibration.quantize, or None to go without.

    Returns:
        True if it ran.
    """
    check_is_file(model)
    calibration_data = CalibrationData(None, {}, {}) if data is None else find_data(data, images_dir, images)

    def make(temporary: Path) -> None:
        from effedge.calibration.graph import onnx_file

        loaded = onnx_file.load(model)
        onnx_file.check_float(loaded, model, allowed=onnx_file.PAIR)
        onnx_file.check_float32_scales(loaded, model)
        samples = load_samples(loaded, data, calibration_data.images, images) if data is not None else None
        changed, report = to_fp16(loaded, samples)
        onnx_file.save(changed, temporary)
        log.info(describe(report))

    return run_stage(
        "fp16",
        out,
        inputs={**onnx_files(model), **calibration_data.stage_inputs},
        options=calibration_data.stage_options,
        tools=["numpy", "onnx", "onnx-ir", "onnxruntime", "pillow"],
        code=[__name__],
        make=make,
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a float32, INT8 or FP8 ONNX")
    add_data(parser)
    parser.add_argument("--out", type=output_file, required=True, metavar="OUT.onnx")
    parser.add_quiet()
    arguments = parser.parse_args()
    convert(
        arguments.model,
        arguments.out,
        data=arguments.calibration,
        images=arguments.images,
        images_dir=arguments.images_dir,
    )
