"""Conversion of an ONNX from any exporter: to opset 13 from older ones, and from float16 to float32."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import read_header
from effedge.pipeline.export.passes import float16_to_float32
from tests.pipeline.export.foreign_files import (
    HALF,
    SIX,
    SQUARE,
    assert_equal,
    between,
    last,
    node,
    noise,
    run_file,
    simplified,
)

SCALES, SMALLER = (np.array([1, 1, factor, factor], np.float32) for factor in (1.5, 0.5))
STATISTICS = {name: np.abs(noise(8)) + np.float32(0.1) for name in "gbmv"}
# What changed on the way to opset 13, by the opset that it is of.
OLD = {
    "Upsample 7": (7, between([node("Upsample", ["c"], ["u"], scales=[1.0, 1.0, 2.0, 2.0]), last("u")], SQUARE)),
    "linear Upsample 9": (
        9,
        between([node("Upsample", ["c", "scales"], ["u"], mode="linear"), last("u")], SQUARE, scales=SCALES),
    ),
    "linear Resize 10": (
        10,
        between([node("Resize", ["c", "scales"], ["u"], mode="linear"), last("u")], SQUARE, scales=SCALES),
    ),
    "nearest Resize 10": (10, between([node("Resize", ["c", "scales"], ["u"]), last("u")], SQUARE, scales=SCALES)),
    "smaller Resize 10": (10, between([node("Resize", ["c", "scales"], ["u"]), last("u")], SQUARE, scales=SMALLER)),
    "Pad 8": (8, between([node("Pad", ["c"], ["p"], pads=[0, 0, 1, 2, 0, 0, 1, 0], value=0.5), last("p")], SQUARE)),
    "Slice 9": (9, between([node("Slice", ["c"], ["s"], starts=[1], ends=[-1], axes=[2]), last("s")], SQUARE)),
    "Dropout and Clip 7": (
        7,
        between([node("Dropout", ["c"], ["d"]), node("Clip", ["d"], ["k"], min=0.0, max=6.0), last("k")], SQUARE),
    ),
    "BatchNormalization 8": (
        8,
        between([node("BatchNormalization", ["c", *"gbmv"], ["n"]), last("n")], SQUARE, **STATISTICS),
    ),
    "Softmax 9": (9, between([last("c", "l"), node("Softmax", ["l"], ["y"])], SQUARE)),
    "Squeeze 9": (
        9,
        between(
            [node("ReduceMean", ["c"], ["m"], axes=[2, 3]), node("Squeeze", ["m"], ["y"], axes=[3])], {"y": [1, 8, 1]}
        ),
    ),
    "TopK 9": (
        9,
        between(
            [node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0), node("TopK", ["m"], ["y", "i"], axis=1, k=3)],
            {"y": [1, 3]},
        ),
    ),
}


@pytest.mark.parametrize("kind", OLD)
def test_a_file_of_an_old_opset_computes_the_same_at_13(kind, tmp_path, caplog):
    opset, write = OLD[kind]
    source, feeds = write(tmp_path / "old.onnx", opset=opset), {"x": noise(1, 4, 8, 8)}
    caplog.set_level("INFO", logger="effedge")
    out = simplified(tmp_path, source)
    assert read_header(out).opset == 13
    assert f"opset {opset} -> 13" in caplog.text
    assert_equal(run_file(source, feeds), run_file(out, feeds))


def test_an_old_operator_that_the_converter_changes_is_refused(tmp_path):
    write = between([node("Hardmax", ["c"], ["y"], axis=1)], {"y": [1, 8, 8, 8]})  # over all axes from 1 on, then
    with pytest.raises(UserError, match=r"\(opset 9 -> 13\) changed its outputs .* export it again"):
        simplified(tmp_path, write(tmp_path / "old.onnx", opset=9))


def test_an_opset_that_no_runtime_reads_is_refused(tmp_path):
    with pytest.raises(UserError, match="of opset 6, expected 7 or later"):
        simplified(tmp_path, between([last("c")], SQUARE)(tmp_path / "old.onnx", opset=6))


BRANCHES = {
    "then_branch": helper.make_graph(
        [helper.make_node("Identity", ["c"], ["t"])], "then", [], [helper.make_tensor_value_info("t", HALF, None)]
    ),
    "else_branch": helper.make_graph(
        [helper.make_node("Neg", ["c"], ["e"])], "else", [], [helper.make_tensor_value_info("e", HALF, None)]
    ),
}
ONES = numpy_helper.from_array(np.array([1], np.float16))
HALVES = {
    "convolutions": between([last("c")], SQUARE),
    "a constant and a Cast": between(
        [
            helper.make_node("Constant", [], ["six"], value=SIX),
            node("Clip", ["c", "", "six"], ["k"]),
            node("Cast", ["k"], ["k32"], to=TensorProto.FLOAT),
            node("Softmax", ["k32"], ["s"], axis=1),
            node("Cast", ["s"], ["s16"], to=HALF),
            last("s16"),
        ],
        SQUARE,
    ),
    "Resize and ConstantOfShape": between(
        [
            node("Resize", ["c", "", "scales"], ["u"]),
            node("Shape", ["u"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["one"], value=ONES),
            node("Add", ["u", "one"], ["a"]),
            last("a"),
        ],
        {"y": [1, 4, 12, 12]},
        scales=SCALES,
    ),
    "an If": between(
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Greater", ["m", "limit"], ["yes"]),
            node("If", ["yes"], ["b"], **BRANCHES),
            last("b"),
        ],
        SQUARE,
        limit=np.array(9, np.float32),
    ),
    "an input as output": between([last("c"), node("Identity", ["x"], ["z"])], {**SQUARE, "z": [1, 4, 8, 8]}),
}


@pytest.mark.parametrize("kind", HALVES)
def test_a_float16_file_is_float32_inside_and_keeps_the_types_of_its_ends(kind, tmp_path, caplog):
    source, feeds = HALVES[kind](tmp_path / "half.onnx", half=True), {"x": noise(1, 4, 8, 8).astype(np.float16)}
    caplog.set_level("INFO", logger="effedge")
    out = simplified(tmp_path, source)
    assert "float16 -> float32 inside" in caplog.text
    assert not [name for name, dtype in read_header(out).initializers.items() if dtype == HALF]
    assert_equal(run_file(source, feeds), run_file(out, feeds), tolerance=2e-3)


def test_a_conversion_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    convert = float16_to_float32.float16_to_float32

    def wrong(model):
        for value in model.graph.initializers.values():
            value.const_value = ir.tensor(value.const_value.numpy() * np.float16(1.2), name=value.name)
        return convert(model)

    monkeypatch.setattr(float16_to_float32, "float16_to_float32", wrong)
    with pytest.raises(UserError, match="float16 -> float32 inside.* changed its outputs"):
        simplified(tmp_path, HALVES["convolutions"](tmp_path / "half.onnx", half=True))
