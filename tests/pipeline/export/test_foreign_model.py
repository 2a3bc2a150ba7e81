"""Simplification of an ONNX from any exporter: its inputs, its batch, and that a changed model is never written."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.ranges.samples import Input
from effedge.deploy.common.cli import UserError
from effedge.pipeline.export import simplify
from effedge.pipeline.export.foreign_model import random_feeds, simplify_foreign_file
from effedge.pipeline.export.passes import fold_batch_norm

ONE = (1, 1, 1)


def test_random_inputs_are_of_the_models_types_and_the_same_each_time():
    inputs = [
        Input("image", np.dtype(np.uint8), (None, 8, 8, 3)),
        Input("index", np.dtype(np.int64), (4,)),
        Input("flag", np.dtype(np.bool_), ()),
        Input("x", np.dtype(np.float16), (None, 100)),
    ]
    feeds, again = random_feeds(inputs, 2), random_feeds(inputs, 2)
    assert [(array.dtype, array.shape) for array in feeds.values()] == [
        (np.uint8, (2, 8, 8, 3)), (np.int64, (4,)), (np.bool_, ()), (np.float16, (2, 100)),
    ]  # fmt: skip
    assert feeds["image"].max() > 200 and feeds["index"].max() <= 1 and feeds["x"].min() < -1
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)


@pytest.fixture
def model(tmp_path):
    """Conv, BatchNormalization, and an output whose shape the file does not say."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(4, 3, 3, 3)),
        **{name: random.uniform(0.5, 2, 4) for name in ("g", "b", "m", "v")},
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["conv"]),
            helper.make_node("BatchNormalization", ["conv", "g", "b", "m", "v"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    return tmp_path / "net.onnx"


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(("batch", "size"), [(ONE, 1), ((4, 4, 4), 4), ((1, 2, 4), "N")])
def test_the_batch_is_fixed_or_bounded_and_shapes_follow(model, tmp_path, batch, size):
    simplify_foreign_file(model, tmp_path / "out.onnx", batch, None)
    simplified = onnx.load(tmp_path / "out.onnx")
    assert [node.op_type for node in simplified.graph.node] == ["Conv"]
    assert shape_of(simplified.graph.input[0]) == [size, 3, 8, 8]
    assert shape_of(simplified.graph.output[0])[1:] == [4, 6, 6]
    bounds = {entry.key: entry.value for entry in simplified.metadata_props}
    assert bounds == ({"effedge_batch": "[1, 2, 4]"} if size == "N" else {})


def test_what_computes_something_else_is_not_written(model, tmp_path, monkeypatch):
    def wrong(graph):
        kernel = next(node for node in graph.graph if node.op_type == "Conv").inputs[1]
        kernel.const_value = fold_batch_norm.ir.tensor(kernel.const_value.numpy() * np.float32(1.01))

    monkeypatch.setattr(fold_batch_norm, "fold_batch_norm", wrong)
    with pytest.raises(UserError, match="changed its outputs by .* of their range"):
        simplify_foreign_file(model, tmp_path / "out.onnx", ONE, None)
    assert not (tmp_path / "out.onnx").exists()


def test_a_simplifier_that_refuses_is_one_line(model, tmp_path, monkeypatch):
    def refuse(_model):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(simplify, "simplify", refuse)
    with pytest.raises(UserError, match="onnx-simplifier refuses .*no such thing"):
        simplify_foreign_file(model, tmp_path / "out.onnx", ONE, None)
