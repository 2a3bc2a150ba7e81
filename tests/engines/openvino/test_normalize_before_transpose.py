"""Tests that the image's normalization moves in front of its transposition, and nothing else does."""

import numpy as np
import pytest

from effedge.engines.openvino.graph import opset
from effedge.engines.openvino.normalize_before_transpose import normalize_before_transpose

ov = pytest.importorskip("openvino")
ops = opset(ov)
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
CHANNELS_FIRST = (0, 3, 1, 2)


def column(values):
    return ops.constant(np.asarray(values, np.float32).reshape(1, -1, 1, 1))


def means_off(value):
    return ops.subtract(value, column(MEAN))


def scaled(value):
    return ops.divide(
        ops.add(ops.multiply(means_off(value), ops.constant(np.float32(0.5))), column([1, 2, 3])), column(MEAN)
    )


def model_of(behind, shape=(1, 6, 8, 3), order=CHANNELS_FIRST, early=True):
    """uint8 image -> float, `early` or behind the transposition -> transposed -> `behind` -> convolution."""
    image = ops.parameter(list(shape), np.uint8, name="image")
    value = ops.convert(image, np.float32) if early else image
    value = ops.transpose(value, ops.constant(np.array(order)))
    value = behind(value if early else ops.convert(value, np.float32))
    channels = value.get_output_partial_shape(0)[1].get_length()
    weights = np.random.default_rng(0).normal(size=(4, channels, 3, 3)).astype(np.float32)
    result = ops.convolution(value, ops.constant(weights), [2, 2], [0, 0], [1, 1], [1, 1])
    return ov.Model([result], [image])


def outputs(model, shape):
    image = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([image])[0]


@pytest.mark.parametrize("early", [True, False], ids=["float, then transposed", "transposed, then float"])
@pytest.mark.parametrize("behind", [means_off, scaled])
@pytest.mark.parametrize("shape", [(1, 6, 8, 3), (2, 5, 7, 3), (-1, 6, 8, 3)], ids=str)
def test_it_computes_the_same(shape, behind, early):
    model = model_of(behind, shape, early=early)
    fed = [size if size > 0 else 3 for size in shape]
    before = outputs(model, fed)
    assert normalize_before_transpose(ov, model) == 1
    np.testing.assert_allclose(outputs(model, fed), before, rtol=1e-5, atol=1e-3)
    order = [node.get_type_name() for node in model.get_ordered_ops() if node.get_type_name() != "Constant"]
    assert order.index("Subtract") < order.index("Transpose") == order.index("Convolution") - 1
    assert order.count("Convert") == 1
    assert normalize_before_transpose(ov, model) == 0, "there is nothing left to do"


def square(value):
    return ops.multiply(value, value)


def by_row(value):
    return ops.subtract(value, ops.constant(np.arange(6, dtype=np.float32).reshape(1, 1, 6, 1)))


def used_twice(value):
    return ops.concat([ops.subtract(value, column(MEAN)), value], 1)


def in_float16(value):
    mean = ops.constant(MEAN.reshape(1, -1, 1, 1).astype(np.float16))
    return ops.convert(ops.subtract(ops.convert(value, np.float16), mean), np.float32)


@pytest.mark.parametrize(
    ("behind", "given"),
    [
        (square, {}),
        (in_float16, {}),
        (by_row, {}),
        (used_twice, {}),
        (lambda value: value, {}),
        (means_off, {"shape": (1, 6, -1, 3)}),
        (lambda value: ops.subtract(value, ops.constant(np.float32(1))), {"order": (0, 3, 2, 1)}),
    ],
    ids=["no constant", "float16", "by row", "read twice", "nothing to do", "an open side", "another transposition"],
)
def test_all_else_stays_as_it_is(behind, given):
    model = model_of(behind, **given)
    before = [node.get_friendly_name() for node in model.get_ordered_ops()]
    assert normalize_before_transpose(ov, model) == 0
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == before
