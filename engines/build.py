"""Builds an engine from a prepared ONNX: one folder that runs on the target.

    effedge build int8.onnx --precision int8 --target rtx --out build/int8-rtx

The ONNX limits the precision: INT8 needs its Q/DQ pairs, FP16 on a typed target its FP16 tensors. A builder reports
each layer's precision as built; if no layer is in the requested precision, the build is an error.
"""

import contextlib
import importlib
import importlib.metadata
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.deploy.common.contracts import CpuBlocksEntry, FloatPartsEntry, SwishEntry
from effedge.deploy.common.messages import log
from effedge.deploy.common.paths import output_folder
from effedge.engines.build_options import DEFAULT, POLYNOMIAL, BuildOptions, add_build_options, read_build_options
from effedge.engines.build_request import BuildRequest
from effedge.engines.comparison.compare import build_compared
from effedge.engines.fallback import build_or_fall_back, make_plan_b
from effedge.engines.manifest import CPU_BLOCKS, UNKNOWN, BuiltEngine, write_manifest
from effedge.engines.onnx_header import FLOAT16, onnx_files, read_header
from effedge.engines.prepared import check_prepared
from effedge.engines.stage import run_stage
from effedge.engines.targets import (
    BY_PAIRS,
    FP8,
    PRECISIONS,
    TARGETS,
    Target,
    check_buildable_here,
    check_gpu,
    check_precision,
    import_backend,
    installed,
    resolve_target,
)
from effedge.engines.tensorrt.log import LOG

# By the target's backend. A builder is imported only where it is needed, because it needs a package of its own.
BUILDERS = {
    "openvino": "effedge.engines.openvino.builder",
    "onnxruntime": "effedge.engines.onnxruntime.builder",
    "tensorrt": "effedge.engines.tensorrt.builder",
    "tensorrt_rtx": "effedge.engines.tensorrt.builder",
}
LOWER_THAN_FP32 = ("f16", "bf16", "int8", "fp8")
# By the engine's precision.
LAYER_PRECISIONS = {"fp32": ("f32",), "fp16": ("f16", "bf16"), "int8": ("int8",), "fp8": ("fp8",)}


def make_engine(
    onnx: Path,
    out: Path,
    *,
    precision: str,
    target: Target,
    build_options: BuildOptions = DEFAULT,
    fallback: Optional[Path] = None,
    ranges: Optional[Path] = None,
) -> bool:
    """Builds `out` from `onnx` as a stage, unless that is done already. Returns True if the stage ran.

    Args: see the command's --help, which has the same names.

    Imports no backend where there is nothing to do. Raises UserError as `build_engine` does.
    """
    check_precision(precision, target)
    build_options.check(target, precision)
    check_buildable_here(target)
    check_gpu(precision, target)
    distribution = installed(target.distributions)

    def make(folder: Path) -> None:
        with keep_log_of_failure(folder, out):
            build_engine(
                onnx, folder, precision=precision, target=target, build_options=build_options, fallback=fallback,
                ranges=ranges,
            )  # fmt: skip

    if not onnx.is_file():
        raise UserError(f"no ONNX model at '{onnx}': give the path of one (effedge export writes it)")
    inputs = onnx_files(onnx)
    if fallback is not None:
        inputs.update({f"fallback {role}": path for role, path in onnx_files(fallback).items()})
    if ranges is not None:
        inputs["ranges"] = ranges
        if not ranges.is_file():
            raise UserError(f"no calibration cache at '{ranges}': effedge tensorrt-cache writes one")
    if build_options.compare_on:
        inputs["compare_on"] = Path(build_options.compare_on)
        if not inputs["compare_on"].is_file():
            raise UserError(f"--compare-on: no file at '{inputs['compare_on']}': give an image or an .npz")
    return run_stage(
        "engine",
        out,
        inputs=inputs,
        options={
            "precision": precision,
            "target": target.name,
            **asdict(replace(build_options, compare_on="")),  # its content counts, as an input, and not its path
            "compute_capabilities": tuple(build_options.numbered_capabilities()),
        },  # fmt: skip
        tools=[distribution] if distribution else [],
        code=[__name__, BUILDERS[target.backend]],
        make=make,
        folder=True,
    )


@contextlib.contextmanager
def keep_log_of_failure(folder: Path, out: Path) -> Iterator[None]:
    """If the build in `folder` fails, moves its log, which would go with the folder, beside `out`, and says so."""
    kept_log = out.with_name(f"{out.name}.{LOG}")
    try:
        yield
    except UserError as error:
        if not (folder / LOG).is_file():
            raise
        os.replace(folder / LOG, kept_log)
        raise UserError(f"{error}; all that {LOG} says: '{kept_log}'") from error
    with contextlib.suppress(FileNotFoundError):  # of an earlier build
        kept_log.unlink()


def build_engine(
    onnx: Path,
    folder: Path,
    *,
    precision: str,
    target: Target,
    build_options: BuildOptions = DEFAULT,
    fallback: Optional[Path] = None,
    ranges: Optional[Path] = None,
) -> None:
    """Writes the engine and its manifest.json into `folder`, which exists and is empty, once its outputs were compared
    with ONNX Runtime's (engines/comparison).

    Args: see the command's --help, which has the same names.

    Raises UserError if the file does not hold what the precision needs, the backend refuses the file, or the backend
    built another precision; KeyboardInterrupt if cancelled.
    """
    build_options.check(target, precision)
    request = BuildRequest(onnx, read_header(onnx), precision, target, build_options, ranges)
    check_prepared(request)
    plan_b = None if fallback is None else make_plan_b(request, fallback)

    def build(request: BuildRequest) -> Tuple[BuildRequest, BuiltEngine]:
        backend = import_backend(request.target)
        builder = importlib.import_module(BUILDERS[request.target.backend])
        return build_or_fall_back(partial(builder.build, backend, folder=folder), request, plan_b, folder)

    request, built = build_compared(build, request, folder)
    target = request.target
    not_built = check_built(request, built)
    write_manifest(folder, built, request, not_built=not_built, versions=tool_versions(target, built))
    log.info(f"engine: {summary(built)}")
    if built.float_parts is not None:
        log.info(f"engine: {describe_float_parts(built.float_parts)}")
    if built.swish is not None:
        log.info(f"engine: {describe_swish(built.swish)}")
    if "cpu_blocks" in built.backend:
        log.info(f"engine: {describe_cpu_blocks(built.backend['cpu_blocks'])}")
    if precision == "int8" and target.simulates_int8:
        log.info(f"engine: {built.warnings[-1]}")
    if not_built:
        log.info(f"engine: not in {precision} though asked for: {', '.join(not_built)}")


def check_built(request: BuildRequest, built: BuiltEngine) -> List[str]:
    """Returns the names of the convolutions that were requested in the precision and built in another.

    The convolutions of CPU blocks do not count: they are in 16 bits because that is faster.

    Raises UserError if no convolution is in the precision; for int8 of a model without INT8 convolutions, if no layer
    is; for fp32, if any layer is in a lower one.
    """
    header, precision, target = request.header, request.precision, request.target
    if built.source == "unknown" or target.simulates_int8:  # ONNX Runtime has its own names of layers
        return []
    in_blocks = {layer.name for layer in built.layers if layer.tactic == CPU_BLOCKS}
    candidates = header.fp16_convolutions or header.convolutions
    if precision in BY_PAIRS:
        candidates = header.quantized_convolutions
    if request.ranges is not None:
        candidates = [node for node in header.convolutions if node.name not in header.float_layers]
    requested = [node for node in candidates if node.name not in in_blocks]
    actual = {
        layer.name: layer.precision for layer in built.layers if layer.is_convolution and layer.name not in in_blocks
    }
    accepted = (*LAYER_PRECISIONS[precision], UNKNOWN)  # an unreadable precision is not counted as another one
    if precision == "fp32":
        # The casts behind a float16 input and in front of a float16 output are in f16.
        casts = any(element == FLOAT16 for element, _ in (*header.inputs.values(), *header.outputs.values()))
        checked = [layer for layer in built.layers if layer.is_convolution or not casts]
        failed = any(layer.precision in LOWER_THAN_FP32 for layer in checked)
    elif precision == "int8" and not requested and built.source == "executed":  # matrix products only
        failed = all(layer.precision != "int8" for layer in built.layers)
    elif request.ranges is not None:  # the inspector shows a part that runs on a DLA as one layer
        failed = False
    else:
        failed = bool(requested and built.convolutions) and not set(actual.values()).intersection(accepted)
    if failed:
        raise UserError(
            f"{precision} was asked for and {built.backend['name']} {built.backend['version']} did not build it: "
            f"{summary(built)}; build another precision for {target.name}"
        )
    return [node.name for node in requested if actual.get(node.name) not in accepted]


def summary(built: BuiltEngine) -> str:
    """Counts the convolutions by precision, like '80 convolutions int8, 5 f32 (executed)'."""
    counts = sorted(built.convolutions.items(), key=lambda item: -item[1])
    texts = [f"{count} convolutions {kind}" if i == 0 else f"{count} {kind}" for i, (kind, count) in enumerate(counts)]
    none = "no convolutions" if built.layers else "convolutions of unknown precision"
    return f"{', '.join(texts) or none} ({built.source})"


def describe_float_parts(parts: FloatPartsEntry) -> str:
    """Describes the choice, like 'what is not INT8 in bf16: a run takes 0.90 times as long as with f32, its outputs
    within 39 dB of those with f32'."""
    text = f"what is not INT8 in {parts['precision']}"
    if parts["ratio"] is not None:
        in_16_bits = "with 16 bits a run would take" if parts["precision"] == "f32" else "a run takes"
        text += f": {in_16_bits} {parts['ratio']:.2f} times as long as with f32"
    if parts["decibels"] is not None:
        text += f", its outputs within {parts['decibels']:.0f} dB of those with f32"
    return text


def describe_swish(swish: SwishEntry) -> str:
    """Describes the form, like 'swish as a polynomial within 0.0064, with which a run takes 0.79 times as long'."""
    ratio = swish["ratio"]
    if swish["form"] == POLYNOMIAL:
        compared = "" if ratio is None else f", with which a run takes {ratio:.2f} times as long"
        return f"swish as a polynomial within {swish['error']:g}{compared}"
    return "swish exact" + (
        "" if ratio is None else f": with the polynomial a run would take {ratio:.2f} times as long"
    )


def describe_cpu_blocks(blocks: CpuBlocksEntry) -> str:
    """Describes the blocks, like 'the first 16 blocks in C++ (deploy/native/cpu_blocks/blocks.py), in bf16 and f16: a
    run takes 0.70 times as long with them'."""
    compared = "" if blocks["ratio"] is None else f": a run takes {blocks['ratio']:.2f} times as long with them"
    kinds = " and ".join(sorted(set(blocks["precisions"])))
    return f"the first {blocks['blocks']} blocks in C++ (deploy/native/cpu_blocks/blocks.py), in {kinds}{compared}"


def tool_versions(target: Target, built: BuiltEngine) -> Dict[str, str]:
    """Returns the versions of the backend and of its distribution, for the manifest."""
    versions: Dict[str, str] = {built.backend["name"]: str(built.backend["version"])}
    distribution = installed(target.distributions)
    if distribution:
        versions[distribution] = importlib.metadata.version(distribution)
    return versions


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("onnx", type=Path, help="a prepared ONNX model: simplified, quantized (int8, fp8) or FP16")
    parser.add_argument("--precision", required=True, metavar="P", help=", ".join((*PRECISIONS, FP8)))
    rows = "\n".join(f"  {row.name}: {row.device}" for row in TARGETS.values())
    parser.add_argument("--target", default="auto", metavar="T", help=f"auto, or one of\n{rows}")
    parser.add_argument("--out", type=output_folder, required=True, help="the engine's folder")
    add_build_options(parser)
    parser.add_argument(
        "--fallback", type=Path, metavar="PLANB.onnx",
        help="the same INT8 model with fewer INT8 layers, built where the backend has no INT8 kernel for one of them",
    )  # fmt: skip
    parser.add_argument(
        "--ranges", type=Path, metavar="FILE",
        help="a calibration cache (effedge tensorrt-cache): INT8 on a DLA is by ranges, not by Q/DQ pairs",
    )  # fmt: skip
    parser.add_quiet()
    arguments = parser.parse_args()
    make_engine(
        arguments.onnx,
        arguments.out,
        precision=arguments.precision,
        target=resolve_target(choose("target", arguments.target, ["auto", *TARGETS])),
        build_options=read_build_options(arguments),
        fallback=arguments.fallback,
        ranges=arguments.ranges,
    )
    print(arguments.out)
