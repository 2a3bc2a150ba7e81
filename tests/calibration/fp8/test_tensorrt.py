"""Builds FP8 models by TensorRT-RTX itself, which needs no GPU for it."""

import json

import pytest

from effedge.calibration.fp8.quantize import quantize
from effedge.calibration.fp16.convert import to_fp16
from effedge.calibration.graph import onnx_file
from effedge.calibration.placement import make_plan
from effedge.calibration.placement.insert import FP8, InsertQDQPass
from effedge.deploy.common.cli import UserError
from effedge.engines.build import make_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.targets import TARGETS
from tests.calibration.networks import Network, as_samples, normal_runs

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
SHAPE = (1, 32, 16, 16)


@pytest.fixture
def model(load):
    """Dense 3x3, depthwise and 7x7 convolutions, with swishes between."""
    net = Network()
    x = net.silu(net.conv(net.input("x", list(SHAPE)), "dense", 32, 64, kernel=3), "dense_act")
    x = net.silu(net.conv(x, "depthwise", 64, 64, kernel=3, group=64), "depthwise_act")
    x = net.silu(net.conv(x, "large", 64, 32, kernel=7), "large_act")
    net.output(net.conv(x, "last", 32, 32), list(SHAPE))
    return load(net)


@pytest.fixture
def build(tmp_path):
    """build(model, precision, *capabilities): the precision in the manifest of the engine."""

    def inner(model, precision, *capabilities):
        onnx = tmp_path / "model.onnx"
        onnx_file.save(model, onnx)
        folder = tmp_path / "engine"
        make_engine(onnx, folder, precision=precision, target=TARGETS["rtx"], build_options=BuildOptions(capabilities))
        return json.loads((folder / "manifest.json").read_text())["precision"]

    return inner


@pytest.mark.parametrize("capabilities", [("8.9",), ("12.0",), ("8.9", "12.0"), ()])
def test_the_plan_has_the_layers_in_fp8_that_were_to_be(model, build, capabilities):
    built = build(to_fp16(quantize(model, as_samples(normal_runs(4, SHAPE)))[0])[0], "fp8", *capabilities)
    precisions = {layer["name"]: layer["precision"] for layer in built["layers"] if layer["type"] == "convolution"}
    assert precisions == {"dense": "fp8", "depthwise": "f16", "large": "f16", "last": "fp8"}
    assert built["source"] == "plan" and built["not_built"] == []
    assert set(built["kept"]) == {"depthwise", "large"}


def test_a_kernel_that_tensorrt_computes_in_fp16_all_the_same_is_reported(model, build):
    """Of another quantizer, which gives every layer Q/DQ."""
    changed = onnx_file.prepare(model.clone())
    changed.opset_imports[""] = 19  # the operators are those of 18
    plan = make_plan(changed)
    InsertQDQPass(plan.reads, dict.fromkeys(plan.tensors, 4.0), plan.layers, number_format=FP8)(changed)
    assert build(to_fp16(changed)[0], "fp8", "8.9")["not_built"] == ["large"]


@pytest.mark.parametrize(
    ("precision", "capability", "message"),
    [
        ("fp8", "8.6", "compute capability 8.6 has no FP8, 8.9 and later do"),
        ("int8", "8.9", "int8 was asked for, but .* is quantized to FP8: build it as fp8"),
        ("fp16", "8.9", r"fp16 was asked for, but .* is quantized to FP8 \(2 layers\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(model, build, precision, capability, message):
    changed = to_fp16(quantize(model, as_samples(normal_runs(4, SHAPE)))[0])[0]
    with pytest.raises(UserError, match=message):
        build(changed, precision, capability)
