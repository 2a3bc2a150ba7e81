"""Tests which layers are FP8, and why the others are not."""

import numpy as np
import pytest

from effedge.calibration.fp8.placement import make_fp8_plan
from tests.calibration.networks import Network


@pytest.fixture
def model(load):
    """A network with a layer of each kind between 32 channels and 32 channels, and a residual add."""
    net = Network()
    image = net.input("image", [1, 3, 16, 16])
    x = net.node("Relu", [net.conv(image, "stem", 3, 32, kernel=3)], "stem_act")
    y = net.conv(x, "dense", 32, 64, kernel=3)
    y = net.conv(net.node("Relu", [y], "dense_act"), "depthwise", 64, 64, kernel=3, group=64)
    y = net.conv(y, "grouped", 64, 64, kernel=3, group=4)
    y = net.conv(y, "large", 64, 64, kernel=7)
    y = net.conv(net.conv(y, "narrow", 64, 16), "widening", 16, 40)
    y = net.conv(y, "back", 40, 32, kernel=5)
    added = net.node("Add", [net.conv(y, "last", 32, 32, kernel=5), x], "added")
    weight = net.constant("fc.weight", np.ones((32, 48), np.float32))
    pooled = net.node("Flatten", [net.node("GlobalAveragePool", [net.conv(added, "head", 32, 32)], "pool")], "flat")
    net.output(net.node("MatMul", [pooled, weight], "out"), [1, 48])
    return load(net)


def test_layers_that_tensorrt_has_good_fp8_kernels_for_are_fp8(model):
    plan = make_fp8_plan(model)
    assert [layer.name for layer in plan.layers] == ["dense", "last", "head", "out"]
    reasons = {
        "stem": "its 32 and 3 channels",
        "depthwise": "it is a depthwise convolution",
        "grouped": "it is a grouped convolution",
        "large": "its kernel of 49 elements",
        "narrow": "its 16 and 64 channels",
        "widening": "its 40 and 16 channels",
        "back": "its 32 and 40 channels",
    }
    assert list(plan.float_layers) == list(reasons)
    assert all(plan.float_layers[name].startswith(reason) for name, reason in reasons.items())


def test_only_data_of_fp8_layers_is_rounded_and_no_shortcut(model):
    plan = make_fp8_plan(model)
    assert [(node.name, index) for node, index in plan.reads] == [("dense", 0), ("last", 0), ("head", 0), ("out", 0)]
    assert plan.tensors == ["stem_act", "back", "added", "flat"]


def test_a_tensor_that_must_not_be_rounded_keeps_its_layers_in_16_bit(model):
    plan = make_fp8_plan(model, {"added": "it was 0"})
    assert plan.float_layers["head"] == "it was 0"
    assert "added" not in plan.tensors
