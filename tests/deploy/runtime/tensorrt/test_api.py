"""The differences between TensorRT 8.5, 10, 11 and TensorRT-RTX."""

import re
import sys
import types
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.tensorrt import api

SOURCES = Path(api.__file__).resolve().parent


def module(version, name="tensorrt"):
    stand_in = types.ModuleType(name)
    stand_in.__dict__.update(__version__=version)
    return stand_in


def test_a_tensorrt_without_named_tensors_is_refused():
    old = module("8.4.1.5")
    old.IExecutionContext = type("IExecutionContext", (), {"execute_async_v2": None})
    with pytest.raises(UserError, match=r"TensorRT 8\.4\.1\.5 is too old for 'e\.plan': expected 8\.5 or later"):
        api.check_version(old, "e.plan")
    old.IExecutionContext = type("IExecutionContext", (), {"execute_async_v3": None})
    api.check_version(old, "e.plan")


@pytest.mark.parametrize(
    ("version", "name", "dynamic", "contexts"),
    [
        ("8.5.2.2", "tensorrt", True, 1),
        ("8.5.2.2", "tensorrt", False, 2),
        ("10.3.0", "tensorrt", True, 2),
        ("11.4.1", "tensorrt", True, 2),
        ("1.7.1.116", "tensorrt_rtx", True, 2),
    ],
)
def test_how_many_contexts_share_a_profile(version, name, dynamic, contexts):
    assert api.max_contexts(module(version, name), dynamic) == contexts


def test_the_memory_of_a_context_by_its_name_in_8_and_in_11():
    assert api.memory_mib(types.SimpleNamespace(device_memory_size=7 << 20)) == 7  # 8.5
    assert api.memory_mib(types.SimpleNamespace(device_memory_size_v2=9 << 20)) == 9  # 11
    assert api.memory_mib(types.SimpleNamespace(device_memory_size=1, device_memory_size_v2=9 << 20)) == 9


def test_8_and_11_have_no_runtime_cache():
    engine = types.SimpleNamespace(create_execution_context=lambda: "context")
    for version in ("8.5.2.2", "11.4.1"):
        cache = api.RuntimeCache(module(version), engine, b"what another left")
        assert cache.create_context(engine) == "context"
        assert cache.changed() is None


class Cache:
    """TensorRT-RTX's runtime cache, which takes only content that it wrote itself."""

    content = b"rtx"

    def deserialize(self, kept):
        if not kept.startswith(b"rtx"):
            return False
        self.content = kept
        return True

    def serialize(self):
        return memoryview(self.content)


@pytest.mark.parametrize(("kept", "first"), [(None, b"rtx"), (b"of another GPU", b"rtx"), (b"rtx kernels", None)])
def test_rtx_keeps_what_it_compiled_and_is_offered_it_again(kept, first):
    rtx, cache = module("1.7.1.116", "tensorrt_rtx"), Cache()
    rtx.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager", LAZY="lazy")
    config = types.SimpleNamespace(create_runtime_cache=lambda: cache)
    config.set_runtime_cache = lambda runtime_cache: setattr(config, "cache", runtime_cache)
    engine = types.SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=lambda config: config)
    runtime_cache = api.RuntimeCache(rtx, engine, kept)
    assert runtime_cache.create_context(engine) is config
    assert config.cache is cache
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert runtime_cache.changed() == first
    assert runtime_cache.changed() is None
    cache.content += b" more"
    assert runtime_cache.changed() == cache.content


def test_an_engine_that_rtx_cannot_record_is_a_reason_and_others_are_tried():
    api.check_capturable(types.SimpleNamespace(), 7)  # 8.5 to 11
    api.check_capturable(types.SimpleNamespace(is_stream_capturable=lambda stream: stream == 7), 7)
    with pytest.raises(UserError, match="cannot be recorded"):
        api.check_capturable(types.SimpleNamespace(is_stream_capturable=lambda stream: False), 7)


def test_every_name_used_of_tensorrt_exists_in_rtx():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    text = "".join((SOURCES / f"{name}.py").read_text() for name in ("api", "backend", "execution_slot", "log"))
    older = {"device_memory_size"}  # 8's, asked for only where there is no other
    for owner, prefix in (
        (rtx, r"\bmodule"),
        (rtx, r"\btrt"),
        (rtx.ICudaEngine, r"\bengine"),
        (rtx.IExecutionContext, r"\bcontext"),
        (rtx.IRuntimeConfig, r"\bconfig"),
        (rtx.IRuntimeCache, r"\.cache"),
        (rtx.Runtime, r"[^.\w]runtime"),
    ):
        names = set(re.findall(prefix + r"\.([A-Za-z]\w+)", text)) - older - {"run"}
        assert names, prefix
        assert [name for name in sorted(names) if not hasattr(owner, name)] == [], prefix
    assert {"EAGER"} <= set(rtx.DynamicShapesKernelSpecializationStrategy.__members__)
    assert sys.modules["tensorrt_rtx"].__name__ == "tensorrt_rtx"  # what the adapter tells it by


def test_a_gpu_that_tensorrt_rtx_does_not_know_needs_tensorrt():
    reason = (  # its words, on an H200
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run on this GPU, which has "
        "compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0. TensorRT-RTX does not "
        "support this compute capability, so the engine cannot be rebuilt for it.)"
    )
    assert api.remedy(reason) == "TensorRT itself does: install it and build with TARGET=trt"
    assert api.remedy("it gave no reason") == "build the engine on this machine"
