"""Identity nodes go, outputs keep their names, and inputs that no node reads are removed."""

import pytest

from effedge.pipeline.export.passes.graph_ends import (
    eliminate_identity,
    remove_repeated_outputs,
    remove_unread_inputs,
)
from tests.pipeline.export.passes.tiny_graphs import assert_same, kinds, make, noise, run

X = {"x": [2, 3]}
IDENTITY = {
    "within": ([("Identity", ["x"], ["a"], {}), ("Relu", ["a"], ["y"], {})], ["y"], ["Relu"]),
    "in front of an output": ([("Relu", ["x"], ["a"], {}), ("Identity", ["a"], ["y"], {})], ["y"], ["Relu"]),
    "between two outputs": (
        [("Relu", ["x"], ["y"], {}), ("Identity", ["y"], ["z"], {})], ["y", "z"], ["Relu", "Identity"],
    ),
    "of a tensor that others read": (
        [("Relu", ["x"], ["a"], {}), ("Identity", ["a"], ["y"], {}), ("Neg", ["a"], ["z"], {})],
        ["z", "y"],
        ["Relu", "Neg"],
    ),
    "twice in front of outputs": (
        [("Relu", ["x"], ["a"], {}), ("Identity", ["a"], ["y"], {}), ("Identity", ["a"], ["z"], {})],
        ["y", "z"],
        ["Relu", "Identity"],
    ),
    "of the input": ([("Identity", ["x"], ["y"], {})], ["y"], ["Identity"]),
}  # fmt: skip


@pytest.mark.parametrize("place", IDENTITY)
def test_an_identity_goes_where_every_output_keeps_its_name(place):
    nodes, outputs, left = IDENTITY[place]
    model, feeds = make(nodes, X, dict.fromkeys(outputs)), {"x": noise(2, 3)}
    before = run(model, **feeds)
    assert eliminate_identity(model.graph) == len(nodes) - len(left)
    assert kinds(model) == left
    assert [output.name for output in model.graph.outputs] == outputs
    assert_same(before, run(model, **feeds))


def test_an_output_is_listed_once():
    model = make([("Relu", ["x"], ["y"], {})], X, {"y": None})
    model.graph.outputs.append(model.graph.outputs[0])
    remove_repeated_outputs(model.graph)
    assert [output.name for output in model.graph.outputs] == ["y"]


def test_an_input_goes_if_no_node_and_no_output_is_it():
    model = make([("Relu", ["x"], ["y"], {})], {"a": [1], **X, "b": [], "through": [2]}, {"y": None})
    model.graph.outputs.append(model.graph.inputs[3])
    assert remove_unread_inputs(model.graph) == ["a", "b"]
    assert [value.name for value in model.graph.inputs] == ["x", "through"]
