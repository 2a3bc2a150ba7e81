"""INT8 weights and the nodes that the pass writes."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.placement import make_plan
from effedge.calibration.placement.insert import InsertQDQPass, quantize_weight
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]


@pytest.mark.parametrize(("shape", "axis"), [((8, 4, 3, 3), 0), ((6, 10), 0), ((6, 10), 1)])
def test_weights_come_back_within_half_a_scale_per_channel(shape: tuple[int, ...], axis: int) -> None:
    random = np.random.default_rng(0)
    channel_gain = np.exp(random.normal(0, 3, shape[axis])).reshape([-1 if d == axis else 1 for d in range(len(shape))])
    weight = (random.normal(size=shape) * channel_gain).astype(np.float32)
    quantized, scale = quantize_weight(weight, axis)
    assert quantized.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == (shape[axis],)
    per_channel = scale.reshape(channel_gain.shape)
    assert (np.abs(quantized * per_channel - weight) <= per_channel * 0.5001).all()
    others = tuple(d for d in range(len(shape)) if d != axis)
    np.testing.assert_array_equal(np.abs(quantized).max(axis=others), 127)  # the whole range is used, -128 is not


def test_a_channel_of_zeros_or_of_subnormals_gives_zeros_and_a_usable_scale() -> None:
    weight = np.float32([[0, 0], [1e-42, -1e-42], [1, 2]])
    quantized, scale = quantize_weight(weight, 0)
    assert (quantized[:2] == 0).all() and (scale >= np.finfo(np.float32).tiny).all()


def inserted(model: ir.Model) -> ir.Model:
    plan = make_plan(model)
    InsertQDQPass(plan.reads, dict.fromkeys(plan.tensors, 1.27), plan.layers)(model)
    return model


def test_one_pair_serves_all_quantized_readers_and_the_others_read_float(load: Load) -> None:
    net = Network()
    x = net.node("Relu", [net.input("x", [1, 4, 8, 8])], "relu")
    net.output(net.conv(x, "conv1", 4, 4), [1, 4, 8, 8])
    net.output(net.conv(x, "conv2", 4, 4), [1, 4, 8, 8])
    net.output(net.silu(x, "swish"), [1, 4, 8, 8])
    nodes = {node.name: node for node in inserted(load(net)).graph}
    assert sum(node.op_type == "QuantizeLinear" for node in nodes.values()) == 1
    assert {nodes[name].inputs[0].name for name in ("conv1", "conv2")} == {"relu_dq"}
    assert {nodes[name].inputs[0].name for name in ("swish", "swish_sigmoid")} == {"relu"}


def test_zero_points_are_zero_activations_per_tensor_weights_per_channel_biases_float(load: Load) -> None:
    model = inserted(load(networks.classifier()))
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero_point = (node.inputs[i].const_value.numpy() for i in (1, 2))
            assert zero_point.dtype == np.int8 and (zero_point == 0).all() and zero_point.shape == scale.shape
            weight = node.inputs[0].const_value
            if weight is None:
                assert scale.shape == () and scale == np.float32(0.01)
            else:
                assert scale.shape == (weight.shape[node.attributes["axis"].as_int()],)
        if node.op_type in ("Conv", "Gemm"):
            assert node.inputs[2].const_value.dtype == ir.DataType.FLOAT


def test_layers_that_share_weights_share_the_int8_array_and_have_their_own_dequantize(load: Load) -> None:
    net = Network()
    a = net.input("a", [1, 4, 8, 8])
    net.output(net.conv(a, "first", 4, 4), [1, 4, 8, 8])
    net.output(net.node("Conv", [net.node("Relu", [a], "relu"), "first.weight"], "second"), [1, 4, 8, 8])
    nodes = {node.name: node for node in inserted(load(net)).graph}
    first, second = (nodes[name].inputs[1].producer() for name in ("first", "second"))
    assert first is not second and first.inputs[0] is second.inputs[0]


def test_a_low_of_an_activation_makes_its_zero_point(load: Load) -> None:
    model = load(networks.classifier())
    plan = make_plan(model)
    thresholds, lows = dict.fromkeys(plan.tensors, 2.0), dict.fromkeys(plan.tensors, -2.0)
    lows[plan.tensors[1]] = -0.5
    InsertQDQPass(plan.reads, thresholds, plan.layers, lows)(model)
    zero_points = {
        node.inputs[0].name: int(node.inputs[2].const_value.numpy())
        for node in model.graph
        if node.op_type == "QuantizeLinear"
    }
    # -0.5 to 2.0 in 255 steps: 0 is the 51st from below.
    assert zero_points == {name: -128 + 51 if name == plan.tensors[1] else 0 for name in plan.tensors}
