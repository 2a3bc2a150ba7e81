"""Other spellings of operators, against ONNX Runtime on the file as it is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.calibration.graph import onnx_file
from effedge.calibration.graph.session import session

X = np.random.default_rng(0).normal(0, 3, (1, 4, 6, 6)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(4, 4, 3, 3)).astype(np.float32)


def saved(path: Path, nodes: list[onnx.NodeProto], imports: dict[str, int], functions: object = ()) -> Path:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in ("x", "z")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(WEIGHT, "w")])
    opsets = [helper.make_opsetid(*each) for each in imports.items()]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9), path)
    return path


def assert_same(path: Path) -> list[str]:
    """Holds the file as it is read to the file; returns the operators."""
    [expected] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": X})
    model = onnx_file.load(path)
    [got] = session(model).run(None, {"x": X})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert model.opset_imports[""] >= 11 and all(node.domain == "" for node in model.graph)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("Relu", []), ("Sigmoid", []), ("Tanh", []), ("LeakyRelu", [0.2]), ("HardSigmoid", [0.3, 0.4]),
        ("Clip", [0.0, 6.0]),
    ],
)  # fmt: skip
def test_a_fused_convolution_of_onnx_runtime(
    tmp_path: Path, activation: str, parameters: list[float], added: bool
) -> None:
    attributes = {"activation_params": parameters} if parameters else {}
    node = helper.make_node(
        "FusedConv", ["x", "w", "", "x"] if added else ["x", "w"], ["z"], name="fused", domain="com.microsoft",
        activation=activation, pads=[1] * 4, **attributes,
    )  # fmt: skip
    operators = assert_same(saved(tmp_path / "a.onnx", [node], {"": 13, "com.microsoft": 1}))
    assert operators == ["Conv", *(["Add"] if added else []), activation]


def test_the_bounds_of_a_clip_are_attributes_in_an_old_file(tmp_path: Path) -> None:
    node = helper.make_node(
        "FusedConv", ["x", "w"], ["z"], domain="com.microsoft", activation="Clip", activation_params=[0.0, 6.0],
        pads=[1] * 4,
    )  # fmt: skip
    model = onnx_file.read_own_opset(saved(tmp_path / "a.onnx", [node], {"": 9, "com.microsoft": 1}))
    [clip] = [each for each in model.graph if each.op_type == "Clip"]
    assert {name: each.as_float() for name, each in clip.attributes.items()} == {"min": 0.0, "max": 6.0}
    assert len(clip.inputs) == 1


def test_an_activation_that_is_not_known_is_left(tmp_path: Path) -> None:
    node = helper.make_node("FusedConv", ["x", "w"], ["z"], domain="com.microsoft", activation="Odd", pads=[1] * 4)
    path = saved(tmp_path / "a.onnx", [node], {"": 13, "com.microsoft": 1})
    assert [each.op_type for each in onnx_file.read(path).graph] == ["FusedConv"]


def test_the_domain_in_full(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["z"])]
    nodes[1].domain = "ai.onnx"
    assert assert_same(saved(tmp_path / "a.onnx", nodes, {"ai.onnx": 12})) == ["Conv", "Relu"]


@pytest.mark.parametrize("opset", [13, 17])
def test_a_function_of_another_opset(tmp_path: Path, opset: int) -> None:
    swish = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    function = helper.make_function("my", "Swish", ["a"], ["b"], swish, [helper.make_opsetid("", opset)])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Swish", ["c"], ["z"], domain="my"),
    ]
    path = saved(tmp_path / "a.onnx", nodes, {"": 17, "my": 1}, [function])
    assert assert_same(path) == ["Conv", "Sigmoid", "Mul"]
