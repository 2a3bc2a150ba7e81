"""Chooses the precision of what is not INT8 in an INT8 engine for CPUs: 16 bits, or FP32.

Bfloat16 has eight significant bits, one more than INT8. In a network whose boxes follow from large numbers it costs as
much accuracy as INT8 itself: YOLOX-Nano's boxes, as the float model has them, lost 2.6% of AP in FP32 and 4.8% in
bfloat16 (docs/benchmarks.md). So 16 bits are taken where a run is faster by them and the outputs stay near those of
FP32.
"""

from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import FloatPartsEntry
from effedge.deploy.runtime.openvino_backend import OpenVinoEngine
from effedge.engines.build_options import AUTO, FP16
from effedge.engines.build_request import BuildRequest, NoSuchPrecisionError
from effedge.engines.comparison.inputs import inputs_of_run
from effedge.engines.comparison.nearness import nearness
from effedge.engines.openvino import race

HINT = "INFERENCE_PRECISION_HINT"
FULL = "f32"
# OpenVINO's name of a capability -> the hint. A CPU with both gets bfloat16, for two reasons: bfloat16 has float32's
# range, whereas FP16 ends at 65504, which nothing checks under a hint; and AMX computes in bfloat16 where FP16 is only
# for vectors.
SIXTEEN_BITS = {"BF16": "bf16", "FP16": "f16"}
WORTHWHILE_RATIO = 0.95  # of the latencies in 16 bits and in FP32: a larger one is a tie
LEAST_DECIBELS = 30.0  # between the outputs: INT8 by itself leaves 20 to 30
LARGEST_LOSS = 0.67  # of the same latencies: a smaller one is worth any accuracy that INT8 leaves


def precision_hint(capabilities: List[str], precision: str) -> str:
    """Returns the hint for layers that are not INT8: for fp16 and int8, bfloat16 or FP16, whichever this CPU has.

    Under either hint OpenVINO keeps the operations behind the last convolutions, the decoding of boxes, in float32.
    Raises NoSuchPrecisionError for fp16 on a CPU that has neither.
    """
    if precision == "fp32":
        return FULL
    for capability, hint in SIXTEEN_BITS.items():
        if capability in capabilities:
            return hint
    if precision == "int8":
        return FULL
    raise NoSuchPrecisionError(
        f"this CPU computes in neither FP16 nor bfloat16 (OpenVINO finds {', '.join(capabilities)}): "
        "build PRECISION=fp32 or int8 for it, or fp16 on the CPU that will run it"
    )


def choose_float_parts(core: Any, model: Any, request: BuildRequest) -> Tuple[str, Optional[FloatPartsEntry]]:
    """Returns the hint for what is not INT8, and the manifest's entry of the choice; None as the entry if there is
    none: the engine is not INT8, or the CPU has no 16 bits.

    Raises UserError for 16 bits that are asked for on a CPU that has none.
    """
    asked = request.build_options.float_parts
    hint = precision_hint(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), request.precision)
    if request.precision != "int8":
        return hint, None
    if hint == FULL:
        if asked == FP16:
            raise UserError("--float-parts fp16: this CPU computes in neither FP16 nor bfloat16: leave it out")
        return hint, None
    if asked != AUTO:
        hint = hint if asked == FP16 else FULL
        return hint, {"precision": hint, "ratio": None, "decibels": None}
    sixteen, full = (race.compile_for_latency(core, model, {HINT: each}) for each in (hint, FULL))
    ratio = race.time_ratio(sixteen, full)
    nearest = decibels_between(full, sixteen, request)
    if fp32_is_better(ratio, nearest):
        hint = FULL
    return hint, {"precision": hint, "ratio": ratio and round(ratio, 3), "decibels": nearest}


def fp32_is_better(ratio: Optional[float], decibels: Optional[float]) -> bool:
    """Returns True if FP32 is to be taken.

    Args:
        ratio: the latency in 16 bits over that in FP32; None: not known.
        decibels: between the outputs of both; None: not known.
    """
    if ratio is not None and ratio > WORTHWHILE_RATIO:
        return True
    return decibels is not None and decibels < LEAST_DECIBELS and (ratio is None or ratio >= LARGEST_LOSS)


def decibels_between(full: Any, sixteen: Any, request: BuildRequest) -> Optional[float]:
    """Measures how near the outputs in 16 bits are to those in FP32, on the file of --compare-on; the output that is
    furthest away counts, but for labels. None without such a file: drawn inputs tell little of a trained network."""
    file = request.build_options.compare_on
    feeds: Optional[Dict[str, np.ndarray]] = inputs_of_run(request.header, file) if file else None
    if feeds is None:
        return None
    expected, actual = (OpenVinoEngine(compiled)(feeds) for compiled in (full, sixteen))
    header = request.header
    values = nearness({name: expected[name] for name in header.outputs}, actual, header.spec, header.selected_outputs)
    return min((value for name, value in values.items() if expected[name].dtype.kind == "f"), default=None)
