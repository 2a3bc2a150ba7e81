"""Shapes of outputs that a run contradicts, and what shape inference finds in their place."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from effedge.pipeline.export.output_shapes import infer_named_sizes, name_wrong_sizes
from tests.pipeline.export.foreign_files import shapes_of, value


def relu(shape):
    """y = Relu(x) for x of ["N", 4], with the shape that the file states of y."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", ["N", 4])], [value("y", shape)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        (["N", 4], ["N", 4]),
        (["N", 5], ["N", "y_1"]),
        ([3, 4], ["y_0", 4]),
        (None, ["y_0", "y_1"]),
        ([3, 4, 1], ["y_0", "y_1"]),
        ([None, None], ["y_0", "y_1"]),
    ],
)
def test_a_size_that_the_run_contradicts_is_named_and_found_again(stated, named):
    model = relu(stated)
    name_wrong_sizes(model, {"y": np.zeros((2, 4), np.float32)})
    assert shapes_of(model.graph.output) == {"y": named}
    infer_named_sizes(model)
    assert shapes_of(model.graph.output) == {"y": ["N", 4]}


def test_a_size_that_the_data_decides_keeps_its_name():
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"])], "g", [value("x", [2, 3])], [value("y", [2, 7], TensorProto.INT64)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    name_wrong_sizes(model, {"y": np.zeros((2, 5), np.int64)})
    infer_named_sizes(model)
    rank, count = shapes_of(model.graph.output)["y"]
    assert rank == 2 and isinstance(count, str)
    onnx.checker.check_model(model)
