"""Tests ONNX Runtime as the reference: its outputs, and tensors that become outputs without the onnx package."""

import numpy as np
import onnx
import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.comparison.reference import Reference, as_outputs

IMAGE = {"image": np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)}


def test_tensors_become_outputs_as_the_onnx_package_makes_them(prepared):
    path = prepared("f32")
    content = path.read_bytes() + as_outputs(["conv1_out", "silu2_out"])
    model = onnx.load_from_string(content)
    assert [output.name for output in model.graph.output] == ["logits", "conv1_out", "silu2_out"]
    assert len(model.graph.node) == len(onnx.load(path).graph.node)
    long = "x" * 1000
    assert onnx.load_from_string(content + as_outputs([long])).graph.output[-1].name == long


def test_values_between_operators_are_those_of_the_run(prepared):
    path = prepared("f32")
    reference = Reference(path, path, ["conv0_out", "transpose_out"])
    outputs = reference.run(IMAGE)
    assert set(outputs) == {"logits", "conv0_out", "transpose_out"}
    np.testing.assert_array_equal(outputs["transpose_out"], IMAGE["image"].transpose(0, 3, 1, 2).astype(np.float32))
    assert list(reference.run(IMAGE, ["conv0_out"])) == ["conv0_out"]
    np.testing.assert_array_equal(Reference(path, path).run(IMAGE)["logits"], outputs["logits"])


def test_weights_in_another_file_are_found(prepared, tmp_path):
    onnx.save(onnx.load(prepared("f32")), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0,
              location="weights.bin")  # fmt: skip
    path = tmp_path / "m.onnx"
    np.testing.assert_array_equal(
        Reference(path, path, ["conv0_out"]).run(IMAGE)["logits"], Reference(path, path).run(IMAGE)["logits"]
    )


def test_what_onnx_runtime_refuses_is_one_line(prepared, tmp_path):
    path = tmp_path / "strange.onnx"
    path.write_bytes(prepared("unknown-operator").read_bytes().replace(b"Det", b"Dat"))
    with pytest.raises(UserError, match=r"ONNX Runtime cannot run '.*strange.onnx': .*Dat"):
        Reference(path, path)


def test_integers_are_numpys_usual_ones_which_openvino_takes(tmp_path):
    """ONNX Runtime's int64 is C's long long, which NumPy holds for equal to int64 and OpenVINO refuses."""
    openvino = pytest.importorskip("openvino")
    indices = onnx.helper.make_node("TopK", ["x", "count"], ["values", "indices"])
    graph = onnx.helper.make_graph(
        [indices],
        "best",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8])],
        [onnx.helper.make_tensor_value_info("indices", onnx.TensorProto.INT64, [1, 3])],
        [onnx.numpy_helper.from_array(np.array([3]), "count")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    got = Reference(path, path).run({"x": np.arange(8, dtype=np.float32)[None]})["indices"]
    assert got.tolist() == [[7, 6, 5]] and got.dtype.char == np.dtype(np.int64).char
    np.testing.assert_array_equal(openvino.Tensor(got).data, got)
