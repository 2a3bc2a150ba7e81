"""TensorRT's calibration cache, read back as NVIDIA's tools read it, and the float model that goes with it."""

import json
import re
import struct
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.float_twin import float_twin
from effedge.calibration.post_training import quantize
from effedge.calibration.settings import Settings
from effedge.calibration.tensorrt_cache import cache_text, main, ranges_stages, version_number
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from effedge.engines.onnx_header import read_header
from tests.calibration import networks


def read_cache(text):
    """As nvdla/sw's calib_txt_to_json.py: {tensor: scale}."""
    fields = [line.split(":") for line in text.splitlines()[1:]]
    return {name.strip(): struct.unpack(">f", bytes.fromhex(digits.strip()))[0] for name, digits in fields}


@pytest.fixture
def call(call_main):
    return partial(call_main, main)


@pytest.fixture
def int8(load, samples):
    return quantize(load(networks.classifier()), samples, Settings("minmax", float_share=0.3))[0]


@pytest.fixture
def saved(int8, tmp_path):
    onnx_file.save(int8, tmp_path / "int8.onnx")
    return tmp_path / "int8.onnx"


def test_zero_points_have_no_place_in_a_cache(call, load, samples, tmp_path):
    settings = Settings("minmax", correction=False, zero_points=True)
    onnx_file.save(quantize(load(networks.classifier()), samples, settings)[0], tmp_path / "cpu.onnx")
    status, _, error = call(tmp_path / "cpu.onnx", "--out", tmp_path / "int8.cache")
    assert status == 2 and "zero points" in error and [path.name for path in tmp_path.iterdir()] == ["cpu.onnx"]


def test_the_bytes_by_hand():
    assert cache_text({"a": 127.0, "b/c": 12.7}, 100900) == (
        "TRT-100900-EntropyCalibration2\na: 3f800000\nb/c: 3dcccccd\n"
    )


@pytest.mark.parametrize(
    ("text", "number"), [("8.6.1", 8601), ("8.5.2.2", 8502), ("8601", 8601), ("10.9.0", 100900), ("100900", 100900)]
)
def test_versions_are_numbered_as_nvinfer_does(text, number):
    assert version_number(text) == number


@pytest.mark.parametrize("text", ["", "eight", "8.6", "11.0.0", "6.0.1", "860100", "86010"])
def test_other_versions_are_refused(text):
    with pytest.raises(UserError, match="--tensorrt"):
        version_number(text)


def test_the_command_writes_a_cache_that_reads_back_and_names_tensors_of_the_float_model(call, saved, int8, tmp_path):
    cache, twin = tmp_path / "int8.cache", tmp_path / "float.onnx"
    status, printed, _ = call(saved, "--out", cache, "--onnx-out", twin)
    assert status == 0
    scales = read_cache(cache.read_text())
    in_graph = {
        node.inputs[0].name: float(node.inputs[1].const_value.numpy())
        for node in int8.graph
        if node.op_type == "QuantizeLinear"
    }
    del in_graph["nchw.aligned"]  # the image, which the twin reads as it is
    assert scales == {"nchw": pytest.approx(255 / 127), **in_graph} and cache.read_text().startswith(
        "TRT-8601-EntropyCalibration2\n"
    )
    model = ir.load(twin)
    values = {value.name for node in model.graph for value in node.outputs} | {v.name for v in model.graph.inputs}
    assert set(scales) <= values
    assert printed.startswith(f"trtexec --onnx={twin} --int8 --fp16 --calib={cache}")
    kept = json.loads(int8.metadata_props[CALIBRATION_KEY])["float_layers"]
    assert json.loads(model.metadata_props[CALIBRATION_KEY]) == {"method": "ranges", "float_layers": kept}
    assert kept and read_header(twin).float_layers == kept, "the builder keeps these layers out of INT8"
    assert f"effedge build {twin} --precision int8 --dla fallback --ranges {cache}" in printed
    assert "--calibration DATA adds them" in printed
    assert set(re.findall(r"(\w+):fp16", printed)) == set(kept)


def test_with_calibration_data_what_the_layers_write_has_ranges_too(call, saved, int8, run_ort, tmp_path):
    cache, data = tmp_path / "int8.cache", tmp_path / "data.npz"
    images = np.concatenate([next(iter(feed.values())) for feed in networks.feeds(3, seed=9)])
    np.savez(data, **{next(iter(networks.feeds(1)[0])): images})
    status, printed, error = call(saved, "--out", cache, "--calibration", data)
    assert status == 0 and "--calibration" not in printed, error
    scales = read_cache(cache.read_text())
    read = json.loads(int8.metadata_props[CALIBRATION_KEY])["thresholds"]
    read["nchw"] = 255  # of which the INT8 model reads nchw.aligned
    del read["nchw.aligned"]
    assert {name: scales[name] * 127 for name in read} == pytest.approx(read, rel=1e-6), "calibrated ranges stay"
    written = {node.outputs[0].name for node in float_twin(int8).graph if node.op_type == "Conv"}
    layers = {node.name: node.outputs[0].name for node in float_twin(int8).graph}
    assert written <= set(scales) and not {layers["logits"]} - set(scales)
    twin = onnx_file.load(f"{cache}.onnx")
    name = layers["block1_expand"]
    twin.graph.outputs[:] = [value for node in twin.graph for value in node.outputs if value.name == name]
    largest = max(np.abs(run_ort(twin, feed)[0]).max() for feed in networks.feeds(3, seed=9))
    assert scales[name] * 127 == pytest.approx(largest, rel=1e-5)


def test_the_stages_write_what_the_command_writes_with_data_and_only_once(call, saved, tmp_path):
    data = tmp_path / "data.npz"
    images = np.concatenate([next(iter(feed.values())) for feed in networks.feeds(3, seed=9)])
    np.savez(data, **{next(iter(networks.feeds(1)[0])): images})
    twin, cache = ranges_stages(saved, data, images=3)
    assert (twin.name, cache.name) == ("int8-float.onnx", "int8.cache")
    assert call(saved, "--out", tmp_path / "c", "--calibration", data)[0] == 0
    assert cache.read_text() == (tmp_path / "c").read_text() and twin.read_bytes() == (tmp_path / "c.onnx").read_bytes()
    before = cache.stat().st_ino, twin.stat().st_ino
    ranges_stages(saved, data, images=3)
    assert (cache.stat().st_ino, twin.stat().st_ino) == before
    np.savez(data, **{next(iter(networks.feeds(1)[0])): 2 * images})
    ranges_stages(saved, data, images=3)
    assert cache.stat().st_ino != before[0] and twin.stat().st_ino == before[1]


def test_the_twin_stands_beside_the_cache_by_default(call, saved, tmp_path):
    assert call(saved, "--out", tmp_path / "int8.cache")[0] == 0
    onnx.checker.check_model(onnx.load(tmp_path / "int8.cache.onnx"), full_check=True)


def test_the_twin_is_float_and_near_the_int8_model(int8, run_ort):
    twin = float_twin(int8)
    pairs = ("QuantizeLinear", "DequantizeLinear")
    assert [node.name for node in twin.graph] == [node.name for node in int8.graph if node.op_type not in pairs]
    for feed in networks.feeds(4, seed=5):
        expected = run_ort(int8, feed, optimized=False)[0]
        np.testing.assert_allclose(run_ort(twin, feed)[0], expected, atol=0.05 * np.abs(expected).max())


def test_the_twins_weights_are_those_that_int8_computes_with(int8):
    twin = float_twin(int8)
    before = {node.name: node for node in int8.graph}
    layer = next(node for node in twin.graph if node.name == "head")
    integers, scale, _ = (value.const_value.numpy() for value in before["head"].inputs[1].producer().inputs)
    np.testing.assert_array_equal(layer.inputs[1].const_value.numpy(), integers * scale[:, None, None, None])
    np.testing.assert_array_equal(layer.inputs[2].const_value.numpy(), before["head"].inputs[2].const_value.numpy())


def test_the_int8_model_stays_as_it_was(int8):
    before = ir.to_proto(int8).SerializeToString()
    float_twin(int8)
    assert ir.to_proto(int8).SerializeToString() == before


def test_bad_arguments_are_one_line_and_write_nothing(call, saved, tmp_path):
    plain = networks.classifier().save(tmp_path / "plain.onnx")
    (tmp_path / "file").write_text("")
    there = set(tmp_path.iterdir())
    for arguments in (
        (tmp_path / "gone.onnx", "--out", tmp_path / "c"),
        (plain, "--out", tmp_path / "c"),
        (saved, "--out", tmp_path / "file" / "c"),
        (saved, "--out", saved),
        (saved, "--out", tmp_path / "c", "--tensorrt", "11.0.0"),
    ):
        status, _, error = call(*arguments)
        assert status == 2 and error.count("\n") == 1
    assert set(tmp_path.iterdir()) == there
