"""Dimensions that a file does not know become symbols."""

import onnx_ir as ir
import pytest

from effedge.calibration.graph.unknown_sizes import name_unknown_sizes


def chain(x: list[int | str | None], inner: list[int | str | None], y: list[int | str | None]) -> ir.Model:
    """x -> Relu -> a -> Neg -> y, with these shapes."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    values = {
        name: ir.Value(name=name, type=kind, shape=ir.Shape(shape))
        for name, shape in {"x": x, "a": inner, "y": y}.items()
    }
    nodes = [
        ir.node("Relu", [values["x"]], outputs=[values["a"]]),
        ir.node("Neg", [values["a"]], outputs=[values["y"]]),
    ]
    graph = ir.Graph([values["x"]], [values["y"]], nodes=nodes, opset_imports={"": 13})
    return ir.Model(graph, ir_version=8)


def sizes(value: ir.Value) -> list[int | str | None]:
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]


@pytest.mark.parametrize("unknown", [-1, 0, None])
def test_an_input_has_a_batch_and_no_two_dimensions_are_the_same(unknown: int | None) -> None:
    model = chain([unknown, 3, unknown], ["N", 3, 4], [unknown, unknown, 4])
    name_unknown_sizes(model)
    assert sizes(model.graph.inputs[0]) == ["x_batch", 3, "x_2"]
    assert sizes(model.graph.outputs[0]) == ["y_0", "y_1", 4]
    assert sizes(model.graph[0].outputs[0]) == ["N", 3, 4]


@pytest.mark.parametrize("unknown", [-1, 0, None])
def test_a_shape_within_is_left_to_inference(unknown: int | None) -> None:
    model = chain([1, 3], [unknown, 3], [1, 3])
    name_unknown_sizes(model)
    assert model.graph[0].outputs[0].shape is None


def test_known_dimensions_and_scalars_stay() -> None:
    model = chain(["batch", 3], ["batch", 3], [])
    name_unknown_sizes(model)
    assert sizes(model.graph.inputs[0]) == ["batch", 3]
    assert sizes(model.graph.outputs[0]) == []
