"""Each operator in PyTorch against ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from effedge.pipeline.training.finetune.operators import OPERATORS

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


X = normal(1, 4, 9, 8)
ints = np.int64
# operator, its attributes, and its inputs after the first, which is X
CASES = {
    "Add": ({}, [normal(1, 4, 1, 1)]),
    "AveragePool": ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    "AveragePool, counted": ({"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1}, []),
    "Cast": ({"to": TensorProto.INT32}, []),
    "Clip": ({}, [np.float32(-0.5), np.float32(0.7)]),
    "Clip, above": ({}, [None, np.float32(0.7)]),
    "Concat": ({"axis": 1}, [normal(1, 2, 9, 8)]),
    "Conv": ({"pads": [0, 1, 2, 1], "strides": [2, 1], "dilations": [1, 2]}, [normal(6, 4, 3, 3), normal(6)]),
    "Conv, depthwise": ({"pads": [1, 1, 1, 1], "group": 4}, [normal(8, 1, 3, 3)]),
    "ConvTranspose": ({"pads": [1, 1, 1, 1], "strides": [2, 2], "output_padding": [1, 1]}, [normal(4, 3, 3, 3)]),
    "DepthToSpace": ({"blocksize": 2}, []),
    "DepthToSpace, by columns": ({"blocksize": 2, "mode": "CRD"}, []),
    "Div": ({}, [normal(1, 4, 1, 1) + 4]),
    "Elu": ({"alpha": 0.7}, []),
    "Exp": ({}, []),
    "Flatten": ({"axis": 2}, []),
    "Gather": ({"axis": 1}, [ints([2, -1, 0])]),
    "Gather, a matrix": ({"axis": -1}, [ints([[0, 7], [-2, 3]])]),
    "Gather, one": ({"axis": 2}, [ints(4)]),
    "GatherElements": ({"axis": 2}, [ints(RANDOM.integers(-9, 9, (1, 4, 5, 8)))]),
    "Gemm": ({"transB": 1, "alpha": 0.5, "beta": 2.0}, [normal(5, 8), normal(5)]),
    "GlobalAveragePool": ({}, []),
    "HardSigmoid": ({"alpha": 0.3, "beta": 0.4}, []),
    "HardSwish": ({}, []),
    "Identity": ({}, []),
    "LeakyRelu": ({"alpha": 0.2}, []),
    "MatMul": ({}, [normal(8, 5)]),
    "MaxPool": ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, []),
    "MaxPool, ceil": ({"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}, []),
    "Max": ({}, [normal(1, 4, 9, 1), np.float32(0)]),
    "Min": ({}, [normal(1, 4, 9, 1), np.float32(0)]),
    "Mish": ({}, []),
    "Mul": ({}, [normal(1, 1, 9, 8)]),
    "Pad": ({}, [ints([0, 0, 1, 0, 0, 0, 2, 3]), np.float32(0.5)]),
    "Pad, channels": ({}, [ints([0, 1, 0, 0, 0, 2, 0, 0])]),
    "Pow": ({}, [np.float32(2)]),
    "PRelu": ({}, [normal(4, 1, 1)]),
    "ReduceMean": ({"keepdims": 0}, [ints([2, 3])]),
    "ReduceMax": ({}, [ints([1, 3])]),
    "ReduceSum": ({}, [ints([-1])]),
    "Relu": ({}, []),
    "Reshape": ({}, [ints([0, -1, 4])]),
    "Resize, sizes": (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        [None, None, ints([1, 4, 18, 24])],
    ),
    "Resize, scales": (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        [None, np.float32([1, 1, 2, 3])],
    ),
    "Resize, linear sizes": (
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        [None, None, ints([1, 4, 5, 16])],
    ),
    "Resize, linear scales": (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        [None, np.float32([1, 1, 2, 3])],
    ),
    "Resize, linear by default at half pixels": ({"mode": "linear"}, [None, np.float32([1, 1, 2, 2])]),
    "Sigmoid": ({}, []),
    "Slice": ({}, [ints([1, 2]), ints([3, -1]), ints([1, 2]), ints([1, 2])]),
    "Slice, all axes": ({}, [ints([0, 1, 2, 3]), ints([1, 3, 9, 99])]),
    "Softmax": ({"axis": 1}, []),
    "Softplus": ({}, []),
    "SpaceToDepth": ({"blocksize": 2}, []),
    "Split": ({"axis": 1, "num_outputs": 2}, []),
    "Split, of unlike sizes": ({"axis": -1}, [ints([3, 5])]),
    "Split, the last is smaller": ({"axis": 2, "num_outputs": 2}, []),
    "Sqrt": ({}, []),
    "Squeeze": ({}, [ints([0])]),
    "Squeeze, all": ({}, []),
    "Sub": ({}, [np.float32(0.3)]),
    "Tanh": ({}, []),
    "Tile": ({}, [ints([1, 2, 1, 3])]),
    "TopK": ({"axis": 2}, [ints([3])]),
    "TopK, least": ({"largest": 0}, [ints([2])]),
    "Transpose": ({"perm": [0, 2, 3, 1]}, []),
    "Transpose, all around": ({}, []),
    "Unsqueeze": ({}, [ints([0, 3])]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_what_onnx_runtime_gives(case):
    operator = case.split(",")[0]
    attributes, others = CASES[case]
    x = {"Gemm": X[0, 0], "SpaceToDepth": X[:, :, 1:]}.get(operator, X)
    results = ["y", "z"] if operator in ("Split", "TopK") else ["y"]
    names = ["x", *("" if other is None else f"input{index}" for index, other in enumerate(others))]
    given = [numpy_helper.from_array(np.asarray(other), name) for name, other in zip(names[1:], others, strict=True)
             if other is not None]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node(operator, names, results, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_empty_tensor_value_info(name) for name in results],
        given,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    inputs = [torch.from_numpy(x), *(None if each is None else torch.from_numpy(np.asarray(each)) for each in others)]
    got = OPERATORS[operator](inputs, {"num_outputs": len(results), **attributes})
    for one, other in zip((got,) if torch.is_tensor(got) else got, expected, strict=True):
        assert tuple(one.shape) == other.shape
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-5)


def test_whole_numbers_are_divided_towards_zero():
    quotient = OPERATORS["Div"]([torch.tensor([7, -7, 8]), torch.tensor(4)], {})
    assert quotient.dtype == torch.int64 and quotient.tolist() == [1, -1, 2]  # as ONNX's Div of int64


def test_every_operator_is_tried():
    assert {case.split(",")[0] for case in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("operator", "attributes", "others"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}, [normal(6, 4, 3, 3)]),
        ("Resize", {"mode": "linear"}, [None, np.float32([1, 2, 2, 2])]),
        (
            "Resize",
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            [None, np.float32([1, 1, 1.7, 1.7])],
        ),
        ("Resize", {"mode": "linear", "axes": [2, 3]}, [None, np.float32([2, 2])]),
        (
            "Resize",
            {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
            [None, np.float32([1, 1, 0.2, 0.2])],
        ),
        ("Cast", {"to": 11}, []),
        (
            "Resize",
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            [None, np.float32([1, 1, 2, 2])],
        ),
        (
            "Resize",
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel", "antialias": 1},
            [None, np.float32([1, 1, 0.5, 0.5])],
        ),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}, []),
        ("ConvTranspose", {"pads": [0, 0, 1, 1]}, [normal(4, 3, 3, 3)]),
        ("Pad", {"mode": "reflect"}, [ints([0, 0, 1, 1, 0, 0, 1, 1])]),
        ("Slice", {}, [ints([5]), ints([0]), ints([2]), ints([-1])]),
    ],
)
def test_what_would_come_out_wrong_is_refused(operator, attributes, others):
    inputs = [torch.from_numpy(X), *(None if each is None else torch.from_numpy(each) for each in others)]
    with pytest.raises(NotImplementedError):
        OPERATORS[operator](inputs, attributes)
