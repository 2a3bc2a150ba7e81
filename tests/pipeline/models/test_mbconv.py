"""MBConv and EfficientNet's stages: shortcuts, squeeze-and-excitation, drop-connect; what the papers' text says."""

import pytest
import torch
from torch import nn

from effedge.pipeline.models.efficientnet import B0_STAGES, Backbone, EfficientNet
from effedge.pipeline.models.mbconv import (
    FusedMBConv1,
    FusedMBConv1Projected,
    FusedMBConv4,
    MBConv1,
    MBConv4,
    MBConv6,
    drop_connect,
)
from effedge.pipeline.models.same_padding import Conv2d
from effedge.pipeline.models.squeeze_excite import SqueezeExcite
from effedge.pipeline.models.tables import EFFICIENTNETS


def blocks_of(name):
    with torch.device("meta"):
        return [block for stage in EfficientNet(EFFICIENTNETS[name], 10).blocks for block in stage]


@pytest.mark.parametrize("block", [MBConv1, MBConv4, MBConv6, FusedMBConv1, FusedMBConv1Projected, FusedMBConv4])
def test_a_shortcut_only_where_input_and_output_agree(block):
    for inputs, outputs, stride, expected in [(16, 16, 1, True), (16, 16, 2, False), (16, 24, 1, False)]:
        assert block(inputs, outputs, 3, stride, lite=False, drop_rate=0.0).shortcut is expected


def test_the_shortcut_adds_the_input():
    block = MBConv6(8, 8, 3, 1, lite=False, drop_rate=0.0).eval()
    nn.init.zeros_(block.bn3.weight)  # and its bias is 0: the branch says nothing
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_the_projection_has_no_activation():
    block = MBConv6(8, 16, 3, 1, lite=True, drop_rate=0.0).eval()
    y = block(torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert y.min() < 0  # ReLU6 would cut it off


def test_expansion_is_six_and_se_squeezes_to_a_quarter_of_the_blocks_input():
    first, second = blocks_of("b0")[:2]
    assert isinstance(first, MBConv1) and first.se.conv_reduce.weight.shape[0] == 32 // 4
    assert isinstance(second, MBConv6) and second.conv_dw.weight.shape[0] == 6 * 16
    assert second.se.conv_reduce.weight.shape[:2] == (16 // 4, 6 * 16)


def test_v2_begins_with_fused_blocks_without_squeeze_and_excitation():
    # table 4 of the paper: 2 + 4 + 4 Fused-MBConv, then 6 + 9 + 15 MBConv with SE
    blocks = blocks_of("v2-s")
    assert [type(block) for block in blocks] == [
        *[FusedMBConv1] * 2, *[FusedMBConv4] * 8, *[MBConv4] * 6, *[MBConv6] * 24,
    ]  # fmt: skip
    squeezed = [any(isinstance(module, SqueezeExcite) for module in block.modules()) for block in blocks]
    assert squeezed == [False] * 10 + [True] * 30
    assert tuple(blocks[2].conv_exp.weight.shape) == (4 * 24, 24, 3, 3) and blocks[2].conv_exp.groups == 1
    assert blocks[10].conv_dw.weight.shape[0] == 4 * 64 and blocks[16].conv_dw.weight.shape[0] == 6 * 128


def test_timms_v2_s_projects_in_its_first_stage_too():
    # timm 1.0.31, rw=True: er_r2_k3_s1_e1_c24, where the authors' V2-S has cn_r2_k3_s1_e1_c24_skip
    first = blocks_of("efficientnetv2_rw_s")[0]
    assert tuple(first.conv_exp.weight.shape) == (24, 24, 3, 3) and tuple(first.conv_pwl.weight.shape) == (24, 24, 1, 1)
    assert type(blocks_of("efficientnetv2_rw_t")[0]) is FusedMBConv1
    block = FusedMBConv1Projected(8, 8, 3, 1, lite=True, drop_rate=0.0).eval()
    y = block.branch(torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert y.min() < 0  # the projection has no activation


def test_the_first_fused_block_adds_the_input_behind_the_activation():
    block = FusedMBConv1(8, 8, 3, 1, lite=False, drop_rate=0.0).eval()
    nn.init.zeros_(block.bn1.weight)  # and its bias is 0: swish of 0 is 0
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_squeeze_and_excitation_is_its_formula():
    se = SqueezeExcite(6, 2)
    x = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mean = x.mean((2, 3))
        hidden = mean @ se.conv_reduce.weight[:, :, 0, 0].T + se.conv_reduce.bias
        hidden = hidden * torch.sigmoid(hidden)
        gate = torch.sigmoid(hidden @ se.conv_expand.weight[:, :, 0, 0].T + se.conv_expand.bias)
        torch.testing.assert_close(se(x), x * gate[:, :, None, None])


def test_lite_has_neither_squeeze_and_excitation_nor_swish():
    with torch.device("meta"):
        kinds = {type(module) for module in EfficientNet(EFFICIENTNETS["lite4"], 10).modules()}
    assert SqueezeExcite not in kinds and nn.SiLU not in kinds and nn.ReLU6 in kinds


def test_drop_connect_grows_linearly_from_0_towards_a_fifth():
    rates = [block.drop_rate for block in blocks_of("b0")]
    assert rates == pytest.approx([0.2 * index / 16 for index in range(16)])


def test_drop_connect_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    y = drop_connect(torch.ones(4000, 2, 3, 3), rate=0.2, training=True)
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert torch.equal(y.amax((1, 2, 3)), y.amin((1, 2, 3)))
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)


def test_drop_connect_does_nothing_outside_training():
    x = torch.randn(4, 2, 3, 3)
    assert drop_connect(x, 0.5, training=False) is x and drop_connect(x, 0.0, training=True) is x


def test_the_first_block_of_a_stage_has_its_stride():
    strides = [block.conv_dw.stride[0] for block in blocks_of("b0")]
    assert strides == [s for stage in B0_STAGES for s in [stage.stride, *[1] * (stage.layers - 1)]]
    assert [stage.stride for stage in B0_STAGES] == [1, 2, 2, 2, 1, 2, 1]  # 112, 56, 28, 14, 14, 7, 7


def test_the_backbone_gives_an_eighth_a_sixteenth_and_a_thirty_second():
    with torch.device("meta"):
        features = Backbone(EFFICIENTNETS["b0"]).eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in features] == [(40, 8, 12), (112, 4, 6), (320, 2, 3)]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("v2-s", (64, 160, 256)),
        ("v2-m", (80, 176, 512)),
        ("v2-b0", (48, 112, 192)),
        # timm 1.0.31's feature_info at reductions 8, 16 and 32
        ("efficientnetv2_rw_t", (48, 128, 208)),
        ("efficientnetv2_rw_s", (64, 160, 272)),
    ],
)
def test_v2s_pyramid_is_the_last_stage_at_each_size_too(name, channels):
    with torch.device("meta"):
        features = Backbone(EFFICIENTNETS[name]).eval()(torch.zeros(1, 3, 64, 96))
    sizes = [(8, 12), (4, 6), (2, 3)]
    assert [tuple(x.shape[1:]) for x in features] == [
        (count, *size) for count, size in zip(channels, sizes, strict=True)
    ]


def test_every_convolution_in_front_of_a_batch_norm_has_no_bias():
    with torch.device("meta"):
        model = EfficientNet(EFFICIENTNETS["b0"], 10)
    assert all(module.bias is None for module in model.modules() if isinstance(module, Conv2d))
