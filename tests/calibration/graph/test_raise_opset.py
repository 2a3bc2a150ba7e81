"""Old opsets are raised to 13, those below 11 only for a caller who verifies it."""

from pathlib import Path

import onnx_ir as ir
import pytest

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.raise_opset import raise_opset
from effedge.deploy.common.cli import UserError


def relu(opset: int) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 4]))
    node = ir.node("Relu", [x], name="act")
    node.outputs[0].name = "y"
    node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": opset}, name="net")
    return ir.Model(graph, ir_version=8, metadata_props={"key": "value"})


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12])
def test_an_old_model_is_raised_with_its_names_and_metadata(opset: int) -> None:
    raised = raise_opset(relu(opset), "net.onnx", verified=True)
    assert raised.opset_imports[""] == 13
    assert [node.name for node in raised.graph] == ["act"]
    assert raised.metadata_props["key"] == "value"


def test_a_model_of_13_or_later_stays_itself() -> None:
    model = relu(17)
    assert raise_opset(model, "net.onnx") is model


@pytest.mark.parametrize("opset", [7, 10])
def test_below_11_a_file_is_referred_to_the_command_that_verifies(opset: int, tmp_path: Path) -> None:
    ir.save(relu(opset), tmp_path / "net.onnx")
    with pytest.raises(UserError, match=f"of opset {opset}.*effedge engine --onnx"):
        onnx_file.load(tmp_path / "net.onnx")


def test_below_7_no_runtime_reads_a_file() -> None:
    with pytest.raises(UserError, match="of opset 6, expected 7 or later"):
        raise_opset(relu(6), "net.onnx", verified=True)
