"""FP16 conversion: what becomes float16, what stays float32, and that every backend takes it."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from effedge.calibration.fp16.convert import describe, to_fp16
from effedge.calibration.ranges.samples import Samples
from effedge.deploy.common.cli import UserError
from effedge.engines.tensorrt.float32_nodes import constant_problem
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]
Run = Callable[..., list[np.ndarray]]
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def types(model: ir.Model) -> dict[str, ir.DataType]:
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("make", [networks.classifier, networks.detector])
def test_fp16_is_near_float_on_every_backend(
    load: Load, run_ort: Run, run_openvino: Run, make: Callable[[], Network]
) -> None:
    model = load(make())
    changed, _ = to_fp16(model)
    feed = networks.feeds(1, seed=3)[0]
    for index, expected in enumerate(run_ort(model, feed)):
        for got in (run_ort(changed, feed), run_ort(changed, feed, optimized=False), run_openvino(changed, feed)):
            assert got[index].dtype == expected.dtype
            np.testing.assert_allclose(got[index], expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("make", [networks.classifier, networks.detector])
def test_fp16_builds_in_tensorrt_rtx(
    load: Load, build_rtx: Callable[[ir.Model], bytes], make: Callable[[], Network]
) -> None:
    build_rtx(to_fp16(load(make()))[0])


def test_every_weight_and_activation_of_the_body_is_float16_and_the_interface_is_not(load: Load) -> None:
    changed, report = to_fp16(load(networks.classifier()))
    for node in changed.graph:
        if node.op_type in ("Conv", "Gemm", "Mul", "Sigmoid", "Add"):
            assert {value.dtype for value in (*node.inputs, *node.outputs)} == {HALF}, node.name
    assert [value.dtype for value in changed.graph.inputs] == [ir.DataType.UINT8]
    assert [(value.name, value.dtype) for value in changed.graph.outputs] == [("logits", FLOAT)]
    assert report["fp16_layers"] == 13  # stem, 2 blocks of 5, head, Gemm


def test_the_image_goes_from_uint8_to_float16_in_one_cast(load: Load) -> None:
    changed, _ = to_fp16(load(networks.classifier()))
    first = changed.graph[0]
    assert first.op_type == "Cast" and first.inputs[0].dtype == ir.DataType.UINT8 and first.outputs[0].dtype == HALF


def test_casts_are_as_few_as_the_changes_of_type(load: Load) -> None:
    """One for the image, two around each of three poolings, one at the output."""
    changed, _ = to_fp16(load(networks.classifier()))
    assert sum(node.op_type == "Cast" for node in changed.graph) == 1 + 2 * 3 + 1


def test_scores_and_decoding_are_float32_and_get_there_after_the_selection(load: Load) -> None:
    found = types(to_fp16(load(networks.detector()))[0])
    assert {found[name] for name in ("classes_conv", "classes_rows", "best", "picked")} == {HALF}
    assert {found[name] for name in ("top", "scores_out", "boxes_out")} == {FLOAT}


def test_pooling_sums_in_float32(load: Load) -> None:
    changed, report = to_fp16(load(networks.classifier()))
    pools = [node for node in changed.graph if node.op_type == "GlobalAveragePool"]
    assert len(pools) == 3 and all(node.outputs[0].dtype == FLOAT for node in pools)
    assert {report["float_layers"][node.name] for node in pools} == {"it sums over a map"}


def test_resize_keeps_its_scales_in_float32(load: Load, run_ort: Run) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 2, 4, 4]), "conv1", 2, 2)
    up = net.node("Resize", [x, "", net.constant("scales", np.float32([1, 1, 2, 2]))], "up", mode="nearest")
    net.output(net.conv(up, "conv2", 2, 2), [1, 2, 8, 8])
    changed, _ = to_fp16(load(net))
    assert types(changed)["up"] == HALF
    run_ort(changed, {"x": np.ones((1, 2, 4, 4), np.float32)})


def large_activation() -> Network:
    """conv1's output reaches 100,000 for x = 1; conv2 brings it back."""
    net = Network()
    x = net.input("x", [1, 1, 2, 2])
    y = net.node("Conv", [x, net.constant("w1", np.full((1, 1, 1, 1), 1000, np.float32))], "conv1")
    y = net.node("Conv", [y, net.constant("w2", np.full((1, 1, 1, 1), 100, np.float32))], "conv2")
    y = net.node("Conv", [y, net.constant("w3", np.full((1, 1, 1, 1), 0.001, np.float32))], "conv3")
    net.output(net.node("Conv", [y, net.constant("w4", np.ones((1, 1, 1, 1), np.float32))], "conv4"), [1, 1, 2, 2])
    return net


def test_a_tensor_that_overflows_is_kept_in_float32_and_named(load: Load, run_ort: Run) -> None:
    feed = {"x": np.ones((1, 1, 2, 2), np.float32)}
    assert types(to_fp16(load(large_activation()))[0])["conv2"] == HALF  # nobody knows without ranges
    changed, report = to_fp16(load(large_activation()), Samples(["one"], lambda index: feed))
    np.testing.assert_allclose(run_ort(changed, feed)[0], 100, rtol=1e-3)
    assert {name: types(changed)[name] for name in ("conv1", "conv2", "conv3")} == {
        "conv1": HALF,
        "conv2": FLOAT,
        "conv3": FLOAT,
    }
    assert set(report["float_layers"]) == {"conv2", "conv3"}  # the one that writes it and the one that reads it
    assert "'conv2'" in describe(report) and "1e+05" in describe(report) and "65504" in describe(report)


@pytest.mark.parametrize(("weight", "problem"), [(1e5, "beyond 65504"), (1e-9, "too small")])
def test_a_weight_that_float16_cannot_hold_keeps_its_layer_in_float32(load: Load, weight: float, problem: str) -> None:
    net = Network()
    w = net.constant("w", np.full((1, 1, 1, 1), weight, np.float32))
    net.output(net.node("Conv", [net.conv(net.input("x", [1, 1, 2, 2]), "first", 1, 1), w], "conv"), [1, 1, 2, 2])
    changed, report = to_fp16(load(net))
    assert types(changed)["conv"] == FLOAT and types(changed)["first"] == HALF
    assert problem in report["float_layers"]["conv"] and "'conv'" in describe(report)


def test_a_small_bias_and_single_small_weights_are_no_reason(load: Load) -> None:
    net = Network()
    names = [net.constant("w", np.float32([[[[1.0]]], [[[1e-9]]]])), net.constant("b", np.float32([1e-9, 0]))]
    net.output(net.node("Conv", [net.input("x", [1, 1, 2, 2]), *names], "conv"), [1, 2, 2, 2])
    assert to_fp16(load(net))[1]["float_layers"] == {}


def test_constant_problem_at_its_borders() -> None:
    assert constant_problem(np.float32([65504, -65504])) is None
    assert "beyond" in (constant_problem(np.float32([65536])) or "")
    assert "beyond" in (constant_problem(np.float32([np.nan])) or "")
    assert constant_problem(np.float32([2.0**-14])) is None
    assert "small" in (constant_problem(np.float32([1e-8])) or "")
    assert constant_problem(np.zeros(3, np.float32)) is None
    assert constant_problem(np.zeros(0, np.float32)) is None


def test_an_output_that_the_graph_reads_too_keeps_its_name_and_type(load: Load, run_ort: Run) -> None:
    net = Network()
    y = net.conv(net.input("x", [1, 2, 4, 4]), "middle", 2, 2)
    net.output(y, [1, 2, 4, 4])
    net.output(net.node("Exp", [net.conv(y, "last", 2, 2)], "end"), [1, 2, 4, 4])
    net.output(net.node("Tanh", [y], "side"), [1, 2, 4, 4])
    model = load(net)
    changed, _ = to_fp16(model)
    assert [value.name for value in changed.graph.outputs] == ["middle", "end", "side"]
    feed = {"x": np.ones((1, 2, 4, 4), np.float32)}
    for got, expected in zip(run_ort(changed, feed), run_ort(model, feed), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())


def test_a_model_without_layers_is_refused(load: Load) -> None:
    net = Network()
    net.output(net.node("Relu", [net.input("x", [1])], "y"), [1])
    with pytest.raises(UserError, match="no convolution"):
        to_fp16(load(net))


def test_the_float_model_stays_as_it_was(load: Load) -> None:
    model = load(networks.detector())
    before = ir.to_proto(model).SerializeToString()
    to_fp16(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_concat_with_something_from_the_tail_belongs_to_the_tail_and_a_cast_needs_no_cast_before_it(
    load: Load,
) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 2, 4, 4]), "conv", 2, 2)
    net.output(net.node("Concat", [x, net.node("Exp", [x], "exp")], "joined", axis=1), [1, 4, 4, 4])
    rounded = net.node("Cast", [net.conv(x, "last", 2, 2)], "rounded", to=TensorProto.INT32)
    net.output(rounded, [1, 2, 4, 4], TensorProto.INT32)
    changed, _ = to_fp16(load(net))
    nodes = {node.name: node for node in changed.graph}
    assert nodes["joined"].outputs[0].dtype == FLOAT
    assert nodes["rounded"].inputs[0].name == "last" and nodes["rounded"].inputs[0].dtype == HALF


def test_a_pad_by_minus_infinity_in_front_of_a_max_pool_is_no_overflow(load: Load, run_ort: Run) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 3, 8, 8]), "conv1", 3, 4, kernel=3)
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    padded = net.node("Pad", [x, pads, net.constant("lowest", np.array(-np.inf, np.float32))], "pad")
    pooled = net.node("MaxPool", [padded], "pool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    net.output(net.conv(pooled, "y", 4, 4), [1, 4, 5, 5])
    model = load(net)
    feeds = [{"x": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)} for seed in range(3)]
    changed, _ = to_fp16(model, networks.as_samples(feeds))
    expected, got = run_ort(model, feeds[0])[0], run_ort(changed, feeds[0])[0]
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())
