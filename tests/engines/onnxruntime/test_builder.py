"""Tests engines for ONNX Runtime: the ONNX's outputs, and INT8 reported only where ONNX Runtime computes in it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge import Runner
from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.backends import load_backend
from effedge.deploy.runtime.manifest import read_manifest
from effedge.engines.build import build_engine, make_engine
from effedge.engines.targets import TARGETS

ORT = TARGETS["cpu-ort"]
IMAGE = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "precision"), [("f32", "fp32"), ("int8", "int8"), ("int8-dynamic", "int8")])
def test_it_gives_what_the_onnx_gives(prepared, tmp_path, name, precision):
    make_engine(prepared(name), tmp_path / "engine", precision=precision, target=ORT)
    session = onnxruntime.InferenceSession(str(prepared(name)), providers=["CPUExecutionProvider"])
    runner = Runner(tmp_path / "engine")
    for throughput in (False, True):
        runner.backend = load_backend(tmp_path / "engine", read_manifest(tmp_path / "engine"), throughput)
        np.testing.assert_allclose(
            runner({"image": IMAGE})["logits"], session.run(None, {"image": IMAGE})[0], rtol=1e-4, atol=1e-4
        )


def test_fp32_is_no_less_than_asked(prepared, tmp_path, capsys):
    make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=ORT)
    assert read_manifest(tmp_path / "engine")["precision"]["not_built"] == []
    assert "though asked for" not in capsys.readouterr().out


def test_the_manifest_says_what_it_executes(prepared, tmp_path, capsys):
    make_engine(prepared("int8"), tmp_path / "engine", precision="int8", target=ORT)
    manifest = read_manifest(tmp_path / "engine")
    assert (manifest["target"], manifest["backend"]["name"]) == ("cpu-ort", "onnxruntime")
    # Each of the three is followed by SiLU, so ONNX Runtime has no INT8 kernel for it.
    assert manifest["precision"]["convolutions"] == {"f32": 4}
    assert manifest["precision"]["source"] == "executed"
    assert manifest["warnings"][0].startswith("ONNX Runtime computes 0 of 3 INT8 convolutions in INT8")
    assert manifest["warnings"][0] in capsys.readouterr().out


def test_it_has_no_half_precision(prepared, tmp_path):
    with pytest.raises(UserError, match=r"cpu-ort .* computes in float32 alone: build PRECISION=fp32 or int8"):
        make_engine(prepared("f32"), tmp_path / "engine", precision="fp16", target=ORT)


def test_a_model_that_it_refuses_is_one_line(prepared, tmp_path):
    path = tmp_path / "strange.onnx"
    path.write_bytes(prepared("unknown-operator").read_bytes().replace(b"Det", b"Dat"))
    with pytest.raises(UserError, match=r"ONNX Runtime cannot build .*strange.onnx.*Dat"):
        build_engine(path, tmp_path, precision="fp32", target=ORT)


def test_an_engine_that_it_cannot_open_is_one_line(prepared, tmp_path):
    make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=ORT)
    manifest = read_manifest(tmp_path / "engine")
    (tmp_path / "engine" / "engine.onnx").write_bytes(b"none")
    with pytest.raises(UserError, match=r"cannot load .*engine\.onnx.*build the engine again here"):
        load_backend(tmp_path / "engine", manifest)


def test_openvino_is_not_imported(prepared, tmp_path):
    make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=ORT)
    folder = str(tmp_path / "engine")
    code = f"import sys; from effedge import Runner; Runner({folder!r}); print('openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("pad", [1, 3])
def test_a_pad_by_zeros_in_front_of_a_pool_stays(pool, pad, tmp_path):
    """ONNX Runtime's own fusion pads a MaxPool by minus infinity, and pools by more than their kernel."""
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Pad", ["n", "pads"], ["p"]),
        helper.make_node(pool, ["p"], ["y"], kernel_shape=[2, 2]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
            (("x", [1, 1, 4, 4]), ("y", [1, 1, 3 + 2 * pad, 3 + 2 * pad]))]  # fmt: skip
    pads = numpy_helper.from_array(np.array([0, 0, pad, pad] * 2), "pads")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [pads])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    make_engine(tmp_path / "m.onnx", tmp_path / "engine", precision="fp32", target=ORT)
    x = np.abs(np.random.default_rng(0).normal(size=(1, 1, 4, 4)).astype(np.float32)) + 1
    padded = np.pad(-x[0, 0], pad)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 2))
    expected = windows.max((2, 3)) if pool == "MaxPool" else windows.mean((2, 3))
    np.testing.assert_allclose(Runner(tmp_path / "engine")({"x": x})["y"][0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("location", "said"),
    [("../w.bin", "is not inside the folder"), ("engine.onnx", "rename it"), ("manifest.json", "rename it")],
)
def test_weights_overwrite_no_file_of_another_name(prepared, tmp_path, location, said):
    (tmp_path / "in").mkdir()
    (tmp_path / "w.bin").write_bytes(b"somebody's")
    model = onnx.load(prepared("f32"))
    onnx.save(model, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    for tensor in (model := onnx.load(tmp_path / "in" / "m.onnx", load_external_data=False)).graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "in" / "w.bin").rename((tmp_path / "in" / location).with_name("x" + Path(location).name))
    if not location.startswith(".."):
        (tmp_path / "in" / ("x" + location)).rename(tmp_path / "in" / location)
    with pytest.raises(UserError, match=said):
        make_engine(tmp_path / "in" / "m.onnx", tmp_path / "out" / "engine", precision="fp32", target=ORT)
    assert (tmp_path / "w.bin").read_bytes() == b"somebody's" and not (tmp_path / "out" / "engine").exists()


def test_weights_in_a_folder_of_their_own_are_listed_and_loaded(prepared, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    model = onnx.load(prepared("f32"))
    onnx.save(model, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="sub/w.bin", size_threshold=0)
    make_engine(tmp_path / "in" / "m.onnx", tmp_path / "engine", precision="fp32", target=ORT)
    assert set(read_manifest(tmp_path / "engine")["files"]) == {"engine.onnx", "sub/w.bin"}
    make_engine(prepared("f32"), tmp_path / "plain", precision="fp32", target=ORT)
    expected = Runner(tmp_path / "plain")({"image": IMAGE})["logits"]
    np.testing.assert_array_equal(Runner(tmp_path / "engine")({"image": IMAGE})["logits"], expected)
    (tmp_path / "engine" / "sub" / "w.bin").write_bytes(b"other weights")
    with pytest.raises(UserError, match="is not the file that was built"):
        Runner(tmp_path / "engine")
