"""The module of a graph computes what ONNX Runtime computes of it, and gives its weights back."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from effedge.calibration.post_training import quantize
from effedge.calibration.settings import Settings
from effedge.deploy.common.cli import UserError
from effedge.pipeline.training.finetune.graph import OnnxModule
from tests.calibration import networks

QUICK = Settings("minmax", correction=False)
FEED = networks.feeds(1, seed=7)[0]
AS_TENSORS = {name: torch.from_numpy(array) for name, array in FEED.items()}


def run(model, feed=FEED):
    """ONNX Runtime without fusions: float arithmetic between the pairs, as it stands in the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feed)[0]


@pytest.fixture
def model(load):
    return load(networks.classifier())


@pytest.fixture(params=[False, True], ids=["symmetric", "zero points"])
def int8(model, request):
    settings = Settings("minmax", correction=False, zero_points=request.param)
    return quantize(model, networks.as_samples(networks.feeds(4)), settings)[0]


def test_a_float_graph_computes_what_onnx_runtime_does(model):
    got = OnnxModule(model, ["logits"])(AS_TENSORS)[0].detach().numpy()
    np.testing.assert_allclose(got, run(model), rtol=1e-4, atol=1e-5)


def test_so_does_an_int8_graph(int8, model):
    got, expected = OnnxModule(int8, ["logits"])(AS_TENSORS)[0].detach().numpy(), run(int8)
    assert np.abs(expected - run(model)).max() > 5e-4, "INT8 makes a difference here"
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5)


def test_tensors_on_the_way_can_be_had(model):
    logits, head = OnnxModule(model, ["logits", "head"])(AS_TENSORS)
    assert logits.shape == (1, networks.CLASSES) and head.ndim == 4


def test_what_was_not_learnt_is_written_back_bit_for_bit(int8):
    before = ir.to_proto(int8).SerializeToString()
    OnnxModule(int8, ["logits"]).write(int8)
    assert ir.to_proto(int8).SerializeToString() == before


def test_gradients_reach_every_weight_and_bias_through_the_rounding(int8):
    module = OnnxModule(int8, ["logits"])
    module(AS_TENSORS)[0].square().sum().backward()
    missing = [name for name, key in module.keys.items() if module.values[key].grad is None]
    assert not missing and len(module.scales) == sum(name.endswith("_int8_0") for name in module.keys)


def test_a_learnt_weight_is_in_the_onnx_as_the_module_rounds_it(int8):
    module = OnnxModule(int8, ["logits"])
    with torch.no_grad():
        for parameter in module.values.values():
            parameter += 0.7 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    expected = module(AS_TENSORS)[0].detach().numpy()
    module.write(int8)
    weights = [int8.graph.initializers[name] for name in module.scales]
    assert all(each.dtype == ir.DataType.INT8 and np.abs(each.const_value.numpy()).max() <= 127 for each in weights)
    np.testing.assert_allclose(run(int8), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_an_operator_that_cannot_be_trained_through_is_named(load):
    net = networks.Network()
    x = net.node("Erf", [net.conv(net.input("x", [1, 4, 8, 8]), "conv", 4, 4)], "gelu_part")
    net.output(x, [1, 4, 8, 8])
    with pytest.raises(UserError, match="Erf 'gelu_part'"):
        OnnxModule(load(net), ["gelu_part"])
