"""Tests that convolutions that share a bias get a copy each, and compute the same."""

import numpy as np
import pytest

from effedge.engines.openvino.graph import opset
from effedge.engines.openvino.own_bias import copy_shared_biases

ov = pytest.importorskip("openvino")
ops = opset(ov)


def heads(readers=2, reshaped=True):
    """Makes a model with a bias behind `readers` convolutions (as a kernel of its own), and one with its own bias."""
    random = np.random.default_rng(0)
    image = ops.parameter([1, 3, 8, 8], np.float32, name="image")
    bias = random.normal(size=5).astype(np.float32)
    shared = ops.constant(bias if reshaped else bias.reshape(1, 5, 1, 1))
    shape = ops.constant(np.array([1, 5, 1, 1]))
    results = []
    for index in range(readers + 1):
        weights = ops.constant(random.normal(size=(5, 3, 3, 3)).astype(np.float32))
        source = shared if index < readers else ops.constant(random.normal(size=5).astype(np.float32))
        added = ops.reshape(source, shape, False) if reshaped or index == readers else source
        add = ops.add(ops.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1]), added)
        add.set_friendly_name(f"conv{index}")
        results.append(add)
    return ov.Model(results, [image])


def outputs(model):
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)])
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ordered_ops()]
    return [found[index] for index in range(len(compiled.outputs))], kinds


@pytest.mark.parametrize("reshaped", [True, False])
def test_each_adds_its_own_within_its_kernel(reshaped):
    model = heads(3, reshaped)
    before, kernels = outputs(model)
    assert copy_shared_biases(ov, model) == (3 if reshaped else 2)  # the last may keep the constant itself
    after, fewer = outputs(model)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert fewer.count("Convolution") == 4 and not {"Eltwise", "Subgraph"} & set(fewer)
    assert {"Eltwise", "Subgraph"} & set(kernels), "this OpenVINO needs no copies any more: the rule can go"


def test_a_bias_of_ones_own_stays():
    assert copy_shared_biases(ov, heads(1)) == 0
