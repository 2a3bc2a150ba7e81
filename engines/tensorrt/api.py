"""The one place that knows in which TensorRT a name of its Python API came or went; the builder calls these functions.

| | 8.2 | 8.5 | 8.6 | 10.3 to 10.13 | 11.1 | RTX 1.7 |
|---|---|---|---|---|---|---|
| NetworkDefinitionCreationFlag.EXPLICIT_BATCH | needed | needed | needed | ignored | gone | gone |
| NetworkDefinitionCreationFlag.STRONGLY_TYPED | - | - | - | yes | always | yes |
| BuilderFlag.FP16, INT8 | yes | yes | yes | yes | gone | gone |
| max_workspace_size | yes | yes | yes | gone | gone | gone |
| set_memory_pool_limit | - | yes | yes | yes | yes | yes |
| builder_optimization_level | - | - | yes | yes | yes | no effect |
| VERSION_COMPATIBLE, hardware_compatibility_level | - | - | yes | yes | yes | no lean runtime |
| IProgressMonitor | - | - | - | yes | yes | yes |
| timing cache | yes | yes | yes | yes | yes | no effect |
| ParserError.node_name, node_operator | - | - | - | yes | yes | yes |

Source: python/src/infer/pyCore.cpp and python/src/parsers/pyOnnx.cpp of github.com/NVIDIA/TensorRT, branches
release/8.2, 8.5, 8.6, 10.3, 10.13.3 and 11.1 (tests/engines/tensorrt_versions.py has their members); the last column
was tried.
"""

from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from effedge.deploy.common.cli import UserError
from effedge.engines.build_options import CURRENT_GPU
from effedge.engines.gpu import first_gpu

if TYPE_CHECKING:
    from tensorrt import Builder, IBuilderConfig, INetworkDefinition


def network_flags(trt: Any, typed: bool) -> int:
    """Strongly typed if `typed`; before TensorRT 10 the ONNX parser also wants an explicit batch."""
    known = trt.NetworkDefinitionCreationFlag.__members__
    flag = "STRONGLY_TYPED" if typed else "EXPLICIT_BATCH"
    return 1 << int(known[flag]) if flag in known else 0


def set_precision(trt: Any, config: "IBuilderConfig", precision: str, typed: bool) -> None:
    """By flags, where the network is not typed."""
    if precision == "fp32":
        # It is on by default, and rounds the convolutions' inputs to 10 bits of mantissa: not what fp32 asks for.
        config.clear_flag(trt.BuilderFlag.TF32)
    elif not typed:
        config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)


def limit_workspace(trt: Any, config: "IBuilderConfig", mib: int) -> None:
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, mib << 20)
    else:
        before_8_4: Any = config
        before_8_4.max_workspace_size = mib << 20


def set_optimization_level(trt: Any, config: "IBuilderConfig", level: int) -> None:
    if not hasattr(config, "builder_optimization_level"):
        raise UserError(f"--optimization-level: TensorRT {trt.__version__} has none, 8.6 and later do; leave it out")
    config.builder_optimization_level = level


def make_compatible(trt: Any, config: "IBuilderConfig", *, version: bool, hardware: bool) -> None:
    """A plan for later TensorRTs, for other GPUs from Ampere on. The first carries its runtime with it."""
    if (version or hardware) and not hasattr(trt, "HardwareCompatibilityLevel"):
        raise UserError(
            f"TensorRT {trt.__version__} builds no compatible plans, 8.6 and later do: leave --version-compatible and "
            "--hardware-compatible out"
        )
    if version:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if hardware:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def set_compute_capabilities(trt: Any, config: Any, wanted: Sequence[str]) -> None:
    """TensorRT-RTX only; CURRENT_GPU is one of them."""
    # SM89 is 8.9 and SM120 is 12.0: the last digit is the minor number.
    known = {
        f"{name[2:-1]}.{name[-1]}": kind for name, kind in trt.ComputeCapability.__members__.items() if "SM" in name
    }
    here = first_gpu()
    if here is not None and here.capability in known:  # of another it would make a plan that nothing loads
        known[CURRENT_GPU] = trt.ComputeCapability.CURRENT
    elif here is not None and CURRENT_GPU in wanted:
        raise UserError(
            f"{here.name} has compute capability {here.capability}, and TensorRT-RTX builds for {', '.join(known)} "
            "only: take TARGET=trt for it"
        )
    unknown = [one for one in wanted if one not in known]
    if unknown:
        raise UserError(f"unknown compute capability '{unknown[0]}': TensorRT-RTX builds for {', '.join(known)}")
    config.num_compute_capabilities = len(wanted)
    for index, one in enumerate(wanted):
        config.set_compute_capability(known[one], index)


def make_recordable(trt: Any, config: Any) -> None:
    """TensorRT-RTX only: an engine that allocates nothing while it runs, which a CUDA graph can record (TensorRT-RTX's
    guide, "Working with RTX CUDA Graphs")."""
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def use_dla(trt: Any, builder: "Builder", config: "IBuilderConfig", mode: str) -> None:
    """Put on DLA core 0 what it can take, and in mode "fallback" the rest on the GPU. UserError without a core."""
    if builder.num_DLA_cores == 0:
        raise UserError(f"--dla {mode}: TensorRT {trt.__version__} finds no DLA on this machine; leave --dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    if mode == "fallback":
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def off_dla(config: "IBuilderConfig", network: "INetworkDefinition") -> List[Any]:
    """The layers that the DLA cannot take."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [layer for layer in layers if not config.can_run_on_DLA(layer)]


def describe_layers(trt: Any, config: "IBuilderConfig") -> None:
    """Have the plan say of each layer its types and its kernel (inspector.py reads that)."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def inspect(trt: Any, log: Any, plan: bytes) -> Optional[str]:
    """The engine inspector's JSON of a plan, or None where it cannot be loaded."""
    runtime = trt.Runtime(log)
    if hasattr(runtime, "engine_host_code_allowed"):  # from 8.6 on: a version-compatible plan brings code, our own here
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


def onnx_layers(layer: Any) -> str:
    """Like "[ONNX Layer: conv0]": the nodes that a layer came from; empty before 8.6, and for what none stands for."""
    return getattr(layer, "metadata", "")


def parser_error(error: Any) -> str:
    """Operator, node, and the parser's reason."""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    name = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
    reason = error.desc()
    if reason in ("", "false"):  # a failed check of the parser's that has no words
        reason = error.code().name.lower().replace("_", " ")
    return f"{operator} '{name}': {reason}" if operator else reason
