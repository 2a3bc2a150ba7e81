"""The choice of a backend; and OpenVINO's, with the engines that it runs and refuses and with its cache."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256_of_path
from effedge.deploy.runtime import compiled_cache, openvino_backend
from effedge.deploy.runtime.backends import first_blocks_computed_by, load_backend
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.runtime.onnx_external import external_files

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


def test_openvino_gets_the_settings_of_the_manifest(build, edit, monkeypatch):
    folder, seen = build(), []
    real = openvino_backend.compile_or_import
    monkeypatch.setattr(openvino_backend, "compile_or_import", lambda *words: (seen.append(words[2]), real(*words))[1])
    edit(folder, lambda manifest: manifest["backend"]["config"].update(INFERENCE_PRECISION_HINT="bf16"))
    load_backend(folder, read_manifest(folder), throughput=True)
    assert seen == [{"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "THROUGHPUT"}]


@pytest.mark.parametrize(
    "setting",
    [{"CACHE_DIR": "/tmp"}, {"NO_SUCH_SETTING": "1"}, {"INFERENCE_PRECISION_HINT": "f64"}, {"LOG_LEVEL": "x" * 9999}],
)
def test_a_setting_that_a_manifest_may_not_name_is_refused(build, edit, setting):
    folder = build()
    edit(folder, lambda manifest: manifest["backend"]["config"].update(setting))
    with pytest.raises(
        UserError, match=rf"sets '{next(iter(setting))}'=.*expected INFERENCE_PRECISION_HINT=f32"
    ) as error:
        load_backend(folder, read_manifest(folder))
    assert len(str(error.value)) < 500


def test_a_file_that_the_manifest_does_not_list_is_not_loaded(build, edit):
    folder = build()
    edit(folder, lambda manifest: manifest["files"].pop("engine.bin"))  # which OpenVINO reads beside engine.xml
    with pytest.raises(UserError, match=r"'files' lacks 'engine\.bin'"):
        load_backend(folder, read_manifest(folder))
    folder = build(name="blocks")
    edit(folder, lambda manifest: manifest["backend"].update(cpu_blocks={"format": 1, "file": "blocks.npz"}))
    with pytest.raises(UserError, match=r"'files' lacks 'blocks\.npz'"):
        load_backend(folder, read_manifest(folder))
    with pytest.raises(UserError, match=r"'files' lacks 'blocks\.npz'"):
        first_blocks_computed_by(folder, read_manifest(folder))


def test_openvino_reads_no_format_that_names_other_files(build):
    """OpenVINO's readers of ONNX, TensorFlow and PaddlePaddle choose themselves by the content."""
    folder = build()
    manifest = read_manifest(folder)
    onnx.save(identity_model(), folder / "engine.xml")
    with pytest.raises(UserError, match="no model of OpenVINO's format"):
        load_backend(folder, manifest)


def identity_model(location=None):
    """An ONNX that adds a constant, an attribute in a branch of an If, which may be in another file."""
    value = numpy_helper.from_array(np.float32([2]), "two")
    if location is not None:
        value.ClearField("raw_data")
        value.data_location = TensorProto.EXTERNAL
        for key, text in (("location", location), ("offset", "0"), ("length", "4")):
            entry = value.external_data.add()
            entry.key, entry.value = key, text
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    x = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=value)], "branch", [], [y])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opset, ir_version=8)


@pytest.mark.parametrize("location", ["../weights", "/etc/passwd", "weights"])
def test_onnx_runtime_loads_no_file_that_the_manifest_does_not_list(tmp_path, location):
    path = tmp_path / "engine" / "engine.onnx"
    path.parent.mkdir()
    path.write_bytes(identity_model(location).SerializeToString())
    for place in (tmp_path, path.parent):
        (place / "weights").write_bytes(np.float32([7]).tobytes())
    assert external_files(path) == {location}
    manifest = {"backend": {"name": "onnxruntime"}, "engine": "engine.onnx", "files": {"engine.onnx": ""}}
    with pytest.raises(UserError, match=r"'files' lacks 'weights'|expected a file inside"):
        load_backend(path.parent, manifest)


def test_files_are_listed_wherever_a_model_names_them(tmp_path):
    model = identity_model()
    model.functions.add().node.add().attribute.add().t.external_data.add(key="location", value="in a function")
    model.graph.sparse_initializer.add().values.external_data.add(key="location", value="sparse")
    model.graph.initializer.add().external_data.add(key="location", value="initializer")
    model.training_info.add().algorithm.initializer.add().external_data.add(key="location", value="training")
    model.graph.node.add().attribute.add().tensors.add().external_data.add(key="location", value="list")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_files(path) == {"in a function", "sparse", "initializer", "training", "list"}
    for content in (b"", b"\x3a\xff", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no whole ONNX model"):
            external_files(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_in_a_forked_process_is_a_clear_error(build, tmp_path, backend):
    if backend == "openvino":
        folder = build()
        manifest, feeds = read_manifest(folder), {"image": np.zeros((1, 64, 64, 3), np.uint8)}
    else:
        folder = tmp_path
        (folder / "engine.onnx").write_bytes(identity_model().SerializeToString())
        manifest = {"backend": {"name": "onnxruntime"}, "engine": "engine.onnx"}
        feeds = {"x": np.array(True)}
    loaded = load_backend(folder, manifest)
    loaded(feeds)

    def run():
        with pytest.raises(UserError, match=r"this process is a fork.*spawn"):
            loaded(feeds)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(20)
    assert process.exitcode == 0


def test_a_kept_model_that_openvino_refuses_is_compiled_anew(build):
    folder = build()
    manifest = read_manifest(folder)
    image = {"image": np.full((1, 64, 64, 3), 255, np.uint8)}
    expected = load_backend(folder, manifest)(image)
    [kept] = (folder / ".compiled").iterdir()
    compiled_cache.keep_compiled(kept, b"no model at all")
    for name, value in load_backend(folder, manifest)(image).items():
        np.testing.assert_array_equal(value, expected[name])
    assert kept.stat().st_size > 1000


def test_a_kept_model_of_another_engine_is_not_taken(build):
    first, second = build(), build(labels=["a", "b", "c"], name="second")
    for folder in (first, second):
        load_backend(folder, read_manifest(folder))
    [kept], [other] = ((folder / ".compiled").iterdir() for folder in (first, second))
    assert compiled_cache.read_compiled(kept) is not None
    shutil.copyfile(str(other), str(kept))
    assert compiled_cache.read_compiled(kept) is None


def test_a_kept_model_that_others_could_have_written_is_not_taken(build, tmp_path):
    folder = build()
    load_backend(folder, read_manifest(folder))
    [kept] = (folder / ".compiled").iterdir()
    assert kept.stat().st_mode & 0o022 == kept.parent.stat().st_mode & 0o022 == 0
    content = kept.read_bytes()

    def link():
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")

    def linked_folder():
        kept.parent.rename(tmp_path / "folder")
        kept.parent.symlink_to(tmp_path / "folder")

    spoilers = [lambda: kept.chmod(0o666), link, linked_folder]
    if os.geteuid() == 0:
        spoilers.insert(0, lambda: os.chown(str(kept), 65534, 65534))
    for spoil in spoilers:
        assert compiled_cache.read_compiled(kept) is not None
        spoil()
        assert compiled_cache.read_compiled(kept) is None
        if spoil is not linked_folder:
            kept.unlink()
            kept.write_bytes(content)
            kept.chmod(0o644)


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
