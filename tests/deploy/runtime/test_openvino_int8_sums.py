"""Weights that no pair of products saturates with: sums counted in integers, and outputs on a CPU that saturates."""

import numpy as np
import pytest

ov = pytest.importorskip("openvino")

from effedge.deploy.runtime import openvino_backend  # noqa: E402  # after the skip
from effedge.deploy.runtime.openvino_int8_sums import largest_shares, narrow_weights, ops, saturates  # noqa: E402


def largest_sum(integers, axis):
    """Of the products of a pair of neighbouring input channels with data of 0 to 255, in magnitude."""
    rows = np.moveaxis(integers, axis, -1).reshape(-1, integers.shape[axis]).astype(int)
    data = np.array([[0, 0], [0, 255], [255, 0], [255, 255]])
    starts = range(0, rows.shape[1] - 1, 2)
    return max(abs(row[start : start + 2] @ pair) for row in rows for start in starts for pair in data)


@pytest.mark.parametrize(
    "shape, axis",
    [((8, 6, 1, 1), 1), ((8, 5, 3, 3), 1), ((2, 4, 6, 3, 3), 2), ((16, 10), 0), ((10, 16), 1)],
    ids=["1x1", "odd channels", "groups", "product", "transposed product"],
)
def test_no_pair_saturates_and_a_channel_that_did_not_stays(shape, axis):
    integers = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    channel = (slice(None), 0) if axis == 0 else 0
    integers[channel] //= 2
    assert largest_sum(integers, axis) > 32767
    shares = largest_shares(integers, axis)
    assert largest_sum(np.rint(integers * shares), axis) <= 32767
    assert (np.broadcast_to(shares, shape)[channel] == 1).all() and 0.5 < shares.min() < 1


def test_depthwise_weights_stay():
    assert largest_shares(np.full((8, 1, 1, 3, 3), 127, np.int8), 2).max() == 1


def layer(kind, integers, random):
    """A model of one INT8 layer, and the layer's input and outputs in float64."""
    data = random.integers(0, 256, (1, integers.shape[1], 6, 6)).astype(np.float32)
    image = ops.parameter(list(data.shape), np.float32, name="image")
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(255))
    rounded = ops.fake_quantize(image, low, high, low, high, 256)
    scale = random.uniform(0.5, 2, (len(integers), *[1] * (integers.ndim - 1))).astype(np.float32) / 127
    weights = ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(scale))
    if kind == "product":
        rows = ops.reshape(rounded, ops.constant(np.array([integers.shape[1], 36])), False)
        output = ops.matmul(ops.transpose(rows, ops.constant(np.array([1, 0]))), weights, False, True)
        expected = data.reshape(-1, 36).T @ (integers * scale.astype(np.float64)).T
    else:
        output = ops.convolution(rounded, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        expected = np.einsum("oi,ihw->ohw", (integers * scale.astype(np.float64))[..., 0, 0], data[0])[None]
    return ov.Model([output], [image]), data, expected


@pytest.mark.parametrize("kind", ["convolution", "product"])
def test_on_a_cpu_that_saturates_the_outputs_become_right(kind):
    random, core = np.random.default_rng(0), ov.Core()
    shape = (16, 32) if kind == "product" else (16, 32, 1, 1)
    integers = (random.integers(90, 128, shape) * random.choice([-1, 1], (16, *[1] * (len(shape) - 1)))).astype(np.int8)

    def error(model):
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.abs(compiled([data])[0] - expected).max() / np.abs(expected).max()

    model, data, expected = layer(kind, integers, random)
    before = error(model)
    assert narrow_weights(model) == 1
    assert error(model) < 0.01
    if kind == "convolution":
        assert (before > 0.05) == saturates()


def test_layers_that_share_weights_are_narrowed_once():
    integers = np.full((4, 4, 1, 1), 127, np.int8)
    image = ops.parameter([1, 4, 6, 6], np.float32)
    weights = ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(np.float32(1 / 127)))
    first = ops.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([ops.convolution(first, weights, [1, 1], [0, 0], [0, 0], [1, 1])], [image])
    assert narrow_weights(model) == 1 and narrow_weights(model) == 0


def test_float_weights_and_weights_with_zero_points_stay():
    image = ops.parameter([1, 4, 6, 6], np.float32)
    floats = ops.constant(np.full((4, 4, 1, 1), 127, np.float32))
    integers = ops.convert(ops.constant(np.full((4, 4, 1, 1), 127, np.int8)), "f32")
    moved = ops.multiply(ops.subtract(integers, ops.constant(np.float32(3))), ops.constant(np.float32(0.1)))
    first = ops.convolution(image, floats, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([ops.convolution(first, moved, [1, 1], [0, 0], [0, 0], [1, 1])], [image])
    assert narrow_weights(model) == 0


def test_an_engines_weights_are_narrowed_when_it_is_loaded_where_sums_saturate(tmp_path, monkeypatch):
    model, data, expected = layer("convolution", np.full((16, 32, 1, 1), 127, np.int8), np.random.default_rng(0))
    ov.save_model(model, tmp_path / "engine.xml", compress_to_fp16=False)
    counts = []
    monkeypatch.setattr(openvino_backend, "narrow_weights", lambda model: counts.append(narrow_weights(model)))
    for here, narrowed in ((False, []), (True, [1])):
        monkeypatch.setattr(openvino_backend, "saturates", lambda here=here: here)
        config = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino_backend.compile_model(ov.Core(), tmp_path / "engine.xml", config, None)
        assert counts == narrowed
    np.testing.assert_allclose(compiled([data])[0], expected, rtol=0.02)
