"""Writes the INT8 thresholds as a calibration cache of TensorRT 7 to 10, for a DLA or a toolchain that quantizes by
itself.

    effedge tensorrt-cache INT8.onnx --out int8.cache --onnx-out float.onnx [--tensorrt 8.6.1] [--calibration DATA]
    effedge build float.onnx --precision int8 --target jetson-orin --dla fallback --ranges int8.cache --out ENGINE
    trtexec --onnx=float.onnx --int8 --fp16 --calib=int8.cache

The cache goes with the ONNX written beside it (float_twin.py), and with no other: the ranges belong to the weights of
that ONNX, which says in its metadata which layers stay out of INT8. A tensor without a line stays out of INT8, and with
it each layer that reads or writes it. The INT8 ONNX has ranges of what its layers read; `--calibration` measures those
of the other tensors, such as a convolution's output before its swish, without which a DLA has few INT8 layers. On a GPU
with TensorRT 8 or later, which reads Q/DQ, the INT8 ONNX itself is the better way, and the one that effedge builds by:
there TensorRT neither chooses the layers nor rounds the weights anew.

Format: a line `TRT-<version>-EntropyCalibration2`, then `<tensor>: <hex>` for each tensor, where the hex digits are the
float32 scale, threshold / 127, big-endian. As NVIDIA reads and writes it: nvdla/sw,
umd/utils/calibdata/calib_txt_to_json.py, and the TAO exporters (_calibration_cache_from_dict). The version is
NV_TENSORRT_VERSION of NvInferRuntime.h: 8.6.1 is 8601, and since TensorRT 10 10.9.0 is 100900.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effedge.calibration.ranges.samples import Samples
from effedge.calibration.ranges.source import add_data, find_data, load_samples
from effedge.calibration.ranges.thresholds import INT8_MAX
from effedge.calibration.report import attach_report, read_report
from effedge.deploy.common.cli import Parser, UserError
from effedge.deploy.common.contracts import CalibrationReport
from effedge.deploy.common.files import atomic_file
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_file
from effedge.engines.onnx_header import onnx_files
from effedge.engines.stage import run_stage

if TYPE_CHECKING:
    import onnx_ir as ir

TENSORRT = "8.6.1"
HEADER = "TRT-{}-EntropyCalibration2"


def cache_text(thresholds: Mapping[str, float], version: int) -> str:
    """Returns the cache with these tensors' thresholds.

    >>> print(cache_text({"image": 127.0}, 8601), end="")
    TRT-8601-EntropyCalibration2
    image: 3f800000
    """
    lines = [f"{name}: {struct.pack('>f', value / INT8_MAX).hex()}" for name, value in thresholds.items()]
    return "\n".join([HEADER.format(version), *lines]) + "\n"


def version_number(text: str) -> int:
    """Returns NV_TENSORRT_VERSION of a version.

    >>> version_number("8.6.1"), version_number("10.9.0"), version_number("8601")
    (8601, 100900, 8601)

    Raises:
        UserError: no version, or one whose TensorRT reads no such cache.
    """
    parts = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:\.\d+)?", text)
    if parts:
        major, minor, patch = (int(part) for part in parts.groups())
        number = major * (10000 if major >= 10 else 1000) + minor * 100 + patch
    elif re.fullmatch(r"\d{4}|\d{6}", text):
        number = int(text)
        major = number // (10000 if len(text) == 6 else 1000)
    else:
        raise UserError(f"--tensorrt '{text}' is no version: expected one like 8.6.1, or 8601")
    if not 7 <= major <= 10:
        raise UserError(f"--tensorrt {text}: a calibration cache is for TensorRT 7 to 10, others read the INT8 ONNX")
    return number


def trtexec_command(onnx: Path, cache: Path, float_layers: Iterable[str]) -> str:
    """Returns the command line of trtexec, with `float_layers` in FP16, whichever ranges their tensors have."""
    precisions = ",".join(f"{name}:fp16" for name in float_layers)
    constraints = f" --precisionConstraints=obey --layerPrecisions={precisions}" if precisions else ""
    return f"trtexec --onnx={onnx} --int8 --fp16 --calib={cache}{constraints}"


def add_ranges(thresholds: Mapping[str, float], twin: ir.Model, samples: Samples) -> dict[str, float]:
    """Returns the thresholds, and for the other tensors of the network's 16-bit part their largest magnitude over the
    samples. What is behind the last layers stays without (fp16/node_selection.py).

    Args:
        twin: the float twin, as onnx_file.prepare leaves it.
    """
    from effedge.calibration.fp16.half_precision_pass import is_float32
    from effedge.calibration.fp16.node_selection import select_nodes
    from effedge.calibration.ranges.collect import collect_amax

    values = [value for node in select_nodes(twin.graph) for value in node.outputs if is_float32(value)]
    names = [value.name or "" for value in values if value.name not in thresholds]
    return {**thresholds, **collect_amax(twin, samples, names)}


def read_twin(int8: Path) -> tuple[ir.Model, CalibrationReport]:
    """Returns the float twin of an INT8 model, which says which layers stay out of INT8, and the model's report, with
    the twin's thresholds. The twin reads images as they are, since a DLA has no Pad.

    Raises:
        UserError: no INT8 model of this version, one with FP16 around its INT8, or with zero points.
    """
    from effedge.calibration.graph import onnx_file
    from effedge.calibration.graph.float_twin import float_twin
    from effedge.calibration.weights.align_images import IMAGES_KEY, unalign_images

    model, report = read_report(int8)
    onnx_file.check_float32_scales(model, int8)
    if report.get("zero_points"):
        raise UserError(
            f"'{int8}' has zero points, which TensorRT does not take: calibrate it for a GPU (TARGET=rtx or trt)"
        )
    twin = onnx_file.prepare(float_twin(model))
    images = unalign_images(twin, model.metadata_props.get(IMAGES_KEY, "{}"))
    thresholds = [images.get(name, (name, threshold)) for name, threshold in report["thresholds"].items()]
    report["thresholds"] = dict(thresholds)
    attach_report(twin, {"method": "ranges", "float_layers": report["float_layers"]})
    return twin, report


def ranges_stages(int8: Path, data: Path, *, images: int | None) -> tuple[Path, Path]:
    """Writes what a build for a DLA takes of an INT8 model, beside it, unless that is done: the float twin, and the
    cache with ranges of all tensors, measured on `images` of the calibration data. Returns both paths."""
    from effedge.calibration.graph import onnx_file

    twin_path, cache = int8.with_name(f"{int8.stem}-float.onnx"), int8.with_name(f"{int8.stem}.cache")
    found = find_data(data, None, images)
    tools = ["numpy", "onnx", "onnx-ir", "onnxruntime", "pillow"]

    def make_twin(path: Path) -> None:
        onnx_file.save(read_twin(int8)[0], path)

    def make_cache(path: Path) -> None:
        twin, report = read_twin(int8)
        ranges = add_ranges(report["thresholds"], twin, load_samples(twin, data, found.images, images))
        path.write_text(cache_text(ranges, version_number(TENSORRT)))

    files = onnx_files(int8)
    run_stage("float twin", twin_path, inputs=files, options={}, tools=tools, code=[__name__], make=make_twin)
    run_stage(
        "ranges", cache, inputs={**files, **found.stage_inputs}, options=found.stage_options, tools=tools,
        code=[__name__], make=make_cache,
    )  # fmt: skip
    return twin_path, cache


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, metavar="INT8.onnx", help="such as build/d0-digits/int8.onnx")
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE", help="the cache")
    parser.add_argument("--onnx-out", type=output_file, metavar="FILE.onnx", help="the float ONNX (default: OUT.onnx)")
    parser.add_argument("--tensorrt", default=TENSORRT, metavar="VERSION", help="that will read it (%(default)s)")
    add_data(parser)
    arguments = parser.parse_args()
    int8, cache = arguments.model, arguments.out
    version = version_number(arguments.tensorrt)
    onnx = arguments.onnx_out or cache.with_name(cache.name + ".onnx")
    if len(set(map(os.path.realpath, (int8, cache, onnx)))) < 3:
        raise UserError(f"'{int8}', '{cache}' and '{onnx}' must be three files: choose other names")

    from effedge.calibration.graph import onnx_file

    twin, report = read_twin(int8)
    ranges = report["thresholds"]
    if arguments.calibration is not None:
        data = find_data(arguments.calibration, arguments.images_dir, arguments.images)
        samples = load_samples(twin, arguments.calibration, data.images, arguments.images)
        ranges = add_ranges(ranges, twin, samples)
    with atomic_file(onnx) as temporary:
        onnx_file.save(twin, temporary)
    with atomic_file(cache) as temporary:
        temporary.write_text(cache_text(ranges, version))
    print(trtexec_command(onnx, cache, report["float_layers"]))
    log.info(f"tensorrt-cache: for a DLA: effedge build {onnx} --precision int8 --dla fallback --ranges {cache}")
    if arguments.calibration is None:
        log.info(
            f"tensorrt-cache: {len(ranges)} tensors have ranges, those that INT8 layers read; on a DLA a layer is INT8 "
            "if what it writes has one too: --calibration DATA adds them"
        )
