"""Layers of an INT8 model in 16 bit, for a builder without INT8 kernels for them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.unquantize import int8_layers, unquantize
from effedge.calibration.placement.without_int8 import without_int8
from effedge.calibration.post_training import quantize
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CALIBRATION_KEY
from effedge.engines.onnx_header import read_header
from effedge.engines.preflight import risky_layers
from effedge.engines.targets import TARGETS
from tests.calibration import networks

DEPTHWISE = ["block1_depthwise", "block2_depthwise"]


@pytest.fixture
def int8(load, samples) -> ir.Model:
    model, _ = quantize(load(networks.classifier()), samples, Settings("minmax", correction=False, float_share=0.0))
    return onnx_file.prepare(ir.from_proto(ir.to_proto(model)))


def report(model: ir.Model) -> dict:
    return json.loads(model.metadata_props[CALIBRATION_KEY])


def test_the_layers_that_preflight_names_leave_int8_and_the_report_says_why(int8, tmp_path) -> None:
    onnx_file.save(int8, tmp_path / "int8.onnx")
    names = risky_layers(read_header(tmp_path / "int8.onnx"), TARGETS["jetson-xavier"])
    assert set(DEPTHWISE) <= set(names)
    changed = without_int8(int8, names)
    onnx.checker.check_model(ir.to_proto(changed), full_check=True)
    before, after = ({node.name for node in int8_layers(model)} for model in (int8, changed))
    assert before - after == set(names) and after
    written = report(changed)
    assert {name: written["float_layers"][name] for name in names} == dict.fromkeys(
        names, "its INT8 kernel may be missing"
    )
    assert written["int8_layers"] == len(after) and written["int8_macs"] < report(int8)["int8_macs"]
    onnx_file.save(changed, tmp_path / "planb.onnx")
    header = read_header(tmp_path / "planb.onnx")
    assert risky_layers(header, TARGETS["jetson-xavier"]) == [] and set(names) <= set(header.float_layers)
    assert report(int8)["int8_layers"] == len(before), "the model that was given stays"


def test_a_pair_that_another_layer_reads_too_stays(load, samples, run_ort) -> None:
    """Two convolutions read one tensor: the pair of the tensor serves the one that is left."""
    net = networks.Network()
    x = net.silu(net.conv(net.input("x", [1, 3, 8, 8]), "stem", 3, 8), "stem_act")
    left, right = (net.conv(x, name, 8, 8) for name in ("left", "right"))
    net.output(net.node("Add", [left, right], "sum"), [1, 8, 8, 8])
    runs = networks.normal_runs(4, (1, 3, 8, 8))
    model, _ = quantize(load(net), networks.as_samples(runs), Settings("minmax", correction=False, float_share=0.0))
    model = onnx_file.prepare(ir.from_proto(ir.to_proto(model)))
    names = [node.name for node in int8_layers(model)]
    assert {"left", "right"} <= set(names)
    changed = without_int8(model, ["left"])
    assert [node.name for node in int8_layers(changed)] == [name for name in names if name != "left"]
    np.testing.assert_array_equal(run_ort(changed, runs[0])[0], run_ort(unquantize(model, ["left"]), runs[0])[0])
    assert not np.array_equal(run_ort(changed, runs[0])[0], run_ort(model, runs[0])[0])


def test_an_int8_model_without_a_report_gets_one(int8) -> None:
    del int8.metadata_props[CALIBRATION_KEY]
    assert report(without_int8(int8, DEPTHWISE[:1], reason="why"))["float_layers"] == {DEPTHWISE[0]: "why"}


def test_a_stranger_and_all_layers_are_refused(int8) -> None:
    with pytest.raises(UserError, match="'nobody' is none of the model's .* INT8 layers"):
        without_int8(int8, [*DEPTHWISE, "nobody"])
    with pytest.raises(UserError, match="all .* INT8 layers would be in 16 bit: build the float model as fp16"):
        without_int8(int8, [node.name or "" for node in int8_layers(int8)])
