"""Adapts the builder to the TensorRT versions, whose Python API gains and loses names; no other module knows versions.

| | 8.2 | 8.5 | 8.6 | 10.3 to 10.13 | 11.1 | RTX 1.7 |
|---|---|---|---|---|---|---|
| NetworkDefinitionCreationFlag.EXPLICIT_BATCH | needed | needed | needed | ignored | gone | gone |
| NetworkDefinitionCreationFlag.STRONGLY_TYPED | - | - | - | yes | always | yes |
| BuilderFlag.FP16, INT8, OBEY_PRECISION_CONSTRAINTS | yes | yes | yes | yes | gone | gone |
| ILayer.precision, set_output_type; ITensor.dynamic_range | yes | yes | yes | yes | gone | gone |
| max_workspace_size | yes | yes | yes | gone | gone | gone |
| set_memory_pool_limit | - | yes | yes | yes | yes | yes |
| builder_optimization_level | - | - | yes | yes | yes | no effect |
| VERSION_COMPATIBLE, hardware_compatibility_level | - | - | yes | yes | yes | no lean runtime |
| IProgressMonitor | - | - | - | yes | yes | yes |
| timing cache | yes | yes | yes | yes | yes | no effect |
| ParserError.node_name, node_operator | - | - | - | yes | yes | yes |

Source: python/src/infer/pyCore.cpp and python/src/parsers/pyOnnx.cpp of github.com/NVIDIA/TensorRT, branches
release/8.2, 8.5, 8.6, 10.3, 10.13.3 and 11.1 (tests/engines/tensorrt_versions.py has their members); the last column
comes from trials.
"""

from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from effedge.deploy.common.cli import UserError
from effedge.engines.build_options import CURRENT_GPU
from effedge.engines.gpu import first_gpu
from effedge.engines.targets import TYPED, Target

if TYPE_CHECKING:
    from tensorrt import Builder, IBuilderConfig, INetworkDefinition


def is_typed(trt: Any, target: Target, dla: str) -> bool:
    """Tells if the network is strongly typed: on typed targets, but not for the DLA of a TensorRT that has precision
    flags (10.x), which takes no strongly typed network and no Q/DQ pairs (NVIDIA's "Working with DLA")."""
    return target.precision_by == TYPED and not (dla and hasattr(trt.BuilderFlag, "FP16"))


def network_flags(trt: Any, typed: bool) -> int:
    """Returns the flags of a network, strongly typed if `typed`; before TensorRT 10 the ONNX parser needs an explicit
    batch."""
    flags = trt.NetworkDefinitionCreationFlag.__members__
    flag = "STRONGLY_TYPED" if typed else "EXPLICIT_BATCH"
    return 1 << int(flags[flag]) if flag in flags else 0


def set_precision(trt: Any, config: "IBuilderConfig", precision: str, typed: bool) -> None:
    """Sets the flags of a precision, where the network is not typed; turns TF32 off for fp32."""
    if precision == "fp32":
        # TF32 is on by default, and rounds the convolutions' inputs to 10 bits of mantissa, which is less than fp32.
        config.clear_flag(trt.BuilderFlag.TF32)
    elif not typed:
        config.set_flag(trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)


def obey_constraints(trt: Any, config: "IBuilderConfig") -> None:
    """Makes the precisions of layers binding: a build that cannot keep them fails."""
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)


def set_layer_precision(layer: Any, kind: Any) -> None:
    """Sets the type that a layer computes in."""
    layer.precision = kind


def set_output_type(layer: Any, index: int, kind: Any) -> None:
    """Sets the type of an output of a layer."""
    layer.set_output_type(index, kind)


def set_range(tensor: Any, largest: float) -> None:
    """Sets the INT8 range of a tensor, in a network whose INT8 is not by Q/DQ pairs."""
    tensor.dynamic_range = (-largest, largest)


def limit_workspace(trt: Any, config: "IBuilderConfig", mib: int) -> None:
    """Limits the GPU memory that one layer may use while it runs."""
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, mib << 20)
    else:
        before_8_4: Any = config
        before_8_4.max_workspace_size = mib << 20


def set_optimization_level(trt: Any, config: "IBuilderConfig", level: int) -> None:
    """Sets the builder's optimization level. Raises UserError before TensorRT 8.6."""
    if not hasattr(config, "builder_optimization_level"):
        raise UserError(f"--optimization-level: TensorRT {trt.__version__} has none, 8.6 and later do; leave it out")
    config.builder_optimization_level = level


def make_compatible(trt: Any, config: "IBuilderConfig", *, version: bool, hardware: bool) -> None:
    """Makes the plan run on later TensorRTs (`version`; such a plan carries its runtime with it), or on other GPUs from
    Ampere on (`hardware`). Raises UserError before TensorRT 8.6."""
    if (version or hardware) and not hasattr(trt, "HardwareCompatibilityLevel"):
        raise UserError(
            f"TensorRT {trt.__version__} builds no compatible plans, 8.6 and later do: leave --version-compatible and "
            "--hardware-compatible out"
        )
    if version:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if hardware:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def set_compute_capabilities(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    """Sets the GPUs that TensorRT-RTX builds for; CURRENT_GPU may be among them. Raises UserError for a GPU that
    TensorRT-RTX does not know."""
    # SM89 is 8.9 and SM120 is 12.0: the last digit is the minor number.
    kinds = {
        f"{name[2:-1]}.{name[-1]}": kind for name, kind in trt.ComputeCapability.__members__.items() if "SM" in name
    }
    gpu = first_gpu()
    if gpu is not None and gpu.capability in kinds:  # for another GPU it would make a plan that no GPU loads
        kinds[CURRENT_GPU] = trt.ComputeCapability.CURRENT
    elif gpu is not None and CURRENT_GPU in capabilities:
        raise UserError(
            f"{gpu.name} has compute capability {gpu.capability}, and TensorRT-RTX builds for {', '.join(kinds)} "
            "only: take TARGET=trt for it"
        )
    unknown = [capability for capability in capabilities if capability not in kinds]
    if unknown:
        raise UserError(f"unknown compute capability '{unknown[0]}': TensorRT-RTX builds for {', '.join(kinds)}")
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(kinds[capability], index)


def make_recordable(trt: Any, config: Any) -> None:
    """Makes TensorRT-RTX's engine allocate nothing while it runs, so that a CUDA graph can record it (TensorRT-RTX's
    guide, "Working with RTX CUDA Graphs")."""
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def use_dla(trt: Any, builder: "Builder", config: "IBuilderConfig", mode: str) -> None:
    """Puts the layers that it can take on DLA core 0, and in mode "fallback" the others on the GPU. Raises UserError
    without a core."""
    if builder.num_DLA_cores == 0:
        raise UserError(f"--dla {mode}: TensorRT {trt.__version__} finds no DLA on this machine; leave --dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    if mode == "fallback":
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def put_on_gpu(trt: Any, config: "IBuilderConfig", layer: Any) -> None:
    """Keeps a layer off the DLA."""
    config.set_device_type(layer, trt.DeviceType.GPU)


def off_dla(config: "IBuilderConfig", network: "INetworkDefinition") -> List[int]:
    """Lists the positions of the layers that the DLA cannot take."""
    return [index for index in range(network.num_layers) if not config.can_run_on_DLA(network.get_layer(index))]


def describe_layers(trt: Any, config: "IBuilderConfig") -> None:
    """Makes the plan say each layer's types and kernel, which inspector.py reads."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def inspect(trt: Any, logger: Any, plan: bytes) -> Optional[str]:
    """Returns the engine inspector's JSON of a plan, or None where the plan cannot be loaded."""
    runtime = trt.Runtime(logger)
    if hasattr(runtime, "engine_host_code_allowed"):  # from 8.6 on, for the code in a version-compatible plan
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


def onnx_layers(layer: Any) -> str:
    """Returns the nodes that a layer came from, like "[ONNX Layer: conv0]"; empty before 8.6, and without a node."""
    return getattr(layer, "metadata", "")


def parser_error(error: Any) -> str:
    """Describes a parser's error: operator, node, and reason."""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    name = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
    reason = error.desc()
    if reason in ("", "false"):  # a failed check of the parser without a message
        reason = error.code().name.lower().replace("_", " ")
    return f"{operator} '{name}': {reason}" if operator else reason
