"""The choice of a backend; and OpenVINO's, with the engines that it runs and refuses and with its cache."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256_of_path
from effedge.deploy.runtime.backends import load_backend
from effedge.deploy.runtime.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.parametrize(("name", "packages"), [("openvino", "openvino"), ("tensorrt_rtx", "tensorrt-rtx")])
def test_a_backend_that_is_not_installed_is_named(build, edit, monkeypatch, name, packages):
    folder = build()
    edit(folder, lambda manifest: manifest["backend"].update(name=name, version="1.2"))
    for module in ("openvino", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    for module in ("effedge.deploy.runtime.openvino_backend", "effedge.deploy.runtime.tensorrt.backend"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(UserError, match=rf"{name} 1\.2, which cannot be imported here.*install {packages}$"):
        load_backend(folder, read_manifest(folder))


def test_loading_for_one_backend_imports_no_other(build):
    code = (
        f"import sys; from effedge import Detector; Detector({str(build())!r}); "
        "print([name for name in ('tensorrt', 'tensorrt_rtx', 'pycuda', 'effedge.deploy.runtime.tensorrt.backend') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
    intact = kept.read_bytes()
    for damaged in (b"", intact[:-1], intact[:100] + b"x" + intact[101:]):
        kept.write_bytes(damaged)
        load_backend(folder, read_manifest(folder))
        assert kept.read_bytes()[32:] != damaged[32:] and len(kept.read_bytes()) > 100
    monkeypatch.setattr("effedge.deploy.runtime.openvino_backend.cpu", lambda: {"model": "Other"})
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
    before = sha256_of_path(folder)
    load_backend(folder, read_manifest(folder))
    assert sha256_of_path(folder) == before
    (folder / "engine.bin").write_bytes(b"changed")
    assert sha256_of_path(folder) != before
