"""Tests builds by the real TensorRT-RTX, without a GPU."""

import json
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.runtime.tensorrt.log import tensorrt_logger
from effedge.engines.build import build_engine, make_engine
from effedge.engines.build_options import DEFAULT, BuildOptions, default_workspace_mib
from effedge.engines.build_request import BuildRequest, NoImplementationError
from effedge.engines.gpu import Gpu
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import FLAGS, TARGETS, TYPED
from effedge.engines.tensorrt import api, build_thread, builder, built_layers, timing_cache
from effedge.engines.tensorrt.plan_text import convolution_precisions

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
RTX = TARGETS["rtx"]


def test_int8_with_a_dynamic_batch_builds_and_the_plan_says_int8(prepared, tmp_path):
    build_engine(prepared("int8-dynamic"), tmp_path, precision="int8", target=RTX)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["precision"]["convolutions"] == {"int8": 3, "f32": 1}
    assert manifest["precision"]["source"] == "plan"
    plan = (tmp_path / "engine.plan").read_bytes()
    assert b"out of bounds [1, 4]" in plan  # the profile's batch range, as the plan checks it


def test_a_model_without_a_spec_builds_with_the_batch_that_it_says(prepared, tmp_path):
    build_engine(prepared("own-batch"), tmp_path, precision="fp32", target=RTX)
    assert json.loads((tmp_path / "manifest.json").read_text())["batch"] == [1, 3, 5]
    assert b"out of bounds [1, 5]" in (tmp_path / "engine.plan").read_bytes()


@pytest.mark.parametrize(("name", "precision", "kind"), [("f32", "fp32", "f32"), ("f16", "fp16", "f16")])
def test_a_typed_network_is_built_in_its_own_types(prepared, tmp_path, name, precision, kind):
    build_engine(prepared(name), tmp_path, precision=precision, target=RTX)
    assert convolution_precisions(tmp_path / "engine.plan") == {f"conv{index}": {kind} for index in range(4)}


def test_fp32_is_not_tf32(prepared, tmp_path):
    build_engine(prepared("f32"), tmp_path, precision="fp32", target=RTX)
    plan = (tmp_path / "engine.plan").read_bytes()
    assert b"tf32=0" in plan
    assert b"tf32=1" not in plan


def test_int8_that_ends_in_fp32_is_caught(prepared, tmp_path, monkeypatch):
    """TensorRT-RTX builds Q/DQ for 7.5 without a warning, with every convolution in FP32."""
    monkeypatch.setattr(BuildOptions, "check", lambda *arguments: None)
    turing = BuildOptions(compute_capabilities=("7.5",))
    with pytest.raises(UserError, match=r"int8 was asked for and .* did not build it: 4 convolutions f32 \(plan\)"):
        build_engine(prepared("int8"), tmp_path, precision="int8", target=RTX, build_options=turing)


def test_candidate_selection_builds(prepared, tmp_path):
    build_engine(prepared("tail"), tmp_path, precision="fp32", target=RTX)
    assert (tmp_path / "engine.plan").stat().st_size > 1000


def test_a_plan_is_for_the_compute_capabilities_that_were_asked_for(prepared, tmp_path):
    capabilities = ["7.5", "12.1"]
    build_engine(
        prepared("f32"),
        tmp_path,
        precision="fp32",
        target=RTX,
        build_options=BuildOptions(compute_capabilities=tuple(capabilities)),
    )
    assert b"accelerators={sm75 sm121 }" in (tmp_path / "engine.plan").read_bytes()


@pytest.mark.parametrize(
    ("name", "precision", "options", "message"),
    [
        ("nms", "fp32", {}, "rtx cannot take .*nms.*: NonMaxSuppression, .*without NMS"),
        ("unknown-operator", "fp32", {}, "determinant: Det, which no TensorRT reads"),
        ("int32-bias", "int8", {}, "b1_dq: DequantizeLinear of INT32.*float biases.*and 2 more: "),
        (
            "f32",
            "fp32",
            {"build_options": BuildOptions(compute_capabilities=("9.0",))},
            "unknown compute capability '9.0': .*7.5, 8.0, .*12.1",
        ),
        ("f32", "fp16", {}, "no FP16 weights"),
        ("any-batch", "fp32", {}, "has a dynamic batch and does not say which: .*--onnx sets it, with --batch"),
    ],
)
def test_what_cannot_be_built_is_one_line(prepared, tmp_path, name, precision, options, message):
    with pytest.raises(UserError, match=message) as error:
        build_engine(prepared(name), tmp_path, precision=precision, target=RTX, **options)
    assert "\n" not in str(error.value)
    assert "::" not in str(error.value)  # no place in TensorRT's own sources


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("nms", "fp32", "nms.* has no runners that implement it"),
        ("unknown-operator", "fp32", "Det 'determinant': unsupported node"),
        ("int32-bias", "int8", "Int32"),
    ],
)
def test_tensorrt_itself_refuses_what_the_preflight_does(prepared, tmp_path, monkeypatch, name, precision, message):
    monkeypatch.setattr(builder, "refuse", lambda *arguments: None)
    with pytest.raises(UserError, match=message) as error:
        build_engine(prepared(name), tmp_path, precision=precision, target=RTX)
    assert "\n" not in str(error.value)


def test_the_gpu_at_hand_must_be_one_that_tensorrt_rtx_knows(prepared, tmp_path, monkeypatch):
    h200 = Gpu("NVIDIA H200", "9.0", 143771, False)
    monkeypatch.setattr("effedge.engines.build_options.first_gpu", lambda: h200)
    monkeypatch.setattr("effedge.engines.tensorrt.api.first_gpu", lambda: h200)
    with pytest.raises(
        UserError, match=r"H200 has compute capability 9\.0, and .* 7\.5, 8\.0,.* only: take TARGET=trt"
    ):
        build_engine(
            prepared("f32"), tmp_path, precision="fp32", target=RTX,
            build_options=BuildOptions(compute_capabilities=("current",)),
        )  # fmt: skip


def test_ctrl_c_cancels_the_build_and_leaves_nothing(prepared, tmp_path, monkeypatch):
    original, steps = build_thread.progress_monitor, []

    def interrupting(module, cancelled):
        monitor = original(module, cancelled)
        step_complete = monitor.step_complete

        def interrupt(name, step):
            if not steps:
                os.kill(os.getpid(), signal.SIGINT)
                cancelled.wait(5)  # until the main thread has received it
            steps.append(step_complete(name, step))
            return steps[-1]

        type(monitor).step_complete = lambda self, phase_name, step: interrupt(phase_name, step)
        return monitor

    monkeypatch.setattr(build_thread, "progress_monitor", interrupting)
    with pytest.raises(KeyboardInterrupt):
        make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=RTX)
    assert steps and not any(steps)
    assert list(tmp_path.iterdir()) == []
    assert "builder" not in [thread.name for thread in threading.enumerate()]


def test_a_convolution_that_became_a_matrix_product_is_found_in_the_plans_text(tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(
        b'\x00\xffheader {\n  tensor={ name="weights" offset=0 type=half }\n'
        b'  fully_connected={ name="one" output={"y" } input={"weights" "x" } '
        b'layers="[ONNX Layer: c]__gemm_from_conv1x1" }\n'
        b'\x01header {\n  tensor={ name="weights" offset=0 type=float }\n'  # for another GPU
        b'  corrltn={ name="one" output={"y" } input={"weights" "x" } layers="[ONNX Layer: c]" }\n'
    )
    assert convolution_precisions(plan) == {"c": {"f16", "f32"}}


def test_the_log_lies_in_the_engines_folder_and_may_be_deleted(prepared, tmp_path):
    build_engine(prepared("f32"), tmp_path, precision="fp32", target=RTX)
    assert "INFO: Engine generation completed" in (tmp_path / "build.log").read_text()
    assert set(json.loads((tmp_path / "manifest.json").read_text())["files"]) == {"engine.plan"}


def test_the_log_of_a_build_that_fails_stays_beside_the_folder_until_one_succeeds(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "refuse", lambda *arguments: None)
    out, log = tmp_path / "engine", tmp_path / "engine.build.log"
    with pytest.raises(UserError, match="NonMaxSuppression 'nms': .*no runners.*; all that build.log says: ") as error:
        make_engine(prepared("nms"), out, precision="fp32", target=RTX)
    assert str(error.value).endswith(f"'{log}'")
    assert "ERROR: " in log.read_text() and not out.exists()
    make_engine(prepared("f32"), out, precision="fp32", target=RTX)
    assert not log.exists()


def test_the_workspace_that_was_asked_for_is_in_the_manifest(prepared, tmp_path):
    build_engine(prepared("f32"), tmp_path, precision="fp32", target=RTX, build_options=BuildOptions(workspace_mib=64))
    backend = json.loads((tmp_path / "manifest.json").read_text())["backend"]
    assert backend == {
        "name": "tensorrt_rtx", "version": trt.__version__, "compute_capabilities": ["portable"], "workspace_mib": 64
    }  # fmt: skip


@pytest.fixture
def on_a_board(monkeypatch, tmp_path):
    """(row, its cache folder): TensorRT-RTX's module, whose API is TensorRT 10's, in place of a board's TensorRT."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (builder, built_layers):
        monkeypatch.setattr(module, "first_gpu", lambda: Gpu("Orin", "8.7", 8000, True))
    return replace(RTX, name="jetson-orin", backend="tensorrt", dla=True), tmp_path / "cache" / "effedge" / "timing"


def build_on(row, onnx, folder, build_options=DEFAULT, precision="int8"):
    folder.mkdir()
    return builder.build(trt, BuildRequest(onnx, read_header(onnx), precision, row, build_options), folder)


@pytest.mark.filterwarnings("ignore:Use Deprecated")  # TensorRT-RTX of its timing cache
def test_on_a_board_kernels_are_cached_memory_is_limited_and_layers_are_inspected(
    on_a_board, prepared, tmp_path, monkeypatch
):
    row, cache = on_a_board
    kernels = [
        {
            "Name": f"conv{index}", "LayerType": "CaskConvolution", "TacticName": f"kernel{index}",
            "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        }
        for index in (1, 2)
    ]  # fmt: skip
    monkeypatch.setattr(api, "inspect", lambda *arguments: json.dumps({"Layers": kernels}))
    limits, limit = [], api.limit_workspace
    monkeypatch.setattr(api, "limit_workspace", lambda *given: (limits.append(given[2]), limit(*given)))
    built = build_on(row, prepared("int8"), tmp_path / "engine")
    assert [one.name for one in cache.iterdir()] == [f"tensorrt_{trt.__version__}_Orin_8.7_jetson-orin.cache"]
    assert limits == [built.backend["workspace_mib"]] == [default_workspace_mib(Gpu("Orin", "8.7", 8000, True))]
    assert built.source == "inspector"
    layers = {one.name: (one.precision, one.tactic) for one in built.layers}
    # What the inspector does not show is as the typed network says.
    assert layers == {
        "conv0": ("f32", ""), "conv1": ("int8", "kernel1"), "conv2": ("int8", "kernel2"), "conv3": ("int8", "")
    }  # fmt: skip


def test_what_a_cancelled_build_measured_is_kept(on_a_board, monkeypatch):
    row, cache = on_a_board
    kept = []
    monkeypatch.setattr(timing_cache, "attach", lambda *arguments: None)
    monkeypatch.setattr(timing_cache, "keep", lambda config, path: kept.append(path))
    logger = type("Logger", (), {"forget": lambda self: None})()
    with pytest.raises(KeyboardInterrupt), builder.use_timing_cache(trt, object(), row, logger):
        raise KeyboardInterrupt
    assert [path.parent for path in kept] == [cache]


@pytest.mark.filterwarnings("ignore:Use Deprecated")
@pytest.mark.parametrize(
    ("how", "source", "convolutions"), [(TYPED, "network", {"f32": 1, "int8": 3}), (FLAGS, "unknown", {})]
)
def test_a_plan_that_cannot_be_loaded_says_what_the_network_says(
    on_a_board, prepared, tmp_path, monkeypatch, how, source, convolutions
):
    for name in ("set_precision", "obey_constraints", "set_layer_precision", "set_output_type"):
        monkeypatch.setattr(api, name, lambda *arguments: None)  # TensorRT-RTX has no flags
    built = build_on(replace(on_a_board[0], precision_by=how), prepared("int8"), tmp_path / "engine")
    assert (built.source, built.convolutions) == (source, convolutions)


@pytest.mark.filterwarnings("ignore:Use Deprecated")
@pytest.mark.parametrize(
    ("line", "kind"),
    [
        # As TensorRT 8.5.2 writes it in NVIDIA/TensorRT#3385.
        (
            "[optimizer.cpp::computeCosts::3728] Error Code 10: Internal Error (Could not find any implementation for "
            "node w1 + conv1 + PWN(sigmoid1, silu1).)",
            NoImplementationError,
        ),
        ("[defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime (out of memory)", UserError),
    ],
)
def test_a_missing_kernel_is_told_from_other_failures(on_a_board, prepared, tmp_path, monkeypatch, line, kind):
    def fail(*arguments):
        tensorrt_logger(trt).errors.append(line)

    monkeypatch.setattr(builder, "build_plan", fail)
    with pytest.raises(UserError, match="tensorrt cannot build .*int8.onnx' for jetson-orin: ") as error:
        build_on(on_a_board[0], prepared("int8"), tmp_path / "engine")
    assert type(error.value) is kind and "\n" not in str(error.value)
    if kind is NoImplementationError:
        assert "Conv 'conv1' to Mul 'silu1': Internal Error (Could not find" in str(error.value)


MISSING = "Error Code 10: Internal Error (Could not find any implementation for node {}.)"
SKIPPED = "Skipping tactic 0 due to insuficient memory on requested size of 29147520 detected for tactic 0."


@pytest.mark.filterwarnings("ignore:Use Deprecated")
@pytest.mark.parametrize(
    ("errors", "warnings", "kind", "short"),
    [
        ([MISSING.format("w1 + conv1")], [], NoImplementationError, ""),
        # NVIDIA/TensorRT#2035
        ([MISSING.format("w1 + conv1")], [SKIPPED], NoImplementationError, f"memory was short there ('{SKIPPED}'): "),
        (
            ["Error Code 10: Internal Error (Could not find any implementation for node conv1 due to insufficient "
             "workspace. See verbose log for requested sizes.)"],
            [], UserError, "memory was short there: ",
        ),
        (["Requested amount of GPU memory (1 bytes) could not be allocated", "Error Code 2: OutOfMemory (no further "
          "information)", MISSING.format("conv1")], [], UserError, "memory was short there: "),
        # Of builds that succeed, too.
        ([MISSING.format("conv1")], ["Some tactics do not have sufficient workspace memory to run."],
         NoImplementationError, ""),
    ],
)  # fmt: skip
def test_a_kernel_that_got_no_memory_is_told_from_a_missing_one(
    on_a_board, prepared, tmp_path, monkeypatch, errors, warnings, kind, short
):
    def fail(*arguments):
        for severity, lines in ((trt.ILogger.WARNING, warnings), (trt.ILogger.ERROR, errors)):
            for line in lines:
                tensorrt_logger(trt).log(severity, line)

    monkeypatch.setattr(builder, "build_plan", fail)
    with pytest.raises(UserError) as error:
        build_on(on_a_board[0], prepared("int8"), tmp_path / "engine")
    assert type(error.value) is kind and ("memory was short" in str(error.value)) == bool(short)
    assert short in str(error.value) and ("with --workspace-mib" in str(error.value)) == bool(short)
    if kind is NoImplementationError:
        assert error.value.nodes == ("conv1",)


@pytest.mark.filterwarnings("ignore:Use Deprecated")
def test_what_falls_back_from_the_dla_is_in_the_manifest(on_a_board, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "use_dla", lambda *arguments: None)  # there is none here
    monkeypatch.setattr(api, "off_dla", lambda config, network: [0, 1])
    built = build_on(on_a_board[0], prepared("f16"), tmp_path / "engine", BuildOptions(dla="fallback"), "fp16")
    fallen = [{"name": "cast", "type": "cast"}, {"name": "transpose", "type": "shuffle"}]
    assert built.backend["dla"] == {"core": 0, "mode": "fallback", "on_gpu": fallen}
    assert "layers 2 are not for the DLA" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("f16", "fallback", "finds no DLA on this machine; leave --dla out"),
        ("f16", "only", "cannot take .*cast: Cast, which a DLA has no layer for"),
        ("int8", "fallback", "a DLA takes INT8 by ranges alone"),
    ],
)
def test_a_dla_that_is_not_there_or_cannot_is_one_line(on_a_board, prepared, tmp_path, name, mode, message):
    with pytest.raises(UserError, match=message):
        build_on(on_a_board[0], prepared(name), tmp_path / "engine", BuildOptions(dla=mode))


def recurrent(operator):
    """A convolution over a sequence, and a recurrent layer, as an exporter for speech writes it."""
    gates, random = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator], np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
        helper.make_node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        helper.make_node(operator, ["t", "w", "r"], ["", "y"], hidden_size=3),
    ]
    arrays = {"k": (5, 4, 1), "w": (1, 3 * gates, 5), "r": (1, 3 * gates, 3)}
    constants = {name: random.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    return nodes, {"x": [1, 4, 6]}, {"y": [1, 1, 3]}, constants


def scaled_by_a_scalar():
    """An input of rank 0 beside one of fixed size."""
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"], name="conv"), helper.make_node("Mul", ["c", "t"], ["y"])]
    return nodes, {"x": [1, 4, 6], "t": []}, {"y": [1, 5, 6]}, {"k": np.ones((5, 4, 1), np.float32)}


@pytest.mark.parametrize(
    "net",
    [
        # TensorRT takes a minute to build each of these two.
        pytest.param(recurrent("LSTM"), id="LSTM", marks=pytest.mark.slow),
        pytest.param(recurrent("GRU"), id="GRU", marks=pytest.mark.slow),
        pytest.param(recurrent("RNN"), id="RNN"),
        pytest.param(scaled_by_a_scalar(), id="scalar"),
    ],
)
def test_loops_and_scalars_build(net, tmp_path):
    nodes, inputs, outputs, constants = net
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
        for values in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    make_engine(tmp_path / "m.onnx", tmp_path / "engine", precision="fp32", target=RTX)
    layers = read_manifest(tmp_path / "engine")["precision"]["layers"]
    assert "conv" in {layer["name"] for layer in layers}
