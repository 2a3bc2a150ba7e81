"""A Pad moves into the operator behind it, or stays, with the reason."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from effedge.pipeline.export.passes.fuse_pad import fuse_pad, why_not
from tests.pipeline.export.passes.tiny_graphs import assert_same, kinds, make, node_of, noise, run

X = noise(1, 2, 6, 5) - 3  # mostly negative, so that a zero in a MaxPool would show
PADS = np.array([0, 0, 1, 0, 0, 0, 2, 2], np.int64)  # top 1, bottom 2, right 2
ZERO, LOWEST, ONE = (np.array(value, np.float32) for value in (0, -np.inf, 1))


def padded(reader, value=ZERO, pads=PADS, mode="constant", extra=(), outputs=("y",), positions=False, **attributes):
    """x -> Pad -> `reader` -> y, and whatever nodes `extra` holds."""
    readers = {
        "Conv": ("Conv", ["p", "w"], ["y"], attributes),
        "MaxPool": (
            "MaxPool",
            ["p"],
            ["y", "at"] if positions else ["y"],
            {"kernel_shape": [3, 3], "strides": [2, 2]} | attributes,
        ),
        "Relu": ("Relu", ["p"], ["y"], {}),
    }
    constants = {"w": noise(4, X.shape[1] + int(pads[1]), 3, 3)} if reader == "Conv" else {}
    constants["pads"] = pads
    names = ["x", "pads"]
    if value is not None and mode == "constant":
        constants["value"] = value
        names.append("value")
    nodes = [("Pad", names, ["p"], {"mode": mode}), readers[reader], *extra]
    return make(nodes, {"x": X.shape}, {name: [None] * 4 for name in outputs}, constants)


@pytest.mark.parametrize(
    ("reader", "options"),
    [
        ("Conv", {}),
        ("Conv", {"value": None}),  # ONNX's default is 0
        ("Conv", {"pads": PADS, "strides": [2, 2]}),
        ("MaxPool", {"value": LOWEST}),
    ],
)
def test_a_pad_becomes_the_readers_own(reader, options):
    model = padded(reader, **options)
    before = run(model, x=X)
    assert fuse_pad(model) == 1
    assert kinds(model) == [reader]
    assert node_of(model, reader).attributes["pads"].value == (1, 0, 2, 2)
    assert_same(before, run(model, x=X))


def test_the_readers_own_pads_are_added():
    model = padded("Conv")
    node_of(model, "Conv").attributes["pads"] = ir.AttrInt64s("pads", [1, 1, 0, 2])
    before = run(model, x=X)
    assert fuse_pad(model) == 1
    assert node_of(model, "Conv").attributes["pads"].value == (2, 1, 2, 4)
    assert_same(before, run(model, x=X))


BATCH, CHANNEL, CUT = (np.array(pads, np.int64) for pads in
    ([1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0, 1]))  # fmt: skip

WIDE = np.array([0, 0, 3, 0, 0, 0, 0, 0], np.int64)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (padded("Relu"), "Relu does not pad"),
        (padded("Conv", extra=[("Relu", ["p"], ["z"], {})], outputs=("y", "z")), "another node reads"),
        (padded("Conv", outputs=("y", "p")), "another node reads"),
        (padded("Conv", mode="reflect"), "the padding is no constant"),
        (padded("Conv", value=ONE), "Conv does not pad by 1.0"),
        (padded("MaxPool", value=ZERO), "MaxPool does not pad by 0.0"),
        (padded("MaxPool", value=None), "MaxPool does not pad by 0.0"),
        (padded("Conv", value=LOWEST), "Conv does not pad by -inf"),
        (padded("MaxPool", value=LOWEST, pads=WIDE), "MaxPool pads less than its kernel"),
        (padded("MaxPool", value=LOWEST, pads=PADS, ceil_mode=1), "with ceil_mode, MaxPool has other windows"),
        (padded("MaxPool", value=LOWEST, pads=PADS, kernel_shape=[2, 2]), "MaxPool pads less than its kernel"),
        (padded("MaxPool", value=LOWEST, pads=PADS, positions=True), "MaxPool counts positions without the pad"),
        (padded("Conv", pads=BATCH), "batch or channels are padded, or pixels cut off"),
        (padded("Conv", pads=CHANNEL), "batch or channels are padded, or pixels cut off"),
        (padded("Conv", pads=CUT), "batch or channels are padded, or pixels cut off"),
    ],
)
def test_a_pad_that_cannot_move_stays_with_its_reason(model, reason):
    before, nodes = run(model, x=X), kinds(model)
    pad = node_of(model, "Pad")
    reader = next(node for node in model.graph if node.inputs[0] is pad.outputs[0])
    assert reason in why_not(pad, reader)
    assert fuse_pad(model) == 0 and kinds(model) == nodes
    assert_same(before, run(model, x=X))


def test_a_pad_that_names_its_axes_stays():
    nodes = [("Pad", ["x", "pads", "", "axes"], ["p"], {}), ("Conv", ["p", "w"], ["y"], {})]
    constants = {"pads": np.array([1, 1, 1, 1], np.int64), "axes": np.array([2, 3], np.int64), "w": noise(4, 2, 3, 3)}
    model = make(nodes, {"x": X.shape}, {"y": [None] * 4}, constants)
    assert why_not(node_of(model, "Pad"), node_of(model, "Conv")) == "it names the axes that it pads"


def test_computed_pads_stay():
    nodes = [("Pad", ["x", "pads"], ["p"], {}), ("Conv", ["p", "w"], ["y"], {})]
    ends = {"x": X.shape, "pads": [8]}
    model = make(nodes, ends, {"y": [None] * 4}, {"w": noise(4, 2, 3, 3)}, types={"pads": TensorProto.INT64})
    assert why_not(node_of(model, "Pad"), node_of(model, "Conv")) == "pads or value are computed"
    assert fuse_pad(model) == 0
    run(model, x=X, pads=PADS)


def test_a_convolution_that_pads_by_itself_keeps_its_pad():
    model = padded("Conv", auto_pad="SAME_UPPER", strides=[2, 2])
    before = run(model, x=X)
    assert why_not(node_of(model, "Pad"), node_of(model, "Conv")) == "Conv works out its own pads"
    assert fuse_pad(model) == 0
    assert_same(before, run(model, x=X))
