"""The choice of a backend, OpenVINO's own errors, and TensorRT's calls against a stand-in for it and for CUDA."""

import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from deploy.backends import load_backend
from deploy.cli import UserError
from deploy.files import sha256_of_folder
from deploy.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]


def test_openvino_runs_and_names_its_outputs(build):
    folder = build()
    outputs = load_backend(folder, read_manifest(folder))({"image": np.full((1, 64, 64, 3), 255, np.uint8)})
    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        "boxes": ((1, 3, 4), "float32"),
        "scores": ((1, 3), "float32"),
        "classes": ((1, 3), "int32"),
    }
    assert outputs["boxes"].tolist() == [[[0, 0, 64, 64]] * 3]


def test_openvinos_outputs_may_be_kept(build):
    folder = build()
    infer = load_backend(folder, read_manifest(folder))
    first = infer({"image": np.full((1, 64, 64, 3), 255, np.uint8)})
    infer({"image": np.zeros((1, 64, 64, 3), np.uint8)})
    np.testing.assert_allclose(first["scores"], [[0.9, 0.8, 0.7]])


def test_openvino_gets_the_settings_of_the_manifest(build, edit):
    folder = build()
    edit(folder, lambda manifest: manifest["backend"]["config"].update(NO_SUCH_SETTING="1"))
    with pytest.raises(UserError, match="NO_SUCH_SETTING"):
        load_backend(folder, read_manifest(folder))


def test_a_model_that_openvino_refuses_is_named(build):
    folder = build()
    manifest = read_manifest(folder)
    (folder / "engine.xml").write_text("<net>")
    with pytest.raises(UserError, match=r"engine\.xml.*build the engine again"):
        load_backend(folder, manifest)


def test_an_unknown_backend_is_refused(build, edit):
    folder = build()
    edit(folder, lambda manifest: manifest["backend"].update(name="openvin"))
    with pytest.raises(UserError, match="unknown backend 'openvin': did you mean 'openvino'"):
        load_backend(folder, read_manifest(folder))


@pytest.mark.parametrize(("name", "packages"), [("openvino", "openvino"), ("tensorrt_rtx", "tensorrt-rtx pycuda")])
def test_a_backend_that_is_not_installed_is_named(build, edit, monkeypatch, name, packages):
    folder = build()
    edit(folder, lambda manifest: manifest["backend"].update(name=name, version="1.2"))
    for module in ("openvino", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    for module in ("deploy.openvino_backend", "deploy.tensorrt_backend"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(UserError, match=rf"{name} 1\.2, which cannot be imported here.*install {packages}$"):
        load_backend(folder, read_manifest(folder))


def test_loading_for_one_backend_imports_no_other(build):
    code = (
        f"import sys; from deploy import Detector; Detector({str(build())!r}); "
        "print([name for name in ('tensorrt', 'tensorrt_rtx', 'pycuda', 'deploy.tensorrt_backend') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Buffer(int):
    """An address on the pretended device, with its content."""

    content: bytes = b""


class FakeContext:
    """An execution context whose engine adds up each image's bytes; it reads and writes the pretended device."""

    def __init__(self, engine):
        self.engine, self.addresses, self.shape = engine, {}, None

    def set_tensor_address(self, name, address):
        assert isinstance(address, int)
        self.addresses[name] = DEVICE[address]
        return True

    def set_input_shape(self, name, shape):
        assert name == "image"
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        return self.shape if name == "image" else (self.shape[0], 2)

    def execute_async_v3(self, stream):
        images = np.frombuffer(self.addresses["image"].content, np.uint8).reshape(self.shape)
        sums = images.astype(np.float32).sum((1, 2, 3))
        self.addresses["sums"].content = np.repeat(sums[:, None], 2, 1).tobytes()
        return self.engine.works


DEVICE = {}
PUSHED = []


def fake_modules(works=True, loads=True, batch=-1, kind="FLOAT"):
    """Stand-ins for tensorrt and pycuda.driver with the part of their interfaces that the backend uses."""
    DEVICE.clear()
    engine = types.SimpleNamespace(
        works=works,
        num_io_tensors=2,
        get_tensor_name=["image", "sums"].__getitem__,
        get_tensor_shape={"image": (batch, 2, 2, 3), "sums": (batch, 2)}.__getitem__,
        get_tensor_dtype=lambda name: types.SimpleNamespace(name=kind if name == "sums" else "UINT8"),
        get_tensor_mode={"image": "in", "sums": "out"}.__getitem__,
        get_tensor_profile_shape=lambda name, profile: [(least, 2, 2, 3) for least in (1, 2, 4)],
    )
    engine.create_execution_context = lambda: FakeContext(engine)
    trt = types.ModuleType("tensorrt")
    trt.__dict__.update(
        __version__="10.3.0",
        Logger=type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None}),
        Runtime=lambda log: types.SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if loads else None),
        IExecutionContext=FakeContext,
        TensorIOMode=types.SimpleNamespace(INPUT="in"),
    )

    def mem_alloc(size):
        buffer = Buffer(1000 + len(DEVICE))
        DEVICE[int(buffer)] = buffer
        return buffer

    def to_device(target, source, stream):
        DEVICE[int(target)].content = source.tobytes()

    def to_host(target, source, stream):
        target[:] = np.frombuffer(DEVICE[int(source)].content, target.dtype).reshape(target.shape)

    context = types.SimpleNamespace(push=lambda: PUSHED.append(1), pop=PUSHED.pop)
    driver = types.ModuleType("pycuda.driver")
    driver.__dict__.update(
        Error=type("Error", (Exception,), {}),
        init=lambda: None,
        Device=lambda index: types.SimpleNamespace(retain_primary_context=lambda: context, name=lambda: "Pretended"),
        Stream=lambda: types.SimpleNamespace(handle=7, synchronize=lambda: None),
        pagelocked_empty=np.empty,
        mem_alloc=mem_alloc,
        memcpy_htod_async=to_device,
        memcpy_dtoh_async=to_host,
    )
    package = types.ModuleType("pycuda")
    package.__dict__.update(driver=driver)
    return {"tensorrt": trt, "pycuda": package, "pycuda.driver": driver}


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """pretend(**kinds of fakes) -> loads a plan with the stand-ins in place of TensorRT and CUDA."""

    def make(**kinds):
        for name, module in fake_modules(**kinds).items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "deploy.tensorrt_backend", raising=False)
        (tmp_path / "engine.plan").write_bytes(b"plan")
        manifest = {"engine": "engine.plan", "backend": {"name": "tensorrt", "version": "10.7"}}
        return load_backend(tmp_path, manifest)

    yield make
    assert PUSHED == []  # every CUDA context that was pushed is popped again
    sys.modules.pop("deploy.tensorrt_backend", None)


def test_tensorrt_runs_each_batch_size_and_keeps_earlier_results(pretend):
    infer = pretend()
    first = infer({"image": np.full((4, 2, 2, 3), 1, np.uint8)})
    second = infer({"image": np.full((1, 2, 2, 3), 5, np.uint8)})
    assert first["sums"].tolist() == [[12, 12]] * 4
    assert second["sums"].tolist() == [[60, 60]]


def test_tensorrt_refuses_an_output_that_numpy_cannot_hold(pretend):
    with pytest.raises(UserError, match=r"tensor 'sums' of .* is FP8 \[4, 2\]"):
        pretend(kind="FP8")


def test_tensorrt_errors_are_lines(pretend):
    with pytest.raises(UserError, match=r"10\.3\.0 on Pretended cannot load .*built by 10\.7.*on this machine"):
        pretend(loads=False)
    with pytest.raises(RuntimeError, match="enqueue"):
        pretend(works=False)({"image": np.zeros((1, 2, 2, 3), np.uint8)})


def test_every_name_used_of_tensorrt_exists_in_its_python_interface():
    trt = pytest.importorskip("tensorrt_rtx")
    source = (ROOT / "deploy" / "tensorrt_backend.py").read_text()
    for owner, prefix in (
        (trt, r"\btrt"),
        (trt.ICudaEngine, r"self\.engine"),
        (trt.IExecutionContext, r"self\.context"),
    ):
        names = set(re.findall(prefix + r"\.(\w+)", source)) - {"nptype"}
        assert names
        assert [name for name in names if not hasattr(owner, name)] == []
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert importlib.util.find_spec("pycuda") is None or hasattr(importlib.import_module("pycuda.driver"), "mem_alloc")


def test_the_compiled_model_is_kept_and_used_again(build, monkeypatch):
    folder = build()
    image = {"image": np.full((1, 64, 64, 3), 255, np.uint8)}
    expected = load_backend(folder, read_manifest(folder))(image)
    [kept] = (folder / ".compiled").iterdir()
    monkeypatch.setattr("openvino.Core.compile_model", None)  # must not be needed
    for name, value in load_backend(folder, read_manifest(folder))(image).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_cache_that_is_damaged_or_of_another_cpu_or_engine_is_made_anew(build, monkeypatch):
    folder = build()
    load_backend(folder, read_manifest(folder))
    [kept] = (folder / ".compiled").iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100] + b"x" + whole[101:]):
        kept.write_bytes(damaged)
        load_backend(folder, read_manifest(folder))
        assert kept.read_bytes()[32:] != damaged[32:] and len(kept.read_bytes()) > 100
    monkeypatch.setattr("deploy.openvino_backend.cpu", lambda: {"model": "Other"})
    load_backend(folder, read_manifest(folder))
    [other] = (folder / ".compiled").iterdir()
    assert other != kept
    load_backend(folder, read_manifest(folder), throughput=True)
    assert sorted(path.name.partition("-")[0] for path in (folder / ".compiled").iterdir()) == ["latency", "throughput"]


def test_a_folder_that_cannot_be_written_needs_no_cache(build, monkeypatch):
    folder = build()
    (folder / ".compiled").write_text("a file where the cache's folder would be")
    assert load_backend(folder, read_manifest(folder))({"image": np.zeros((1, 64, 64, 3), np.uint8)})


def test_the_cache_is_no_part_of_the_engine(build):
    folder = build()
    before = sha256_of_folder(folder)
    load_backend(folder, read_manifest(folder))
    assert sha256_of_folder(folder) == before
    (folder / "engine.bin").write_bytes(b"changed")
    assert sha256_of_folder(folder) != before
