"""Heads: one kernel for all levels, a BatchNorm for each, and the prior of focal loss."""

import pytest
import torch

from effedge.pipeline.models.heads import Head, initialize_head, prior_bias

LEVELS, LAYERS = 3, 2


@pytest.fixture
def head():
    torch.manual_seed(0)
    return Head(channels=8, layers=LAYERS, levels=LEVELS, outputs=4, anchors=9, lite=False).eval()


@pytest.fixture
def features():
    one = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    return [one] * LEVELS


@torch.inference_mode()
def changed(head, features, edit):
    """Which levels' outputs another parameter changes."""
    before = head(features)
    edit()
    return [not torch.equal(old, new) for old, new in zip(before, head(features), strict=True)]


def scale(parameter):
    return lambda: parameter.data.mul_(1.5)


def test_each_level_has_36_channels_of_box_code(head):
    outputs = head([torch.zeros(2, 8, side, side) for side in (8, 4, 2)])
    assert [tuple(x.shape) for x in outputs] == [(2, 36, side, side) for side in (8, 4, 2)]


def test_convolutions_are_shared_by_all_levels(head, features):
    for layer in range(LAYERS):
        assert changed(head, features, scale(head.conv_rep[layer].conv_dw.weight)) == [True] * LEVELS
        assert changed(head, features, scale(head.conv_rep[layer].conv_pw.weight)) == [True] * LEVELS
    assert changed(head, features, scale(head.predict.conv_pw.weight)) == [True] * LEVELS


def test_each_layer_of_each_level_has_its_own_batch_norm(head, features):
    for layer in range(LAYERS):
        for level in range(LEVELS):
            norm = head.bn_rep[layer][level].bn
            assert changed(head, features, scale(norm.weight)) == [index == level for index in range(LEVELS)]


def test_training_counts_each_levels_own_statistics(head):
    initialize_head(head, bias=0.0)
    head.train()([torch.full((2, 8, 4, 4), float(level + 1)) for level in range(LEVELS)])
    means = [head.bn_rep[0][level].bn.running_mean for level in range(LEVELS)]
    assert not torch.allclose(means[0], means[1]) and not torch.allclose(means[1], means[2])
    # The kernel is shared, so constant inputs in the ratio 1 : 2 : 3 leave means in that ratio.
    torch.testing.assert_close(means[1], 2 * means[0])
    torch.testing.assert_close(means[2], 3 * means[0])


def test_an_untrained_class_head_gives_every_class_one_percent(head):
    initialize_head(head, bias=prior_bias())
    for output in head([torch.zeros(1, 8, 4, 4)] * LEVELS):
        torch.testing.assert_close(output.sigmoid(), torch.full_like(output, 0.01))


def test_initialization_keeps_the_size_of_what_passes_through(head):
    initialize_head(head, bias=0.0)
    for module in (head.conv_rep[0].conv_pw, head.predict.conv_pw):
        assert module.weight.std().item() == pytest.approx((1 / 8) ** 0.5, rel=0.25)  # fan-in 8
        assert not module.bias.any()
