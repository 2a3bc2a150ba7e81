"""The wire-format reader against the onnx package."""

import onnx
import pytest
from graphs import spec

from deploy.cli import UserError
from engines.onnx_header import read_header


@pytest.mark.parametrize("name", ["f32", "f16", "int8", "int8-dynamic", "int32-bias", "tail", "nms"])
def test_it_reads_what_onnx_reads(prepared, name):
    header, model = read_header(prepared(name)), onnx.load(prepared(name))
    assert header.opset == 18
    assert [(n.op, n.name, list(n.inputs), list(n.outputs)) for n in header.nodes] == [
        (n.op_type, n.name, list(n.input), list(n.output)) for n in model.graph.node
    ]
    assert header.initializers == {one.name: one.data_type for one in model.graph.initializer}
    for one in model.graph.input:
        dims = tuple(d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim)
        assert header.inputs[one.name] == (one.type.tensor_type.elem_type, dims)


def test_it_finds_the_convolutions_of_each_kind(prepared):
    assert [node.name for node in read_header(prepared("int8")).quantized] == ["conv1", "conv2", "conv3"]
    assert len(read_header(prepared("f16")).half) == 4
    assert len(read_header(prepared("int32-bias")).int32_biases) == 3
    plain = read_header(prepared("f32"))
    assert (plain.quantized, plain.half, plain.int32_biases) == ([], [], [])
    assert plain.spec == spec()


def test_a_file_cut_short_anywhere_is_refused(prepared, tmp_path):
    whole, cut = prepared("int8").read_bytes(), tmp_path / "cut.onnx"
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut.onnx"):
            read_header(cut)


def test_an_onnx_without_our_metadata_is_refused(prepared):
    with pytest.raises(UserError, match="no 'effedge' metadata"):
        read_header(prepared("no-metadata"))
