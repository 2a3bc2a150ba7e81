"""Lists the members of TensorRT's Python API by version, and makes stand-ins that have exactly these.

Source: python/src/infer/pyCore.cpp and python/src/parsers/pyOnnx.cpp of github.com/NVIDIA/TensorRT, branches
release/8.2 to release/11.1: the names that are bound.
"""

import enum
from types import SimpleNamespace
from typing import Any, Dict, FrozenSet, List, Tuple

VERSIONS = ("8.2", "8.5", "8.6", "10.3", "10.13.3", "11.1")
Members = Dict[str, FrozenSet[str]]


def both(common: str, more: Dict[str, str]) -> Members:
    """Joins, by version, the names that all versions have and the version's additional ones."""
    return {version: frozenset(common.split()) | frozenset(more[version].split()) for version in VERSIONS}


NETWORK_FLAGS = both(
    (""),
    {
        "8.2": "EXPLICIT_BATCH EXPLICIT_PRECISION",
        "8.5": "EXPLICIT_BATCH EXPLICIT_PRECISION",
        "8.6": "EXPLICIT_BATCH EXPLICIT_PRECISION",
        "10.3": "EXPLICIT_BATCH STRONGLY_TYPED",
        "10.13.3": "EXPLICIT_BATCH PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS STRONGLY_TYPED",
        "11.1": "PREFER_AOT_PYTHON_PLUGINS PREFER_JIT_PYTHON_PLUGINS STRONGLY_TYPED",
    },
)

BUILDER_FLAGS = both(
    ("DEBUG DIRECT_IO DISABLE_TIMING_CACHE GPU_FALLBACK REFIT SAFETY_SCOPE SPARSE_WEIGHTS TF32 "),
    {
        "8.2": (
            "FP16 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REJECT_EMPTY_ALGORITHMS STRICT_TYPES "
        ),
        "8.5": (
            "ENABLE_TACTIC_HEURISTIC FP16 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS "
            "REJECT_EMPTY_ALGORITHMS STRICT_TYPES "
        ),
        "8.6": (
            "ENABLE_TACTIC_HEURISTIC EXCLUDE_LEAN_RUNTIME FP16 FP8 INT8 OBEY_PRECISION_CONSTRAINTS "
            "PREFER_PRECISION_CONSTRAINTS REJECT_EMPTY_ALGORITHMS STRICT_TYPES VERSION_COMPATIBLE "
        ),
        "10.3": (
            "BF16 DISABLE_COMPILATION_CACHE ERROR_ON_TIMING_CACHE_MISS EXCLUDE_LEAN_RUNTIME FP16 FP8 INT4 "
            "INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REFIT_IDENTICAL REFIT_INDIVIDUAL "
            "REJECT_EMPTY_ALGORITHMS STRIP_PLAN VERSION_COMPATIBLE WEIGHTLESS WEIGHT_STREAMING "
        ),
        "10.13.3": (
            "BF16 DISABLE_COMPILATION_CACHE DISTRIBUTIVE_INDEPENDENCE EDITABLE_TIMING_CACHE "
            "ERROR_ON_TIMING_CACHE_MISS EXCLUDE_LEAN_RUNTIME FP16 FP4 FP8 INT4 INT8 MONITOR_MEMORY "
            "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS REFIT_IDENTICAL REFIT_INDIVIDUAL "
            "REJECT_EMPTY_ALGORITHMS STRICT_NANS STRIP_PLAN VERSION_COMPATIBLE WEIGHTLESS WEIGHT_STREAMING "
        ),
        "11.1": (
            "DISABLE_COMPILATION_CACHE DISTRIBUTIVE_INDEPENDENCE EDITABLE_TIMING_CACHE "
            "ERROR_ON_TIMING_CACHE_MISS EXCLUDE_LEAN_RUNTIME MONITOR_MEMORY REFIT_IDENTICAL REFIT_INDIVIDUAL "
            "STRICT_NANS STRIP_PLAN VERSION_COMPATIBLE WEIGHT_STREAMING "
        ),
    },
)

COMPATIBILITY = both(
    (""),
    {
        "8.2": "",
        "8.5": "",
        "8.6": "AMPERE_PLUS NONE",
        "10.3": "AMPERE_PLUS NONE",
        "10.13.3": "AMPERE_PLUS NONE SAME_COMPUTE_CAPABILITY",
        "11.1": "AMPERE_PLUS NONE SAME_COMPUTE_CAPABILITY",
    },
)

POOLS = both(
    (""),
    {
        "8.2": "",
        "8.5": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM WORKSPACE",
        "8.6": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM TACTIC_DRAM WORKSPACE",
        "10.3": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM TACTIC_DRAM TACTIC_SHARED_MEMORY WORKSPACE",
        "10.13.3": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM TACTIC_DRAM TACTIC_SHARED_MEMORY WORKSPACE",
        "11.1": "DLA_GLOBAL_DRAM DLA_LOCAL_DRAM DLA_MANAGED_SRAM TACTIC_DRAM TACTIC_SHARED_MEMORY WORKSPACE",
    },
)

CONFIG = both(
    (
        "DLA_core add_optimization_profile avg_timing_iterations can_run_on_DLA clear_flag "
        "create_timing_cache default_device_type engine_capability flags get_device_type get_flag "
        "get_tactic_sources get_timing_cache is_device_type_set num_optimization_profiles profile_stream "
        "profiling_verbosity reset reset_device_type set_device_type set_flag set_tactic_sources "
        "set_timing_cache "
    ),
    {
        "8.2": (
            "algorithm_selector clear_quantization_flag get_calibration_profile get_quantization_flag "
            "int8_calibrator max_workspace_size min_timing_iterations quantization_flags "
            "set_calibration_profile set_quantization_flag "
        ),
        "8.5": (
            "algorithm_selector clear_quantization_flag get_calibration_profile get_memory_pool_limit "
            "get_preview_feature get_quantization_flag int8_calibrator max_workspace_size "
            "min_timing_iterations quantization_flags set_calibration_profile set_memory_pool_limit "
            "set_preview_feature set_quantization_flag "
        ),
        "8.6": (
            "algorithm_selector builder_optimization_level clear_quantization_flag get_calibration_profile "
            "get_memory_pool_limit get_preview_feature get_quantization_flag hardware_compatibility_level "
            "int8_calibrator max_aux_streams max_workspace_size min_timing_iterations plugins_to_serialize "
            "quantization_flags set_calibration_profile set_memory_pool_limit set_preview_feature "
            "set_quantization_flag "
        ),
        "10.3": (
            "algorithm_selector builder_optimization_level clear_quantization_flag get_calibration_profile "
            "get_memory_pool_limit get_preview_feature get_quantization_flag hardware_compatibility_level "
            "int8_calibrator max_aux_streams plugins_to_serialize progress_monitor quantization_flags "
            "runtime_platform set_calibration_profile set_memory_pool_limit set_preview_feature "
            "set_quantization_flag "
        ),
        "10.13.3": (
            "algorithm_selector builder_optimization_level clear_quantization_flag get_calibration_profile "
            "get_memory_pool_limit get_preview_feature get_quantization_flag hardware_compatibility_level "
            "int8_calibrator l2_limit_for_tiling max_aux_streams max_num_tactics plugins_to_serialize "
            "progress_monitor quantization_flags remote_auto_tuning_config runtime_platform "
            "set_calibration_profile set_memory_pool_limit set_preview_feature set_quantization_flag "
            "tiling_optimization_level "
        ),
        "11.1": (
            "all_build_routes build_route builder_optimization_level get_memory_pool_limit "
            "get_preview_feature hardware_compatibility_level l2_limit_for_tiling max_aux_streams "
            "max_num_tactics plugins_to_serialize progress_monitor remote_auto_tuning_config runtime_platform "
            "set_memory_pool_limit set_preview_feature tiling_optimization_level "
        ),
    },
)

PARSER_ERROR = both(
    ("code desc file func line node "),
    {
        "8.2": "",
        "8.5": "",
        "8.6": "",
        "10.3": "local_function_stack local_function_stack_size node_name node_operator",
        "10.13.3": "local_function_stack local_function_stack_size node_name node_operator",
        "11.1": "local_function_stack local_function_stack_size node_name node_operator",
    },
)

LAYER = both(
    "get_input get_output get_output_type name num_inputs num_outputs set_input type ",
    {
        version: ("" if version in ("8.2", "8.5") else "metadata ")
        + (
            ""
            if version == "11.1"
            else "output_type_is_set precision precision_is_set reset_output_type reset_precision set_output_type "
        )
        for version in VERSIONS
    },
)

TENSOR = both(
    "allowed_formats dtype is_execution_tensor is_network_input is_network_output is_shape_tensor location name shape ",
    {
        version: "" if version == "11.1" else "dynamic_range reset_dynamic_range set_dynamic_range "
        for version in VERSIONS
    },
)


class Member:
    """An object of TensorRT's network: only the version's members can be read or set."""

    def __init__(self, members: FrozenSet[str], **values: Any) -> None:
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "set", {})
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is not given, or not among {sorted(self.members)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.members:
            raise AttributeError(name)
        self.set[name] = value


def network_of(version: str, parsed: Any, trt: Any) -> Any:
    """Makes the stand-in of a network of `version` with the layers and tensors of a network that TensorRT-RTX parsed.
    The types that are set go to each layer's `set`: "precision", and "outputs" by index."""

    def tensor(real: Any) -> Any:
        if real is None:
            return None
        if real.name not in tensors:
            kind = "INT32" if real.dtype.name == "INT64" else real.dtype.name  # TensorRT 8 has no INT64
            tensors[real.name] = Member(
                TENSOR[version], name=real.name, dtype=trt.DataType[kind], is_shape_tensor=real.is_shape_tensor
            )
        return tensors[real.name]

    def layer(real: Any) -> Any:
        outputs: Dict[int, Any] = {}
        inputs = [tensor(real.get_input(index)) for index in range(real.num_inputs)]
        results = [tensor(real.get_output(index)) for index in range(real.num_outputs)]
        known = {"get_input": inputs.__getitem__, "get_output": results.__getitem__, "name": real.name}
        known.update(type=real.type, num_inputs=real.num_inputs, num_outputs=real.num_outputs)
        if "set_output_type" in LAYER[version]:
            known["set_output_type"] = outputs.__setitem__
        made = Member(LAYER[version], **known)
        made.set["outputs"] = outputs
        return made

    tensors: Dict[str, Any] = {}
    layers = [layer(parsed.get_layer(index)) for index in range(parsed.num_layers)]
    inputs = [tensor(parsed.get_input(index)) for index in range(parsed.num_inputs)]
    return SimpleNamespace(
        num_layers=len(layers), get_layer=layers.__getitem__, num_inputs=len(inputs), get_input=inputs.__getitem__,
        num_outputs=parsed.num_outputs, get_output=lambda index: tensor(parsed.get_output(index)), tensors=tensors,
    )  # fmt: skip


class Config:
    """An IBuilderConfig: only the version's members can be read or set; calls are recorded."""

    def __init__(self, version: str) -> None:
        object.__setattr__(self, "members", CONFIG[version])
        object.__setattr__(self, "calls", [])
        object.__setattr__(self, "set", {})

    def __getattr__(self, name: str) -> Any:
        if name not in self.members:
            raise AttributeError(name)

        def called(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, *arguments, *named.values()))

        return self.set.get(name, called)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.members:
            raise AttributeError(name)
        self.set[name] = value


def enumeration(name: str, members: FrozenSet[str]) -> Any:
    return enum.IntEnum(name, {member: index for index, member in enumerate(sorted(members))})


def tensorrt(version: str) -> Any:
    """Makes a module with the version's enumerations."""
    kinds: List[Tuple[str, Members]] = [
        ("NetworkDefinitionCreationFlag", NETWORK_FLAGS),
        ("BuilderFlag", BUILDER_FLAGS),
        ("HardwareCompatibilityLevel", COMPATIBILITY),
        ("MemoryPoolType", POOLS),
    ]
    module = SimpleNamespace(__version__=version)
    for name, members in kinds:
        if members[version]:
            setattr(module, name, enumeration(name, members[version]))
    module.DataType = enumeration("DataType", frozenset({"BOOL", "FLOAT", "HALF", "INT32", "INT8", "UINT8"}))
    module.DeviceType = enumeration("DeviceType", frozenset({"GPU", "DLA"}))
    module.ProfilingVerbosity = enumeration("ProfilingVerbosity", frozenset({"LAYER_NAMES_ONLY", "DETAILED", "NONE"}))
    return module
