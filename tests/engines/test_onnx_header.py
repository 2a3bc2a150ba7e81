"""Tests the wire-format reader against the onnx package."""

import json
import struct

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import onnx_files, read_header
from tests.calibration.networks import Network
from tests.engines.graphs import spec


@pytest.mark.parametrize("name", ["f32", "f16", "int8", "int8-dynamic", "int32-bias", "tail", "nms"])
def test_it_reads_what_onnx_reads(prepared, name):
    header, model = read_header(prepared(name)), onnx.load(prepared(name))
    assert header.opset == 18
    assert [(n.op, n.name, list(n.inputs), list(n.outputs)) for n in header.nodes] == [
        (n.op_type, n.name, list(n.input), list(n.output)) for n in model.graph.node
    ]
    assert header.initializers == {one.name: one.data_type for one in model.graph.initializer}
    for ours, theirs in ((header.inputs, model.graph.input), (header.outputs, model.graph.output)):
        assert list(ours) == [one.name for one in theirs]
        for one in theirs:
            dims = tuple(d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim)
            assert ours[one.name] == (one.type.tensor_type.elem_type, dims)


def test_it_finds_the_convolutions_of_each_kind(prepared):
    assert [node.name for node in read_header(prepared("int8")).quantized_convolutions] == ["conv1", "conv2", "conv3"]
    assert len(read_header(prepared("f16")).fp16_convolutions) == 4
    plain = read_header(prepared("f32"))
    assert (plain.quantized_convolutions, plain.fp16_convolutions) == ([], [])
    assert plain.spec == spec()


def test_small_constants_are_read_and_weights_are_not(tmp_path):
    constants = [
        helper.make_tensor("floats", TensorProto.FLOAT, [2], [1.5, -2.0]),  # as float_data
        helper.make_tensor("raw", TensorProto.FLOAT, [], np.float32(1e-8).tobytes(), raw=True),
        helper.make_tensor("integers", TensorProto.INT64, [1], [7]),
        helper.make_tensor("large", TensorProto.FLOAT, [4096], np.zeros(4096, np.float32).tobytes(), raw=True),
        helper.make_tensor("weight", TensorProto.FLOAT, [1, 1, 1, 1], [3.0]),
    ]
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [1, 1, 2, 2])], [], constants)
    model = helper.make_model(graph)
    report = {"float_layers": {"a": "why"}, "float32_nodes": {"b": "it overflows"}}
    helper.set_model_props(model, {"effedge_calibration": json.dumps(report)})
    onnx.save(model, tmp_path / "m.onnx")
    header = read_header(tmp_path / "m.onnx")
    assert header.constants == {"floats": (1.5, -2.0), "raw": (np.float32(1e-8),)}
    assert (header.float_layers, header.float32_nodes) == ({"a": "why"}, {"b": "it overflows"})


def test_nodes_can_be_kept_in_sets(prepared):
    """As engines/tensorrt/log.py keeps those that an error names."""
    nodes = read_header(prepared("int8")).nodes
    assert len(set(nodes)) == len(nodes) and any(node.attributes for node in nodes)


def test_a_file_cut_short_anywhere_is_refused(prepared, tmp_path):
    whole, cut = prepared("int8").read_bytes(), tmp_path / "cut.onnx"
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.onnx"):
            read_header(cut)


def test_an_onnx_without_our_metadata_has_no_spec(prepared):
    header = read_header(prepared("no-metadata"))
    assert (header.spec, header.batch) == ({}, None)
    assert (read_header(prepared("f32")).batch, read_header(prepared("int8-dynamic")).batch) == ((1, 1, 1), (1, 2, 4))


def test_what_is_not_said_of_a_tensor_is_unknown(tmp_path):
    unshaped = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    scalar = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("SequenceConstruct", ["y"], ["s"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [scalar], [unshaped, sequence])), tmp_path / "g.onnx")
    header = read_header(tmp_path / "g.onnx")
    assert header.inputs == {"x": (TensorProto.FLOAT, ())}
    assert header.outputs == {"y": (TensorProto.FLOAT, None), "s": (0, None)}


def test_it_names_the_files_that_hold_weights(prepared, tmp_path):
    assert read_header(prepared("f32")).external == ()
    model = onnx.load(prepared("f32"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    header = read_header(tmp_path / "m.onnx")
    assert header.external == ("w.bin",)
    assert header.initializers == read_header(prepared("f32")).initializers


def test_weights_that_are_also_listed_as_inputs_are_none(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xwy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:2], values[2:], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    assert list(read_header(tmp_path / "g.onnx").inputs) == ["x"]


def test_a_dimension_of_minus_one_or_zero_or_without_a_name_is_dynamic(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", None, 3, 4, 5])
    x.type.tensor_type.shape.dim[2].dim_value, x.type.tensor_type.shape.dim[3].dim_value = -1, 0
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert read_header(tmp_path / "m.onnx").inputs == {"x": (TensorProto.FLOAT, ("N", "", "", "", 5))}


def test_numbers_that_are_written_one_by_one_are_read_as_packed_ones(tmp_path):
    """A parser must take a repeated field in both forms (Protocol Buffers' Encoding, "Packed Repeated Fields")."""
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [2], [1.5, -2.0])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [2], [0.5, 0.25])
    zeros = helper.make_tensor("zeros", TensorProto.INT8, [2], [0, 3])
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zeros"], ["x"], "shifted", axis=0),
        helper.make_node("Add", ["x", "floats"], ["y"], "add"),
    ]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("q", TensorProto.INT8, [2])], [],
                              [floats, scale, zeros])  # fmt: skip
    packed = helper.make_model(graph).SerializeToString()
    raw = struct.pack("<2f", 1.5, -2.0)
    apart = packed.replace(b"\x22\x08" + raw, b"\x25" + raw[:4] + b"\x25" + raw[4:])
    apart = apart.replace(b"\x2a\x02\x00\x03", b"\x28\x00\x28\x03")
    assert apart.count(b"\x28\x00\x28\x03") == 1 and onnx.load_from_string(apart) == onnx.load_from_string(packed)
    (tmp_path / "apart.onnx").write_bytes(apart)
    header = read_header(tmp_path / "apart.onnx")
    assert header.constants["floats"] == (1.5, -2.0) and header.shifted == ("shifted",)


def with_weights_in(path, location):
    """Saves a model whose only weight is in the file `location`."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("float_data")
    weight.external_data.add(key="location", value=location)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../w.bin", "a/../../w.bin", "/etc/passwd", "", ".", "w" * 300, "link", "a\0b"])
def test_weights_outside_of_the_models_folder_are_refused(tmp_path, location):
    (tmp_path / "in").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(8))
    (tmp_path / "in" / "link").symlink_to(tmp_path / "w.bin")
    with pytest.raises(UserError, match=r"m\.onnx' names the file .*, which "):
        onnx_files(with_weights_in(tmp_path / "in" / "m.onnx", location))


def test_weights_in_a_folder_beside_the_model_are_its_files(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "w.bin").write_bytes(bytes(8))
    path = with_weights_in(tmp_path / "m.onnx", "./parts/w.bin")
    assert onnx_files(path) == {"onnx": path, "parts/w.bin": tmp_path / "parts" / "w.bin"}


INPUT = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])


@pytest.mark.parametrize(
    ("node", "metadata", "said"),
    [
        (helper.make_node("Conv", ["x"], ["y"]), {}, "its Conv '' has 1 inputs"),
        (helper.make_node("QuantizeLinear", ["x", "s"], []), {}, "its QuantizeLinear '' has 2 inputs, 0 outputs"),
        (None, {"effedge": "[1]"}, "metadata 'effedge' is no object"),
        (None, {"effedge": "[" * 100_000}, "nested too deeply"),
        (None, {"effedge": "{"}, "no whole ONNX model"),
        (None, {"effedge": json.dumps({**spec(), "labels": 7})}, "a wrong 'spec.labels'"),
        (None, {"effedge": json.dumps({"model": "b0"})}, "lacks 'weights'"),
        (None, {"effedge": json.dumps({**spec(), "input": {"size": [4_000_000_000, 8], "batch": [1, 1, 1]}})},
         "a wrong 'spec.input.size'"),
        (None, {"effedge": json.dumps({**spec(), "input": {"size": [8, 8]}})}, "lacks 'input.batch'"),
        (None, {"effedge_batch": "[1, NaN, 2]"}, "no finite number"),
        (None, {"effedge_batch": "[1, 2]"}, "a wrong 'batch'"),
        (None, {"effedge_calibration": '{"float_layers": ["a"]}'}, "a wrong 'float_layers'"),
    ],
)  # fmt: skip
def test_what_the_builders_rely_on_is_checked(tmp_path, node, metadata, said):
    graph = helper.make_graph([node or helper.make_node("Relu", ["x"], ["y"])], "g", [INPUT], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, metadata)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=said):
        read_header(tmp_path / "m.onnx")


def test_an_input_that_no_memory_holds_is_refused(tmp_path):
    huge = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1 << 40, 1 << 40])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [huge], [])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UserError, match="its input 'x' has the shape"):
        read_header(tmp_path / "m.onnx")


def test_it_finds_the_outputs_behind_a_selection(tmp_path):
    net = Network()
    x = net.input("x", [1, 8])
    net.nodes.append(helper.make_node("TopK", [x, net.constant("k", np.array([3]))], ["top", "place"], name="select"))
    net.output(net.node("Sigmoid", ["top"], "scores"), [1, 3])
    net.output(net.node("Identity", ["place"], "places"), [1, 3], TensorProto.INT64)
    net.output(net.node("Sigmoid", [x], "all"), [1, 8])
    assert read_header(net.save(tmp_path / "net.onnx")).selected_outputs == {"scores", "places"}
