"""Builds an engine by TensorRT or TensorRT-RTX, whose Python API is the same: ONNX -> engine.plan.

Typed targets (TensorRT 10 and 11, TensorRT-RTX) build a strongly typed network: the ONNX's own tensor types and Q/DQ
pairs are the precision. TensorRT 8, and the DLA of TensorRT 10, get the precision by builder flags, and layers that are
not to be in FP16 a constraint (layer_precision.py). TensorRT-RTX builds without a GPU, for a list
of compute capabilities; its own choice (8.0, 8.6, 8.9, 12.0 and later) is portable among them.
"""

import contextlib
from pathlib import Path
from typing import Any, Iterator, Sequence, Set

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import BackendDescription
from effedge.deploy.common.messages import log
from effedge.deploy.runtime.tensorrt.log import TensorRTLogger
from effedge.engines.build_options import BuildOptions, default_workspace_mib
from effedge.engines.build_request import BuildRequest, NoImplementationError
from effedge.engines.gpu import first_gpu
from effedge.engines.manifest import BuiltEngine
from effedge.engines.onnx_header import Header
from effedge.engines.preflight import refuse
from effedge.engines.targets import Target
from effedge.engines.tensorrt import api, timing_cache
from effedge.engines.tensorrt.build_thread import build_plan
from effedge.engines.tensorrt.built_layers import NOT_COUNTED, built_layers
from effedge.engines.tensorrt.layer_precision import describe, keep_float32, keep_half
from effedge.engines.tensorrt.log import SHORT_OF_MEMORY, explain, failing_nodes, logger_to_file, memory_shortage
from effedge.engines.tensorrt.ranges import read_ranges, set_ranges

ENGINE = "engine.plan"
NO_IMPLEMENTATION = "could not find any implementation for node"  # in TensorRT's log


def build(trt: Any, request: BuildRequest, folder: Path) -> BuiltEngine:
    """Writes `folder`/engine.plan and TensorRT's log, build.log.

    Args:
        trt: the module, tensorrt or tensorrt_rtx.

    Raises UserError, with the backend's own errors on one line, if the backend refuses the model or an option;
    KeyboardInterrupt soon after Ctrl-C, where the target's builder can be cancelled.
    """
    refuse(request.header, request.onnx, request.target, request.build_options.dla)
    with logger_to_file(trt, folder) as logger:
        return build_with_logger(trt, logger, request, folder)


def build_with_logger(trt: Any, logger: TensorRTLogger, request: BuildRequest, folder: Path) -> BuiltEngine:
    """Does the work of `build`, with the messages going to `logger`."""
    header, target = request.header, request.target
    builder = trt.Builder(logger)
    typed = api.is_typed(trt, target, request.build_options.dla)
    network = read_network(trt, logger, builder, request, typed)
    config = builder.create_builder_config()
    backend: BackendDescription = {"name": target.backend, "version": trt.__version__}
    backend.update(configure_precision(trt, config, request, typed))
    backend.update(configure_options(trt, config, request.build_options))
    backend.update(configure_layers(trt, builder, config, network, request, typed))
    shapes = [["of any rank"] if dims is None else dims for _, dims in header.inputs.values()]
    if any(isinstance(size, str) for dims in shapes for size in dims):
        config.add_optimization_profile(batch_profile(builder, header, request.onnx))
    with use_timing_cache(trt, config, target, logger):
        plan = build_plan(trt, builder, network, config, target)
    if plan is None:
        raise build_failure(logger.errors, request, network, folder)
    with open(folder / ENGINE, "wb") as file:
        file.write(plan)
    layers, source = built_layers(trt, logger, network, folder / ENGINE, request)
    return BuiltEngine(ENGINE, backend, layers, source, list(logger.warnings))


def build_failure(errors: Sequence[str], request: BuildRequest, network: Any, folder: Path) -> UserError:
    """Makes the error of a failed build from TensorRT's errors and log: a NoImplementationError if a layer has no
    kernel. TensorRT says so too where its kernels are there and did not get the memory to be tried."""
    header, target = request.header, request.target
    message = f"{target.backend} cannot build '{request.onnx}' for {target.name}: {explain(errors, header, network)}"
    shortage = memory_shortage(errors, folder)
    if shortage:
        said = "" if shortage in message else f" ('{shortage}')"
        message += f"; memory was short there{said}: end other programs, or allow more of it with --workspace-mib"
    missing = [error for error in errors if NO_IMPLEMENTATION in error.lower()]
    if not missing or any(map(SHORT_OF_MEMORY.search, errors)):
        return UserError(message)
    return NoImplementationError(message, [name for error in missing for name in failing_nodes(error, header, network)])


def read_network(trt: Any, logger: TensorRTLogger, builder: Any, request: BuildRequest, typed: bool) -> Any:
    """Parses the ONNX into a network. Raises UserError with the parser's errors."""
    network = builder.create_network(api.network_flags(trt, typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(request.onnx)):
        errors = [api.parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise UserError(f"{request.target.backend} cannot read '{request.onnx}': {explain(errors)}")
    return network


def configure_precision(trt: Any, config: Any, request: BuildRequest, typed: bool) -> BackendDescription:
    """Applies the precision, and for TensorRT-RTX the GPUs. Returns the manifest's entries of the GPUs."""
    api.set_precision(trt, config, request.precision, typed)
    if request.target.backend != "tensorrt_rtx":
        return {}
    api.make_recordable(trt, config)
    options = request.build_options
    if options.compute_capabilities:
        api.set_compute_capabilities(trt, config, options.compute_capabilities)
    return {"compute_capabilities": options.numbered_capabilities() or ["portable"]}


def configure_options(trt: Any, config: Any, options: BuildOptions) -> BackendDescription:
    """Applies the build options but the DLA. Returns the manifest's entries: options that were chosen, or set by
    default."""
    entries: BackendDescription = {}
    workspace = options.workspace_mib or default_workspace_mib(first_gpu())
    if workspace is not None:
        api.limit_workspace(trt, config, workspace)
        entries["workspace_mib"] = workspace
    if options.optimization_level is not None:
        api.set_optimization_level(trt, config, options.optimization_level)
        entries["optimization_level"] = options.optimization_level
    api.make_compatible(trt, config, version=options.version_compatible, hardware=options.hardware_compatible)
    if options.version_compatible:
        entries["version_compatible"] = True
    if options.hardware_compatible:
        entries["hardware_compatible"] = True
    api.describe_layers(trt, config)
    return entries


def configure_layers(
    trt: Any, builder: Any, config: Any, network: Any, request: BuildRequest, typed: bool
) -> BackendDescription:
    """Puts layers on the DLA, gives tensors their INT8 ranges, and layers their precision where the network is not
    typed. Returns the manifest's entries."""
    entries: BackendDescription = {}
    dla = request.build_options.dla
    if request.ranges is not None:
        count = set_ranges(network, read_ranges(request.ranges), request.ranges)
        kept = keep_half(trt, network, request.header)
        api.obey_constraints(trt, config)
        log.info(f"engine: {count} tensors have INT8 ranges, {kept} layers are kept out of INT8")
    on_gpu: Set[int] = set()
    if dla:
        api.use_dla(trt, builder, config, dla)
        on_gpu.update(api.off_dla(config, network))
    if not typed and request.precision != "fp32":
        on_dla = set(range(network.num_layers)) - on_gpu if dla else set()
        constrained = {} if dla == "only" else keep_float32(trt, network, request.header, on_dla)
        entries["float32_layers"] = len(constrained)
        if constrained:
            api.obey_constraints(trt, config)
            log.info(f"engine: {len(constrained)} layers are in FP32: {describe(constrained)}")
        if dla:
            for index in constrained:  # a DLA has no FP32
                api.put_on_gpu(trt, config, network.get_layer(index))
            on_gpu.update(constrained)
    if dla:
        layers = [network.get_layer(index) for index in sorted(on_gpu)]
        names = [
            {"name": layer.name, "type": layer.type.name.lower()}
            for layer in layers
            if layer.type.name not in NOT_COUNTED
        ]
        entries["dla"] = {"core": 0, "mode": dla, "on_gpu": names}
        log.info(f"engine: of {network.num_layers} layers {len(names)} are not for the DLA")
    return entries


@contextlib.contextmanager
def use_timing_cache(trt: Any, config: Any, target: Target, logger: TensorRTLogger) -> Iterator[None]:
    """Builds with the timing cache of this TensorRT, GPU and target, and keeps what the build adds to it."""
    gpu = first_gpu()
    if gpu is None or target.backend == "tensorrt_rtx":
        yield
        return
    path = timing_cache.cache_file(trt.__version__, gpu, target)
    timing_cache.attach(config, path)
    logger.forget()  # TensorRT reports a cache that it refuses as an error, but the build goes on
    try:
        yield
    finally:  # also after a cancelled build, so that the next build need not measure the same kernels
        problem = timing_cache.keep(config, path)
        if problem:
            log.info(f"engine: the timing cache is not kept: {problem}")


def batch_profile(builder: Any, header: Header, onnx: Path) -> Any:
    """Makes the optimization profile for a dynamic batch: the header's [min, opt, max], and the other dimensions.

    Raises UserError where another dimension is dynamic, or the file does not give the range of batches.
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
