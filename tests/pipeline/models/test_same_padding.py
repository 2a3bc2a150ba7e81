"""SAME padding: worked by hand, and as ONNX Runtime's auto_pad=SAME_UPPER has it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from effedge.pipeline.models.same_padding import Conv2d, MaxPool3x3, pad_same, pad_symmetrically, same_pads


def run_operator(op, inputs, **attributes):
    """ONNX Runtime's result of one operator on the arrays of `inputs`, the first of which is its data."""
    names = [f"in{index}" for index in range(len(inputs))]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([helper.make_node(op, names, ["out"], **attributes)], "one", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 3, 2, (0, 1)),  # 112 outputs, the last at pixels 222..224: one beyond the edge
        (225, 3, 2, (1, 1)),
        (224, 5, 2, (1, 2)),  # the odd pixel goes behind
        (7, 3, 1, (1, 1)),
        (7, 5, 1, (2, 2)),
        (5, 3, 2, (1, 1)),
        (1, 3, 2, (1, 1)),
        (4, 1, 2, (0, 0)),  # a kernel smaller than the stride needs none
        (6, 2, 3, (0, 0)),
    ],
)
def test_pads_worked_by_hand(size, kernel, stride, pads):
    assert same_pads(size, kernel, stride) == pads


def test_output_size_is_the_input_over_the_stride_rounded_up():
    for size in range(1, 40):
        for kernel in (1, 3, 5):
            for stride in (1, 2):
                padded = size + sum(same_pads(size, kernel, stride))
                assert (padded - kernel) // stride + 1 == -(-size // stride)


def test_nothing_is_copied_where_nothing_is_padded():
    x = torch.zeros(1, 1, 4, 4)
    assert pad_same(x, kernel=1, stride=2) is x


@pytest.mark.parametrize("height, width", [(8, 8), (9, 7), (13, 6), (2, 1)])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (5, 1), (3, 2), (5, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_is_onnx_runtimes_same_upper(height, width, kernel, stride, groups):
    torch.manual_seed(0)
    conv = Conv2d(4, 8, kernel, stride, groups=groups, bias=True)
    x = torch.randn(2, 4, height, width)
    with torch.inference_mode():
        actual = conv(x)
    inputs = [x.numpy(), conv.weight.detach().numpy(), conv.bias.detach().numpy()]
    expected = run_operator("Conv", inputs, auto_pad="SAME_UPPER", strides=[stride] * 2, group=groups)
    assert actual.shape == (2, 8, -(-height // stride), -(-width // stride))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height, width", [(8, 8), (5, 5), (9, 6), (1, 2)])
def test_max_pool_is_onnx_runtimes_same_upper(height, width):
    # All negative: padding with zeros would show.
    x = -1 - torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = run_operator("MaxPool", [x.numpy()], auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[2, 2])
    np.testing.assert_array_equal(MaxPool3x3()(x).numpy(), expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (14, 6)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2), (1, 1)])
def test_symmetric_padding_is_onnx_runtimes_equal_pads(height, width, kernel, stride):
    torch.manual_seed(0)
    model = torch.nn.Sequential(Conv2d(4, 8, kernel, stride, bias=True))
    pad_symmetrically(model)
    x = torch.randn(2, 4, height, width)
    with torch.inference_mode():
        actual = model(x)
    inputs = [x.numpy(), model[0].weight.detach().numpy(), model[0].bias.detach().numpy()]
    expected = run_operator("Conv", inputs, strides=[stride] * 2, pads=[kernel // 2] * 4)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)


def test_a_symmetric_max_pool_is_onnx_runtimes():
    model = torch.nn.Sequential(MaxPool3x3())
    pad_symmetrically(model)
    x = torch.randn(1, 2, 8, 10)
    expected = run_operator("MaxPool", [x.numpy()], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    np.testing.assert_array_equal(model(x).numpy(), expected)
    assert not np.array_equal(MaxPool3x3()(x).numpy(), expected)
