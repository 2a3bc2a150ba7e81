"""Tests FP8 models: their numbers, their report, and FP16 around them."""

import json
from collections import Counter

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.fp8.quantize import describe, quantize
from effedge.calibration.fp16.convert import describe as describe_fp16
from effedge.calibration.fp16.convert import to_fp16
from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.graph.session import session
from effedge.deploy.common.cli import UserError
from effedge.engines.fusion import Graph
from effedge.engines.onnx_header import FP8, read_header
from tests.calibration.networks import Network, as_samples, normal_runs

CHANNELS, SIDE, HEADROOM = 32, 8, 4


@pytest.fixture
def samples():
    return as_samples(normal_runs(40, (1, CHANNELS, SIDE, SIDE)))


@pytest.fixture
def model(load):
    """A Relu, a Clip and a convolution in front of 1x1 convolutions: each of them ONNX Runtime would fuse with the
    QuantizeLinear behind it, as if that were INT8's."""
    net = Network()
    x = net.node("Relu", [net.input("x", [1, CHANNELS, SIDE, SIDE])], "relu")
    limits = [net.constant("low", np.float32(0)), net.constant("high", np.float32(1))]
    y = net.node("Clip", [net.conv(x, "first", CHANNELS, 48), *limits], "clip")
    net.output(net.conv(net.conv(y, "second", 48, CHANNELS), "third", CHANNELS, CHANNELS), [1, CHANNELS, SIDE, SIDE])
    return load(net)


def rounded(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Returns values as FP8 holds them, by ml_dtypes."""
    codes = np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float32) * scale


def dense(x: np.ndarray, model: ir.Model, name: str, amax: float) -> np.ndarray:
    """Computes a 1x1 convolution of rounded data and rounded weights, the scales as NVIDIA documents them."""
    weight, bias = (constant(model.graph.initializers[f"{name}.{part}"]) for part in ("weight", "bias"))
    matrix = weight[:, :, 0, 0]
    scale = (np.abs(matrix).max(axis=1, keepdims=True) / 448).astype(np.float16).astype(np.float32)
    data = rounded(x, np.float32(np.float16(amax * HEADROOM / 448)))
    return np.einsum("oi,nihw->nohw", rounded(matrix, scale), data) + bias.reshape(1, -1, 1, 1)


def test_its_outputs_are_those_of_data_and_weights_rounded_to_e4m3(model, samples):
    changed, report = quantize(model, samples)
    feed = samples.load(3)
    amax = report["thresholds"]
    assert amax["relu"] == pytest.approx(max(samples.load(i)["x"].max() for i in range(40) if i % 5 not in (0, 2)))
    assert amax["clip"] == 1
    expected = dense(np.clip(feed["x"], 0, None), model, "first", amax["relu"])
    expected = dense(np.clip(expected, 0, 1), model, "second", amax["clip"])
    expected = dense(expected, model, "third", amax["second"])
    [got] = session(changed).run(None, feed)
    assert got == pytest.approx(expected, abs=1e-4)


def test_its_report_says_what_is_fp8_and_what_it_costs(model, samples):
    changed, report = quantize(model, samples)
    assert json.loads(changed.metadata_props["effedge_calibration"]) == json.loads(json.dumps(report))
    assert (report["method"], report["images"], report["fp8_layers"], report["fp8_macs"]) == ("fp8", 24, 3, 1.0)
    assert report["held_out"]["samples"] == 16
    assert 20 < report["sqnr_db"]["third"] < 40  # rounding errs by 1/16 at most, 2.6% on average
    assert 1e-4 < report["output_error"] < 1e-2
    assert "3 layers in FP8, 0 in 16 bit; 100.0% of multiply-accumulates in FP8" in describe(report)


def test_few_samples_serve_for_ranges_and_judgement(model):
    _, report = quantize(model, as_samples(normal_runs(4, (1, CHANNELS, SIDE, SIDE))))
    assert report["images"] == 4 and report["held_out"] is None


def test_around_it_all_is_float16_and_the_weights_stay(model, samples, tmp_path):
    changed, _ = quantize(model, samples)
    converted, report = to_fp16(changed)
    types = Counter(value.dtype for node in converted.graph for value in node.outputs)
    assert types[ir.DataType.FLOAT8E4M3FN] == 3 and types[ir.DataType.FLOAT] == 1  # the output
    before, after = (
        {name: constant(value) for name, value in one.graph.initializers.items() if "_fp8_" in name}
        for one in (changed, converted)
    )
    assert all((before[name] == after[name]).all() for name in before)
    feed = samples.load(0)
    [got], [expected] = (session(one).run(None, feed) for one in (converted, changed))
    assert np.abs(got - expected).mean() < 0.01 * np.abs(expected).max()
    assert "around FP8" in describe_fp16(report)
    onnx_file.save(converted, tmp_path / "fp8.onnx")
    header = read_header(tmp_path / "fp8.onnx")
    assert header.is_fp8 and header.pair_types == {FP8} and header.has_fp16_scales


def test_fp8_is_a_byte_a_number_in_the_traffic(load, samples, tmp_path):
    net = Network()
    x = net.node("Relu", [net.input("x", [1, CHANNELS, SIDE, SIDE])], "relu")
    x = net.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    net.output(net.conv(x, "conv", CHANNELS, CHANNELS), [1, CHANNELS, SIDE // 2, SIDE // 2])
    onnx_file.save(to_fp16(quantize(load(net), samples)[0])[0], tmp_path / "fp8.onnx")
    kernels = Graph(read_header(tmp_path / "fp8.onnx"), quantized=True, half=False).kernels()
    moved = sum(size for kernel in kernels for kind, size in kernel.tensors if kind == "fp8")
    large, small, weights, zero_point = CHANNELS * SIDE**2, CHANNELS * (SIDE // 2) ** 2, CHANNELS**2, 1
    assert moved == 2 * large + 2 * small + weights + zero_point  # each map is written and read


def test_a_model_without_a_layer_for_it_is_refused(load, samples):
    net = Network()
    x = net.input("x", [1, CHANNELS, SIDE, SIDE])
    net.output(net.conv(x, "deep", CHANNELS, CHANNELS, kernel=3, group=CHANNELS), [1, CHANNELS, SIDE, SIDE])
    with pytest.raises(UserError, match="nothing in the model can be FP8 .*depthwise.*: build it as fp16 or int8"):
        quantize(load(net), samples)
