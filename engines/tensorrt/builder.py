"""ONNX -> engine.plan, by TensorRT or TensorRT-RTX, whose Python API is the same.

Typed targets (TensorRT 10 and 11, TensorRT-RTX) build a strongly typed network: the ONNX's own tensor types and Q/DQ
pairs are the precision. TensorRT 8 is told by builder flags. TensorRT-RTX builds without a GPU, for a list of compute
capabilities; its own choice (8.0, 8.6, 8.9, 12.0 and later) is portable among them.
"""

import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

from effedge.deploy.common.cli import UserError
from effedge.engines.build_options import Choices, default_workspace_mib
from effedge.engines.gpu import first_gpu
from effedge.engines.manifest import Built
from effedge.engines.onnx_header import Header
from effedge.engines.preflight import refuse
from effedge.engines.targets import TYPED, Target
from effedge.engines.tensorrt import api, timing_cache
from effedge.engines.tensorrt.build_thread import build_plan
from effedge.engines.tensorrt.built_layers import NOT_COUNTED, built_layers
from effedge.engines.tensorrt.log import explain, logged

ENGINE = "engine.plan"


def build(
    trt: Any,
    onnx: Path,
    folder: Path,
    header: Header,
    *,
    precision: str,
    target: Target,
    choices: Choices,
    disable_progress: bool = False,
) -> Built:
    """Write `folder`/engine.plan and TensorRT's log, build.log.

    Args:
        trt: the module, tensorrt or tensorrt_rtx.

    Raises UserError, with the backend's own errors on one line, if it refuses the model or an option;
    KeyboardInterrupt soon after Ctrl-C, where the target's builder can be cancelled.
    """
    refuse(header, onnx, target, choices.dla)
    with logged(trt, folder) as log:
        return build_logged(trt, log, onnx, folder, header, precision, target, choices, disable_progress)


def build_logged(
    trt: Any,
    log: Any,
    onnx: Path,
    folder: Path,
    header: Header,
    precision: str,
    target: Target,
    choices: Choices,
    disable_progress: bool,
) -> Built:
    typed = target.precision_by == TYPED
    builder = trt.Builder(log)
    network = builder.create_network(api.network_flags(trt, typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [api.parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise UserError(f"{target.backend} cannot read '{onnx}': {explain(errors)}")
    config = builder.create_builder_config()
    api.set_precision(trt, config, precision, typed)
    backend: Dict[str, Any] = {"name": target.backend, "version": trt.__version__}
    if target.backend == "tensorrt_rtx":
        api.make_recordable(trt, config)
        if choices.compute_capabilities:
            api.set_compute_capabilities(trt, config, choices.compute_capabilities)
        backend["compute_capabilities"] = choices.numbered_capabilities() or ["portable"]
    backend.update(configure(trt, builder, config, network, choices))
    if any(isinstance(size, str) for _, dims in header.inputs.values() for size in dims or ["of any rank"]):
        config.add_optimization_profile(batch_profile(builder, header, onnx))
    with timed_kernels(config, trt, target, log):
        plan = build_plan(trt, builder, network, config, target, disable_progress)
    if plan is None:
        why = explain(log.errors, header, network)
        raise UserError(f"{target.backend} cannot build '{onnx}' for {target.name}: {why}")
    with open(folder / ENGINE, "wb") as file:
        file.write(plan)
    layers, source = built_layers(trt, log, network, folder / ENGINE, header, target)
    return Built(ENGINE, backend, layers, source, list(dict.fromkeys(log.warnings)))


def configure(trt: Any, builder: Any, config: Any, network: Any, choices: Choices) -> Dict[str, Any]:
    """Apply the choices. Returns what the manifest says of them: only what was chosen, or set by default."""
    said: Dict[str, Any] = {}
    workspace = choices.workspace_mib or default_workspace_mib(first_gpu())
    if workspace is not None:
        api.limit_workspace(trt, config, workspace)
        said["workspace_mib"] = workspace
    if choices.optimization_level is not None:
        api.set_optimization_level(trt, config, choices.optimization_level)
        said["optimization_level"] = choices.optimization_level
    api.make_compatible(trt, config, version=choices.version_compatible, hardware=choices.hardware_compatible)
    said.update({name: True for name in ("version_compatible", "hardware_compatible") if getattr(choices, name)})
    if choices.dla:
        api.use_dla(trt, builder, config, choices.dla)
        fallen = [one for one in api.off_dla(config, network) if one.type.name not in NOT_COUNTED]
        names = [{"name": one.name, "type": one.type.name.lower()} for one in fallen]
        said["dla"] = {"core": 0, "mode": choices.dla, "on_gpu": names}
        print(f"engine: of {network.num_layers} layers {len(names)} are not for the DLA")
    api.describe_layers(trt, config)
    return said


@contextlib.contextmanager
def timed_kernels(config: Any, trt: Any, target: Target, log: Any) -> Iterator[None]:
    """Build with the timing cache of this TensorRT, GPU and target, and keep what the build adds to it."""
    gpu = first_gpu()
    if gpu is None or target.backend == "tensorrt_rtx":
        yield
        return
    path = timing_cache.cache_file(trt.__version__, gpu, target)
    timing_cache.attach(config, path)
    log.forget()  # a cache that it refuses is an error to TensorRT, and none of the build
    try:
        yield
    finally:  # of a build that was cancelled too: the next one need not measure that again
        unkept = timing_cache.keep(config, path)
        if unkept:
            print(f"engine: the timing cache is not kept: {unkept}")


def batch_profile(builder: Any, header: Header, onnx: Path) -> Any:
    """The optimization profile for a dynamic batch: the header's [min, opt, max], the other dimensions as they are.

    Raises UserError where another dimension is dynamic, or the file does not say between which batches.
    """
    profile = builder.create_optimization_profile()
    for name, (_, dims) in header.inputs.items():
        if dims is None or any(isinstance(size, str) for size in dims[1:]):
            raise UserError(f"input '{name}' of '{onnx}' has dimensions {dims}: only the first may be dynamic")
        batches: Sequence[Any] = header.batch or ()
        if dims and not isinstance(dims[0], str):
            batches = [dims[0]] * 3
        elif not batches:
            raise UserError(
                f"'{onnx}' has a dynamic batch and does not say which: effedge engine --onnx sets it, with --batch"
            )
        profile.set_shape(name, *[(batch, *dims[1:]) if dims else () for batch in batches])
    return profile
