"""The necks: the paper's fusion equations and its figure 2 (a, b and d), by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from effedge.pipeline.models.bifpn import (
    FUSION_EPS,
    FUSIONS,
    PATHS,
    Fusion,
    Neck,
    NeckLayer,
    Resample,
    SeparableConv,
    bifpn_nodes,
    fpn_nodes,
    panet_nodes,
    resample_bilinearly,
)
from effedge.pipeline.models.tables import NECKS, NeckRow

A, B, C = 2.0, -3.0, 5.0


def fuse(fusion, weights):
    module = Fusion([4, 4, 4], [0, 1, 2], 4, fusion)
    if module.edge_weights is not None:
        module.edge_weights.data = torch.tensor(weights)
    with torch.inference_mode():
        result = module([torch.full((1, 4, 2, 2), value) for value in (A, B, C)], (2, 2))
    assert result.unique().numel() == 1
    return result[0, 0, 0, 0].item()


def test_fast_normalized_fusion_divides_by_the_weights_sum_and_epsilon():
    assert FUSION_EPS == 1e-4  # section 3.3
    assert fuse("fast", [0.5, 1.0, 2.0]) == pytest.approx((0.5 * A + B + 2 * C) / (3.5 + 1e-4))


def test_fast_normalized_fusion_has_no_negative_weights():
    assert fuse("fast", [0.5, -1.0, 2.0]) == pytest.approx((0.5 * A + 2 * C) / (2.5 + 1e-4))
    assert fuse("fast", [-0.5, -1.0, -2.0]) == 0.0


def test_softmax_fusion_weighs_by_exponentials():
    e = np.exp([0.5, -1.0, 2.0])
    assert fuse("softmax", [0.5, -1.0, 2.0]) == pytest.approx((e * [A, B, C]).sum() / e.sum())


def test_unbounded_fusion_takes_the_weights_as_they_are():
    assert fuse("unbounded", [0.5, -1.0, 2.0]) == pytest.approx(0.5 * A - B + 2 * C)


def test_sum_has_no_weights():
    assert fuse("sum", None) == A + B + C
    assert not [key for key in Fusion([4, 4], [0, 1], 4, "sum").state_dict() if "edge_weights" in key]


def test_before_training_all_inputs_weigh_the_same():
    assert fuse("fast", [1.0, 1.0, 1.0]) == pytest.approx((A + B + C) / 3, rel=1e-4)
    assert Fusion([4, 4], [0, 1], 4, "fast").edge_weights.tolist() == [1, 1]


def test_a_coarser_input_is_repeated_and_a_finer_one_max_pooled():
    same, torch_input = Resample(1, 1), torch.arange(16.0).view(1, 1, 4, 4)
    up = same(torch_input, (8, 8))[0, 0].numpy()
    np.testing.assert_array_equal(up, np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(same(torch_input, (2, 2))[0, 0], [[10, 11], [14, 15]])  # SAME: pads below and right
    assert same(torch_input, (4, 4)) is torch_input


def test_an_odd_level_is_repeated_from_the_nearest_pixel():
    # 5 is made of 3, as P6 of P7 at an input of 320: pixel i is the coarse pixel floor(i * 3 / 5).
    up = Resample(1, 1)(torch.arange(3.0).view(1, 1, 1, 3).expand(1, 1, 3, 3), (5, 5))
    assert up[0, 0, 0].tolist() == [0, 0, 1, 1, 2]


def test_bilinear_resampling_is_worked_by_hand():
    resample = Resample(1, 1)
    resample_bilinearly(resample)

    def column(values, size):
        x = torch.tensor(values).view(1, 1, 1, -1).expand(1, 1, len(values), -1)
        return resample(x, (size, size))[0, 0, 0].tolist()

    # Output i lies at (i + 1/2) * ratio - 1/2 of the input, held within it.
    assert column([0.0, 1.0, 2.0, 5.0], 2) == [0.5, 3.5]  # the means of pairs
    assert column([0.0, 4.0], 4) == [0.0, 1.0, 3.0, 4.0]
    assert column([0.0, 3.0, 6.0, 9.0, 12.0], 3) == pytest.approx([1.0, 6.0, 11.0])  # at 1/3, 2 and 11/3
    assert column([0.0, 5.0, 10.0], 5) == pytest.approx([0.0, 2.0, 5.0, 8.0, 10.0])  # at -1/5, 2/5, 1, 8/5 and 11/5
    grid = torch.arange(16.0).view(1, 1, 4, 4)
    assert resample(grid, (2, 2))[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert resample(grid, (4, 4)) is grid


def test_only_other_channels_are_projected():
    assert Resample(8, 8).conv is None
    assert tuple(Resample(40, 8)(torch.zeros(1, 40, 6, 6), (3, 3)).shape) == (1, 8, 3, 3)


def test_the_plan_for_five_levels_is_the_papers():
    p3, p4, p5, p6, p7 = range(5)
    p6_td, p5_td, p4_td, p3_out, p4_out, p5_out, p6_out = range(5, 12)
    assert bifpn_nodes(5) == [
        (3, [p6, p7]),  # P6_td
        (2, [p5, p6_td]),
        (1, [p4, p5_td]),
        (0, [p3, p4_td]),  # P3_out: the finest level has no intermediate node
        (1, [p4, p4_td, p3_out]),
        (2, [p5, p5_td, p4_out]),
        (3, [p6, p6_td, p5_out]),  # P6_out
        (4, [p7, p6_out]),  # P7_out: nor has the coarsest
    ]


def test_the_plan_for_six_levels_has_a_node_more_each_way():
    p3, p4, p5, p6, p7, p8 = range(6)
    p7_td, p6_td, p5_td, p4_td, p3_out, p4_out, p5_out, p6_out, p7_out = range(6, 15)
    assert bifpn_nodes(6) == [
        (4, [p7, p8]), (3, [p6, p7_td]), (2, [p5, p6_td]), (1, [p4, p5_td]), (0, [p3, p4_td]),
        (1, [p4, p4_td, p3_out]), (2, [p5, p5_td, p4_out]), (3, [p6, p6_td, p5_out]), (4, [p7, p7_td, p6_out]),
        (5, [p8, p7_out]),
    ]  # fmt: skip


def test_a_layer_computes_the_papers_equations():
    # Constant features pass resampling unchanged, and without the convolutions a node is its fusion alone.
    layer = NeckLayer([4] * 5, 4, NeckRow("bifpn-unbounded", "bifpn", "unbounded", None), lite=False)
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=len(sources)) for _, sources in layer.plan]
    for node, edge in zip(layer.fnode, weights, strict=True):
        node.combine.edge_weights.data = torch.tensor(edge, dtype=torch.float32)
        node.after_combine = nn.Identity()
    p3, p4, p5, p6, p7 = inputs = generator.normal(size=5)
    w = [list(edge) for edge in weights]
    p6_td = w[0][0] * p6 + w[0][1] * p7
    p5_td = w[1][0] * p5 + w[1][1] * p6_td
    p4_td = w[2][0] * p4 + w[2][1] * p5_td
    p3_out = w[3][0] * p3 + w[3][1] * p4_td
    p4_out = w[4][0] * p4 + w[4][1] * p4_td + w[4][2] * p3_out
    p5_out = w[5][0] * p5 + w[5][1] * p5_td + w[5][2] * p4_out
    p6_out = w[6][0] * p6 + w[6][1] * p6_td + w[6][2] * p5_out
    p7_out = w[7][0] * p7 + w[7][1] * p6_out
    features = [torch.full((1, 4, side, side), value) for side, value in zip((16, 8, 4, 2, 1), inputs, strict=True)]
    with torch.inference_mode():
        outputs = layer([feature.float() for feature in features])
    assert [x.shape[2] for x in outputs] == [16, 8, 4, 2, 1]
    expected = [p3_out, p4_out, p5_out, p6_out, p7_out]
    for output, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output.numpy(), value, rtol=1e-5)


def test_an_fpn_layer_is_top_down_only():
    p3, p4, p5, p6, p7 = range(5)
    p7_td, p6_td, p5_td, p4_td = range(5, 9)
    assert fpn_nodes(5) == [
        (4, [p7]), (3, [p6, p7_td]), (2, [p5, p6_td]), (1, [p4, p5_td]), (0, [p3, p4_td]),
    ]  # fmt: skip


def test_a_panet_layer_goes_bottom_up_over_the_nodes_of_fpn():
    p7_td, p6_td, p5_td, p4_td, p3_td, p3_out, p4_out, p5_out, p6_out = range(5, 14)
    assert panet_nodes(5)[:5] == fpn_nodes(5)
    assert panet_nodes(5)[5:] == [
        (0, [p3_td]), (1, [p4_td, p3_out]), (2, [p5_td, p4_out]), (3, [p6_td, p5_out]), (4, [p7_td, p6_out]),
    ]  # fmt: skip


def outputs_of(name, inputs):
    """A layer's outputs, finest first, for features that are constant on each level; its nodes only fuse."""
    layer = NeckLayer([4] * 5, 4, NECKS[name], lite=False)
    for node in layer.fnode:
        node.after_combine = nn.Identity()
    features = [torch.full((1, 4, side, side), value) for side, value in zip((16, 8, 4, 2, 1), inputs, strict=True)]
    with torch.inference_mode():
        outputs = layer(features)
    assert [x.shape[2] for x in outputs] == [16, 8, 4, 2, 1]
    return [x.mean().item() for x in outputs]


def test_fpn_sends_each_level_the_coarser_ones_and_panet_sends_it_the_finer_too():
    p3, p4, p5, p6, p7 = inputs = [1.0, 2.0, 4.0, 8.0, 16.0]
    top_down = [p3 + p4 + p5 + p6 + p7, p4 + p5 + p6 + p7, p5 + p6 + p7, p6 + p7, p7]
    assert outputs_of("fpn", inputs) == top_down
    assert outputs_of("panet", inputs) == list(np.cumsum(top_down))


@pytest.mark.parametrize("name", NECKS)
def test_a_layer_leaves_its_inputs_as_they_are(name):
    """The activation works in place, and a node with a single input does not add anything."""
    layer = NeckLayer([4] * 5, 4, NECKS[name], lite=False).eval()
    features = [torch.full((1, 4, side, side), -1.0) for side in (16, 8, 4, 2, 1)]
    with torch.inference_mode():
        layer(features)
    assert all((x == -1.0).all() for x in features)


@pytest.mark.parametrize("name", NECKS)
def test_every_parameter_of_a_neck_learns(name):
    neck = Neck([40, 112, 320], 8, layers=2, levels=5, neck=NECKS[name], lite=False)
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(2, channels, side, side, generator=generator)
        for channels, side in ((40, 16), (112, 8), (320, 4))
    ]  # fmt: skip
    sum((output**3).sum() for output in neck(features)).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_the_rows_name_paths_and_fusions_that_there_are():
    assert {row.paths for row in NECKS.values()} == set(PATHS)
    assert {row.fusion for row in NECKS.values()} <= set(FUSIONS)
    assert all(name == row.name for name, row in NECKS.items())


def test_a_separable_convolution_is_depthwise_then_pointwise():
    conv = SeparableConv(6, 10)
    x = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        deep = nn.functional.conv2d(x, conv.conv_dw.weight, padding=1, groups=6)
        expected = torch.einsum("oc,nchw->nohw", conv.conv_pw.weight[:, :, 0, 0], deep)
        torch.testing.assert_close(conv(x), expected + conv.conv_pw.bias.view(1, -1, 1, 1))


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("levels", [5, 6])
def test_coarser_levels_are_halved_from_the_backbones_last(levels, name):
    fpn = Neck([40, 112, 320], 16, layers=2, levels=levels, neck=NECKS[name], lite=False).eval()
    features = [torch.zeros(1, channels, side, side) for channels, side in ((40, 20), (112, 10), (320, 5))]
    with torch.inference_mode():
        outputs = fpn(features)
    assert [tuple(x.shape[1:]) for x in outputs] == [(16, side, side) for side in (20, 10, 5, 3, 2, 1)[:levels]]
