"""Fixtures of the tests of other exporters' files."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def model(tmp_path):
    """Conv, BatchNormalization, and an output whose shape the file does not say."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(4, 3, 3, 3)),
        **{name: random.uniform(0.5, 2, 4) for name in ("g", "b", "m", "v")},
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["conv"]),
            helper.make_node("BatchNormalization", ["conv", "g", "b", "m", "v"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    return tmp_path / "net.onnx"
