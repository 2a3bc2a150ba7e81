"""The candidates' index arithmetic: an integer division, equal to the product of floats that PyTorch exports."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from effedge.pipeline.export.passes.integer_division import EXCESS, divide_integers

CANDIDATES, CLASSES = 1000, 90


def graph(factor, count=CANDIDATES * CLASSES, second_reader=False):
    """Cast to float32, times `factor`, Cast to int64, for `count` whole numbers."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "factor"], ["product"], "product"),
        helper.make_node("Cast", ["product"], ["rank"], "to_int", to=TensorProto.INT64),
        helper.make_node("Identity", ["rank"], ["y"], "end"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, [count])]
    if second_reader:
        outputs.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, [count]))
        nodes.append(helper.make_node("Neg", ["product"], ["negative"], "other"))
    initializers = [numpy_helper.from_array(np.float32(factor), "factor")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, [count])]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, initializers),
                              opset_imports=[helper.make_opsetid("", 18)], ir_version=9)  # fmt: skip
    return ir.from_proto(model)


def run(model, numbers):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": numbers})[0]


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10, 20, 90, 91, 365])
def test_all_pairs_of_rank_and_class_come_out_as_before(classes):
    pairs = np.arange(CANDIDATES * classes, dtype=np.int64)
    model = graph(EXCESS / classes, len(pairs))
    before = run(model, pairs)
    assert divide_integers(model) == 1
    np.testing.assert_array_equal(run(model, pairs), before)
    np.testing.assert_array_equal(before, pairs // classes)


def test_no_float_that_fp16_could_spoil_is_left_on_the_way():
    """In FP16 the product gives a third of the pairs of 90 classes another rank; the graph has no such product now."""
    pairs = np.arange(CANDIDATES * CLASSES, dtype=np.int64)
    with np.errstate(over="ignore"):
        half = pairs.astype(np.float16) * np.float16(EXCESS / CLASSES)
    wrong = ~np.isfinite(half) | (np.where(np.isfinite(half), half, 0).astype(np.int64) != pairs // CLASSES)
    assert wrong.mean() > 0.3
    model = graph(EXCESS / CLASSES)
    divide_integers(model)
    [division] = [node for node in model.graph if node.op_type == "Div"]
    [end] = [node for node in model.graph if node.op_type == "Identity"]
    assert end.inputs[0] is division.outputs[0]
    assert {value.dtype for value in (*division.inputs, *division.outputs)} == {ir.DataType.INT64}


@pytest.mark.parametrize("factor", [1 / 90, 0.5, 2.0, -EXCESS / 90, 0.0])
def test_another_product_stays(factor):
    model = graph(factor)
    assert divide_integers(model) == 0 and len(model.graph) == 4


def test_a_product_that_somebody_else_reads_stays():
    assert divide_integers(graph(EXCESS / 90, second_reader=True)) == 0
