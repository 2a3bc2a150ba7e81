"""Compares an engine, before it leaves the builder, with ONNX Runtime's run of the ONNX that it was built from.

1. Every output is compared (nearness.py). The tolerance follows from the precision: rounding to 16 or 8 bits leaves 25
   to 60 dB, and a wrong operator seldom more than 25.
2. Where an output is further away, or where rounding would hide a wrong operator, the operators are compared one by one
   in float32, each on the reference's inputs, until one computes something else (engines/openvino/reader/search.py).
3. If there is one, or the runtime refuses the model, the engine is built for the target's stand-in, ONNX Runtime.

Where the machine cannot run the engine, or has no ONNX Runtime, the manifest says so; the self-test of a bundle
(engines/selftest.py) compares it on the device.
"""

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import ComparisonEntry
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.backends import Infer, load_backend
from effedge.engines.build_request import BuildRequest, RefusedError
from effedge.engines.comparison.inputs import inputs_of_run
from effedge.engines.comparison.nearness import DIFFERENT, LEAST_IOU, nearness
from effedge.engines.comparison.reference import Reference, describe, is_installed
from effedge.engines.manifest import BuiltEngine
from effedge.engines.targets import TARGETS, runs_here

# Decibels: an engine that is nearer is right; one that is further away than LEAST is wrong, unless a search has found
# that every operator is right. GPUs compute float32 with TF32's eleven bits.
# FP16, measured on ONNX Runtime with every tensor rounded to FP16: B0 and D0 with random weights 67 and 55 dB,
# FastestDet on random numbers 49, YOLOX-Nano on a photograph 39, and 18 on random numbers, which it was not trained
# for. With the biases of one convolution left out, or its kernel transposed, the trained ones are at 26 dB or less.
# Bfloat16, which CPUs may have in place of FP16, has three bits less: 22 and 6 dB on YOLOX-Nano.
ENOUGH = {"fp32": 60.0, "fp16": 35.0, "int8": 20.0, "fp8": 20.0}
EXACT_IOU = 0.95  # of two boxes in FP32, which are the same but for rounding
LEAST = {"fp32": 30.0, "fp16": 15.0, "int8": 10.0, "fp8": 10.0}

Build = Callable[[BuildRequest], Tuple[BuildRequest, BuiltEngine]]


class DisagreementError(UserError):
    """An engine computes something else than ONNX Runtime."""


def build_compared(build: Build, request: BuildRequest, folder: Path) -> Tuple[BuildRequest, BuiltEngine]:
    """Builds an engine whose outputs are ONNX Runtime's, on the target's stand-in if it cannot be on the target.

    Returns the request that was built; a message says so where it is the stand-in's.

    Raises UserError where there is no stand-in, or it cannot build the model in the precision.
    """
    try:
        built_request, built = build(request)
        return built_request, compared(built_request, built, folder)
    except (DisagreementError, RefusedError) as error:
        if request.target.stand_in is None or not is_installed():
            raise
        reason, stand_in = error, TARGETS[request.target.stand_in]
    if request.precision == "fp16" and not stand_in.sixteen_bits:
        raise UserError(
            f"{reason}; {stand_in.backend}, which would do in its place, has no 16 bits: build PRECISION=fp32 or int8"
        ) from reason
    log.warning(f"engine: {reason}; so it is built for ONNX Runtime in its place ({stand_in.name})")
    for path in folder.iterdir():
        path.unlink()
    request, built = build(replace(request, target=stand_in))
    built = compared(request, built, folder)
    if built.comparison is not None and built.comparison["reference"] is None:
        raise UserError(f"{reason}; {built.comparison['note']}") from reason
    return request, replace(built, warnings=[str(reason), *built.warnings])


def compared(request: BuildRequest, built: BuiltEngine, folder: Path) -> BuiltEngine:
    """Returns the engine with the manifest's entry of its comparison. Raises DisagreementError for a wrong output, and
    RefusedError if the backend fails in the run."""
    file = request.build_options.compare_on
    feeds = inputs_of_run(request.header, file)
    try:
        if not is_installed():
            raise UserError("ONNX Runtime is not installed")
        if feeds is None:
            raise UserError("its inputs have no fixed sizes")
        run = built.run or load_here(request, built, folder)
        reference = Reference(request.onnx, request.onnx).run(feeds)
    except UserError as error:
        log.info(f"engine: not compared with its ONNX: {error}")
        return replace(built, comparison=entry(None, {}, str(error), built))
    try:
        actual = run(feeds)
    except RuntimeError as error:  # OpenVINO's, in a kernel
        raise RefusedError(f"{built.backend['name']} cannot run '{request.onnx}': {last_line(error)}") from error
    least_iou = EXACT_IOU if request.precision == "fp32" else LEAST_IOU
    values = nearness(reference, actual, request.header.spec, request.header.selected_outputs, least_iou)
    labels = [name for name, array in reference.items() if isinstance(array, np.ndarray) and array.dtype.kind in "iub"]
    note = judge(request, built, feeds, values, labels)
    if built.corrected:
        log.info(
            f"engine: corrected, as {built.backend['name']} reads it otherwise than ONNX: {', '.join(built.corrected)}"
        )
    nearest = f"within {min(values.values()):.0f} dB of {describe()}'s"
    log.info(f"engine: outputs on {file or 'drawn inputs'} {nearest}{note and '; '}{note}")
    return replace(built, comparison={**entry(describe(), values, note, built), "inputs": file or "drawn"})


def load_here(request: BuildRequest, built: BuiltEngine, folder: Path) -> Infer:
    """Loads an engine for a GPU. Raises UserError if no GPU answers, or the engine is for another one."""
    if not runs_here(request.target):
        raise UserError("this machine cannot run the engine")
    return load_backend(folder, {"backend": built.backend, "engine": built.engine})


def judge(
    request: BuildRequest, built: BuiltEngine, feeds: Mapping[str, np.ndarray], values: Mapping[str, float],
    labels: Sequence[str],
) -> str:  # fmt: skip
    """Returns a note for outputs that are far away though every operator is right; else an empty one.

    Args:
        labels: the names of the outputs of whole numbers.

    Raises DisagreementError for outputs that are wrong.
    """
    worst, precision = min(values, key=lambda name: values[name]), request.precision
    near, not_wrong = values[worst] >= ENOUGH[precision], values[worst] >= LEAST[precision]
    far = f"output '{worst}' of '{request.onnx}' is {values[worst]:.0f} dB from ONNX Runtime's"
    runtime = f"{built.backend['name']} {built.backend['version']}"
    if built.search is None:
        if not not_wrong:
            raise DisagreementError(f"{runtime} computes something else than the ONNX: {far}")
        return "" if near else f"far for {precision}"
    # Rounding to 8 or 16 bits hides a wrong operator in a corner; effedge's own models have none.
    if near and (precision == "fp32" or request.header.spec):
        return ""
    found = built.search(feeds)
    if found.operator:
        raise DisagreementError(f"{runtime} computes {found.operator} otherwise than ONNX defines it: {far}")
    if near:
        return ""
    # In 16 bit only the rounding differs from the run in float32, in which the search has found the graph right.
    in_16_bit = precision == "fp16" and values[worst] > DIFFERENT
    # Rounding decides between two classes of nearly equal score, and a label has no distance: the others tell.
    others = [value for name, value in values.items() if name not in labels]
    if precision != "fp32" and others and min(others) >= ENOUGH[precision]:
        return f"every operator is right, and rounding changes '{worst}'"
    if found.together_right and (found.rounding or in_16_bit or precision != "fp32" and not_wrong):
        if not not_wrong:
            log.warning(
                f"note: {far} by rounding, though every operator is right: compare on inputs like those "
                "of the application (--compare-on), or build PRECISION=fp32"
            )
        return "every operator is right, and rounding makes the difference"
    hint = (
        "" if request.build_options.compare_on else "; if it is so on random numbers only, give real ones: --compare-on"
    )
    raise DisagreementError(
        f"{runtime} computes something else than the ONNX, though no operator by itself: {far}{hint}"
    )


def entry(reference: Optional[str], values: Dict[str, float], note: str, built: BuiltEngine) -> ComparisonEntry:
    """Makes the manifest's entry."""
    return {
        "reference": reference,
        "inputs": None,
        "decibels": values,
        "corrected": list(built.corrected),
        "note": note,
    }


def last_line(error: Exception) -> str:
    """Returns the last line of a message, which names the problem."""
    return str(error).strip().rpartition("\n")[2]
