"""FP32 ONNX -> INT8 ONNX: ranges from calibration data, thresholds, Q/DQ by the placement rules.

    python -m calibration.quantize MODEL.onnx --calibration DATA --out OUT.onnx

DATA is an .npz (one array per input, first axis = samples), an .npy (one input), a folder of images, or a COCO json
with --images-dir. Images go through the model's own preprocessing (metadata_props["effedge"]).

The INT8 ONNX keeps the float model's inputs, outputs and metadata; metadata_props["effedge_calibration"] says how it
was made: method, images, the share of multiply-accumulates in INT8, the layers left in float with the reason for each,
and the SQNR in dB at the last layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.samples import ARRAY_SUFFIXES, Input, Samples, array_samples, digest, image_samples, list_images
from calibration.thresholds import METHODS, signal_to_noise, threshold
from deploy.cli import Parser, UserError, choose, run
from engines.stage import run_stage

if TYPE_CHECKING:  # an up-to-date stage is found out without these: they take seconds to import
    import onnx_ir as ir

DEFAULT_METHOD = "percentile"
DEFAULT_IMAGES = 128
SQNR_RUNS = 8
METADATA = "effedge_calibration"
SPEC = "effedge"
ALL_ZERO = "its input was 0 on all calibration data"
# Below it a layer's input loses more to rounding than the layers behind it can do without.
LEAST_SIGNAL_TO_NOISE = 23.0


def quantize(
    model: ir.Model, samples: Samples, method: str = DEFAULT_METHOD, *, quiet: bool = False
) -> tuple[ir.Model, dict[str, Any]]:
    """Quantize a float model (from onnx_file.load), which stays as it is.

    Args:
        samples: calibration data; each run is inferred once for the ranges, SQNR_RUNS of them again for the report.
        method: a key of thresholds.METHODS.

    Returns:
        The INT8 model and its report, which is also in its metadata: method, images, int8_macs (a share of 1),
        int8_layers, float_layers {name: reason}, sqnr_db {tensor: dB}.

    Raises:
        UserError: unknown method, no layer that can be quantized, NaN or infinity on the way.
    """
    from onnx_ir.passes import common

    from calibration.equalize import equalize
    from calibration.macs import macs
    from calibration.placement import make_plan
    from calibration.placement.insert import InsertQDQPass
    from calibration.ranges import collect
    from calibration.sqnr import last_layers, sqnr

    choose("method", method, METHODS)
    changed = model.clone()
    equalized = equalize(changed, samples, quiet=quiet)
    histograms = collect(changed, samples, make_plan(changed).tensors, quiet=quiet)
    unusable = {name: ALL_ZERO for name, histogram in histograms.items() if histogram.amax == 0}
    for name, histogram in histograms.items():
        if name not in unusable:
            ratio = signal_to_noise(histogram, threshold(histogram, method))
            if ratio < LEAST_SIGNAL_TO_NOISE:
                unusable[name] = f"its input spreads too widely for INT8: {ratio:.1f} dB"

    plan = make_plan(changed, unusable)
    if not plan.layers:
        why = "; ".join(sorted(set(plan.kept.values()))) or "it has no convolution and no matrix product"
        raise UserError(f"nothing in the model can be INT8 ({why}): build it as fp16 or fp32")
    thresholds: dict[str, float] = {}
    for group in plan.groups:
        merged = histograms[group[0]].copy()
        for name in group[1:]:
            merged.merge(histograms[name])
        thresholds.update(dict.fromkeys(group, threshold(merged, method)))
    work = macs(changed)
    InsertQDQPass(plan.reads, thresholds, plan.layers)(changed)
    common.RemoveUnusedNodesPass()(changed)

    ratios = sqnr(model, changed, samples.spread(SQNR_RUNS), last_layers(model), quiet=quiet)
    report = {
        "method": method,
        "images": len(samples),
        "equalized": equalized,
        "int8_macs": round(sum(work[layer.name] for layer in plan.layers) / max(1, sum(work.values())), 4),
        "int8_layers": len(plan.layers),
        "float_layers": plan.kept,
        "sqnr_db": ratios,
    }
    changed.metadata_props[METADATA] = json.dumps(report)
    return changed, report


def describe(report: dict[str, Any]) -> str:
    """The report of `quantize` on one line."""
    ratios = report["sqnr_db"]
    worst = min(ratios, key=ratios.__getitem__)
    return (
        f"calibrate: {report['method']} on {report['images']} runs; {report['int8_layers']} layers in INT8, "
        f"{len(report['float_layers'])} in float; {100 * report['int8_macs']:.1f}% of multiply-accumulates in INT8; "
        f"SQNR {sum(ratios.values()) / len(ratios):.1f} dB on average, lowest {ratios[worst]:.1f} dB at '{worst}'"
    )


def model_inputs(model: ir.Model) -> list[Input]:
    """Name, dtype and shape of each input. Raises UserError for a type that is no tensor of numbers."""
    inputs = []
    for value in model.graph.inputs:
        if value.dtype is None or value.shape is None:
            raise UserError(f"input '{value.name}' has no type or shape: export the model again with them")
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        inputs.append(Input(value.name or "", value.dtype.numpy(), shape))
    return inputs


def source(
    data: Path, images_dir: Path | None, images: int | None
) -> tuple[list[Path] | None, dict[str, Path], dict[str, Any]]:
    """What the data is: (its images, or None for a file of arrays; stage inputs; stage options that digest it)."""
    if data.suffix.lower() in ARRAY_SUFFIXES:
        if not data.is_file():
            raise UserError(f"no calibration data at '{data}': expected a folder of images, a COCO .json, .npz or .npy")
        return None, {"calibration": data}, {"images": images}
    paths = list_images(data, images_dir, images)
    return paths, {}, {"calibration": digest(paths)}


def load_samples(model: ir.Model, data: Path, paths: list[Path] | None, count: int | None) -> Samples:
    """The calibration data for a model: `paths` are its images, or None where `data` holds arrays.

    Raises:
        UserError: as image_samples and array_samples; images for a model without a spec.
    """
    inputs = model_inputs(model)
    if paths is None:
        return array_samples(data, inputs, count)
    if SPEC not in model.metadata_props or len(inputs) != 1:
        names = [given.name for given in inputs]
        raise UserError(
            f"'{data}' holds images, but the model does not say how it wants them: give an .npz with arrays {names}"
        )
    return image_samples(paths, json.loads(model.metadata_props[SPEC]), inputs[0])


def calibrate(
    model: Path,
    data: Path,
    out: Path,
    *,
    method: str = DEFAULT_METHOD,
    images: int | None = DEFAULT_IMAGES,
    images_dir: Path | None = None,
    quiet: bool = False,
) -> bool:
    """The stage: quantize the ONNX file `model` to `out`, unless that is up to date.

    It is keyed by the content of the model and of the calibration data, not by their names or dates.

    Args:
        images: calibrate on that many images, evenly spread over the data; None takes all.

    Returns:
        True if it ran.
    """
    choose("method", method, METHODS)
    if not model.is_file():
        raise UserError(f"no ONNX file at '{model}': expected one made by pipeline.simplify or any other exporter")
    paths, inputs, options = source(data, images_dir, images)

    def make(temporary: Path) -> None:
        from calibration import onnx_file

        loaded = onnx_file.load(model)
        onnx_file.check_float(loaded, model)
        changed, report = quantize(loaded, load_samples(loaded, data, paths, images), method, quiet=quiet)
        onnx_file.save(changed, temporary)
        print(describe(report), flush=True)

    return run_stage(
        "calibrate",
        out,
        inputs={"onnx": model, **inputs},
        options={"method": method, **options},
        tools=["numpy", "onnx", "onnx-ir", "onnxruntime", "pillow"],
        code=["calibration", "deploy"],
        make=make,
    )


def main() -> None:
    parser = Parser(prog="python -m calibration.quantize", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="float32 ONNX, opset 13 or later")
    parser.add_argument("--calibration", type=Path, required=True, metavar="DATA", help=".npz, .npy, folder, COCO json")
    parser.add_argument("--images-dir", type=Path, metavar="DIR", help="where the images of a COCO json lie")
    parser.add_argument("--images", type=int, default=DEFAULT_IMAGES, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--method", default=DEFAULT_METHOD, help=f"{' or '.join(METHODS)} (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.onnx")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args()
    calibrate(
        given.model,
        given.calibration,
        given.out,
        method=given.method,
        images=given.images,
        images_dir=given.images_dir,
        quiet=given.quiet,
    )


if __name__ == "__main__":
    run(main)
