"""Files that were exported in training mode are refused with the way out."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.graph import onnx_file
from effedge.deploy.common.cli import UserError

STATISTICS = ["g", "b", "m", "v"]


def write(path: Path, *nodes: onnx.NodeProto, opset: int = 15) -> Path:
    """A file of the nodes, from x [1,4,8,8] to y, that may read the statistics, `half` and `yes` and `no`."""
    arrays = {
        **{name: np.ones(4, np.float32) for name in STATISTICS},
        "half": np.float32(0.5), "nothing": np.float32(0), "yes": np.bool_(True), "no": np.bool_(False),
    }  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", "y")]
    read = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items() if name in read]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def norm(*outputs: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", ["x", *STATISTICS], ["y", *outputs], name="bn", **attributes)


def dropout(*inputs: str) -> onnx.NodeProto:
    return helper.make_node("Dropout", ["x", *inputs], ["y"], name="drop")


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        (norm(training_mode=1), 15),
        (norm("mean", "var", training_mode=1), 14),
        (norm("mean", "var", "saved_mean", "saved_var"), 9),
        (dropout("half", "yes"), 13),
        (dropout("", "yes"), 13),
    ],
)
def test_a_node_in_training_mode_is_named_with_the_advice(node: onnx.NodeProto, opset: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"training mode .*'{node.name}'.* after model.eval()"):
        onnx_file.read_own_opset(write(tmp_path / "net.onnx", node, opset=opset))


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        (norm(), 15),
        (norm(training_mode=0), 15),
        (norm(), 9),
        (dropout(), 13),
        (dropout("half"), 13),
        (dropout("half", "no"), 13),
        (dropout("nothing", "yes"), 13),
    ],
)
def test_a_node_in_inference_mode_is_taken(node: onnx.NodeProto, opset: int, tmp_path: Path) -> None:
    assert len(onnx_file.read_own_opset(write(tmp_path / "net.onnx", node, opset=opset)).graph) == 1


def test_a_branch_is_looked_into(tmp_path: Path) -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([norm(training_mode=1)], "branch", [], [y])
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    path = write(tmp_path / "net.onnx", node, helper.make_node("Add", ["x", "g"], ["unread"]))
    proto = onnx.load(path)
    proto.graph.initializer.extend(numpy_helper.from_array(np.ones(4, np.float32), name) for name in ("b", "m", "v"))
    onnx.save(proto, path)
    with pytest.raises(UserError, match="training mode"):
        onnx_file.read_own_opset(path)
