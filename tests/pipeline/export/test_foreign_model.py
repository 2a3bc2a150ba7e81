"""Simplification of an ONNX from any exporter: its inputs, its batch, and that the outputs stay as they were."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.ranges.samples import Input
from effedge.deploy.common.cli import UserError
from effedge.engines.comparison.reference import open_session
from effedge.engines.onnx_header import read_header
from effedge.pipeline.export import simplify
from effedge.pipeline.export.foreign_model import check_inputs, random_feeds, simplify_foreign_file
from effedge.pipeline.export.passes import fold_batch_norm
from tests.engines.openvino.reader.random_networks import random_network
from tests.pipeline.export.foreign_files import (
    HALF,
    INT64,
    ONE,
    SIX,
    SQUARE,
    assert_equal,
    between,
    conv,
    last,
    node,
    noise,
    run_file,
    save,
    shapes_of,
    simplified,
)


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


LSTM_WEIGHTS = {"lw": noise(1, 32, 4), "lr": noise(1, 32, 8)}
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
