"""Tests the adapter against stand-ins with exactly the members of each version, and against the real TensorRT-RTX."""

from types import SimpleNamespace

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.targets import FLAGS, ROWS, TARGETS, TYPED
from effedge.engines.tensorrt import api
from tests.engines import tensorrt_versions as versions
from tests.engines.tensorrt_versions import CONFIG, VERSIONS, Config, tensorrt

TYPED_FROM = "10.3"
before_10 = [one for one in VERSIONS if one.startswith("8.")]
from_10 = [one for one in VERSIONS if not one.startswith("8.")]


def names(flags, bits):
    return [name for name, value in flags.__members__.items() if bits >> int(value) & 1]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_networks_flag_is_what_the_version_has(version):
    trt = tensorrt(version)
    typed = version in from_10
    bits = api.network_flags(trt, typed)
    assert names(trt.NetworkDefinitionCreationFlag, bits) == ["STRONGLY_TYPED" if typed else "EXPLICIT_BATCH"]


def test_a_version_that_is_always_explicit_is_given_no_flag():
    assert api.network_flags(tensorrt("11.1"), typed=False) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dla_of_tensorrt_10_takes_no_typed_network_and_that_of_11_nothing_else(version):
    orin, xavier = TARGETS["jetson-orin"], TARGETS["jetson-xavier"]
    assert api.is_typed(tensorrt(version), orin, dla="") and not api.is_typed(tensorrt(version), xavier, dla="")
    assert api.is_typed(tensorrt(version), orin, dla="fallback") == (version == "11.1")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_is_said_by_flags_only_where_the_network_is_not_typed(version, precision):
    """TensorRT 11 has no such flags: naming one would raise."""
    trt, config = tensorrt(version), Config(version)
    api.set_precision(trt, config, precision, typed=version in from_10)
    flags = trt.BuilderFlag
    if precision == "fp32":
        assert config.calls == [("clear_flag", flags.TF32)]
    elif version in from_10:
        assert config.calls == []
    else:
        expected = [flags.FP16, flags.INT8] if precision == "int8" else [flags.FP16]
        assert config.calls == [("set_flag", one) for one in expected]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_workspace_is_limited_in_bytes(version):
    trt, config = tensorrt(version), Config(version)
    api.limit_workspace(trt, config, 64)
    if version == "8.2":
        assert config.set == {"max_workspace_size": 64 << 20}
    else:
        assert config.calls == [("set_memory_pool_limit", trt.MemoryPoolType.WORKSPACE, 64 << 20)]


@pytest.mark.parametrize("version", VERSIONS)
def test_optimization_level_and_compatible_plans_are_of_8_6_and_later(version):
    trt, config = tensorrt(version), Config(version)
    if version in ("8.2", "8.5"):
        with pytest.raises(UserError, match=f"TensorRT {version} has none, 8.6 and later do"):
            api.set_optimization_level(trt, config, 2)
        for asked in ({"version": True, "hardware": False}, {"version": False, "hardware": True}):
            with pytest.raises(UserError, match=f"TensorRT {version} builds no compatible plans"):
                api.make_compatible(trt, config, **asked)
        api.make_compatible(trt, config, version=False, hardware=False)
        return
    api.set_optimization_level(trt, config, 2)
    api.make_compatible(trt, config, version=True, hardware=True)
    levels = trt.HardwareCompatibilityLevel
    assert config.set == {"builder_optimization_level": 2, "hardware_compatibility_level": levels.AMPERE_PLUS}
    assert config.calls == [("set_flag", trt.BuilderFlag.VERSION_COMPATIBLE)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["fallback", "only"])
def test_the_dla_is_the_default_device_and_the_gpu_helps_only_if_asked(version, mode):
    trt, config = tensorrt(version), Config(version)
    api.use_dla(trt, SimpleNamespace(num_DLA_cores=2), config, mode)
    assert config.set == {"default_device_type": trt.DeviceType.DLA, "DLA_core": 0}
    assert config.calls == ([("set_flag", trt.BuilderFlag.GPU_FALLBACK)] if mode == "fallback" else [])
    with pytest.raises(UserError, match=f"TensorRT {version} finds no DLA"):
        api.use_dla(trt, SimpleNamespace(num_DLA_cores=0), Config(version), mode)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_describes_its_layers_and_has_a_timing_cache(version):
    trt, config = tensorrt(version), Config(version)
    api.describe_layers(trt, config)
    assert config.set == {"profiling_verbosity": trt.ProfilingVerbosity.DETAILED}
    assert {"create_timing_cache", "set_timing_cache", "get_timing_cache"} <= CONFIG[version]


@pytest.mark.parametrize("has_host_code", [False, True])
def test_a_plan_is_inspected_as_json_also_one_that_brings_its_runtime(has_host_code):
    """Without the permission, of 8.6 and later, TensorRT does not load a version-compatible plan."""

    class Runtime:
        if has_host_code:
            engine_host_code_allowed = False

        def __init__(self, log):
            assert log == "log"

        def deserialize_cuda_engine(self, plan):
            assert getattr(self, "engine_host_code_allowed", True)
            inspector = SimpleNamespace(get_engine_information=lambda form: f"{plan.decode()} as {form}")
            return SimpleNamespace(create_engine_inspector=lambda: inspector) if plan else None

    trt = SimpleNamespace(Runtime=Runtime, LayerInformationFormat=SimpleNamespace(JSON="JSON"))
    assert api.inspect(trt, "log", b"plan") == "plan as JSON"
    assert api.inspect(trt, "log", b"") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_parser_error_names_the_node_or_its_number(version):
    values = {"node": 7, "node_name": "conv1", "node_operator": "Conv", "desc": "false"}
    has = versions.PARSER_ERROR[version]
    error = SimpleNamespace(**{name: lambda value=value: value for name, value in values.items() if name in has})
    error.code = lambda: SimpleNamespace(name="UNSUPPORTED_NODE")
    expected = "unsupported node" if version in before_10 else "Conv 'conv1': unsupported node"
    assert api.parser_error(error) == expected


def test_the_rows_of_the_targets_agree_with_what_the_versions_have():
    """Progress is reported and networks are typed from 10 on; compatible plans are of 8.6 and later, on no JetPack."""
    for row in ROWS:
        if row.backend != "tensorrt":
            continue
        major = int(row.versions[0].split(".")[0])
        assert row.progress == (major >= 10) == ("progress_monitor" in CONFIG["8.6" if major == 8 else "10.3"])
        assert row.precision_by == (TYPED if major >= 10 else FLAGS)
        assert not (row.compatible and row.jetson)


def test_the_real_tensorrt_rtx_takes_what_the_adapter_says():
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network, config = builder.create_network(api.network_flags(trt, typed=True)), builder.create_builder_config()
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    api.limit_workspace(trt, config, 64)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    api.describe_layers(trt, config)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    api.set_precision(trt, config, "fp32", typed=True)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    with pytest.raises(UserError, match="finds no DLA"):
        api.use_dla(trt, builder, config, "only")
