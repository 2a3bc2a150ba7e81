"""Tests that quantization by truncation computes the same as FakeQuantize."""

import numpy as np
import pytest

from effedge.engines.openvino import swish
from effedge.engines.openvino.graph import opset
from effedge.engines.openvino.truncate import truncate
from tests.engines.openvino.builds import CAPABILITIES

ov = pytest.importorskip("openvino")
ops = opset(ov)


def quantized(count, low, high, after=None, levels=256, readers=1, batch=1):
    """x -> x * 1 -> FakeQuantize, which may not be the only reader. Returns the model and what is quantized."""
    source = ops.parameter([batch, count], np.float32)
    value = ops.multiply(source, ops.constant(np.float32(1)))
    bounds = [ops.constant(np.asarray(each, np.float32)) for each in (low, high, *(after or (low, high)))]
    results = [ops.fake_quantize(value, *bounds, levels)] + [ops.relu(value)] * (readers - 1)
    results[0].set_friendly_name("quantized")
    return ov.Model(results, [source]), value


def outputs(model, x):
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([x.astype(np.float32)[None]])[0][0]


# The lowest step below what comes, as of a calibrated swish; above it; symmetric, as for TensorRT.
@pytest.mark.parametrize(
    ("low", "high"),
    [(-30 * 0.05, 225 * 0.05), (-0.25, 254 * 0.25), (-3 * 0.004, 252 * 0.004), (-128 * 0.02, 127 * 0.02)],
    ids=["far below", "one step below", "far above", "symmetric"],
)
def test_it_is_fake_quantize_but_for_ties(low, high):
    step = (high - low) / 255
    rounded = (np.arange(-400, 400)[:, None] + np.linspace(-0.49, 0.49, 25)).ravel() * step
    x = rounded[rounded >= -0.285]
    model, value = quantized(len(x), low, high)
    before = outputs(model, x)
    assert truncate(ops, value, least=float(x.min()))
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert "FakeQuantize" not in kinds and model.get_ordered_ops()[-2].get_friendly_name() == "quantized"
    assert ("Maximum" in kinds) == ((x.min() - low) / step < -1.4)
    np.testing.assert_allclose(outputs(model, x), before, atol=1e-4 * step)
    assert len(np.unique(before)) > 100 and before.max() == pytest.approx(high)


def test_a_tie_goes_up():
    model, value = quantized(4, 0, 255)
    assert truncate(ops, value, least=0)
    assert outputs(model, np.array([0.5, 1.5, 254.5, 300])).tolist() == [1, 2, 255, 255]


@pytest.mark.parametrize(
    "given",
    [
        {"levels": 255},
        {"readers": 2},
        {"low": np.zeros((1, 1)), "high": np.array([[1.0, 2.0, 3.0]])},
        {"after": (-0.1234, 1.0)},
        {"batch": -1},
    ],
    ids=["255 levels", "two readers", "by channel", "no step is 0", "an open batch"],
)
def test_all_else_stays(given):
    model, value = quantized(3, **{"low": 0.0, "high": 1.0, **given})
    assert not truncate(ops, value, least=0.0)
    assert "FakeQuantize" in [node.get_type_name() for node in model.get_ordered_ops()]


def test_with_the_rest_in_bfloat16_the_integers_are_the_same():
    """All of it is in one kernel, in float32."""
    if "BF16" not in CAPABILITIES:
        pytest.skip("this CPU has no bfloat16")
    random = np.random.default_rng(0)
    weights = random.normal(size=(16, 3, 1, 1)).astype(np.float32)
    x = random.normal(0, 3, (1, 3, 64, 64)).astype(np.float32)
    found = []
    for truncated in (False, True):
        source = ops.parameter(list(x.shape), np.float32)
        value = ops.convolution(source, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
        value = swish.polynomial(ops, value, "swish")
        bounds = [ops.constant(np.float32(each)) for each in (-0.3, 8.2)]
        behind = ops.fake_quantize(value, *bounds, *bounds, 256)
        reader = ops.constant(random.normal(size=(4, 16, 3, 3)).astype(np.float32))
        model = ov.Model([behind, ops.convolution(behind, reader, [1, 1], [0, 0], [1, 1], [1, 1])], [source])
        assert not truncated or truncate(ops, value, least=swish.LEAST)
        compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        found.append(np.rint((compiled([x])[0] + 0.3) * 255 / 8.5).astype(int))
    differ = found[0] != found[1]
    assert differ.mean() < 1e-3 and np.abs(found[0] - found[1]).max() <= 1
    assert len(np.unique(found[0])) > 200
