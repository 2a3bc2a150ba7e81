"""The builder's part of the simulated TensorRT: profiles, the config, and the build. For Python 3.8."""

import json
import pathlib
from typing import Any, Callable, Dict, List, Optional, Sequence

import tensorrt_versions

import tensorrt as trt

from . import _gpu


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: Dict[str, List[Sequence[int]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, blob: bytes) -> None:
        self._blob = blob

    def serialize(self) -> bytes:
        return self._blob or f"timing cache of {trt.__version__}".encode()


class IBuilderConfig(tensorrt_versions.Config):
    def __init__(self) -> None:
        super().__init__(trt._MEMBERS)
        object.__setattr__(self, "_flags", {trt.BuilderFlag.TF32})
        object.__setattr__(self, "_profiles", [])
        object.__setattr__(self, "_cache", None)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(trt.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(trt.BuilderFlag(flag))

    def get_flag(self, flag: Any) -> bool:
        return flag in self._flags

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        accepted = cache._blob in (b"", cache.__class__(b"").serialize())
        if accepted:
            object.__setattr__(self, "_cache", cache)
        return accepted

    def get_timing_cache(self) -> Optional[ITimingCache]:
        return self._cache

    def can_run_on_DLA(self, layer: trt.ILayer) -> bool:
        return layer.type.name in ("CONVOLUTION", "ACTIVATION", "POOLING", "ELEMENTWISE", "CONCATENATION", "REDUCE")


class Builder:
    def __init__(self, logger: trt.ILogger) -> None:
        self._logger = trt._logger(logger)
        if _gpu.libcuda() is None:
            self._logger().log(trt.ILogger.ERROR, "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def num_DLA_cores(self) -> int:
        gpu = json.loads(pathlib.Path("/etc/simulated_board.json").read_text())
        return int(gpu["dla_cores"])

    def create_network(self, flags: int = 0) -> trt.INetworkDefinition:
        return trt.INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: trt.INetworkDefinition, config: IBuilderConfig) -> Optional[bytes]:
        reason = _refusal(network, config)
        monitor = config.set.get("progress_monitor")
        plan: Optional[bytes] = None
        if reason is None:
            answers: List[Any] = []
            steps = [
                lambda: None,
                lambda: answers.append(_gpu.ask("build", network._onnx, header=_header(network, config))),
            ]
            if not _run_steps(monitor, [*steps, lambda: None]):
                return None
            answer, plans = answers[0]
            reason, plan = answer.get("error"), plans[0] if plans else None
        if reason is not None:
            self._logger().log(trt.ILogger.ERROR, reason)
        return plan


def _refusal(network: trt.INetworkDefinition, config: IBuilderConfig) -> Optional[str]:
    """Returns the error of a network that the builder does not take with this config (4 above)."""
    flags = {flag.name for flag in config._flags}
    quantized = any(layer.type == trt.LayerType.QUANTIZE for layer in network._layers)
    for layer in network._layers:
        for index, kind in layer._output_types.items():
            if (kind in (trt.float32, trt.float16)) != (layer.get_output(index).dtype in (trt.float32, trt.float16)):
                return f"Error Code 4: Internal Error ({layer.name}: its output cannot be of type {kind.name})"
    if network._typed and flags & {"FP16", "INT8", "BF16", "FP8", "OBEY_PRECISION_CONSTRAINTS"}:
        return "Error Code 3: API Usage Error (precision flags were set on a strongly typed network)"
    if quantized and not network._typed and "INT8" not in flags:
        return "Error Code 4: Internal Error (the network has Q/DQ layers, and the INT8 flag is not set)"
    if any(-1 in shape for _, _, shape in network._network["inputs"]) and not config._profiles:
        return "Error Code 4: API Usage Error (network has dynamic or shape inputs, but no optimization profile)"
    return None


def _header(network: trt.INetworkDefinition, config: IBuilderConfig) -> Dict[str, Any]:
    """Returns what a plan says about itself."""
    return {
        "version": trt.__version__,
        "typed": network._typed,
        "flags": sorted(flag.name for flag in config._flags),
        "profile": config._profiles[0]._shapes if config._profiles else {},
        "precisions": {layer.name: layer.precision.name for layer in network._layers if layer.precision_is_set},
    }


def _run_steps(monitor: Any, steps: List[Callable[[], Any]]) -> bool:
    """Does the steps of the phase "Building Engine"; False if the monitor says to stop (2 above)."""
    if monitor is None:
        for step in steps:
            step()
        return True
    monitor.phase_start("Building Engine", None, len(steps))
    try:
        for number, step in enumerate(steps):
            step()
            if not monitor.step_complete("Building Engine", number):
                return False
        return True
    finally:
        monitor.phase_finish("Building Engine")
