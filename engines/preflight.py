"""Pre-flight: what of an ONNX file a target cannot take, node by node, before a build that may take an hour on a board.

    effedge preflight MODEL.onnx --target jetson-orin [--dla fallback | --dla only]

prints a line for each finding; the exit status is 2 if the build would fail. Only the file's header is read, so it
takes milliseconds, and no TensorRT is needed: a model can be looked at here for a board that is elsewhere.

Sources: docs/operators.md of onnx-tensorrt's branches 8.2-GA, 8.5-GA, 8.6-GA and main (10.x); NVIDIA's "DLA Supported
Layers and Restrictions"; what TensorRT-RTX 1.7 did with such files.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.engines.build_options import DLA_MODES
from effedge.engines.onnx_header import PAIRS, UINT8, Header, read_header
from effedge.engines.targets import TARGETS, Target

# ONNX operators that a TensorRT reads only from this version on ...
SINCE = {
    (8, 5): (
        "GridSample", "HardSwish", "MeanVarianceNormalization", "Mod", "NonZero", "OneHot", "RandomNormal",
        "RandomNormalLike", "Reciprocal", "RoiAlign", "Shrink", "Trilu", "Xor",
    ),
    (8, 6): ("GroupNormalization", "IsInf", "LayerNormalization"),
    (10, 0): ("CastLike", "Gelu", "Hardmax", "Mish"),
}  # fmt: skip
# ... and those that none up to 10 reads.
NEVER = (
    "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im",
    "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "Multinomial", "Optional", "OptionalGetElement", "OptionalHasElement",
    "QLinearConv", "QLinearMatMul", "STFT", "SequenceAt", "SequenceConstruct", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique",
)  # fmt: skip
# What becomes a layer that a DLA has; everything else goes to the GPU.
ON_DLA = (
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "ConvTranspose", "Div",
    "Equal", "Flatten", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "Identity", "LRN", "LeakyRelu", "Less",
    "Max", "MaxPool", "Min", "Mul", "PRelu", "Pow", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Resize", "Sigmoid",
    "Slice", "Softmax", "Split", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """node: its name, or the input's; empty where it is the file as a whole. fatal: the build would fail."""

    node: str
    why: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.node}: {self.why}" if self.node else self.why


def preflight(header: Header, target: Target, dla: str = "") -> List[Finding]:
    """What `target` cannot take of a file, fatal or not; nothing for a file that it takes.

    Args:
        dla: "fallback" or "only": the layers go to the DLA, and what it has not to the GPU, or nowhere. Empty: no DLA.

    Raises UserError for another `dla`.
    """
    rules: List[Callable[[Header, Target], Iterator[Finding]]] = [new_opset]
    if not target.on_cpu:
        rules += [uint8_inputs, unread_operators, integer_pairs, suppression]
    found = [finding for rule in rules for finding in rule(header, target)]
    if dla:
        choose("DLA mode", dla, DLA_MODES)
        found += off_dla(header, target, dla)
    return found


def new_opset(header: Header, target: Target) -> Iterator[Finding]:
    if header.opset > target.opset:
        most = f"the parser of {target.name} reads at most {target.opset}: export it at that opset"
        yield Finding("", f"opset {header.opset}, but {most}")


def uint8_inputs(header: Header, target: Target) -> Iterator[Finding]:
    if target.uint8_input:
        return
    for name, (element, _) in header.inputs.items():
        if element == UINT8:
            why = f"a uint8 input, which TensorRT reads from 8.5 on, not on {target.name}: export it with a float input"
            yield Finding(name, why)


def unread_operators(header: Header, target: Target) -> Iterator[Finding]:
    """Where a row names several versions, what the first of them reads counts."""
    version = first_version(target)
    for node in header.nodes:
        since = next((at for at, names in SINCE.items() if node.op in names), None)
        if node.op in NEVER:
            yield Finding(node.name, f"{node.op}, which no TensorRT reads: replace it before the export")
        elif since is not None and version < since:
            needed = ".".join(map(str, since))
            yield Finding(node.name, f"{node.op}, which TensorRT reads from {needed} on, not on {target.name}")


def first_version(target: Target) -> Tuple[int, int]:
    """TensorRT's version on a target; TensorRT-RTX has the parser of 10.

    >>> first_version(TARGETS["jetson-xavier"]), first_version(TARGETS["rtx"])
    ((8, 5), (10, 0))
    """
    if target.backend != "tensorrt":
        return 10, 0
    major, minor = target.versions[0].split(".")[:2]
    return int(major), int(minor or 0)


def integer_pairs(header: Header, target: Target) -> Iterator[Finding]:
    """Forms of Q/DQ that other quantizers write and TensorRT's parser refuses."""
    for node in header.int32_dequantized:
        why = "DequantizeLinear of INT32, as of a bias, which TensorRT refuses: quantize it anew with float biases"
        yield Finding(node.name, f"{why} (effedge quantize)")
    if header.shifted:
        why = f"a zero point other than 0 ({len(header.shifted)} nodes from here on), which TensorRT does not take"
        yield Finding(header.shifted[0], f"{why}: calibrate it for this target")
    for node in header.nodes:
        data_and_zero = (*node.inputs[:1], *node.inputs[2:3])
        if node.op in PAIRS and UINT8 in map(header.initializers.get, data_and_zero):
            why = f"{node.op} of uint8, where TensorRT takes int8 with zero point 0: quantize it anew"
            yield Finding(node.name, f"{why} (effedge quantize)")


def suppression(header: Header, target: Target) -> Iterator[Finding]:
    if target.backend != "tensorrt_rtx":
        return
    for node in header.nodes:
        if node.op == "NonMaxSuppression":
            why = "NonMaxSuppression, which TensorRT-RTX 1.7 parses and has no implementation of"
            yield Finding(node.name, f"{why}: export without NMS, deploy/ does it")


def off_dla(header: Header, target: Target, dla: str) -> Iterator[Finding]:
    """What a DLA cannot take: it has neither Q/DQ nor dynamic sizes, and few layers."""
    if not target.dla:
        having = ", ".join(row.name for row in TARGETS.values() if row.dla)
        yield Finding("", f"{target.name} ({target.device}) has no DLA that TensorRT builds for: choose {having}")
        return
    if header.batch and len(set(header.batch)) > 1:
        yield Finding(
            "", f"a dynamic batch {list(header.batch)}, but a DLA needs fixed sizes: export it with one batch"
        )
    pairs = [node for node in header.nodes if node.op in PAIRS]
    if pairs:
        why = f"Q/DQ ({len(pairs)} nodes from here on), but a DLA takes INT8 by ranges alone"
        yield Finding(pairs[0].name, f"{why}: effedge tensorrt-cache writes them, and the float ONNX")
    for node in header.nodes:
        if node.op not in ON_DLA and node.op not in PAIRS:
            why = f"{node.op}, which a DLA has no layer for" if dla == "only" else f"{node.op} falls back to the GPU"
            yield Finding(node.name, why, fatal=dla == "only")


def refuse(header: Header, onnx: Path, target: Target, dla: str = "") -> None:
    """Raise UserError if a build would fail, with the first reason and how many there are."""
    fatal = [finding for finding in preflight(header, target, dla) if finding.fatal]
    if fatal:
        more = f" (and {len(fatal) - 1} more: effedge preflight lists them)" if len(fatal) > 1 else ""
        raise UserError(f"{target.name} cannot take '{onnx}': {fatal[0]}{more}")


def main() -> None:
    parser = Parser(
        prog="effedge preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("onnx", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--target", required=True, metavar="T", help=", ".join(TARGETS))
    parser.add_argument("--dla", default="", metavar="MODE", help=f"build for the DLA: {' or '.join(DLA_MODES)}")
    options: Any = parser.parse_args()
    target = TARGETS[choose("target", options.target, TARGETS)]
    found = preflight(read_header(options.onnx), target, options.dla)
    for finding in found:
        print(f"{'fails' if finding.fatal else 'note'}: {finding}")
    fatal = sum(finding.fatal for finding in found)
    if fatal:
        raise UserError(f"{target.name} cannot take '{options.onnx}': see {fatal} lines above")
    print(f"preflight: nothing known speaks against '{options.onnx}' on {target.name}")
