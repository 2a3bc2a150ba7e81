"""Build an engine: a prepared ONNX in, one folder out that runs on the target.

    effedge build int8.onnx --precision int8 --target rtx --out build/int8-rtx

The ONNX says what can be built of it: INT8 needs its Q/DQ pairs, FP16 on a typed target its FP16 tensors. A builder
reports each layer's precision as built, and what was asked for and not built is an error.
"""

import contextlib
import importlib
import importlib.metadata
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterator, List

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.engines.build_options import DEFAULT, POLYNOMIAL, Choices, add_choices, read_choices
from effedge.engines.manifest import FRONT, UNKNOWN, Built, write_manifest
from effedge.engines.onnx_header import Header, onnx_files, read_header
from effedge.engines.stage import progress_disabled, run_stage
from effedge.engines.targets import (
    PRECISIONS,
    TARGETS,
    TYPED,
    Target,
    check_buildable_here,
    check_precision,
    import_backend,
    installed,
    resolve_target,
)
from effedge.engines.tensorrt.log import LOG

# By the target's backend; imported only where they are needed, as each needs a package of its own.
BUILDERS = {
    "openvino": "effedge.engines.openvino.builder",
    "onnxruntime": "effedge.engines.onnxruntime.builder",
    "tensorrt": "effedge.engines.tensorrt.builder",
    "tensorrt_rtx": "effedge.engines.tensorrt.builder",
}
LOWER = ("f16", "bf16", "int8")
ASKED = {"fp32": ("f32",), "fp16": ("f16", "bf16"), "int8": ("int8",)}


def make_engine(
    onnx: Path,
    out: Path,
    *,
    precision: str,
    target: Target,
    choices: Choices = DEFAULT,
    quiet: bool = False,
) -> bool:
    """The stage: build `out` from `onnx` unless that is done already. Returns True if it ran.

    Imports no backend where there is nothing to do. Raises UserError as `build_engine` does.
    """
    check_precision(precision, target)
    choices.check(target, precision)
    check_buildable_here(target)
    distribution = installed(target.distributions)

    def make(folder: Path) -> None:
        with log_of_a_failure(folder, out):
            build_engine(onnx, folder, precision=precision, target=target, choices=choices, quiet=quiet)

    if not onnx.is_file():
        raise UserError(f"no ONNX model at '{onnx}': give the path of one (effedge export writes it)")
    return run_stage(
        "engine",
        out,
        inputs=onnx_files(onnx),
        options={
            "precision": precision,
            "target": target.name,
            **asdict(choices),
            "compute_capabilities": tuple(choices.numbered_capabilities()),
        },  # fmt: skip
        tools=[distribution] if distribution else [],
        code=[__name__, BUILDERS[target.backend]],
        make=make,
        folder=True,
    )


@contextlib.contextmanager
def log_of_a_failure(folder: Path, out: Path) -> Iterator[None]:
    """If the build in `folder` fails, move its log, which would go with the folder, beside `out`, and say so."""
    kept = out.with_name(f"{out.name}.{LOG}")
    try:
        yield
    except UserError as error:
        if not (folder / LOG).is_file():
            raise
        os.replace(folder / LOG, kept)
        raise UserError(f"{error}; all that {LOG} says: '{kept}'") from error
    with contextlib.suppress(FileNotFoundError):  # of an earlier build
        kept.unlink()


def build_engine(
    onnx: Path,
    folder: Path,
    *,
    precision: str,
    target: Target,
    choices: Choices = DEFAULT,
    quiet: bool = False,
) -> None:
    """Write the engine and its manifest.json into `folder`, which exists and is empty.

    Args: see the command's --help, which has the same names.

    Raises UserError if the file does not hold what the precision needs, the backend refuses it, or what it built is
    not what was asked for; KeyboardInterrupt if cancelled.
    """
    choices.check(target, precision)
    header = read_header(onnx)
    check_prepared(header, onnx, precision, target)
    backend = import_backend(target)
    disable_progress = progress_disabled(quiet)
    built: Built = importlib.import_module(BUILDERS[target.backend]).build(
        backend,
        onnx,
        folder,
        header,
        precision=precision,
        target=target,
        choices=choices,
        disable_progress=disable_progress,
    )
    not_built = check_built(header, built, precision, target)
    write_manifest(
        folder,
        built,
        header=header,
        asked=precision,
        target=target.name,
        not_built=not_built,
        versions=tool_versions(target, built),
        sources={"onnx": onnx},
    )
    print(f"engine: {summary(built)}")
    if built.swish is not None:
        print(f"engine: {describe_swish(built.swish)}")
    if built.backend.get("front"):
        print(f"engine: {describe_front(built.backend['front'])}")
    if precision == "int8" and target.simulates_int8:
        print(f"engine: {built.warnings[-1]}")
    if not_built:
        print(f"engine: not in {precision} though asked for: {', '.join(not_built)}")


def check_prepared(header: Header, onnx: Path, precision: str, target: Target) -> None:
    """Raise UserError unless the file holds what `precision` needs on `target`, and nothing that contradicts it."""
    quantized, half = header.quantized_layers, header.half_layers
    quantize = "effedge quantize writes such a file"
    check_precision(precision, target)
    if precision == "int8" and not quantized:
        pairs = any(node.op == "QuantizeLinear" for node in header.nodes)
        found = "Q/DQ pairs, but none at both inputs of a layer" if pairs else "no QuantizeLinear"
        raise UserError(f"int8 was asked for, but '{onnx}' has {found}: calibrate it first ({quantize})")
    if precision != "int8" and quantized:
        raise UserError(
            f"{precision} was asked for, but '{onnx}' is quantized to INT8 ({len(quantized)} layers): "
            "give the ONNX from before calibration"
        )
    if precision == "fp16" and target.precision_by == TYPED and not half:
        raise UserError(
            f"fp16 was asked for, but '{onnx}' has no FP16 weights, and {target.name} takes the ONNX's own types: "
            "convert it first (the calibration stage for fp16 writes such a file)"
        )
    if half and (precision == "fp32" or target.precision_by != TYPED and precision == "int8"):
        raise UserError(f"{precision} was asked for, but '{onnx}' has {len(half)} FP16 layers: give the FP32 one")


def check_built(header: Header, built: Built, precision: str, target: Target) -> List[str]:
    """Names of the convolutions that were asked for in `precision` and built in another.

    Raises UserError if no convolution is in `precision`, or, where no convolution was asked for, no other layer; for
    fp32, if any layer is in a lower one.
    """
    if built.source == "unknown" or target.simulates_int8:  # ONNX Runtime's layers have names of its own
        return []
    asked = header.quantized if precision == "int8" else header.half or header.convolutions
    actual = {layer.name: layer.precision for layer in built.layers if layer.is_convolution}
    front = {layer.name for layer in built.layers if layer.tactic == FRONT}  # in 16 bits because that is faster
    known = (*ASKED[precision], UNKNOWN)  # what nobody can read is not held against it
    asked = [node for node in asked if node.name not in front]
    missed = [node.name for node in asked if actual.get(node.name) not in known]
    others = {kind for name, kind in actual.items() if name not in front}
    none_built = bool(asked and actual) and not others.intersection(known)
    if precision == "int8" and not asked and built.source == "executed":  # matrix products only
        none_built = all(layer.precision != "int8" for layer in built.layers)
    if precision == "fp32":
        lower = [layer.name for layer in built.layers if layer.precision in LOWER]
        none_built = bool(lower)
    if none_built:
        raise UserError(
            f"{precision} was asked for and {built.backend['name']} {built.backend['version']} did not build it: "
            f"{summary(built)}; build another precision for {target.name}"
        )
    return missed


def summary(built: Built) -> str:
    """Like '80 convolutions int8, 5 f32 (executed)'."""
    counts = sorted(built.convolutions.items(), key=lambda item: -item[1])
    texts = [f"{count} convolutions {kind}" if i == 0 else f"{count} {kind}" for i, (kind, count) in enumerate(counts)]
    none = "no convolutions" if built.layers else "convolutions of unknown precision"
    return f"{', '.join(texts) or none} ({built.source})"


def describe_swish(swish: Dict[str, Any]) -> str:
    """Like 'swish as a polynomial within 0.0064, with which a run takes 0.79 times as long'."""
    ratio = swish["ratio"]
    if swish["form"] == POLYNOMIAL:
        compared = "" if ratio is None else f", with which a run takes {ratio:.2f} times as long"
        return f"swish as a polynomial within {swish['error']:g}{compared}"
    return "swish exact" + (
        "" if ratio is None else f": with the polynomial a run would take {ratio:.2f} times as long"
    )


def describe_front(front: Dict[str, Any]) -> str:
    """Like 'the first 16 blocks in C++ (deploy/native/cpu_blocks/blocks.py), in bf16 and f16: a run takes 0.7 times as long with them'."""
    compared = "" if front["ratio"] is None else f": a run takes {front['ratio']:.2f} times as long with them"
    kinds = " and ".join(sorted(set(front["precisions"])))
    return f"the first {front['blocks']} blocks in C++ (deploy/native/cpu_blocks/blocks.py), in {kinds}{compared}"


def tool_versions(target: Target, built: Built) -> Dict[str, str]:
    """The backend's and NumPy's versions, for the manifest."""
    versions: Dict[str, str] = {built.backend["name"]: str(built.backend["version"])}
    distribution = installed(target.distributions)
    if distribution:
        versions[distribution] = importlib.metadata.version(distribution)
    return versions


def main() -> None:
    parser = Parser(prog="effedge build", description=__doc__)
    parser.add_argument("onnx", type=Path, help="a prepared ONNX model: simplified, quantized (int8) or FP16")
    parser.add_argument("--precision", required=True, metavar="P", help=", ".join(PRECISIONS))
    rows = "\n".join(f"  {row.name}: {row.device}" for row in TARGETS.values())
    parser.add_argument("--target", default="auto", metavar="T", help=f"auto, or one of\n{rows}")
    parser.add_argument("--out", type=Path, required=True, help="the engine's folder")
    add_choices(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    options: Any = parser.parse_args()
    make_engine(
        options.onnx,
        options.out,
        precision=options.precision,
        target=resolve_target(choose("target", options.target, ["auto", *TARGETS])),
        choices=read_choices(options),
        quiet=options.quiet,
    )
    print(options.out)
