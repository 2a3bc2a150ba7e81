"""Layers are called after their weights, from the export on; a node that reads no weight keeps its name."""

import onnx
import pytest

from effedge.pipeline.export.passes.name_layers import name_layers
from tests.pipeline.export.passes.tiny_graphs import assert_same, make, noise, run

X = noise(1, 4, 5, 5)


def names(model):
    return [node.name for node in model.graph]


def test_a_layer_takes_the_name_of_its_weight():
    nodes = [
        ("Conv", ["x", "model.stem.weight", "model.stem.bias"], ["c"], {}),
        ("Relu", ["c"], ["r"], {}),
        ("Flatten", ["r"], ["f"], {}),
        ("Gemm", ["f", "model.classifier.weight"], ["y"], {"transB": 1}),
    ]
    constants = {"model.stem.weight": noise(6, 4, 1, 1), "model.stem.bias": noise(6)}
    model = make(nodes, {"x": X.shape}, {"y": [1, 3]}, constants | {"model.classifier.weight": noise(3, 150)})
    before = run(model, x=X)
    assert name_layers(model) == 2
    assert names(model) == ["stem", "r", "f", "classifier"]
    assert_same(before, run(model, x=X))


def test_layers_that_share_a_weight_are_told_apart_by_their_level():
    nodes = [("Conv", [end, "model.head.weight"], ["y" + end], {}) for end in ("a", "b", "c")]
    ends = {end: X.shape for end in ("a", "b", "c")}
    model = make(nodes, ends, {"y" + end: [1, 6, 5, 5] for end in ends}, {"model.head.weight": noise(6, 4, 1, 1)})
    assert name_layers(model) == 3
    assert names(model) == ["head.p3", "head.p4", "head.p5"]


@pytest.mark.parametrize("weight", ["w", "backbone.stem.weight", "model.stem.kernel", "x2"])
def test_a_layer_of_another_exporter_keeps_its_name(weight):
    computed = weight == "x2"
    model = make(
        [("Conv", ["x", weight], ["y"], {})],
        {"x": X.shape, **({weight: (6, 4, 1, 1)} if computed else {})},
        {"y": [1, 6, 5, 5]},
        {} if computed else {weight: noise(6, 4, 1, 1)},
    )
    assert name_layers(model) == 0
    assert names(model) == ["y"]


@pytest.mark.parametrize("form", ["exported", "simplified"])
@pytest.mark.parametrize("which", [("b0", 64), ("d0", 160, (1, 2, 4))])
def test_every_layer_of_a_model_has_its_weights_name(which, form, prepared):
    model = prepared(*which)
    graph = onnx.shape_inference.infer_shapes(getattr(model, form)).graph
    weights = {key.removesuffix(".weight") for key in model.module.state_dict() if key.endswith(".weight")}
    sides = {value.name: value.type.tensor_type.shape.dim[2:] for value in graph.value_info}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len({node.name for node in layers}) == len(layers)
    for node in layers:
        head = "_net." in node.name
        name, _, level = node.name.rpartition(".p") if head else (node.name, "", "")
        assert name in weights
        if head:  # P3 of 160 pixels has 20 cells a side
            assert [side.dim_value for side in sides[node.output[0]]] == [-(-160 // 2 ** int(level))] * 2
