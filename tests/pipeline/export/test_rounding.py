"""What the rounding of weights explains is no change of a model; how much that is, is measured."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from effedge.pipeline.export import simplify
from effedge.pipeline.export.foreign_model import simplify_foreign_file

ONE = (1, 1, 1)


def test_what_the_weights_rounding_explains_is_no_change(model, tmp_path, monkeypatch, caplog):
    """As in PP-OCR's text detector, whose 72 layers make 1.5e-4 of what rounding alone makes of its weights."""
    monkeypatch.setattr(simplify, "TOLERANCE", 1e-12)
    simplify_foreign_file(model, tmp_path / "out.onnx", ONE, None)
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["Conv"]
    assert "built as it is" not in caplog.text
    monkeypatch.setattr(simplify, "MOST_ROUNDING", 1e-12)  # where rounding changes the outputs beyond recognition
    simplify_foreign_file(model, tmp_path / "out.onnx", ONE, None)
    assert "at most 1e-12 is rounding); so it is built as it is" in caplog.text


@pytest.mark.parametrize("value", ["initializer", "Constant"])
def test_weights_are_rounded_by_a_unit_in_the_last_place(model, value):
    before = onnx.load(model)
    if value == "Constant":
        [weight] = [tensor for tensor in before.graph.initializer if tensor.name == "w"]
        before.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        before.graph.initializer.remove(weight)
    after = simplify.with_rounded_weights(before)

    def arrays(each):
        tensors = [*each.graph.initializer, *(node.attribute[0].t for node in each.graph.node[: value == "Constant"])]
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}

    for name, array in arrays(before).items():
        moved = np.abs(arrays(after)[name] - array)
        np.testing.assert_array_equal(moved > 0, name == "w")
        assert (moved <= np.spacing(np.abs(array))).all()
