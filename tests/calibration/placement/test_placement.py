"""Each placement rule on a graph small enough to say by hand where Q/DQ must be."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from effedge.calibration.placement import Plan, make_plan
from tests.calibration import networks
from tests.calibration.networks import Network

Load = Callable[[Network], ir.Model]


def reads(plan: Plan) -> set[tuple[str, int]]:
    return {(node.name or "", index) for node, index in plan.reads}


def residual(first: str, second: str, *, activation: bool = False, reader: str = "conv") -> Network:
    """y = conv1(x); Add(first, second) where "y" is conv1's output and "x" the shortcut; then what reads the sum."""
    net = Network()
    x = net.input("x", [1, 4, 8, 8])
    y = net.conv(x, "conv1", 4, 4)
    y = net.node("Relu", [y], "relu") if activation else y
    total = net.node("Add", [{"x": x, "y": y}[first], {"x": x, "y": y}[second]], "add")
    if reader == "conv":
        net.output(net.conv(total, "conv2", 4, 4), [1, 4, 8, 8])
    elif reader == "relu-conv":
        net.output(net.conv(net.node("Relu", [total], "relu2"), "conv2", 4, 4), [1, 4, 8, 8])
    else:  # a BiFPN node: swish, then depthwise
        net.output(net.conv(net.silu(total, "act"), "deep", 4, 4, kernel=3, group=4), [1, 4, 8, 8])
    return net


def test_convolution_and_gemm_read_int8_data_and_nothing_else_does(load: Load) -> None:
    net = Network()
    x = net.silu(net.conv(net.input("x", [1, 4, 8, 8]), "conv1", 4, 8), "act")
    flat = net.node("Flatten", [net.node("GlobalAveragePool", [net.conv(x, "conv2", 8, 8)], "pool")], "flat")
    net.output(net.node("Gemm", [flat, net.constant("w", np.ones((8, 3), np.float32))], "fc"), [1, 3])
    plan = make_plan(load(net))
    assert reads(plan) == {("conv1", 0), ("conv2", 0), ("fc", 0)}
    assert {layer.name: layer.axis for layer in plan.layers} == {"conv1": 0, "conv2": 0, "fc": 1}


@pytest.mark.parametrize("order", [("x", "y"), ("y", "x")])
@pytest.mark.parametrize("reader", ["conv", "relu-conv"])
def test_residual_add_reads_its_shortcut_as_int8_and_the_convolution_in_float(
    load: Load, order: tuple[str, str], reader: str
) -> None:
    plan = make_plan(load(residual(*order, reader=reader)))
    assert ("add", order.index("x")) in reads(plan)
    assert ("add", order.index("y")) not in reads(plan)


def test_of_two_convolutions_the_one_computed_first_is_the_shortcut(load: Load) -> None:
    net = Network()
    x = net.input("x", [1, 4, 8, 8])
    early, late = net.conv(x, "early", 4, 4), net.conv(net.node("Relu", [x], "relu"), "late", 4, 4)
    net.output(net.conv(net.node("Add", [late, early], "add"), "after", 4, 4), [1, 4, 8, 8])
    assert ("add", 1) in reads(make_plan(load(net)))


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(residual("y", "x", activation=True), id="an activation stands between convolution and Add"),
        pytest.param(residual("y", "x", reader="bifpn"), id="the sum goes into a swish and a depthwise convolution"),
    ],
)
def test_other_adds_stay_in_float(load: Load, net: Network) -> None:
    assert not any(name == "add" for name, _ in reads(make_plan(load(net))))


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_squeeze_and_excite_stays_in_float_and_the_classifiers_pooling_does_not_count_as_one(
    load: Load, pool: str
) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 8, 8, 8]), "conv", 8, 8)
    if pool == "ReduceMean":
        axes = net.constant("axes", np.array([2, 3]))
        pooled = net.node("ReduceMean", [x, axes], "se_pool", keepdims=1)
        reduced = net.silu(net.conv(pooled, "se_reduce", 8, 4), "se_act")
        gated = net.node("Mul", [net.node("Sigmoid", [net.conv(reduced, "se_expand", 4, 8)], "se_gate"), x], "se")
    else:
        gated = net.squeeze_excite(x, "se", 8)
    pooled = net.node("GlobalAveragePool", [net.conv(gated, "project", 8, 8)], "last_pool")
    net.output(net.silu(net.conv(pooled, "as_fc", 8, 3), "last"), [1, 3, 1, 1])
    plan = make_plan(load(net))
    assert reads(plan) == {("conv", 0), ("project", 0), ("as_fc", 0)}
    assert plan.float_layers == {name: "it is part of squeeze-and-excite" for name in ("se_reduce", "se_expand")}


def test_pooling_that_is_joined_to_the_map_or_is_an_output_as_well_is_no_squeeze_and_excite(load: Load) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 4, 2, 2]), "conv", 4, 4)
    pooled = net.conv(net.node("GlobalAveragePool", [x], "pool"), "joined_conv", 4, 4)  # DeepLab's image pooling
    sizes = net.constant("sizes", np.float32([1, 1, 2, 2]))
    spread = net.node("Resize", [pooled, "", sizes], "spread", mode="nearest")
    net.output(net.node("Concat", [x, spread], "joined", axis=1), [1, 8, 2, 2])
    embedding = net.conv(net.node("GlobalAveragePool", [x], "pool2"), "embedding", 4, 4)
    net.output(embedding, [1, 4, 1, 1])
    net.output(net.node("Mul", [x, embedding], "scaled"), [1, 4, 2, 2])
    assert reads(make_plan(load(net))) == {("conv", 0), ("joined_conv", 0), ("embedding", 0)}


def test_depthwise_and_grouped_convolutions_read_int8_as_any_other(load: Load) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 8, 8, 8]), "deep", 8, 8, kernel=3, group=8)
    x = net.conv(x, "multiplied", 8, 16, kernel=3, group=8)  # depthwise with a channel multiplier of 2
    net.output(net.conv(x, "grouped", 16, 8, group=4), [1, 8, 8, 8])
    plan = make_plan(load(net))
    assert reads(plan) == {("deep", 0), ("multiplied", 0), ("grouped", 0)}
    assert plan.float_layers == {}


def test_nothing_stands_inside_x_times_sigmoid_of_x_even_if_x_is_read_as_int8_elsewhere(load: Load) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 4, 8, 8]), "conv1", 4, 4)
    swish = net.silu(x, "swish")
    net.output(net.conv(x, "direct", 4, 4), [1, 4, 8, 8])
    net.output(net.conv(swish, "after", 4, 4), [1, 4, 8, 8])
    assert reads(make_plan(load(net))) == {("conv1", 0), ("direct", 0), ("after", 0)}


def test_concat_max_pool_and_nearest_resize_share_one_scale(load: Load) -> None:
    net = Network()
    a, b = net.input("a", [1, 4, 8, 8]), net.input("b", [1, 4, 4, 4])
    scales = net.constant("scales", np.float32([1, 1, 2, 2]))
    up = net.node("Resize", [b, "", scales], "up", mode="nearest")
    joined = net.node("Concat", [a, up], "joined", axis=1)
    pooled = net.node("MaxPool", [joined], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    for index, (x, channels, size) in enumerate([(a, 4, 8), (b, 4, 4), (joined, 8, 8), (pooled, 8, 4)]):
        net.output(net.conv(x, f"conv{index}", channels, 2), [1, 2, size, size])
    assert sorted(map(sorted, make_plan(load(net)).groups)) == [["a", "b", "joined", "pooled"]]


def test_a_linear_resize_an_average_pool_and_a_sum_separate_scales(load: Load) -> None:
    net = Network()
    a = net.input("a", [1, 4, 8, 8])
    scales = net.constant("scales", np.float32([1, 1, 2, 2]))
    up = net.node("Resize", [a, "", scales], "up", mode="linear")
    mean = net.node("AveragePool", [a], "mean", kernel_shape=[2, 2], strides=[2, 2])
    for index, (x, size) in enumerate([(a, 8), (up, 16), (mean, 4)]):
        net.output(net.conv(x, f"conv{index}", 4, 2), [1, 2, size, size])
    assert sorted(make_plan(load(net)).groups) == [["a"], ["mean"], ["up"]]


def test_layers_without_constant_finite_matrix_weights_stay_in_float(load: Load) -> None:
    net = Network()
    a, b = net.input("a", [1, 4, 4]), net.input("b", [1, 4, 4])
    net.output(net.node("MatMul", [a, b], "attention"), [1, 4, 4])
    net.output(net.node("MatMul", [a, net.constant("w3", np.ones((1, 4, 4), np.float32))], "batched"), [1, 4, 4])
    nan = net.constant("nan", np.full((4, 4), np.nan, np.float32))
    net.output(net.node("MatMul", [a, nan], "broken"), [1, 4, 4])
    net.output(net.node("MatMul", [a, net.constant("w", np.ones((4, 4), np.float32))], "good"), [1, 4, 4])
    plan = make_plan(load(net))
    assert reads(plan) == {("good", 0)}
    assert set(plan.float_layers) == {"attention", "batched", "broken"}


def test_transposed_convolutions_and_data_stay_in_float(load: Load) -> None:
    net = Network()
    square = net.constant("w", np.ones((4, 4), np.float32))
    x, rows = net.input("x", [1, 4, 4, 4]), net.input("rows", [4, 4])
    kernel = net.constant("k", np.ones((4, 4, 1, 1), np.float32))
    net.output(net.node("ConvTranspose", [x, kernel], "up"), [1, 4, 4, 4])
    net.output(net.node("Gemm", [rows, square], "columns", transA=1), [4, 4])
    net.output(net.node("Gemm", [rows, square], "plain", transB=1), [4, 4])
    plan = make_plan(load(net))
    assert reads(plan) == {("plain", 0)}
    assert plan.float_layers == {"up": "it is a transposed convolution", "columns": "it transposes its data"}


def test_a_tensor_that_was_always_zero_keeps_its_layers_in_float(load: Load) -> None:
    plan = make_plan(load(residual("y", "x")), unusable={"x": "a reason"})
    assert reads(plan) == {("conv2", 0)}
    assert plan.float_layers == {"conv1": "a reason"}


def test_efficientnet_as_a_whole(load: Load) -> None:
    plan = make_plan(load(networks.classifier()))
    assert reads(plan) == {
        ("stem", 0),
        ("block1_expand", 0),
        ("block1_depthwise", 0),
        ("block1_project", 0),
        ("block1_add", 1),
        ("block2_expand", 0),
        ("block2_depthwise", 0),
        ("block2_project", 0),
        ("head", 0),
        ("logits", 0),
    }
    assert sorted(plan.float_layers) == sorted(
        f"block{block}_{layer}" for block in (1, 2) for layer in ("se_reduce", "se_expand")
    )


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        ((), set()),
        (("grouped",), {"groups"}),
        (("depthwise",), {"deep"}),
        (("depthwise", "grouped"), {"deep", "groups"}),
    ],
)
def test_kinds_of_convolutions_stay_in_float_as_the_target_has_it(
    load: Load, kinds: tuple[str, ...], kept: set[str]
) -> None:
    net = Network()
    x = net.conv(net.input("x", [1, 8, 8, 8]), "deep", 8, 8, kernel=3, group=8)
    x = net.conv(net.node("Relu", [x], "relu"), "groups", 8, 8, kernel=3, group=2)
    net.output(net.conv(net.node("Relu", [x], "relu2"), "dense", 8, 8), [1, 8, 8, 8])
    assert set(make_plan(load(net), float_kinds=kinds).float_layers) == kept


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_product_with_its_weights_on_the_left_stays_in_float_and_says_so(load: Load, operator: str) -> None:
    net = Network()
    left = net.constant("w", np.ones((5, 4), np.float32))
    net.output(net.node(operator, [left, net.input("x", [4, 3])], "product"), [5, 3])
    plan = make_plan(load(net))
    assert plan.layers == [] and "on the left" in plan.float_layers["product"]


def test_a_product_of_two_activations_has_no_weights_and_says_so(load: Load) -> None:
    net = Network()
    net.output(net.node("MatMul", [net.input("x", [2, 4]), net.input("z", [4, 3])], "product"), [2, 3])
    assert make_plan(load(net)).float_layers == {"product": "its weights are computed in the graph"}
