"""Lists the nodes of an ONNX file that a target cannot take, before a build that may take an hour on a board.

    effedge preflight MODEL.onnx --target jetson-orin [--dla fallback | --dla only]

The command prints a line for each finding, and for a GPU the bytes that the network reads and writes (traffic.py); its
exit status is 2 if the build would fail. It reads only the file's header, which takes milliseconds, and no TensorRT is
needed: a model can be checked here for a board that is elsewhere.

Sources: docs/operators.md of onnx-tensorrt's branches 8.2-GA, 8.5-GA, 8.6-GA and main (10.x); NVIDIA's "DLA Supported
Layers and Restrictions"; trials with TensorRT-RTX 1.7.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Sequence

from effedge.deploy.common.cli import Parser, UserError, choose
from effedge.engines.build_options import DLA_MODES
from effedge.engines.fusion import is_depthwise
from effedge.engines.onnx_header import INT32, OTHER_FP8, PAIRS, UINT8, Header, Node, read_header
from effedge.engines.targets import TARGETS, TYPED_DLA, Target, targets_with_fp8
from effedge.engines.traffic import describe_traffic, traffic_on

# ONNX operators that TensorRT reads only from this version on ...
SINCE = {
    (8, 5): (
        "GridSample", "HardSwish", "MeanVarianceNormalization", "Mod", "NonZero", "OneHot", "RandomNormal",
        "RandomNormalLike", "Reciprocal", "RoiAlign", "Shrink", "Trilu", "Xor",
    ),
    (8, 6): ("GroupNormalization", "IsInf", "LayerNormalization"),
    (10, 0): ("CastLike", "Gelu", "Hardmax", "Mish"),
}  # fmt: skip
# ... and those that no TensorRT up to 10 reads.
NEVER = (
    "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im",
    "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear", "ImageDecoder",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "Multinomial", "Optional", "OptionalGetElement", "OptionalHasElement",
    "QLinearConv", "QLinearMatMul", "STFT", "SequenceAt", "SequenceConstruct", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique",
)  # fmt: skip
# Operators that become a layer that a DLA has; all others go to the GPU.
ON_DLA = (
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "ConvTranspose", "Div",
    "Equal", "Flatten", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "Identity", "LRN", "LeakyRelu", "Less",
    "Max", "MaxPool", "Min", "Mul", "PRelu", "Pow", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Resize", "Sigmoid",
    "Slice", "Softmax", "Split", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
)  # fmt: skip
GATES = ("Sigmoid", "HardSigmoid", "Add", "Clip", "Tanh", "Softplus")  # a swish is x times one or two of these on x


@dataclass(frozen=True)
class Finding:
    """A reason against a file. `node` is the name of a node or an input, or empty for the complete file; `fatal` means
    that the build would fail."""

    node: str
    reason: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" if self.node else self.reason


def preflight(header: Header, target: Target, dla: str = "") -> List[Finding]:
    """Lists the findings, fatal or not, against a file for `target`; empty for a file that the target takes.

    Args:
        dla: "fallback": the layers go to the DLA, and those that it does not have to the GPU. "only": such layers are
            fatal. Empty: no DLA.

    Raises UserError for another `dla`.
    """
    rules: List[Callable[[Header, Target], Iterator[Finding]]] = [check_opset]
    if not target.on_cpu:
        rules += [check_uint8_inputs, check_operators, check_pairs, check_fp8, check_suppression, check_depthwise]
    findings = [finding for rule in rules for finding in rule(header, target)]
    if dla:
        choose("DLA mode", dla, DLA_MODES)
        findings += check_dla(header, target, dla)
    return findings


def check_opset(header: Header, target: Target) -> Iterator[Finding]:
    """Finds an opset that the target's parser does not read."""
    if header.opset > target.opset:
        most = f"the parser of {target.name} reads at most {target.opset}: export it at that opset"
        yield Finding("", f"opset {header.opset}, but {most}")


def check_uint8_inputs(header: Header, target: Target) -> Iterator[Finding]:
    """Finds uint8 inputs for a TensorRT that has none."""
    if target.uint8_input:
        return
    for name, (element, _) in header.inputs.items():
        if element == UINT8:
            reason = f"a uint8 input, which TensorRT reads from 8.5 on, not on {target.name}"
            yield Finding(name, f"{reason}: export it with a float input")


def check_operators(header: Header, target: Target) -> Iterator[Finding]:
    """Finds operators that the first TensorRT version of the target's row does not read."""
    version = target.first_version
    for node in header.nodes:
        since = next((at for at, names in SINCE.items() if node.op in names), None)
        if node.op in NEVER:
            yield Finding(node.name, f"{node.op}, which no TensorRT reads: replace it before the export")
        elif since is not None and version < since:
            needed = ".".join(map(str, since))
            yield Finding(node.name, f"{node.op}, which TensorRT reads from {needed} on, not on {target.name}")


def check_pairs(header: Header, target: Target) -> Iterator[Finding]:
    """Finds forms of Q/DQ that other quantizers write and TensorRT's parser refuses."""
    for node in header.nodes:
        if node.op != "DequantizeLinear" or header.initializers.get(node.inputs[0]) != INT32:
            continue  # ONNX Runtime's quantizer puts one in front of biases
        reason = "DequantizeLinear of INT32, as of a bias, which TensorRT refuses: quantize it anew with float biases"
        yield Finding(node.name, f"{reason} (effedge quantize)")
    if header.shifted:
        reason = f"a zero point other than 0 ({len(header.shifted)} nodes from here on), which TensorRT does not take"
        yield Finding(header.shifted[0], f"{reason}: calibrate it for this target")
    for node in header.nodes:
        data_and_zero = (*node.inputs[:1], *node.inputs[2:3])
        if node.op in PAIRS and UINT8 in map(header.initializers.get, data_and_zero):
            reason = f"{node.op} of uint8, where TensorRT takes int8 with zero point 0: quantize it anew"
            yield Finding(node.name, f"{reason} (effedge quantize)")


def check_fp8(header: Header, target: Target) -> Iterator[Finding]:
    """Finds FP8 for a target without it, and forms of FP8 that no TensorRT takes."""
    if header.is_fp8 and not target.fp8:
        yield Finding(
            "", f"Q/DQ of FP8, which {targets_with_fp8()} have, not {target.name}: quantize the float model to INT8"
        )
    if header.pair_types.intersection(OTHER_FP8):
        yield Finding("", "Q/DQ of another FP8 than E4M3FN, which no TensorRT takes: quantize it anew (effedge fp8)")


def check_suppression(header: Header, target: Target) -> Iterator[Finding]:
    """Finds NonMaxSuppression for TensorRT-RTX."""
    if target.backend != "tensorrt_rtx":
        return
    for node in header.nodes:
        if node.op == "NonMaxSuppression":
            reason = "NonMaxSuppression, which TensorRT-RTX 1.7 parses and has no implementation of"
            yield Finding(node.name, f"{reason}: export without NMS, which effedge's runtime does")


def check_depthwise(header: Header, target: Target) -> Iterator[Finding]:
    """Finds INT8 layers that the target's TensorRT may not build."""
    layers = risky_layers(header, target)
    if layers:
        reason = (
            f"an INT8 depthwise convolution before a swish ({len(layers)} from here on), which may have no kernel on"
        )
        remedy = "effedge build --fallback takes an ONNX with them in 16 bit for that case, and a bundle brings one"
        yield Finding(layers[0], f"{reason} {target.name} (NVIDIA/TensorRT#3385): {remedy}", fatal=False)


def risky_layers(header: Header, target: Target) -> List[str]:
    """Lists the INT8 depthwise convolutions with a swish behind them, of which TensorRT 8.5 and 8.6 have no
    implementation on some GPUs (NVIDIA/TensorRT#3385, #4060); empty for other targets."""
    if target.backend != "tensorrt" or not (8, 5) <= target.first_version < (10, 0):
        return []
    readers: Dict[str, List[Node]] = {}
    for node in header.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    return [
        node.name
        for node in header.quantized_convolutions
        if is_depthwise(node, header) and feeds_swish(node.outputs[0], readers)
    ]


def feeds_swish(name: str, readers: Mapping[str, Sequence[Node]]) -> bool:
    """Tells if a tensor x, perhaps behind a BatchNormalization or a bias, is read by x * sigmoid(x), or by a product
    with another function of x (HardSwish and its kind)."""
    behind = readers.get(name, [])
    if any(node.op in ("HardSwish", "Mish", "Swish") for node in behind):
        return True
    products = [node for node in behind if node.op == "Mul"]
    gates = [node.outputs[0] for node in behind if node.op in GATES]
    # x * clip(x + 3) / 6 has an operator more on the way.
    gates += [node.outputs[0] for gate in gates for node in readers.get(gate, []) if node.op in GATES]
    if any(gate in product.inputs for product in products for gate in gates):
        return True
    onward = [node.outputs[0] for node in behind if node.op in ("BatchNormalization", "Add") and len(behind) == 1]
    return any(feeds_swish(output, readers) for output in onward)


def check_dla(header: Header, target: Target, dla: str) -> Iterator[Finding]:
    """Finds what a DLA cannot take: dynamic sizes, most layers, and Q/DQ.

    Up to TensorRT 10.7 INT8 on a DLA is by ranges on a network without Q/DQ (NVIDIA/TensorRT#2222). From 11.4.1 on all
    networks are typed, so it can only be by Q/DQ, at every tensor of the DLA's part (NVIDIA/Model-Optimizer#1661).
    """
    if not target.dla:
        having = ", ".join(row.name for row in TARGETS.values() if row.dla)
        yield Finding("", f"{target.name} ({target.device}) has no DLA that TensorRT builds for: choose {having}")
        return
    if header.batch and len(set(header.batch)) > 1:
        yield Finding(
            "", f"a dynamic batch {list(header.batch)}, but a DLA needs fixed sizes: export it with one batch"
        )
    if target.dla_note:
        yield Finding("", target.dla_note, fatal=False)
    pairs = [node for node in header.nodes if node.op in PAIRS]
    if pairs and target.first_version < TYPED_DLA:
        reason = f"Q/DQ ({len(pairs)} nodes from here on), but a DLA takes INT8 by ranges alone"
        yield Finding(pairs[0].name, f"{reason}: effedge tensorrt-cache writes them, and the float ONNX")
    elif pairs:
        reason = f"Q/DQ ({len(pairs)} nodes from here on): layers without them on every input and output leave INT8"
        yield Finding(pairs[0].name, f"{reason}, or the DLA", fatal=False)
    for node in header.nodes:
        if node.op not in ON_DLA and node.op not in PAIRS:
            reason = f"{node.op}, which a DLA has no layer for" if dla == "only" else f"{node.op} falls back to the GPU"
            yield Finding(node.name, reason, fatal=dla == "only")


def refuse(header: Header, onnx: Path, target: Target, dla: str = "") -> None:
    """Raises UserError if a build would fail, with the first reason and the number of the others."""
    fatal = [finding for finding in preflight(header, target, dla) if finding.fatal]
    if fatal:
        more = f" (and {len(fatal) - 1} more: effedge preflight lists them)" if len(fatal) > 1 else ""
        raise UserError(f"{target.name} cannot take '{onnx}': {fatal[0]}{more}")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--target", required=True, metavar="T", help=", ".join(TARGETS))
    parser.add_argument("--dla", default="", metavar="MODE", help=f"build for the DLA: {' or '.join(DLA_MODES)}")
    arguments = parser.parse_args()
    target = TARGETS[choose("target", arguments.target, TARGETS)]
    header = read_header(arguments.onnx)
    findings = preflight(header, target, arguments.dla)
    for finding in findings:
        print(f"{'fails' if finding.fatal else 'note'}: {finding}")
    precision = "int8" if header.quantized_layers else ""
    entry, reason = traffic_on(target, header, precision, arguments.dla)
    if entry is not None:
        print("\n".join(describe_traffic(entry)))
        if not precision and not target.typed_for(arguments.dla):
            print("traffic: of an fp16 engine; one of fp32 moves float32, and INT8 by ranges cannot be counted")
    elif reason:
        print(f"traffic: not counted, because {reason}")
    fatal = sum(finding.fatal for finding in findings)
    if fatal:
        lines = "the line that begins" if fatal == 1 else f"the {fatal} lines that begin"
        raise UserError(f"{target.name} cannot take '{arguments.onnx}': see {lines} with 'fails' above")
    print(f"preflight: nothing known speaks against '{arguments.onnx}' on {target.name}")
