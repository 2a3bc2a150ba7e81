"""Checks that an ONNX holds what a build of a precision needs on a target."""

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.messages import log
from effedge.engines.build_request import BuildRequest
from effedge.engines.targets import BY_PAIRS, FP8, TARGETS, TYPED, check_precision


def check_prepared(request: BuildRequest) -> None:
    """Raises UserError unless the file has the pairs or types that the precision needs on the target, and no others."""
    header, onnx, precision, target = request.header, request.onnx, request.precision, request.target
    quantized, fp16 = header.quantized_layers, header.fp16_layers
    check_precision(precision, target)
    if needs_ranges(request):
        if fp16:
            raise UserError(f"int8 was asked for, but '{onnx}' has {len(fp16)} FP16 layers: give the FP32 one")
        return
    by_pairs = precision in BY_PAIRS
    quantize = f"effedge {'fp8' if precision == FP8 else 'quantize'} writes such a file"
    if by_pairs and not quantized:
        has_pairs = any(node.op == "QuantizeLinear" for node in header.nodes)
        content = "Q/DQ pairs, but none at both inputs of a layer" if has_pairs else "no QuantizeLinear"
        raise UserError(f"{precision} was asked for, but '{onnx}' has {content}: calibrate it first ({quantize})")
    kind = "FP8" if header.is_fp8 else "INT8"
    if by_pairs and precision.upper() != kind:
        raise UserError(f"{precision} was asked for, but '{onnx}' is quantized to {kind}: build it as {kind.lower()}")
    if by_pairs and target.precision_by == TYPED and not header.has_fp16_scales:
        log.warning(
            f"note: '{onnx}' has float32 around its {kind}, and {target.name} runs it so: effedge fp16 makes it 16 bit"
        )
    if not by_pairs and quantized:
        raise UserError(
            f"{precision} was asked for, but '{onnx}' is quantized to {kind} ({len(quantized)} layers): "
            "give the ONNX from before calibration"
        )
    if precision == "fp16" and target.precision_by == TYPED and not fp16:
        raise UserError(
            f"fp16 was asked for, but '{onnx}' has no FP16 weights, and {target.name} takes the ONNX's own types: "
            "convert it first (the calibration stage for fp16 writes such a file)"
        )
    if fp16 and (precision == "fp32" or target.precision_by != TYPED and precision == "int8"):
        raise UserError(f"{precision} was asked for, but '{onnx}' has {len(fp16)} FP16 layers: give the FP32 one")


def needs_ranges(request: BuildRequest) -> bool:
    """Tells if the INT8 is by ranges, as on the DLA up to TensorRT 10.7, which takes no Q/DQ pairs.

    Raises UserError if it is and there are no ranges, or if there are ranges and it is not.
    """
    target, dla = request.target, request.build_options.dla
    by_ranges = request.precision == "int8" and target.takes_ranges(dla)
    if by_ranges and (request.ranges is None or request.header.quantized_layers):
        lacking = "" if request.ranges is None else f", which '{request.onnx}' has"
        raise UserError(
            f"INT8 on the DLA of {target.name} is by ranges, not by Q/DQ pairs{lacking}: effedge tensorrt-cache "
            "INT8.onnx --out calibration.cache --onnx-out float.onnx writes them, then effedge build float.onnx "
            f"--precision int8 --dla {dla} --ranges calibration.cache"
        )
    if request.ranges is not None and not by_ranges:
        having = ", ".join(row.name for row in TARGETS.values() if row.takes_ranges("fallback"))
        raise UserError(
            f"--ranges is for --precision int8 --dla on {having}; elsewhere INT8 is by Q/DQ pairs: leave it out"
        )
    return by_ranges
