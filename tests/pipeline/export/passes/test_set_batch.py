"""A graph that was exported for one image with another batch: a number, or the symbol N."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from effedge.pipeline.export.passes.set_batch import replace_batch_of_one, resolve_symbolic_batch
from tests.pipeline.export.passes.tiny_graphs import assert_same, make, noise, run

X = noise(5, 3, 4, 4)


def ints(*values):
    return np.array(values, np.int64)


def network(shape=(1, -1), extra=(), constants=None):
    """[1,3,4,4] -> Conv -> Reshape to `shape` -> MatMul -> [1,5]."""
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}), *extra, ("Reshape", ["c" if not extra else "e", "s"], ["r"], {"allowzero": 1}),
        ("MatMul", ["r", "m"], ["y"], {}),
    ]  # fmt: skip
    constants = {"w": noise(2, 3, 1, 1), "m": noise(32, 5), "s": ints(*shape)} | (constants or {})
    return make(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 5]}, constants)


@pytest.mark.parametrize("shape", [(1, -1), (1, 32), (0, 32)])
@pytest.mark.parametrize("batch", [5, "N"])
def test_each_image_of_a_batch_gets_what_it_got_alone(shape, batch):
    alone = network(shape)
    if 0 in shape:  # which means "keep" only without allowzero
        next(node for node in alone.graph if node.op_type == "Reshape").attributes.pop("allowzero")
    expected = np.concatenate([run(alone, x=image[None])[0] for image in X])
    replace_batch_of_one(alone, batch)
    assert_same([expected], run(alone, x=X))
    assert [str(value.shape[0]) for value in (*alone.graph.inputs, *alone.graph.outputs)] == [str(batch)] * 2
    if batch == "N":
        assert_same([expected[:2]], run(alone, x=X[:2]))


def test_a_shape_that_two_reshapes_share_is_no_trouble():
    nodes = [
        ("Reshape", ["x", "s"], ["a"], {}), ("Neg", ["x"], ["n"], {}), ("Reshape", ["n", "s"], ["b"], {}),
        ("Add", ["a", "b"], ["y"], {}),
    ]  # fmt: skip
    model = make(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 48]}, {"s": ints(1, 48)})
    replace_batch_of_one(model, "N")
    assert_same([np.zeros((5, 48), np.float32)], run(model, x=X))


def test_an_expansion_by_ones_is_none():
    model = network(extra=[("Expand", ["c", "ones"], ["e"], {})], constants={"ones": ints(1, 1, 1, 1)})
    expected = np.concatenate([run(model, x=image[None])[0] for image in X])
    replace_batch_of_one(model, "N")
    assert_same([expected], run(model, x=X))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network((-1, 32)), "reshapes to \\[-1, 32\\], which merges the batch"),
        (network((2, 16), constants={"m": noise(16, 5)}), "reshapes to \\[2, 16\\], which merges the batch"),
        (
            network(extra=[("Expand", ["c", "full"], ["e"], {})], constants={"full": ints(1, 2, 4, 4)}),
            "expands to a constant shape",
        ),
    ],
)
def test_a_graph_with_its_batch_built_in_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        replace_batch_of_one(model, "N")


def test_a_computed_shape_is_refused():
    nodes = [("Reshape", ["x", "s"], ["y"], {})]
    model = make(nodes, {"x": [1, 3, 4, 4], "s": [2]}, {"y": [1, 48]}, types={"s": TensorProto.INT64})
    with pytest.raises(ValueError, match="computes its shape"):
        replace_batch_of_one(model, "N")


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (4, 8)])
def test_a_resize_to_constant_sizes_resizes_every_image(height, width):
    # As torch exports the BiFPN's upsampling: the sizes hold a batch of one, and would drop the other images.
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [("Resize", ["x", "", "", "sizes"], ["y"], options)]
    model = make(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 3, height, width]}, {"sizes": ints(1, 3, height, width)})
    expected = np.concatenate([run(model, x=image[None])[0] for image in X])
    replace_batch_of_one(model, "N")
    assert_same([expected], run(model, x=X))


@pytest.mark.parametrize("side", [2, 3, 5, 6, 7, 10, 11, 13, 24, 40])
def test_an_odd_resize_keeps_its_size(side):
    # P7's 3 cells become P6's 5 at an input of 320; float32's 5/3 falls short of it.
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [("Resize", ["x", "", "", "sizes"], ["y"], options)]
    after = 2 * side - 1
    model = make(nodes, {"x": [1, 1, side, side]}, {"y": [1, 1, after, after]}, {"sizes": ints(1, 1, after, after)})
    images = noise(3, 1, side, side)
    expected = np.concatenate([run(model, x=image[None])[0] for image in images])
    replace_batch_of_one(model, "N")
    assert_same([expected], run(model, x=images))


@pytest.mark.parametrize("name", ["n", None])
def test_of_dimensions_without_a_name_only_the_first_is_the_batch(name):
    def value(at, *dims):
        return ir.Value(name=at, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))

    image, rows = value("image", name, 3, 8, 8), value("rows", name, None, 4)
    node = ir.Node("", "Identity", [image], outputs=[rows])
    model = ir.Model(ir.Graph([image], [rows], nodes=[node], opset_imports={"": 17}), ir_version=8)
    resolve_symbolic_batch(model, (2, 2, 2))
    assert image.shape == ir.Shape([2, 3, 8, 8]) and rows.shape == ir.Shape([2, None, 4])
