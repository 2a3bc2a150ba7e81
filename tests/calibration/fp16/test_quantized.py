"""FP16 around INT8: types, scales and numbers, on every backend that is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.fp16.convert import describe, to_fp16
from effedge.calibration.fp16.quantized import SMALLEST_NORMAL, rescaled, rounded_scale
from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.onnx_file import constant
from effedge.calibration.post_training import quantize
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import read_header
from effedge.engines.traffic import traffic
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
BYTES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "INT64": 8, "UINT8": 1, "BOOL": 1}


@pytest.fixture(params=[networks.classifier, networks.detector], ids=lambda make: make.__name__)
def int8(request, load: Load, samples) -> ir.Model:
    return quantize(load(request.param()), samples, Settings("minmax", correction=False))[0]


def test_its_outputs_are_those_of_float32_around_int8(int8: ir.Model, run_ort: Run, run_openvino: Run) -> None:
    """Up to the rounding of float16: a value that lies between two steps of INT8 may take the other one."""
    changed, _ = to_fp16(int8)
    feed = networks.feeds(1, seed=3)[0]
    expected = run_ort(int8, feed)
    for outputs in (run_ort(changed, feed), run_ort(changed, feed, optimized=False), run_openvino(changed, feed)):
        for got, wanted in zip(outputs, expected, strict=True):
            if wanted.shape[-1] == 4:  # boxes: those of nearly equal scores may change places
                nearest = np.abs(got[0, None] - wanted[0, :, None]).mean(axis=-1).argmin(axis=1)
                got = got[:, nearest]
            assert got.dtype == wanted.dtype
            assert np.abs(got - wanted).mean() < 0.02 * np.abs(wanted).max()


def test_whatever_is_not_int8_is_float16_but_for_means_and_the_tail(int8: ir.Model) -> None:
    changed, report = to_fp16(int8)
    assert changed.opset_imports[""] == 19
    types = Counter()
    for node in changed.graph:
        if node.op_type in ("Conv", "Gemm", "Mul", "Sigmoid", "Add", "QuantizeLinear", "DequantizeLinear"):
            read = [value for value in node.inputs if value is not None]
            types.update(value.dtype for value in (*read, *node.outputs) if value.dtype in (HALF, FLOAT))
    pooled = [name for name, why in report["float32_nodes"].items() if why == "it sums over a map"]
    # Of the detector's tail, Sigmoid and the Mul and Add of decoding are float32.
    assert types[HALF] > 10 * types[FLOAT] or not types[FLOAT]
    assert len(pooled) == len(report["float32_nodes"])


def test_it_moves_fewer_bytes_than_fp16_and_hardly_any_float32(int8: ir.Model, tmp_path: Path) -> None:
    ratios = []
    for name, model in (("half", to_fp16(int8)[0]), ("float", int8)):
        onnx_file.save(model, tmp_path / f"{name}.onnx")
        entry = traffic(read_header(tmp_path / f"{name}.onnx"), typed=True)
        assert entry is not None
        ratios.append(entry["ratio"])
        if name == "half":
            assert entry["by_type"].get("float32", 0) <= 0.03 * entry["mib"]
    assert ratios[0] < 0.85 and ratios[1] > 1


def test_the_report_is_the_calibrations_with_two_things_added(int8: ir.Model) -> None:
    changed, report = to_fp16(int8)
    assert {**report, "fp16_layers": 0, "float32_nodes": {}}.keys() >= {"thresholds", "sensitivity", "float_layers"}
    assert report["method"] == "minmax" and report["fp16_layers"] > 0
    assert "around INT8" in describe(report)


def test_no_int8_weight_changes_where_the_scales_are_normal(int8: ir.Model) -> None:
    def weights(model):
        pairs = (node for node in model.graph if node.op_type == "DequantizeLinear")
        return {node.name: constant(node.inputs[0]) for node in pairs if constant(node.inputs[0]) is not None}

    before, after = weights(int8), weights(to_fp16(int8)[0])
    assert before.keys() == after.keys() and before
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_the_int8_model_stays_as_it_is(int8: ir.Model) -> None:
    before = ir.to_proto(int8).SerializeToString()
    to_fp16(int8)
    assert ir.to_proto(int8).SerializeToString() == before


def test_scales_become_float16_numbers_and_none_becomes_zero() -> None:
    scales = np.float32([3.0, 0.01234567, SMALLEST_NORMAL, 2e-5, 3.3e-7, 1e-9])
    rounded = rounded_scale(scales)
    np.testing.assert_array_equal(rounded, rounded.astype(np.float16))
    assert np.abs(rounded[:3] / scales[:3] - 1).max() <= 2.0**-11
    assert (rounded[3:] >= scales[3:]).all()  # so that nothing clips


def test_weights_of_a_subnormal_scale_are_rounded_anew() -> None:
    weight = np.int8([[127, -100, 3], [127, -100, 3]])
    scale = np.float32([1e-7, 0.5])
    rounded = rounded_scale(scale)
    changed = rescaled(weight, scale / rounded, 0)
    np.testing.assert_array_equal(changed[1], weight[1])
    error = np.abs(changed[0] * rounded[0] - weight[0] * scale[0]).max()
    assert error <= rounded[0] / 2 * 1.001
    np.testing.assert_array_equal(rescaled(weight, np.float32(0.5), 0), np.int8(np.round(weight * 0.5)))


def test_a_converted_model_is_refused_where_float32_is_expected(int8: ir.Model, tmp_path) -> None:
    changed, _ = to_fp16(int8)
    onnx_file.check_float32_scales(int8, "x")
    with pytest.raises(UserError, match="'x' has FP16 around its INT8: give the INT8 ONNX"):
        onnx_file.check_float32_scales(changed, "x")


def test_tensorrt_rtx_builds_it_and_reads_next_to_no_float32(int8: ir.Model, build_rtx) -> None:
    """Bytes that the layers of the typed network write, a Cast and a DequantizeLinear being part of their reader."""
    trt = pytest.importorskip("tensorrt_rtx")
    changed, _ = to_fp16(int8)
    build_rtx(changed)
    written = bytes_by_type(trt, ir.to_proto(changed).SerializeToString())
    before = bytes_by_type(trt, ir.to_proto(int8).SerializeToString())
    assert before["FLOAT"] > 0.5 * sum(before.values()) and "HALF" not in before
    assert written["HALF"] > 0 and written["INT8"] == before["INT8"]
    assert written["FLOAT"] <= 0.03 * sum(written.values()), written


def bytes_by_type(trt, data: bytes) -> Counter:
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(data), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    written: Counter = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name not in ("CONSTANT", "CAST", "DEQUANTIZE", "SHUFFLE"):
            tensor = layer.get_output(0)
            written[tensor.dtype.name] += int(np.prod(tensor.shape)) * BYTES[tensor.dtype.name]
    return written
