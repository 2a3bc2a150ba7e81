"""A float16 graph becomes float32 but for its ends."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from effedge.pipeline.export.passes.float16_to_float32 import float16_to_float32
from tests.pipeline.export.passes.tiny_graphs import kinds, make, noise, run

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
W = noise(3, 3).astype(np.float16)


def types_of(model):
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def test_weights_are_the_same_numbers_and_the_ends_keep_their_type():
    nodes = [("MatMul", ["x", "w"], ["a"], {}), ("Relu", ["a"], ["y"], {})]
    model = make(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"w": W}, types={"x": HALF, "y": HALF})
    feeds = {"x": noise(2, 3).astype(np.float16)}
    before = run(model, **feeds)
    assert float16_to_float32(model) > 0
    assert kinds(model) == ["Cast", "MatMul", "Relu", "Cast"]
    assert model.graph.inputs[0].dtype == model.graph.outputs[0].dtype == ir.DataType.FLOAT16
    assert types_of(model)["a"] == ir.DataType.FLOAT
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W.astype(np.float32))
    np.testing.assert_allclose(before[0], run(model, **feeds)[0], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    "node",
    [
        ("Cast", ["x"], ["a"], {"to": HALF}),
        ("ConstantOfShape", ["shape"], ["a"], {"value": numpy_helper.from_array(np.array([2], np.float16))}),
        ("Constant", [], ["a"], {"value": numpy_helper.from_array(noise(2, 3).astype(np.float16))}),
    ],
    ids=lambda node: node[0],
)
def test_what_makes_float16_makes_float32(node):
    nodes = [node, ("Add", ["a", "one"], ["b"], {}), ("Cast", ["b"], ["c"], {"to": FLOAT}),
             ("Add", ["x", "c"], ["y"], {})]  # fmt: skip
    constants = {"one": np.ones((1, 1), np.float16), "shape": np.array([2, 3])}
    model, feeds = make(nodes, {"x": [2, 3]}, {"y": [2, 3]}, constants), {"x": noise(2, 3)}
    before = run(model, **feeds)
    float16_to_float32(model)
    assert set(types_of(model).values()) == {ir.DataType.FLOAT}
    np.testing.assert_allclose(before[0], run(model, **feeds)[0], rtol=2e-3, atol=2e-3)


def test_a_float32_graph_stays_as_it_is():
    model = make([("Relu", ["x"], ["y"], {})], {"x": [2, 3]}, {"y": [2, 3]})
    assert float16_to_float32(model) == 0
    assert kinds(model) == ["Relu"]


def test_an_output_that_nodes_read_is_float16_outside_and_float32_within():
    nodes = [("Relu", ["x"], ["y"], {}), ("Neg", ["y"], ["z"], {})]
    ends = {"y": [2, 3], "z": [2, 3]}
    model = make(nodes, {"x": [2, 3]}, ends, types={"x": HALF, "y": HALF, "z": HALF})
    feeds = {"x": noise(2, 3).astype(np.float16)}
    before = run(model, **feeds)
    float16_to_float32(model)
    assert [output.name for output in model.graph.outputs] == ["y", "z"]
    for expected, actual in zip(before, run(model, **feeds), strict=True):
        assert actual.dtype == np.float16
        np.testing.assert_array_equal(expected, actual)
