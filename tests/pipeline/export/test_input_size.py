"""The height and width of any model's images, where the file leaves them open."""

import onnx
import pytest
from onnx import helper

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import read_header
from effedge.pipeline.export import simplify
from effedge.pipeline.export.input_size import fix_header
from effedge.pipeline.models.tables import Size
from tests.pipeline.export.foreign_files import save, shapes_of


def test_the_height_and_width_of_any_model_s_images_can_be_fixed(model, tmp_path, monkeypatch):
    dynamic = onnx.load(model)
    dims = dynamic.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "?", "?"  # PaddlePaddle's names of both
    onnx.save(dynamic, tmp_path / "dynamic.onnx")
    command = ["simplify", str(tmp_path / "dynamic.onnx"), "--out", str(tmp_path / "out.onnx")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(UserError, match=r"has shape \['n', 3, '\?', '\?'\], and an engine has one height and width"):
        simplify.main()
    monkeypatch.setattr("sys.argv", [*command, "--size", "12x20"])
    simplify.main()
    simplified = onnx.load(tmp_path / "out.onnx")
    assert [node.op_type for node in simplified.graph.node] == ["Conv"]
    assert shapes_of(simplified.graph.input) == {"x": [1, 3, 12, 20]}
    assert shapes_of(simplified.graph.output) == {"y": [1, 4, 10, 18]}


def test_a_size_for_a_model_without_images_is_refused(tmp_path):
    path = save(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", "t"]}, {"y": ["n", "t"]}, {})
    with pytest.raises(UserError, match=r"SIZE \(--size\) 64 was given, and .* has no input of images, but 'x' \('n'"):
        fix_header(read_header(path), path, Size(64, 64))
