"""Weights with leading dimensions of 1 become a matrix, where the product stays the same."""

import pytest

from effedge.pipeline.export.passes.squeeze_weight import squeeze_weight, why_not
from tests.pipeline.export.passes.tiny_graphs import assert_same, make, node_of, noise, run


def product(data, *weight):
    """y = MatMul(x, w)."""
    return make([("MatMul", ["x", "w"], ["y"], {})], {"x": data}, {"y": None}, {"w": noise(*weight)})


@pytest.mark.parametrize(("data", "weight"), [([2, 5, 6], [1, 6, 3]), ([1, 2, 5, 6], [1, 1, 6, 3]),
                                              ([2, 4, 5, 6], [1, 6, 3])])  # fmt: skip
def test_a_leading_1_goes(data, weight):
    model, feeds = product(data, *weight), {"x": noise(*data)}
    before = run(model, **feeds)
    assert squeeze_weight(model) == 1
    assert list(node_of(model, "MatMul").inputs[1].shape) == weight[-2:]
    assert_same(before, run(model, **feeds))


@pytest.mark.parametrize(
    ("data", "weight", "reason"),
    [
        ([2, 5, 6], [6, 3], "no leading 1"),
        ([2, 5, 6], [2, 6, 3], "no leading 1"),
        ([5, 6], [1, 6, 3], "adds a dimension"),
        ([1, 5, 6], [1, 1, 6, 3], "adds a dimension"),
    ],
)
def test_other_weights_stay_with_their_reason(data, weight, reason):
    model, feeds = product(data, *weight), {"x": noise(*data)}
    before = run(model, **feeds)
    assert reason in why_not(node_of(model, "MatMul"))
    assert squeeze_weight(model) == 0
    assert_same(before, run(model, **feeds))


def test_weights_that_two_products_read_stay_for_the_one_that_needs_them():
    nodes = [("MatMul", ["x", "w"], ["y"], {}), ("MatMul", ["z", "w"], ["q"], {})]
    model = make(nodes, {"x": [2, 5, 6], "z": [5, 6]}, {"y": None, "q": None}, {"w": noise(1, 6, 3)})
    feeds = {"x": noise(2, 5, 6), "z": noise(5, 6)}
    before = run(model, **feeds)
    assert squeeze_weight(model) == 1
    assert_same(before, run(model, **feeds))


def test_computed_weights_stay():
    model = make([("MatMul", ["x", "w"], ["y"], {})], {"x": [1, 5, 6], "w": [1, 6, 3]}, {"y": None})
    assert why_not(node_of(model, "MatMul")) == "its weights are computed"
    assert squeeze_weight(model) == 0
