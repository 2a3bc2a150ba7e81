"""Simplification of an ONNX from any exporter: its inputs, its batch, and that the outputs stay as they were."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.ranges.samples import Input
from effedge.deploy.common.cli import UserError
from effedge.engines.comparison.reference import open_session
from effedge.engines.onnx_header import read_header
from effedge.pipeline.export import simplify
from effedge.pipeline.export.foreign_model import check_inputs, random_feeds, simplify_foreign_file
from effedge.pipeline.export.passes import float16_to_float32, fold_batch_norm
from tests.engines.openvino.reader.random_networks import random_network
from tests.pipeline.export.foreign_files import HALF, INT64, between, conv, last, noise, run_file, save, shapes_of

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


@pytest.mark.parametrize(("options", "size"), [([], 1), (["--batch", "4"], 4), (["--batch", "1:2:4"], "N")])
def test_the_command_takes_an_onnx_of_any_exporter(model, tmp_path, monkeypatch, options, size):
    monkeypatch.setattr("sys.argv", ["simplify", str(model), "--out", str(tmp_path / "out.onnx"), *options])
    simplify.main()
    simplified = onnx.load(tmp_path / "out.onnx")
    assert [node.op_type for node in simplified.graph.node] == ["Conv"]
    assert shape_of(simplified.graph.input[0]) == [size, 3, 8, 8]


def test_what_simplification_would_change_is_written_as_it_is_with_a_warning(model, tmp_path, monkeypatch, caplog):
    def wrong(graph):
        kernel = next(node for node in graph.graph if node.op_type == "Conv").inputs[1]
        kernel.const_value = fold_batch_norm.ir.tensor(kernel.const_value.numpy() * np.float32(1.01))

    monkeypatch.setattr(fold_batch_norm, "fold_batch_norm", wrong)
    simplify_foreign_file(model, tmp_path / "out.onnx", ONE, None)
    assert "changed its outputs by" in caplog.text and "so it is built as it is" in caplog.text
    assert_same_outputs(model, tmp_path / "out.onnx")


def test_what_the_simplifier_refuses_is_written_as_it_is_with_a_warning(model, tmp_path, monkeypatch, caplog):
    def refuse(_model):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(simplify, "simplify", refuse)
    simplify_foreign_file(model, tmp_path / "out.onnx", ONE, None)
    assert "no such thing; so it is built as it is" in caplog.text
    assert_same_outputs(model, tmp_path / "out.onnx")


@pytest.mark.parametrize("seed", [1072, 1195, 1379, 1490, 1735])
def test_a_network_whose_sizes_onnx_infers_otherwise_than_onnx_runtime_is_written_as_it_is(seed, tmp_path, caplog):
    """Among them pools with ceil_mode before opset 22, whose last window begins behind the input."""
    onnx.save(random_network(seed), tmp_path / "in.onnx")
    simplify_foreign_file(tmp_path / "in.onnx", tmp_path / "out.onnx", ONE, None)
    assert "so it is built as it is" in caplog.text
    assert_same_outputs(tmp_path / "in.onnx", tmp_path / "out.onnx")


def test_a_batch_that_a_reshape_does_not_take_is_refused_at_once(tmp_path):
    graph = helper.make_graph(
        [conv(pads=[1] * 4), node("Reshape", ["c", "shape"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 256])],
        [
            numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.array([1, 256]), "shape"),
        ],
    )
    path = tmp_path / "baked.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    simplify_foreign_file(path, tmp_path / "one.onnx", ONE, None)
    with pytest.raises(UserError, match="a batch of 4, of BATCH .--batch. 1:1:4: ONNX Runtime cannot run .*baked.onnx"):
        simplify_foreign_file(path, tmp_path / "four.onnx", (1, 1, 4), None)


def test_a_sequence_within_the_graph_stays_one(tmp_path):
    """Shape inference would make a tensor of it, where it looked for float16."""
    graph = helper.make_graph(
        [
            node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
            node("ConcatFromSequence", ["parts"], ["y"], axis=2),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 12])],
        [numpy_helper.from_array(np.array(2), "two")],
    )
    path = tmp_path / "parts.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    simplify_foreign_file(path, tmp_path / "out.onnx", ONE, None)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)}
    np.testing.assert_array_equal(run_file(tmp_path / "out.onnx", feeds)["y"], run_file(path, feeds)["y"])


def test_an_output_that_is_a_list_of_tensors_is_one_line(tmp_path):
    graph = helper.make_graph(
        [node("SequenceConstruct", ["x", "x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "list.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(UserError, match="output 'y' of '.*list.onnx' is no tensor: export the model so that it"):
        simplify_foreign_file(path, tmp_path / "out.onnx", ONE, None)


def assert_same_outputs(before, after):
    feeds = {value.name: value for value in open_session(before.read_bytes()).get_inputs()}
    random = np.random.default_rng(0)
    arrays = {
        name: random.normal(size=[size if isinstance(size, int) else 1 for size in value.shape]).astype(np.float32)
        for name, value in feeds.items()
    }
    expected, actual = (open_session(path.read_bytes()).run(None, arrays) for path in (before, after))
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)


SCALES, SMALLER = (np.array([1, 1, factor, factor], np.float32) for factor in (1.5, 0.5))
STATISTICS = {name: np.abs(noise(8)) + np.float32(0.1) for name in "gbmv"}
LSTM_WEIGHTS = {"lw": noise(1, 32, 4), "lr": noise(1, 32, 8)}
SQUARE = {"y": [1, 4, 8, 8]}
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


def simplified(tmp_path, source, batch=ONE):
    simplify_foreign_file(source, tmp_path / "out.onnx", batch, None)
    return tmp_path / "out.onnx"


def assert_equal(expected, actual, tolerance=1e-5):
    assert list(expected) == list(actual)
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (actual[name].dtype, actual[name].shape)
        np.testing.assert_allclose(array, actual[name], rtol=0, atol=tolerance * np.abs(array).max())


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
SIX = numpy_helper.from_array(np.array(6, np.float16))
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


DIMENSIONS = {
    "-1": ([-1, 4, 8, 8], [-1, 4, 8, 8]),
    "0": ([0, 4, 8, 8], [0, 4, 8, 8]),
    "without a name": ([None, 4, 8, 8], [None, None, None, None]),
    "-1 in the output alone": ([1, 4, 8, 8], [-1, -1, -1, -1]),
    "a size that is not true": ([1, 4, 8, 8], [3, 4, 8, 8]),
    "another rank": (["N", 4, 8, 8], ["N", 256]),
}


@pytest.mark.parametrize("batch", [ONE, (1, 2, 4)])
@pytest.mark.parametrize("kind", DIMENSIONS)
def test_the_shapes_that_come_out_are_true_whatever_the_file_says(kind, batch, tmp_path):
    x, y = DIMENSIONS[kind]
    source = between([last("c")], {"y": y}, x=x)(tmp_path / "net.onnx")
    proto = onnx.load(source)
    proto.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [-1, 8, 0, 8]))
    onnx.save(proto, source)
    check_inputs(read_header(source), source, None)
    header = read_header(simplified(tmp_path, source, batch))
    size = 1 if batch == ONE or x[0] == 1 else "N"
    assert header.inputs["x"][1] == (size, 4, 8, 8)
    assert header.outputs["y"][1] == (size, 4, 8, 8)
    assert header.tensors["c"][1] == (size, 8, 8, 8)


def test_a_size_that_depends_on_the_data_stays_a_symbol(tmp_path):
    nodes = [conv(), node("NonZero", ["c"], ["y"])]
    source = save(tmp_path / "net.onnx", nodes, {"x": [1, 4, 8, 8]}, {"y": [4, -1]}, {"w": noise(8, 4, 3, 3)},
                  types={"y": INT64})  # fmt: skip
    rank, count = read_header(simplified(tmp_path, source)).outputs["y"][1]
    assert rank == 4 and isinstance(count, str)


def test_a_dynamic_height_is_one_line(tmp_path):
    source = between([last("c")], {"y": [-1, 4, -1, -1]}, x=[-1, 4, -1, 8])(tmp_path / "net.onnx")
    with pytest.raises(UserError, match=r"has shape \['\?', 4, '\?', 8\], of which only the first may be dynamic"):
        check_inputs(read_header(source), source, None)


def test_a_batch_suits_a_file_of_which_one_input_is_dynamic(tmp_path):
    nodes = [conv(), node("ReduceMean", ["state"], ["s"], keepdims=0), node("Mul", ["c", "s"], ["y"])]
    inputs = {"state": [2, 1, 8], "x": ["N", 4, 8, 8]}
    source = save(tmp_path / "net.onnx", nodes, inputs, {"y": ["N", 8, 8, 8]}, {"w": noise(8, 4, 3, 3)})
    check_inputs(read_header(source), source, (4, 4, 4))
    out = simplified(tmp_path, source, (4, 4, 4))
    assert shapes_of(onnx.load(out).graph.output) == {"y": [4, 8, 8, 8]}


OUTPUTS = {
    "a tensor through Identity": ([last("c"), node("Identity", ["y"], ["z"])], SQUARE),
    "a tensor within, twice": (
        [node("Identity", ["c"], ["z"]), node("Identity", ["z"], ["q"]), last("q")],
        {**SQUARE, "q": [1, 8, 8, 8]},
    ),
    "the input": ([last("c"), node("Identity", ["x"], ["z"])], SQUARE),
    "two that are equal": ([node("Sigmoid", ["c"], ["y"]), node("Sigmoid", ["c"], ["z"])], {"y": [1, 8, 8, 8]}),
    "a constant": ([last("c"), helper.make_node("Constant", [], ["z"], value=SIX)], SQUARE),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_output_stays_under_its_name_and_in_its_place(kind, tmp_path):
    nodes, first = OUTPUTS[kind]
    source = between(nodes, {**first, "z": None})(tmp_path / "net.onnx")
    proto = onnx.load(source)
    if kind == "a constant":
        proto.graph.output[1].type.tensor_type.elem_type = HALF
    onnx.save(proto, source)
    feeds = {"x": noise(1, 4, 8, 8)}
    assert_equal(run_file(source, feeds), run_file(simplified(tmp_path, source), feeds))


def test_an_output_that_is_listed_twice_is_one(tmp_path):
    source = between([last("c")], SQUARE)(tmp_path / "net.onnx")
    proto = onnx.load(source)
    proto.graph.output.append(proto.graph.output[0])
    onnx.save(proto, source)
    assert [output.name for output in onnx.load(simplified(tmp_path, source)).graph.output] == ["y"]


UNREAD = {
    "no node reads": ([last("c")], {"size": [1, 2]}),
    "of rank 0": ([last("c")], {"size": []}),
    "of which the shape alone is read": (
        [node("Shape", ["size"], ["s"]), node("ConstantOfShape", ["s"], ["o"]), node("Add", ["c", "o"], ["a"]),
         last("a")],
        {"size": [1, 8, 1, 1]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNREAD)
def test_an_input_that_no_output_depends_on_is_dropped_and_said(kind, tmp_path, caplog):
    nodes, inputs = UNREAD[kind]
    source = between(nodes, SQUARE, inputs=inputs)(tmp_path / "net.onnx")
    caplog.set_level("INFO", logger="effedge")
    out = simplified(tmp_path, source)
    assert list(read_header(out).inputs) == ["x"]
    assert "no output depends on input size" in caplog.text
    feeds = {"x": noise(1, 4, 8, 8), "size": noise(*inputs["size"])}
    assert_equal(run_file(source, feeds), run_file(out, feeds))


def test_the_array_of_an_input_that_no_node_reads_may_be_missing(tmp_path):
    source = between([last("c")], SQUARE, inputs={"size": [1, 2]})(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=noise(3, 4, 8, 8))
    simplify_foreign_file(source, tmp_path / "out.onnx", ONE, tmp_path / "data.npz")


def test_a_file_whose_outputs_depend_on_no_input_is_refused(tmp_path):
    nodes = [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["y"])]
    source = save(tmp_path / "net.onnx", nodes, {"x": [1, 4]}, {"y": [1, 4]}, {})
    with pytest.raises(UserError, match="depend on none of its inputs"):
        simplified(tmp_path, source)


STATES = {
    "a hidden state": (
        [node("LSTM", ["x", "lw", "lr", "", "", "h", "c0"], ["Y", "h_out", "c_out"], hidden_size=8)],
        {"x": [5, 1, 4], "h": [1, 1, 8], "c0": [1, 1, 8]},
        {"h_out": [1, 1, 8], "c_out": [1, 1, 8]},
        LSTM_WEIGHTS,
    ),
    "a scalar": (
        [conv(), node("Mul", ["c", "t"], ["y"])],
        {"x": [1, 4, 8, 8], "t": []},
        {"y": None},
        {"w": noise(8, 4, 3, 3)},
    ),
}


@pytest.mark.parametrize("kind", STATES)
def test_inputs_without_a_batch_are_fed_from_arrays_of_samples(kind, tmp_path):
    nodes, inputs, outputs, constants = STATES[kind]
    source = save(tmp_path / "net.onnx", nodes, inputs, outputs, constants)
    has_batch = {"x"} if kind == "a scalar" else set()
    np.savez(
        tmp_path / "data.npz",
        **{name: noise(6, *(shape[1:] if name in has_batch else shape)) for name, shape in inputs.items()},
    )
    simplify_foreign_file(source, tmp_path / "out.onnx", ONE, tmp_path / "data.npz")
    feeds = {name: noise(*shape) if shape else np.array(0.5, np.float32) for name, shape in inputs.items()}
    assert_equal(run_file(source, feeds), run_file(tmp_path / "out.onnx", feeds))


def test_nodes_may_be_in_any_order(tmp_path):
    source = between([last("c")], SQUARE)(tmp_path / "net.onnx")
    proto = onnx.load(source)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    onnx.save(proto, source)
    feeds = {"x": noise(1, 4, 8, 8)}
    assert_equal(run_file(source, feeds), run_file(simplified(tmp_path, source), feeds))


def test_initializers_of_ir_3_need_not_be_inputs(tmp_path):
    source = between([last("c")], SQUARE)(tmp_path / "net.onnx", opset=11)
    proto = onnx.load(source)
    proto.ir_version = 3
    onnx.save(proto, source)
    feeds = {"x": noise(1, 4, 8, 8)}
    assert_equal(run_file(source, feeds), run_file(simplified(tmp_path, source), feeds))


def test_a_conversion_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    convert = float16_to_float32.float16_to_float32

    def wrong(model):
        for value in model.graph.initializers.values():
            value.const_value = ir.tensor(value.const_value.numpy() * np.float16(1.2), name=value.name)
        return convert(model)

    monkeypatch.setattr(float16_to_float32, "float16_to_float32", wrong)
    with pytest.raises(UserError, match="float16 -> float32 inside.* changed its outputs"):
        simplified(tmp_path, HALVES["convolutions"](tmp_path / "half.onnx", half=True))


PADS = np.array([0, 0, 2, 2, 0, 0, 2, 2])


@pytest.mark.parametrize("fill", [-np.inf, 0.0])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_a_pad_by_a_pools_kernel_stays_in_front_of_it(pool, fill, tmp_path):
    if pool == "AveragePool" and fill:
        pytest.skip("a mean of infinities")
    nodes = [node("Pad", ["c", "pads", "fill"], ["p"]), node(pool, ["p"], ["y"], kernel_shape=[2, 2])]
    source = between(nodes, {"y": [1, 8, 11, 11]}, pads=PADS, fill=np.float32(fill))(tmp_path / "net.onnx")
    out = simplified(tmp_path, source)
    assert [each.op for each in read_header(out).nodes] == ["Conv", "Pad", pool]
    feeds = {"x": noise(1, 4, 8, 8)}
    expected, actual = run_file(source, feeds)["y"], run_file(out, feeds)["y"]
    np.testing.assert_allclose(expected, actual, rtol=1e-5)


def test_where_the_simplifier_breaks_a_graph_it_folds_constants_only(model, tmp_path, monkeypatch, caplog):
    import onnxsim

    whole = onnxsim.simplify

    def broken(proto, **options):
        if options.get("perform_optimization", True):
            raise RuntimeError("nodes must be\nsorted")
        return whole(proto, **options)

    monkeypatch.setattr(onnxsim, "simplify", broken)
    caplog.set_level("INFO", logger="effedge")
    feeds = {"x": noise(1, 3, 8, 8)}
    assert_equal(run_file(model, feeds), run_file(simplified(tmp_path, model), feeds))
    assert "folds constants only (nodes must be sorted)" in caplog.text
