"""ONNX -> engine.plan, by TensorRT or TensorRT-RTX, whose Python API is the same.

Typed targets (TensorRT 10 and 11, TensorRT-RTX) build a strongly typed network: the ONNX's own tensor types and Q/DQ
pairs are the precision. TensorRT 8 is told by builder flags. TensorRT-RTX builds without a GPU, for a list of compute
capabilities; its own choice (8.0, 8.6, 8.9, 12.0 and later) is portable among them.
"""

import contextlib
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from deploy.cli import UserError
from engines import tensorrt_api as api
from engines import timing_cache
from engines.choices import Choices, default_workspace_mib
from engines.gpu import first_gpu
from engines.inspector import inspected_layers
from engines.manifest import UNKNOWN, Built, Layer
from engines.onnx_header import Header
from engines.plan_text import convolution_precisions
from engines.preflight import refuse
from engines.progress import progress_monitor
from engines.targets import TYPED, Target
from engines.tensorrt_log import explain, logged

ENGINE = "engine.plan"
PRECISION = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT8": "int8", "INT32": "i32", "INT64": "i64"}
# Not work of their own: weights, and the borders between precisions, which are fused into the layers beside them.
NOT_COUNTED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE")


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
        if choices.compute_capabilities:
            api.set_compute_capabilities(trt, config, choices.compute_capabilities)
        backend["compute_capabilities"] = list(choices.compute_capabilities) or ["portable"]
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
    yield
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
                f"'{onnx}' has a dynamic batch and does not say which: python -m pipeline.chain --onnx sets it, "
                "with --batch"
            )
        profile.set_shape(name, *[(batch, *dims[1:]) if dims else () for batch in batches])
    return profile


def build_plan(trt: Any, builder: Any, network: Any, config: Any, target: Target, disable_progress: bool) -> Any:
    """The plan's bytes, or None if the builder gave up (its log says why).

    The build runs on a thread of its own: this one stays free to receive Ctrl-C, which Python only delivers between
    its own instructions on the main thread, and the builder asks at each of its steps whether to go on.
    """
    cancelled, finished = threading.Event(), threading.Event()
    monitor = None
    if target.progress:
        monitor = config.progress_monitor = progress_monitor(trt, cancelled, disable_progress)
    plans: List[Any] = []

    def work() -> None:
        try:
            plans.append(builder.build_serialized_network(network, config))
        finally:
            finished.set()

    worker = threading.Thread(target=work, name="builder")
    with ctrl_c_sets(cancelled):
        worker.start()
        while not finished.wait(0.1):
            if monitor is not None:
                monitor.tick()
        worker.join()
    if monitor is not None:
        monitor.close()
    if cancelled.is_set():
        raise KeyboardInterrupt
    return plans[0] if plans else None


@contextlib.contextmanager
def ctrl_c_sets(cancelled: threading.Event) -> Iterator[None]:
    """Within the block Ctrl-C sets the event and raises nothing: an exception would leave the builder's thread behind.

    Does nothing off the main thread, which alone receives signals, and where Ctrl-C is ignored anyway.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield
        return

    def handler(number: int, frame: Any) -> None:
        if not cancelled.is_set():
            cancelled.set()
            print("cancelling: the builder stops after its current step", file=sys.stderr)

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def built_layers(
    trt: Any, log: Any, network: Any, plan: Path, header: Header, target: Target
) -> Tuple[List[Layer], str]:
    """Each layer with its precision, and where that was read (see Built.source)."""
    if target.backend == "tensorrt_rtx":  # it chooses kernels where the plan is loaded: no inspector knows them now
        layers, executed = typed_layers(network), convolution_precisions(plan)
        for index, one in enumerate(layers):
            if one.is_convolution and one.name in executed:
                layers[index] = replace(one, precision="+".join(sorted(executed[one.name])))
        return layers, "plan" if executed else "network"
    told = typed_layers(network) if target.precision_by == TYPED else []
    information = api.inspect(trt, log, plan.read_bytes()) if first_gpu() else None
    inspected = inspected_layers(information, header) if information else []
    if not inspected:
        return told, "network" if told else "unknown"
    seen = {one.name for one in inspected if one.is_convolution and one.precision != UNKNOWN}
    kinds = {one.name: one.precision for one in told if one.is_convolution}
    hidden = [node.name for node in header.convolutions if node.name not in seen]  # fused into what says no types
    layers = [one for one in inspected if not one.is_convolution or one.name in seen]
    return [Layer(name, "convolution", kinds.get(name, UNKNOWN)) for name in hidden] + layers, "inspector"


def typed_layers(network: Any) -> List[Layer]:
    """A strongly typed network's layers: a convolution's precision is its data's before DequantizeLinear, else its own.

    This is what the builder was told, and, the network being strongly typed, may not depart from.
    """
    all_layers = [network.get_layer(index) for index in range(network.num_layers)]
    producer = {one.get_output(k).name: one.type.name for one in all_layers for k in range(one.num_outputs)}
    layers = []
    for one in all_layers:
        if one.type.name in NOT_COUNTED:
            continue
        dtype = one.get_output(0).dtype.name
        precision = PRECISION.get(dtype, dtype.lower())
        if one.type.name == "CONVOLUTION" and producer.get(one.get_input(0).name) == "DEQUANTIZE":
            precision = "int8"
        layers.append(Layer(one.name, one.type.name.lower(), precision))
    return layers
