"""Opset 18 written as opset 13: what may stay, what is rewritten, what is refused by name."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from effedge.pipeline.export.passes.lower_opset import lower_opset, why_not
from tests.pipeline.export.passes.tiny_graphs import assert_same, kinds, make, node_of, noise, run

X = noise(2, 4, 6, 6)


def one(op, inputs=("x",), constants=None, outputs=("y",), domain="", opset=18, **attributes):
    """A model of one node."""
    constants = constants or {}
    if domain:
        attributes["domain"] = domain
    node = (op, list(inputs), list(outputs), attributes)
    return make([node], {"x": X.shape}, dict.fromkeys(outputs), constants, opset=opset)


AXES = {"axes": np.array([2, 3], np.int64)}
SCALES = {"scales": np.array([1, 1, 2, 2], np.float32)}
NORM = {name: np.abs(noise(4)) + 0.1 for name in ("gamma", "beta", "mean", "var")}


@pytest.mark.parametrize(
    "model",
    [
        one("Sigmoid"),
        one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        one("Conv", ["x", "w"], {"w": noise(3, 4, 3, 3)}, pads=[0, 1, 2, 1]),
        one("Add", ["x", "c"], {"c": noise(4, 1, 1)}),
        one("Mul", ["x", "c"], {"c": noise(1)}),
        one("Reshape", ["x", "s"], {"s": np.array([2, -1], np.int64)}),
        one("Reshape", ["x", "s"], {"s": np.array([2, -1], np.int64)}, allowzero=1),  # no 0 in it: says nothing
        one("Resize", ["x", "", "scales"], SCALES, mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor"),
        one("Resize", ["x", "", "scales"], SCALES, antialias=0),
        one("Split", outputs=("y", "z"), axis=1, num_outputs=2),
        one("BatchNormalization", ["x", *NORM], NORM),
        one("ReduceMean", ["x", "axes"], AXES, keepdims=1),
        one("ReduceMax", ["x", "axes"], AXES, keepdims=0),
        one("ReduceMean"),  # without axes: over all
        one("ReduceL2", ["x", "axes"], AXES, keepdims=0),
        one("LeakyRelu", alpha=0.2),
        one("Cast", to=TensorProto.FLOAT),
        one("Transpose", perm=[0, 2, 3, 1]),
    ],
    ids=lambda model: "-".join([*kinds(model), *node_of(model, kinds(model)[0]).attributes]),
)  # fmt: skip
def test_the_older_graph_computes_the_same(model):
    before = run(model, x=X)
    lower_opset(model, 13)
    assert model.opset_imports[""] == 13
    assert_same(before, run(model, x=X))


def test_axes_become_an_attribute():
    model = one("ReduceMean", ["x", "axes"], AXES)
    lower_opset(model, 13)
    node = node_of(model, "ReduceMean")
    assert node.attributes["axes"].value == (2, 3) and len(node.inputs) == 1


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (one("Gelu", domain="com.microsoft"), "com.microsoft is no ONNX domain"),
        (one("Mish"), "opset 13 has no Mish"),
        (one("Pad", ["x", "p"], {"p": np.zeros(8, np.int64)}), "Pad changed between opset 13 and 18"),
        (one("Reshape", ["x", "s"], {"s": np.array([2, 4, -1], np.int64) * 0 + [0, 4, -1]}, allowzero=1),
         "Reshape of opset 13 has no allowzero"),
        (one("Resize", ["x", "", "scales"], SCALES, mode="linear", antialias=1), "Resize of opset 13 has no antialias"),
        (one("Split", outputs=("y", "z", "w"), axis=1, num_outputs=3), "Split of opset 13 has no num_outputs"),
        (one("BatchNormalization", ["x", *NORM], NORM, outputs=("y", "m", "v"), training_mode=1),
         "BatchNormalization of opset 13 has no training_mode"),
        (one("ReduceMean", noop_with_empty_axes=1), "ReduceMean of opset 13 has no noop_with_empty_axes"),
    ],
    ids=["domain", "new operator", "changed", "allowzero", "antialias", "unequal split", "training", "noop"],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_name(model, reason):
    assert why_not(node_of(model, kinds(model)[0]), 13, 18) == reason
    with pytest.raises(ValueError, match=f"'y' cannot be written in opset 13: {reason}"):
        lower_opset(model, 13)


def test_a_graph_within_a_node_is_refused():
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "branch", [], [
        helper.make_tensor_value_info("z", TensorProto.FLOAT, X.shape)])  # fmt: skip
    model = one("If", ["yes"], {"yes": np.bool_(True)}, then_branch=branch, else_branch=branch)
    assert why_not(node_of(model, "If"), 13, 18) == "it holds a graph of its own"


def test_computed_axes_are_refused():
    nodes = [("ReduceMean", ["x", "axes"], ["y"], {})]
    model = make(nodes, {"x": X.shape, "axes": [2]}, {"y": None}, types={"axes": TensorProto.INT64})
    assert why_not(node_of(model, "ReduceMean"), 13, 18) == "its axes are computed"
