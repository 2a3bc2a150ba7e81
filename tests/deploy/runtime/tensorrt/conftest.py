"""Replaces the GPU, behind pycuda and behind libcuda, and TensorRT by stand-ins that compute on the host."""

import functools
import gc
import sys

import pytest

from effedge.deploy.runtime.backends import load_backend
from tests.deploy.fake_tensorrt import fake_tensorrt
from tests.deploy.runtime.tensorrt.engines import MODULES, stand_ins


@pytest.fixture(params=["pycuda", "libcuda"])
def driver(request):
    """What calls CUDA."""
    return request.param


@pytest.fixture
def pretend(monkeypatch, tmp_path, driver, fake_libcuda):
    """pretend(cuda, engine, ...) replaces TensorRT and CUDA by stand-ins; returns load(throughput=False)."""
    used = []

    def make(cuda, engine, version="10.3.0", name="tensorrt", **attributes):
        used.append(cuda)
        trt = fake_tensorrt(engine, version, name)
        trt.__dict__.update(attributes)
        for module in MODULES:
            sys.modules.pop(module, None)
        for module, stand_in in stand_ins(cuda, trt, driver).items():
            monkeypatch.setitem(sys.modules, module, stand_in)
        fake_libcuda(cuda)
        (tmp_path / "engine.plan").write_bytes(b"plan")
        manifest = {"engine": "engine.plan", "backend": {"name": name, "version": "10.7"}}
        return functools.partial(load_backend, tmp_path, manifest)

    yield make
    gc.collect()
    for cuda in used:
        assert cuda.errors == []
        assert cuda.pushed == []  # no context is current any more
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, as if nvcc had compiled them."""
    import effedge.deploy.native.cuda.kernels

    monkeypatch.setattr(
        effedge.deploy.native.cuda.kernels,
        "compile_cubin",
        lambda name, architecture: f"{name} {architecture}".encode(),
    )
