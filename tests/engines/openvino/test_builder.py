"""Tests CPU engines: the same outputs as ONNX Runtime on the same ONNX, and the precision that was asked for."""

import json

import numpy as np
import onnxruntime
import pytest

from effedge import Runner
from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.onnxruntime_backend import make_session
from effedge.deploy.runtime.openvino_int8_sums import saturates
from effedge.engines.build import build_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.build_request import NoSuchPrecisionError
from effedge.engines.openvino import float_parts
from effedge.engines.openvino.float_parts import precision_hint
from effedge.engines.targets import TARGETS
from tests.engines import graphs
from tests.engines.openvino.builds import CAPABILITIES

ov = pytest.importorskip("openvino")
REST = precision_hint(CAPABILITIES, "int8")  # of what is not INT8


def outputs(onnx, folder, batch=1):
    """Returns ONNX Runtime's and the engine's logits on the same image, and the manifest."""
    image = np.random.default_rng(1).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    session = make_session(str(onnx), onnxruntime.SessionOptions, fp8=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    return session.run(None, {"image": image})[0], Runner(folder)({"image": image})["logits"], manifest


@pytest.mark.parametrize("form", ["exact", "polynomial"])
@pytest.mark.parametrize(
    ("name", "precision", "tolerance", "expected"),
    [
        ("f32", "fp32", 1e-5, {"f32": 4}),
        ("int8", "int8", 0.02, {"int8": 3, REST: 1}),
        ("zero-bias", "int8", 0.02, {"int8": 3, REST: 1}),  # OpenVINO names these convolutions otherwise
        ("int8-dynamic", "int8", 0.02, {"int8": 3, REST: 1}),
    ],
)
def test_the_engine_gives_onnx_runtimes_outputs(prepared, tmp_path, name, precision, tolerance, expected, form):
    build_options = BuildOptions(
        float_parts="fp16" if precision == "int8" and REST != "f32" else "auto",
        swish="exact" if precision == "fp32" else form,
    )
    build_engine(prepared(name), tmp_path, precision=precision, target=TARGETS["cpu"], build_options=build_options)
    reference, actual, manifest = outputs(prepared(name), tmp_path, batch=3 if name == "int8-dynamic" else 1)
    assert actual.shape == reference.shape
    assert np.abs(actual - reference).max() <= tolerance * np.ptp(reference)
    assert manifest["precision"]["convolutions"] == expected
    assert manifest["precision"]["source"] == "executed"
    assert manifest["precision"]["not_built"] == []


def test_fp16_runs_in_16_bits_where_the_cpu_has_them_and_is_refused_elsewhere(prepared, tmp_path):
    if not {"FP16", "BF16"}.intersection(CAPABILITIES):
        with pytest.raises(UserError, match="neither FP16 nor bfloat16"):
            build_engine(prepared("f32"), tmp_path, precision="fp16", target=TARGETS["cpu"])
        return
    build_engine(prepared("f32"), tmp_path, precision="fp16", target=TARGETS["cpu"])
    reference, actual, manifest = outputs(prepared("f32"), tmp_path)
    assert np.abs(actual - reference).max() <= 0.05 * np.ptp(reference)
    assert set(manifest["precision"]["convolutions"]) <= {"f16", "bf16"}


def test_the_hint_is_what_the_cpu_has():
    assert precision_hint(["FP32", "BF16", "FP16"], "fp16") == "bf16"  # which cannot overflow
    assert precision_hint(["FP32", "FP16"], "fp16") == "f16"
    assert precision_hint(["FP32", "BF16"], "fp16") == "bf16"
    assert precision_hint(["FP32", "BF16", "INT8"], "int8") == "bf16"  # of the layers that stay out of INT8
    assert precision_hint(["FP32", "INT8"], "int8") == precision_hint(["BF16"], "fp32") == "f32"
    with pytest.raises(NoSuchPrecisionError, match="neither FP16 nor bfloat16"):
        precision_hint(["FP32", "INT8"], "fp16")


@pytest.mark.parametrize("zero", [0, 9])
def test_int8_behind_a_concat_is_right_and_int8(tmp_path, monkeypatch, zero):
    """As the ONNX reader makes it, OpenVINO 2026.4 computes this 10 dB beside ONNX Runtime."""
    monkeypatch.setattr(float_parts, "SIXTEEN_BITS", {})  # bfloat16 would round the output by 44 dB
    path = graphs.quantized_concat(tmp_path / "concat.onnx", zero=zero)
    (tmp_path / "engine").mkdir()
    build_engine(path, tmp_path / "engine", precision="int8", target=TARGETS["cpu"])
    assert json.loads((tmp_path / "engine" / "manifest.json").read_text())["precision"]["convolutions"] == {"int8": 1}
    feeds = {"x": np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    reference, actual = session.run(None, feeds)[0], Runner(tmp_path / "engine")(feeds)["conv_out"]
    # 60 dB, or what narrower weights leave of it on a CPU without VNNI
    assert np.square(actual - reference).sum() < (1e-4 if saturates() else 1e-6) * np.square(reference).sum()
