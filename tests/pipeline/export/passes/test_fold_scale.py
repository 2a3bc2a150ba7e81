"""A multiplication by one number goes into the convolution in front of it."""

import numpy as np
import pytest
from onnx import TensorProto

from effedge.pipeline.export.passes.fold_scale import fold_scale, why_not
from tests.pipeline.export.passes.tiny_graphs import assert_same, kinds, make, node_of, noise, run

X = noise(1, 4, 5, 5)
CONV = ("Conv", ["x", "w", "b"], ["c"], {})
WEIGHTS = {"w": noise(6, 4, 1, 1), "b": noise(6)}
TIMES = ("Mul", ["c", "s"], ["y"], {})
OUT = {"y": [1, 6, 5, 5]}
S = {"s": np.float32(0.37)}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
@pytest.mark.parametrize("factors", [["c", "s"], ["s", "c"]])
def test_a_number_becomes_weights(shape, factors):
    constants = WEIGHTS | {"s": np.full(shape, -0.37, np.float32)}
    model = make([CONV, ("Mul", factors, ["y"], {})], {"x": X.shape}, OUT, constants)
    before = run(model, x=X)
    assert fold_scale(model) == 1 and kinds(model) == ["Conv"]
    assert_same(before, run(model, x=X))


def test_a_bifpn_nodes_weighted_sum_loses_its_multiplications():
    nodes = [
        CONV, ("Conv", ["x", "w2"], ["d"], {}), ("Mul", ["c", "s"], ["cs"], {}), ("Mul", ["d", "t"], ["dt"], {}),
        ("Add", ["cs", "dt"], ["y"], {}),
    ]  # fmt: skip
    constants = WEIGHTS | S | {"w2": noise(6, 4, 1, 1), "t": np.float32(0.63)}
    model = make(nodes, {"x": X.shape}, OUT, constants)
    before = run(model, x=X)
    assert fold_scale(model) == 2 and sorted(kinds(model)) == ["Add", "Conv", "Conv"]
    assert_same(before, run(model, x=X))


def test_names_that_are_taken_are_left_alone():
    """The folded weights would be "y.weight", which another convolution has already."""
    nodes = [CONV, TIMES, ("Conv", ["x", "y.weight"], ["z"], {})]
    model = make(nodes, {"x": X.shape}, OUT | {"z": [1, 6, 5, 5]}, WEIGHTS | S | {"y.weight": noise(6, 4, 1, 1)})
    before = run(model, x=X)
    assert fold_scale(model) == 1
    assert_same(before, run(model, x=X))


def test_weights_that_are_not_float32_stay():
    x, weights = X.astype(np.float64), {name: array.astype(np.float64) for name, array in (WEIGHTS | S).items()}
    model = make([CONV, TIMES], {"x": x.shape}, OUT, weights, types={"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE})
    assert why_not(node_of(model, "Mul")) == "its weights are not float32"


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants", "feeds", "reason"),
    [
        ([CONV, TIMES], OUT, WEIGHTS | {"s": noise(6, 1, 1)}, {}, "no multiplication by one number"),
        ([CONV, TIMES], OUT, WEIGHTS, {"s": noise(1)}, "no multiplication by one number"),
        ([CONV, ("Mul", ["c", "c"], ["y"], {})], OUT, WEIGHTS, {}, "no multiplication by one number"),
        ([("Mul", ["x", "s"], ["y"], {})], {"y": X.shape}, S, {}, "no convolution in front of it"),
        ([CONV, TIMES, ("Relu", ["c"], ["z"], {})], OUT | {"z": OUT["y"]}, WEIGHTS | S, {}, "another node reads"),
        ([CONV, TIMES], OUT | {"c": OUT["y"]}, WEIGHTS | S, {}, "another node reads"),
        ([CONV, TIMES], OUT, S | {"b": WEIGHTS["b"]}, {"w": WEIGHTS["w"]}, "the convolution's weights are computed"),
    ],
)
def test_a_multiplication_that_cannot_be_folded_stays_with_its_reason(nodes, outputs, constants, feeds, reason):
    model = make(nodes, {"x": X.shape} | {name: array.shape for name, array in feeds.items()}, outputs, constants)
    before, there = run(model, x=X, **feeds), kinds(model)
    assert reason in why_not(node_of(model, "Mul"))
    assert fold_scale(model) == 0 and kinds(model) == there
    assert_same(before, run(model, x=X, **feeds))
