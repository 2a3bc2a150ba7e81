"""The simplified graph: its nodes, and that a graph which computes something else is never written."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from effedge.deploy.common.cli import UserError
from effedge.engines.stage import record_path
from effedge.pipeline.export.passes import fold_batch_norm
from effedge.pipeline.export.simplify import simplify_file, simplify_stage


def nodes_of(prepared):
    return prepared("d0", 512).simplified.graph.node


def test_d0_has_at_most_640_nodes(prepared):
    # With decoding and candidate selection. onnx-simplifier alone leaves 687 of the usual export.
    assert len(nodes_of(prepared)) <= 640


@pytest.mark.parametrize("which", [("b0", 64), ("lite0", 64), ("d0", 512), ("d0", 160, (1, 2, 4))])
def test_what_no_target_needs_is_gone(which, prepared):
    kinds = Counter(node.op_type for node in prepared(*which).simplified.graph.node)
    gone = {"Pad", "Shape", "ReduceSum", "Identity", "Constant", "BatchNormalization", "Expand", "Slice", "Dropout"}
    assert not gone & set(kinds)


def test_d0_gathers_only_its_anchors(prepared):
    graph = prepared("d0", 512).simplified.graph
    tables = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    gathered = [tables.get(node.input[0]) for node in graph.node if node.op_type == "Gather"]
    assert gathered == [[49104, 2], [49104, 2]]


def test_strided_convolutions_pad_by_themselves(prepared):
    strided = []
    for node in nodes_of(prepared):
        lists = {attribute.name: tuple(attribute.ints) for attribute in node.attribute}
        if node.op_type == "Conv" and lists["strides"] == (2, 2):
            strided.append((lists["kernel_shape"][0], lists["pads"]))
    # SAME at an even size, the odd pixel below and right: the stem, then the stages' kernels of table 1.
    assert strided == [(kernel, {3: (0, 0, 1, 1), 5: (1, 1, 2, 2)}[kernel]) for kernel in (3, 3, 5, 3, 5)]


@pytest.mark.parametrize("which", [("b0", 64), ("d0", 512)])
def test_swish_is_a_sigmoid_and_a_multiplication(which, prepared):
    graph = prepared(*which).simplified.graph
    made_by = {output: node for node in graph.node for output in node.output}
    swishes = [
        node for node in graph.node
        if node.op_type == "Mul"
        and any(made_by[name].op_type == "Sigmoid" and made_by[name].input[0] in node.input
                for name in node.input if name in made_by)
    ]  # fmt: skip
    assert len(swishes) > 30


def test_relu6_is_a_clip(prepared):
    kinds = Counter(node.op_type for node in prepared("lite0", 64).simplified.graph.node)
    assert kinds["Clip"] == 33 and "Sigmoid" not in kinds  # stem, head, first block and twice fifteen others


def test_the_bifpn_fuses_by_multiplications_with_numbers(prepared):
    graph = prepared("d0", 512).simplified.graph
    scalars = {tensor.name for tensor in graph.initializer if int(np.prod(tensor.dims)) == 1}
    weighted = [node for node in graph.node if node.op_type == "Mul" and scalars & set(node.input)]
    # Three layers of five nodes with two inputs and three with three: 57 weights in all; those behind a projection
    # that nothing else reads are folded into it.
    assert 40 < len(weighted) < 57
    assert "Div" not in {node.op_type for node in graph.node if not scalars & set(node.input)}


def test_it_reads_at_opset_13_and_an_old_ir_version(prepared):
    for which in [("b0", 64), ("lite0", 64), ("d0", 512)]:
        proto = prepared(*which).simplified
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 13)]
        assert proto.ir_version <= 10


@pytest.fixture
def b0_file(prepared, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(prepared("b0", 64).exported, path)
    return path


def test_the_file_is_written_once_and_holds_the_simplified_graph(b0_file, tmp_path, capsys):
    out = tmp_path / "simplified.onnx"
    assert simplify_stage(b0_file, out)
    assert "outputs within" in capsys.readouterr().out
    assert onnx.load(out).opset_import[0].version == 13
    assert not simplify_stage(b0_file, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([b0_file.name, out.name, record_path(out).name])


def test_a_pass_that_changes_the_outputs_fails_the_stage(b0_file, tmp_path, monkeypatch):
    plain = fold_batch_norm.fold_batch_norm

    def broken(model):
        plain(model)
        stem = next(node for node in model.graph if node.op_type == "Conv")
        kernel = stem.inputs[1]
        kernel.const_value = ir.tensor(kernel.const_value.numpy() * np.float32(1.01))
        return 0

    monkeypatch.setattr(fold_batch_norm, "fold_batch_norm", broken)
    out = tmp_path / "simplified.onnx"
    with pytest.raises(UserError, match="changed its outputs by .* of their range") as caught:
        simplify_stage(b0_file, out)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [b0_file.name]


def test_a_graph_that_answers_with_nan_fails_the_stage(b0_file, tmp_path, monkeypatch):
    plain = fold_batch_norm.fold_batch_norm

    def broken(model):
        plain(model)
        stem = next(node for node in model.graph if node.op_type == "Conv")
        kernel = stem.inputs[1]
        kernel.const_value = ir.tensor(kernel.const_value.numpy() * np.float32(np.nan))

    monkeypatch.setattr(fold_batch_norm, "fold_batch_norm", broken)
    with pytest.raises(UserError, match="changed its outputs"):
        simplify_file(b0_file, tmp_path / "simplified.onnx")


@pytest.mark.parametrize("content", [b"", b"no ONNX at all", b"\x08\x08"], ids=["empty", "text", "cut short"])
def test_a_file_that_is_no_onnx_is_one_line(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no whole ONNX file"):
        simplify_file(path, tmp_path / "simplified.onnx")


def test_no_weight_is_lost(prepared):
    # Folding adds kernels (the heads' levels) but takes none away: at least as many numbers as PyTorch's kernels have.
    model = prepared("b0", 64)
    kernels = sum(p.numel() for p in model.module.parameters() if p.dim() > 1)
    held = sum(int(np.prod(numpy_helper.to_array(tensor).shape)) for tensor in model.simplified.graph.initializer)
    assert held >= kernels
