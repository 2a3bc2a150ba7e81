"""Builds plan B, the same INT8 model with fewer INT8 layers, where the backend has no INT8 kernel for a layer.

TensorRT 8.5 and 8.6 have none for a depthwise convolution with swish behind it on some GPUs (NVIDIA/TensorRT#3385,
#4060); preflight.py names such layers.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import FallbackEntry
from effedge.deploy.common.messages import log
from effedge.engines.build_request import BuildRequest, NoImplementationError
from effedge.engines.manifest import BuiltEngine
from effedge.engines.onnx_header import read_header
from effedge.engines.prepared import check_prepared
from effedge.engines.tensorrt.log import LOG

FIRST_LOG = "first-build.log"  # of a build that plan B replaced


def make_plan_b(request: BuildRequest, fallback: Path) -> BuildRequest:
    """Returns the request for plan B. Raises UserError unless `fallback` is the ONNX of `request` with fewer INT8
    layers."""
    plan_b = replace(request, onnx=fallback, header=read_header(fallback))
    if request.precision != "int8" or request.target.on_cpu:
        raise UserError("--fallback is for int8 on a GPU, where a kernel may be missing: leave it out")
    check_prepared(plan_b)
    first, second = request.header, plan_b.header
    if (first.inputs, first.outputs, first.spec) != (second.inputs, second.outputs, second.spec):
        raise UserError(f"--fallback '{fallback}' has other inputs, outputs or labels than '{request.onnx}'")
    if not layers_taken_out(request, plan_b):
        raise UserError(
            f"--fallback '{fallback}' has all INT8 layers of '{request.onnx}' in INT8: expected some in 16 bit"
        )
    return plan_b


def layers_taken_out(request: BuildRequest, plan_b: BuildRequest) -> List[str]:
    """Lists the INT8 layers that plan B has in 16 bit."""
    left = {node.outputs[0] for node in plan_b.header.quantized_layers}
    return [node.name for node in request.header.quantized_layers if node.outputs[0] not in left]


def build_or_fall_back(
    build: Callable[[BuildRequest], BuiltEngine], request: BuildRequest, plan_b: Optional[BuildRequest], folder: Path
) -> Tuple[BuildRequest, BuiltEngine]:
    """Builds `request`; where the backend has no kernel for a layer that plan B has in 16 bit, plan B. Returns the
    request that was built.

    Raises NoImplementationError without a plan B, or for another layer, and what the build of plan B raises. The log of
    the first build is kept as FIRST_LOG.
    """
    try:
        return request, build(request)
    except NoImplementationError as error:
        if plan_b is None:
            if request.precision != "int8":
                raise
            raise NoImplementationError(
                f"{error}; --fallback takes an ONNX with such layers in 16 bit, or build PRECISION=fp16"
            ) from error
        layers = layers_taken_out(request, plan_b)
        if error.nodes and not set(layers).intersection(error.nodes):
            raise NoImplementationError(
                f"{error}; plan B changes {len(layers)} other layers, so it is not tried", error.nodes
            ) from error
        entry: FallbackEntry = {"reason": str(error), "layers": layers}
    log.warning(f"engine: {entry['reason']}; building plan B, with {len(entry['layers'])} more layers in 16 bit")
    os.replace(folder / LOG, folder / FIRST_LOG)
    return plan_b, replace(build(plan_b), fallback=entry)
