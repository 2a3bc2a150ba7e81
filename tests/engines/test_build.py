"""Tests the build: the requested precision against the file's and the engine's, the manifest, and the stage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.deploy.runtime.manifest import read_manifest
from effedge.engines import build
from effedge.engines.build import check_built, make_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.build_request import BuildRequest
from effedge.engines.manifest import BuiltEngine, Layer, write_manifest
from effedge.engines.onnx_header import read_header
from effedge.engines.prepared import check_prepared
from effedge.engines.targets import TARGETS
from tests.engines import graphs

ov = pytest.importorskip("openvino")
CPU = TARGETS["cpu"]


@pytest.mark.parametrize(
    ("name", "precision", "target", "message"),
    [
        ("f32", "int8", "cpu", "no QuantizeLinear: calibrate it first"),
        ("f32", "int8", "rtx", "no QuantizeLinear: calibrate it first"),
        ("data-only", "int8", "cpu", "none at both inputs of a layer"),
        ("int8", "fp32", "cpu", "quantized to INT8 \\(3 layers\\)"),
        ("int8", "fp16", "cpu", "quantized to INT8"),
        ("f16", "fp32", "cpu", "4 FP16 layers"),
        ("f32", "fp16", "rtx", "no FP16 weights"),
        ("int8", "int8", "jetson-nano", "no fast INT8"),
    ],
)
def test_a_file_that_does_not_hold_the_precision_is_refused(prepared, name, precision, target, message):
    with pytest.raises(UserError, match=message):
        check_prepared(request(prepared(name), precision, TARGETS[target]))


def request(onnx, precision, target=CPU):
    return BuildRequest(onnx, read_header(onnx), precision, target)


CACHE = Path("calibration.cache")
DLA = BuildOptions(dla="fallback")


@pytest.mark.parametrize(
    ("name", "target", "options", "ranges", "message"),
    [
        (
            "f32",
            "jetson-xavier",
            DLA,
            None,
            "by ranges, not by Q/DQ pairs: effedge tensorrt-cache INT8.onnx --out cali",
        ),
        (
            "int8",
            "jetson-orin",
            DLA,
            None,
            "then effedge build float.onnx --precision int8 --dla fallback --ranges cali",
        ),
        ("int8", "jetson-orin-jp6.0", DLA, CACHE, "not by Q/DQ pairs, which '.*int8.onnx' has: effedge tensorrt-cache"),
        ("f16", "jetson-orin", DLA, CACHE, "has 4 FP16 layers: give the FP32 one"),
        ("f32", "jetson-xavier", BuildOptions(), CACHE, "--ranges is for --precision int8 --dla on jetson-xavier, "),
        ("int8", "rtx", BuildOptions(), CACHE, "elsewhere INT8 is by Q/DQ pairs: leave it out"),
        ("int8", "jetson-orin-trt11", DLA, CACHE, "elsewhere INT8 is by Q/DQ pairs: leave it out"),
        ("f32", "jetson-orin-trt11", DLA, None, "no QuantizeLinear: calibrate it first"),
    ],
)
def test_int8_on_a_dla_is_by_ranges_and_the_error_leads_there(prepared, name, target, options, ranges, message):
    asked = replace(request(prepared(name), "int8", TARGETS[target]), build_options=options, ranges=ranges)
    with pytest.raises(UserError, match=message) as error:
        check_prepared(asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", ["jetson-xavier", "jetson-orin-jp6.0", "jetson-orin"])
def test_int8_on_a_dla_takes_the_float_onnx_with_ranges(prepared, target):
    asked = replace(request(prepared("f32"), "int8", TARGETS[target]), build_options=DLA, ranges=CACHE)
    check_prepared(asked)
    mixed = replace(built_as("f16", "f16", "int8", "unknown"), source="inspector")
    assert check_built(asked, mixed) == ["conv0", "conv1"], "no error: a DLA's part is one layer to the inspector"


def built_as(*precisions):
    layers = [Layer(f"conv{index}", "Convolution", kind) for index, kind in enumerate(precisions)]
    return BuiltEngine("engine.xml", {"name": "openvino", "version": "1"}, layers, "executed")


@pytest.mark.parametrize(
    ("name", "precision", "built"),
    [
        ("int8", "int8", built_as("f32", "f32", "f32", "f32")),
        ("f32", "fp16", built_as("f32", "f32", "f32", "f32")),
        ("f32", "fp32", built_as("f32", "bf16", "f32", "f32")),
    ],
)
def test_what_was_asked_for_and_not_built_is_an_error(prepared, name, precision, built):
    with pytest.raises(UserError, match=f"{precision} was asked for and openvino 1 did not build it"):
        check_built(request(prepared(name), precision), built)


def test_single_convolutions_that_were_not_built_are_named(prepared):
    int8 = request(prepared("int8"), "int8")
    assert check_built(int8, built_as("f32", "int8", "f32", "int8")) == ["conv2"]
    assert check_built(int8, built_as("f32", "int8", "int8", "int8")) == []


def test_what_the_cpu_blocks_took_is_not_missed_but_the_rest_is(prepared):
    int8 = request(prepared("int8"), "int8")

    def with_cpu_blocks(*precisions):
        built = built_as(*precisions)
        built.layers[:2] = [replace(layer, precision="bf16", tactic="cpu_blocks") for layer in built.layers[:2]]
        return built

    assert check_built(int8, with_cpu_blocks("", "", "int8", "int8")) == []
    assert check_built(int8, with_cpu_blocks("", "", "f32", "int8")) == ["conv2"]
    with pytest.raises(UserError, match="int8 was asked for and openvino 1 did not build it"):
        check_built(int8, with_cpu_blocks("", "", "f32", "f32"))


def test_the_manifest_says_what_the_engine_is(prepared, tmp_path):
    out = tmp_path / "int8-cpu"
    assert make_engine(prepared("int8"), out, precision="int8", target=CPU)
    manifest = read_manifest(out)
    assert manifest["format"] == 1
    assert manifest["spec"] == graphs.spec()
    assert manifest["inputs"] == [{"name": "image", "dtype": "uint8", "shape": [1, 32, 32, 3]}]
    assert manifest["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [1, 32]}]
    assert manifest["batch"] == [1, 1, 1]
    assert manifest["target"] == "cpu"
    assert manifest["engine"] == "engine.xml"
    assert manifest["files"] == {name: sha256(out / name) for name in ("engine.bin", "engine.xml")}
    assert manifest["sources"] == {"onnx": sha256(prepared("int8"))}
    assert manifest["backend"]["name"] == "openvino"
    rest = manifest["float_parts"]["precision"] if "float_parts" in manifest else "f32"
    assert manifest["backend"]["config"] == {"INFERENCE_PRECISION_HINT": rest}
    precision = manifest["precision"]
    assert precision["asked"] == "int8"
    assert sum(precision["built"].values()) == len(precision["layers"])
    kinds = {layer["name"]: layer["precision"] for layer in precision["layers"]}
    assert [kinds[f"conv{index}"] for index in range(4)] == [rest, "int8", "int8", "int8"]


def test_the_stage_runs_again_only_for_a_reason(prepared, tmp_path):
    onnx, out = tmp_path / "model.onnx", tmp_path / "engine"
    onnx.write_bytes(prepared("f32").read_bytes())

    def make(precision="fp32"):
        return make_engine(onnx, out, precision=precision, target=CPU)

    assert make()
    assert not make()
    graphs.network(onnx, seed=1)
    assert make()
    assert not make()
    with open(out / "engine.bin", "r+b") as weights:
        weights.write(b"\xff")
    assert make()
    assert not make()
    (out / "engine.xml").unlink()
    assert make()
    assert make_engine(graphs.network(onnx, quantized=True), out, precision="int8", target=CPU)
    read_manifest(out)


def test_another_option_makes_another_engine(prepared, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(build, "build_engine", lambda onnx, folder, **options: made.append(fake(folder)))

    def fake(folder):
        (folder / "engine.plan").write_bytes(b"plan")
        built = BuiltEngine("engine.plan", {"name": "x"}, [], "network")
        write_manifest(folder, built, request(prepared("f32"), "fp32", TARGETS["rtx"]), not_built=[], versions={})

    def make(**options):
        monkeypatch.setattr(build, "check_buildable_here", lambda target: None)
        options = {"precision": "fp32", "target": TARGETS["rtx"], **options}
        return make_engine(prepared("f32"), tmp_path / "engine", **options)

    assert make()
    others = (BuildOptions(compute_capabilities=("8.9",)), BuildOptions(workspace_mib=64))
    for options in ({"precision": "fp16"}, {"target": CPU}, *({"build_options": one} for one in others)):
        assert make(**options)
        assert not make(**options)
    assert make()
    assert len(made) == 6


def test_nothing_heavy_is_imported_where_nothing_is_to_do(prepared, tmp_path, monkeypatch):
    make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=CPU)
    monkeypatch.setattr(build, "import_backend", lambda target: pytest.fail("imported a backend"))
    assert not make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=CPU)


def test_a_build_that_fails_leaves_nothing(prepared, tmp_path):
    with pytest.raises(UserError):
        make_engine(prepared("f32"), tmp_path / "engine", precision="int8", target=CPU)
    assert list(tmp_path.iterdir()) == []


def test_options_of_gpus_are_refused_on_the_cpu(prepared, tmp_path):
    with pytest.raises(UserError, match="--workspace-mib is for GPUs"):
        make_engine(
            prepared("f32"), tmp_path / "e", precision="fp32", target=CPU, build_options=BuildOptions(workspace_mib=64)
        )


def test_fp32_of_a_model_with_float16_ends_has_casts_in_f16(tmp_path):
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=full),
        helper.make_node("Conv", ["a", "k"], ["b"], name="conv"),
        helper.make_node("Cast", ["b"], ["y"], to=half),
    ]
    x, y = (helper.make_tensor_value_info(name, half, [1, size, 6, 6]) for name, size in (("x", 4), ("y", 5)))
    kernel = numpy_helper.from_array(np.ones((5, 4, 1, 1), np.float32), "k")
    graph = helper.make_graph(nodes, "g", [x], [y], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    make_engine(tmp_path / "m.onnx", tmp_path / "engine", precision="fp32", target=TARGETS["cpu"])
    manifest = read_manifest(tmp_path / "engine")
    assert manifest["precision"]["convolutions"] == {"f32": 1} and manifest["precision"]["not_built"] == []
    assert {each["dtype"] for each in (*manifest["inputs"], *manifest["outputs"])} == {"float16"}


@pytest.mark.parametrize("said", ["basic_ios::clear: iostream error", 'Can\'t open xml file: "engine.xml"'])
def test_a_disk_that_fails_while_openvino_writes_is_no_reason_for_another_backend(tmp_path, monkeypatch, said):
    def save_model(*_, **__):
        raise RuntimeError(said)  # OpenVINO's, for EIO and ENOSPC

    monkeypatch.setattr(ov, "save_model", save_model)
    onnx = graphs.network(tmp_path / "model.onnx", quantized=True)
    with pytest.raises(UserError, match="cannot write .*the disk is full or fails"):
        make_engine(onnx, tmp_path / "engine", precision="int8", target=CPU)
    assert not (tmp_path / "engine").exists()
