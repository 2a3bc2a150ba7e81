"""TensorRT-RTX builds for real, without a GPU."""

import json
import os
import signal
import threading

import pytest

from deploy.cli import UserError
from engines import tensorrt_builder
from engines.build import build_engine, make_engine
from engines.plan_text import convolution_precisions
from engines.targets import TARGETS

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
RTX = TARGETS["rtx"]


def test_int8_with_a_dynamic_batch_builds_and_the_plan_says_int8(prepared, tmp_path):
    build_engine(prepared("int8-dynamic"), tmp_path, precision="int8", target=RTX, quiet=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["precision"]["convolutions"] == {"int8": 3, "f32": 1}
    assert manifest["precision"]["source"] == "plan"
    plan = (tmp_path / "engine.plan").read_bytes()
    assert b"out of bounds [1, 4]" in plan  # the profile's batch range, as the plan checks it


def test_a_model_without_a_spec_builds_with_the_batch_that_it_says(prepared, tmp_path):
    build_engine(prepared("own-batch"), tmp_path, precision="fp32", target=RTX, quiet=True)
    assert json.loads((tmp_path / "manifest.json").read_text())["batch"] == [1, 3, 5]
    assert b"out of bounds [1, 5]" in (tmp_path / "engine.plan").read_bytes()


@pytest.mark.parametrize(("name", "precision", "kind"), [("f32", "fp32", "f32"), ("f16", "fp16", "f16")])
def test_a_typed_network_is_built_in_its_own_types(prepared, tmp_path, name, precision, kind):
    build_engine(prepared(name), tmp_path, precision=precision, target=RTX, quiet=True)
    assert convolution_precisions(tmp_path / "engine.plan") == {f"conv{index}": {kind} for index in range(4)}


def test_fp32_is_not_tf32(prepared, tmp_path):
    build_engine(prepared("f32"), tmp_path, precision="fp32", target=RTX, quiet=True)
    plan = (tmp_path / "engine.plan").read_bytes()
    assert b"tf32=0" in plan
    assert b"tf32=1" not in plan


def test_candidate_selection_builds(prepared, tmp_path):
    build_engine(prepared("tail"), tmp_path, precision="fp32", target=RTX, quiet=True)
    assert (tmp_path / "engine.plan").stat().st_size > 1000


def test_a_plan_is_for_the_compute_capabilities_that_were_asked_for(prepared, tmp_path):
    capabilities = ["7.5", "12.1"]
    build_engine(prepared("f32"), tmp_path, precision="fp32", target=RTX, compute_capabilities=capabilities, quiet=True)
    assert b"accelerators={sm75 sm121 }" in (tmp_path / "engine.plan").read_bytes()


@pytest.mark.parametrize(
    ("name", "precision", "options", "message"),
    [
        ("nms", "fp32", {}, "rtx cannot take .*nms.*: NonMaxSuppression, .*without NMS"),
        ("unknown-operator", "fp32", {}, "determinant: Det, which no TensorRT reads"),
        ("int32-bias", "int8", {}, "b1_dq: DequantizeLinear of INT32.*float biases.*and 2 more: "),
        ("f32", "fp32", {"compute_capabilities": ["9.0"]}, "unknown compute capability '9.0': .*7.5, 8.0, .*12.1"),
        ("f32", "fp16", {}, "no FP16 weights"),
        ("any-batch", "fp32", {}, "has a dynamic batch and does not say which: .*--onnx sets it, with --batch"),
    ],
)
def test_what_cannot_be_built_is_one_line(prepared, tmp_path, name, precision, options, message):
    with pytest.raises(UserError, match=message) as error:
        build_engine(prepared(name), tmp_path, precision=precision, target=RTX, quiet=True, **options)
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
    monkeypatch.setattr(tensorrt_builder, "refuse", lambda *arguments: None)
    with pytest.raises(UserError, match=message) as error:
        build_engine(prepared(name), tmp_path, precision=precision, target=RTX, quiet=True)
    assert "\n" not in str(error.value)


def test_ctrl_c_cancels_the_build_and_leaves_nothing(prepared, tmp_path, monkeypatch):
    original, steps = tensorrt_builder.progress_monitor, []

    def interrupting(module, cancelled, disable):
        monitor = original(module, cancelled, disable)
        step_complete = monitor.step_complete

        def interrupt(name, step):
            if not steps:
                os.kill(os.getpid(), signal.SIGINT)
                cancelled.wait(5)  # until the main thread has received it
            steps.append(step_complete(name, step))
            return steps[-1]

        type(monitor).step_complete = lambda self, phase_name, step: interrupt(phase_name, step)
        return monitor

    monkeypatch.setattr(tensorrt_builder, "progress_monitor", interrupting)
    with pytest.raises(KeyboardInterrupt):
        make_engine(prepared("f32"), tmp_path / "engine", precision="fp32", target=RTX, quiet=True)
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
