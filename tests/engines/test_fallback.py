"""Tests plan B: when it is built, what the manifest says of it, and which files are refused as one."""

import json
from dataclasses import replace

import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.placement.without_int8 import without_int8
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.engines import build
from effedge.engines.build import build_engine, make_engine
from effedge.engines.build_request import NoImplementationError
from effedge.engines.fallback import FIRST_LOG
from effedge.engines.manifest import BuiltEngine, Layer
from effedge.engines.onnx_header import read_header
from effedge.engines.preflight import risky_layers
from effedge.engines.targets import TARGETS
from effedge.engines.tensorrt import builder as builder_module
from effedge.engines.tensorrt.log import LOG

XAVIER = replace(TARGETS["jetson-xavier"], distributions=())
MISSING = "tensorrt cannot build: Could not find any implementation for node conv1 + PWN(sigmoid1, silu1)."


@pytest.fixture(scope="module")
def plan_b(prepared, tmp_path_factory):
    """The INT8 graph with its depthwise convolutions in 16 bit."""
    path = tmp_path_factory.mktemp("plan_b") / "fallback.onnx"
    onnx_file.save(without_int8(onnx_file.load(prepared("int8")), ["conv1", "conv3"]), path)
    return path


@pytest.fixture
def builder(monkeypatch):
    """TensorRT's builder in small: it has no INT8 kernel for depthwise convolutions. Returns what it was asked for."""
    asked = []

    def build_it(backend, request, folder):
        asked.append(request.onnx)
        (folder / LOG).write_text(f"log of {request.onnx.name}\n")
        layers = {node.name for node in request.header.quantized_layers}
        if "conv1" in layers:
            raise NoImplementationError(MISSING)
        (folder / "engine.plan").write_bytes(b"plan")
        built = [Layer(node.name, "convolution", "int8" if node.name in layers else "f16")
                 for node in request.header.convolutions]  # fmt: skip
        return BuiltEngine("engine.plan", {"name": "tensorrt", "version": "8.5.2"}, built, "inspector")

    monkeypatch.setattr(build, "import_backend", lambda target: None)
    monkeypatch.setattr(build, "check_buildable_here", lambda target: None)
    monkeypatch.setattr("effedge.engines.tensorrt.builder.build", build_it)
    return asked


def test_plan_b_is_built_where_a_kernel_is_missing_and_the_manifest_says_why(
    prepared, plan_b, builder, tmp_path, capsys
):
    build_engine(prepared("int8"), tmp_path, precision="int8", target=XAVIER, fallback=plan_b)
    assert builder == [prepared("int8"), plan_b]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["fallback"] == {"reason": MISSING, "layers": ["conv1", "conv3"]}
    assert manifest["precision"]["convolutions"] == {"f16": 3, "int8": 1}
    assert manifest["precision"]["kept"] == dict.fromkeys(["conv1", "conv3"], "its INT8 kernel may be missing")
    assert manifest["sources"] == {"onnx": sha256(plan_b)}
    assert "no_traffic" not in manifest and manifest["traffic"]["ratio"] < 1
    assert f"{MISSING}; building plan B, with 2 more layers in 16 bit" in capsys.readouterr().err
    assert (tmp_path / FIRST_LOG).read_text() == "log of int8.onnx\n"
    assert (tmp_path / LOG).read_text() == "log of fallback.onnx\n"
    assert set(manifest["files"]) == {"engine.plan"}


def test_plan_a_is_built_where_it_can_be(prepared, plan_b, builder, tmp_path):
    plan_a = tmp_path / "a.onnx"
    onnx_file.save(without_int8(onnx_file.load(prepared("int8")), ["conv1"]), plan_a)  # of which the builder has all
    (tmp_path / "engine").mkdir()
    build_engine(plan_a, tmp_path / "engine", precision="int8", target=XAVIER, fallback=plan_b)
    assert builder == [plan_a]
    assert "fallback" not in json.loads((tmp_path / "engine" / "manifest.json").read_text())


def test_without_a_plan_b_the_error_names_the_layer_and_the_way_out(prepared, builder, tmp_path):
    with pytest.raises(
        UserError, match=r"conv1 .*; --fallback takes an ONNX with such layers in 16 bit, or build PREC"
    ):
        make_engine(prepared("int8"), tmp_path / "engine", precision="int8", target=XAVIER)
    assert (tmp_path / "engine.build.log").is_file()


@pytest.mark.parametrize(("nodes", "tried"), [(["w2", "conv2"], False), (["conv1", "sigmoid1"], True)])
def test_plan_b_is_tried_only_for_a_layer_that_it_changes(
    prepared, plan_b, builder, tmp_path, monkeypatch, nodes, tried
):
    build_it = builder_module.build

    def fail_first(backend, request, folder):
        if request.onnx == prepared("int8"):
            (folder / LOG).touch()
            raise NoImplementationError("no implementation", nodes)
        return build_it(backend, request, folder)

    monkeypatch.setattr(builder_module, "build", fail_first)
    if tried:
        build_engine(prepared("int8"), tmp_path, precision="int8", target=XAVIER, fallback=plan_b)
        assert builder == [plan_b]
    else:
        with pytest.raises(UserError, match="no implementation; plan B changes 2 other layers, so it is not tried"):
            build_engine(prepared("int8"), tmp_path, precision="int8", target=XAVIER, fallback=plan_b)
        assert builder == []


def test_an_error_of_another_kind_is_no_reason_for_plan_b(prepared, plan_b, builder, tmp_path, monkeypatch):
    def refuse(backend, request, folder):
        raise UserError("out of memory")

    monkeypatch.setattr("effedge.engines.tensorrt.builder.build", refuse)
    with pytest.raises(UserError, match="out of memory"):
        build_engine(prepared("int8"), tmp_path, precision="int8", target=XAVIER, fallback=plan_b)
    assert builder == []


def test_another_plan_b_makes_the_stage_run_again(prepared, plan_b, builder, tmp_path):
    out, other = tmp_path / "engine", tmp_path / "other.onnx"
    onnx_file.save(without_int8(onnx_file.load(prepared("int8")), ["conv1"]), other)
    runs = [
        make_engine(prepared("int8"), out, precision="int8", target=XAVIER, fallback=path)
        for path in (plan_b, plan_b, other)
    ]
    assert runs == [True, False, True]
    assert json.loads((out / "manifest.json").read_text())["fallback"]["layers"] == ["conv1"]


@pytest.mark.parametrize(
    ("target", "precision", "onnx", "fallback", "message"),
    [
        ("jetson-xavier", "fp16", "f32", "f32", "--fallback is for int8 on a GPU"),
        ("cpu", "int8", "int8", "int8", "--fallback is for int8 on a GPU"),
        ("jetson-xavier", "int8", "int8", "int8", "has all INT8 layers of .* in INT8: expected some in 16 bit"),
        ("jetson-xavier", "int8", "int8", "int8-dynamic", "has other inputs, outputs or labels than"),
        ("jetson-xavier", "int8", "int8", "f32", "no QuantizeLinear"),
    ],
)
def test_a_file_that_is_no_plan_b_is_refused_before_the_build(
    prepared, builder, tmp_path, target, precision, onnx, fallback, message
):
    with pytest.raises(UserError, match=message):
        build_engine(prepared(onnx), tmp_path, precision=precision, target=TARGETS[target], fallback=prepared(fallback))
    assert builder == []


def test_the_command_takes_both_options(call_main, prepared, plan_b, tmp_path, builder, monkeypatch):
    monkeypatch.setattr(build, "installed", lambda names: None)
    words = [prepared("int8"), "--precision", "int8", "--target", "jetson-xavier", "--out", tmp_path / "engine"]
    status, printed, _ = call_main(build.main, *words, "--fallback", plan_b)
    assert status == 0 and printed.strip().endswith("engine")
    status, _, error = call_main(build.main, *words, "--ranges", tmp_path / "none.cache")
    assert status == 2 and "no calibration cache at" in error and "tensorrt-cache" in error


def test_preflight_names_the_layers_that_plan_b_takes_out(prepared):
    assert risky_layers(read_header(prepared("int8")), XAVIER) == ["conv1", "conv3"]
