"""ONNX -> engine.plan, by TensorRT or TensorRT-RTX, whose Python API is the same.

Typed targets (TensorRT 10 and 11, TensorRT-RTX) build a strongly typed network: the ONNX's own tensor types and Q/DQ
pairs are the precision. TensorRT 8 is told by builder flags. TensorRT-RTX builds without a GPU, for a list of compute
capabilities; its own choice (8.0, 8.6, 8.9, 12.0 and later) is portable among them.
"""

import contextlib
import functools
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from deploy.cli import UserError
from engines.manifest import Built, Layer
from engines.onnx_header import Header
from engines.plan_text import convolution_precisions
from engines.preflight import refuse
from engines.progress import progress_monitor
from engines.targets import FLAGS, TYPED, Target

ENGINE = "engine.plan"
PRECISION = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT8": "int8", "INT32": "i32", "INT64": "i64"}
# Not work of their own: weights, and the borders between precisions, which are fused into the layers beside them.
NOT_COUNTED = ("CONSTANT", "QUANTIZE", "DEQUANTIZE")
SHOWN_ERRORS = 3
SOURCE_PREFIX = re.compile(r"^\[[^\]]*::\d+\] (Error Code \d+: )?")


def build(
    trt: Any,
    onnx: Path,
    folder: Path,
    header: Header,
    *,
    precision: str,
    target: Target,
    compute_capabilities: Sequence[str] = (),
    workspace_mib: Optional[int] = None,
    disable_progress: bool = False,
) -> Built:
    """Write `folder`/engine.plan.

    Args:
        trt: the module, tensorrt or tensorrt_rtx.
        compute_capabilities: like "8.9", for TensorRT-RTX; empty: portable.
        workspace_mib: the most memory that a layer's implementation may use on the GPU; None: TensorRT's own limit.

    Raises UserError, with the backend's own errors on one line, if it refuses the model or an option;
    KeyboardInterrupt soon after Ctrl-C, where the target's builder can be cancelled.
    """
    refuse(header, onnx, target)
    log = logger(trt)
    log.reset()
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt, target))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise UserError(f"{target.backend} cannot read '{onnx}': {explain([parser_error(error) for error in errors])}")
    config = builder.create_builder_config()
    configure(trt, config, precision, target, workspace_mib)
    set_compute_capabilities(trt, config, compute_capabilities, target)
    if any(isinstance(size, str) for _, dims in header.inputs.values() for size in dims or ["of any rank"]):
        config.add_optimization_profile(batch_profile(builder, header, onnx))
    plan = build_plan(trt, builder, network, config, target, disable_progress)
    if plan is None:
        raise UserError(f"{target.backend} cannot build '{onnx}' for {target.name}: {explain(log.errors)}")
    with open(folder / ENGINE, "wb") as file:
        file.write(plan)
    layers, source = built_layers(network, folder / ENGINE, target)
    backend: Dict[str, Any] = {"name": target.backend, "version": trt.__version__}
    if target.backend == "tensorrt_rtx":
        backend["compute_capabilities"] = list(compute_capabilities) or ["portable"]
    return Built(ENGINE, backend, layers, source, list(dict.fromkeys(log.warnings)))


def network_flags(trt: Any, target: Target) -> int:
    """Strongly typed where the target is; before TensorRT 10 the ONNX parser also wants an explicit batch."""
    flag = "STRONGLY_TYPED" if target.precision_by == TYPED else "EXPLICIT_BATCH"
    return 1 << int(trt.NetworkDefinitionCreationFlag.__members__[flag])


def configure(trt: Any, config: Any, precision: str, target: Target, workspace_mib: Optional[int]) -> None:
    if workspace_mib is not None:
        if hasattr(config, "set_memory_pool_limit"):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
        else:  # TensorRT before 8.4
            config.max_workspace_size = workspace_mib << 20
    if precision == "fp32":
        # It is on by default, and rounds the convolutions' inputs to 10 bits of mantissa: not what fp32 asks for.
        config.clear_flag(trt.BuilderFlag.TF32)
    if target.precision_by == FLAGS and precision != "fp32":
        config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)


def set_compute_capabilities(trt: Any, config: Any, wanted: Sequence[str], target: Target) -> None:
    if not wanted:
        return
    if target.backend != "tensorrt_rtx":
        raise UserError(f"--compute-capability is for target rtx; {target.name} builds for the GPU that it runs on")
    # SM89 is 8.9 and SM120 is 12.0: the last digit is the minor number.
    known = {
        f"{name[2:-1]}.{name[-1]}": kind for name, kind in trt.ComputeCapability.__members__.items() if "SM" in name
    }
    unknown = [one for one in wanted if one not in known]
    if unknown:
        raise UserError(f"unknown compute capability '{unknown[0]}': TensorRT-RTX builds for {', '.join(known)}")
    config.num_compute_capabilities = len(wanted)
    for index, one in enumerate(wanted):
        config.set_compute_capability(known[one], index)


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


def built_layers(network: Any, plan: Path, target: Target) -> Tuple[List[Layer], str]:
    """Each layer with its precision, and where that was read (see Built.source)."""
    if target.precision_by != TYPED:
        return [], "unknown"  # TensorRT 8 chooses layer by layer, and the network does not say what it chose
    layers = typed_layers(network)
    executed = convolution_precisions(plan) if target.backend == "tensorrt_rtx" else {}
    if not executed:
        return layers, "network"
    measured = [
        Layer(one.name, one.type, "+".join(sorted(executed.get(one.name, {one.precision}))))
        if one.is_convolution
        else one
        for one in layers
    ]
    return measured, "plan"


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


def parser_error(error: Any) -> str:
    """Operator, node, and the parser's reason."""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    name = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
    reason = error.desc()
    if reason in ("", "false"):  # a failed check of the parser's that has no words
        reason = error.code().name.lower().replace("_", " ")
    return f"{operator} '{name}': {reason}" if operator else reason


def explain(errors: Sequence[str]) -> str:
    """The first few distinct errors on one line, without the file-and-line prefix of TensorRT's own sources."""
    lines = list(dict.fromkeys(SOURCE_PREFIX.sub("", " ".join(error.split())) for error in errors))
    more = f" (and {len(lines) - SHOWN_ERRORS} more)" if len(lines) > SHOWN_ERRORS else ""
    return ("; ".join(lines[:SHOWN_ERRORS]) + more) if lines else "it gave no reason"


@functools.lru_cache(maxsize=None)
def logger(trt: Any) -> Any:
    """The process's one logger for a backend: TensorRT keeps the first that it is given, and outlives our objects."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.reset()

        def reset(self) -> None:
            self.errors: List[str] = []
            self.warnings: List[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(msg)

    return Log()
