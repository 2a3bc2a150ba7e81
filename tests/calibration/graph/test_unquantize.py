"""Layers taken out of INT8: which pairs go with them, what stays, and that the numbers are those of the float twin."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.float_twin import float_twin
from effedge.calibration.graph.unquantize import int8_layers, int8_tensors, unquantize
from effedge.calibration.post_training import quantize
from effedge.calibration.search.layer_groups import layer_groups, reading_groups
from effedge.calibration.settings import Settings
from tests.calibration import networks


@pytest.fixture
def int8(load, samples) -> ir.Model:
    model, _ = quantize(load(networks.classifier()), samples, Settings("minmax", correction=False, float_share=0.0))
    return onnx_file.prepare(ir.from_proto(ir.to_proto(model)))


def names(model: ir.Model) -> list[str | None]:
    return [node.name for node in int8_layers(model)]


def pairs(model: ir.Model) -> set[tuple[str | None, int]]:
    """(node, input) of every activation that is read as INT8."""
    return {
        (node.name, index)
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if value is not None and (maker := value.producer()) is not None and maker.op_type == "DequantizeLinear"
    }


def test_without_any_of_its_layers_it_is_the_float_twin(int8, run_ort) -> None:
    feed = networks.feeds(1, seed=5)[0]
    plain = unquantize(int8, names(int8))
    assert not any(node.op_type in onnx_file.QUANTIZATION_OPERATORS for node in plain.graph)
    np.testing.assert_array_equal(run_ort(plain, feed)[0], run_ort(float_twin(int8), feed)[0])


def test_only_the_named_layer_leaves(int8) -> None:
    before = pairs(int8)
    changed = unquantize(int8, ["block1_depthwise"])
    onnx.checker.check_model(ir.to_proto(changed), full_check=True)
    assert before - pairs(changed) == {("block1_depthwise", 0), ("block1_depthwise", 1)}
    assert pairs(int8) == before, "the model that was given stays"
    assert int8_tensors(int8) - int8_tensors(changed) == {"block1_expand_act"}


@pytest.mark.parametrize("layer", ["block1_project", "block2_expand"])
def test_a_shortcut_leaves_with_the_convolution_that_adds_it_or_the_one_that_reads_the_sum(int8, layer) -> None:
    assert ("block1_add", 1) in pairs(int8)
    assert ("block1_add", 1) not in pairs(unquantize(int8, [layer]))
    assert ("block1_add", 1) in pairs(unquantize(int8, ["block1_depthwise", "head", "logits"]))


def test_a_tensor_that_another_layer_reads_stays_int8_for_that_one(load, samples) -> None:
    net = networks.Network()
    x = net.input("x", [1, 8, 8, 8])
    for name in ("left", "right"):
        net.output(net.conv(x, name, 8, 4), [1, 4, 8, 8])
    runs = networks.as_samples(networks.normal_runs(4, (1, 8, 8, 8)))
    model, _ = quantize(load(net), runs, Settings("minmax", correction=False))
    changed = unquantize(model, ["left"])
    assert pairs(changed) == {("right", 0), ("right", 1)} and int8_tensors(changed) == {"x"}


def test_layers_are_grouped_by_kind_and_resolution_with_the_least_arithmetic_first(int8) -> None:
    """Multiply-adds by hand: 16 x 16 maps; 8 channels, expanded to 32; 12 and 24 behind; 5 classes."""
    groups = layer_groups(int8)
    assert list(groups) == [
        "matrix products",  # 24 x 5
        "convolutions on the image on 16 x 16",  # 256 x 3 x 9 x 8
        "depthwise convolutions on 16 x 16",  # 2 x 256 x 9 x 32
        "1x1 convolutions on 16 x 16",  # 256 x (32 x 8 + 32 x 12)
        "widening 1x1 convolutions on 16 x 16",  # 256 x (2 x 8 x 32 + 12 x 24)
    ]
    assert groups["depthwise convolutions on 16 x 16"] == ["block1_depthwise", "block2_depthwise"]
    assert sorted(sum(groups.values(), [])) == sorted(name or "" for name in names(int8))


def test_layers_are_grouped_by_what_they_read_with_the_largest_first(int8) -> None:
    groups = reading_groups(int8)
    assert list(groups) == ["layers that read 34 x 34", "layers that read 16 x 16"]
    assert groups["layers that read 34 x 34"] == ["stem"]  # the image of 32 x 32 is padded by calibration
    assert set(names(int8)) - set(groups["layers that read 16 x 16"]) == {"stem", "logits"}
