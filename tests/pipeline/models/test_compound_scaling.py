"""Compound scaling: what the papers say can be derived from one coefficient is, and where the tables depart from it."""

import pytest

from effedge.pipeline.models.compound_scaling import (
    ALPHA,
    BETA,
    GAMMA,
    efficientdet_coefficients,
    efficientnet_coefficients,
    round_channels,
    round_layers,
)
from effedge.pipeline.models.efficientnet import STAGES, head_channels, scaled_stages, stem_channels
from effedge.pipeline.models.tables import EFFICIENTDETS, EFFICIENTNETS

# The compound coefficient of each model (google-research's EfficientNet README: B1 is half a step).
PHI = {"b0": 0, "b1": 0.5, "b2": 1, "b3": 2, "b4": 3, "b5": 4, "b6": 5, "b7": 6}


def test_a_step_of_phi_about_doubles_the_flops():
    assert 1.9 < ALPHA * BETA**2 * GAMMA**2 < 2.1
    assert min(ALPHA, BETA, GAMMA) >= 1


def test_channels_go_to_the_nearest_multiple_of_8():
    assert round_channels(32 * 1.8) == 56  # 57.6
    assert [round_channels(value) for value in (16, 35.2, 44, 44.8, 1408.0)] == [16, 32, 48, 48, 1408]
    assert round_channels(1) == 8


def test_channels_never_fall_below_90_percent():
    # The nearest multiple of 8 to 10 and to 18 is 8 and 16: a fifth and a ninth off.
    assert [round_channels(value) for value in (10, 18, 8.8, 17.7)] == [16, 24, 8, 16]
    assert all(round_channels(value / 10) >= 0.09 * value for value in range(10, 20_000))


def test_layers_are_rounded_up():
    assert round_layers(4, 2.6) == 11  # 10.4
    assert [round_layers(layers, 3.1) for layers in (1, 2, 3, 4)] == [4, 7, 10, 13]
    assert round_layers(3, 1.0) == 3


@pytest.mark.parametrize("name", ["b0", "b1", "b2", "b3"])
def test_b0_to_b3_follow_the_rule(name):
    row, (width, depth, resolution) = EFFICIENTNETS[name], efficientnet_coefficients(PHI[name])
    assert (row.width, row.depth) == (round(width, 1), round(depth, 1))
    assert row.size == pytest.approx(224 * resolution, rel=0.02)


@pytest.mark.parametrize("name", ["b4", "b5", "b6", "b7"])
def test_b4_to_b7_were_published_somewhat_larger_than_the_rule(name):
    row, (width, depth, resolution) = EFFICIENTNETS[name], efficientnet_coefficients(PHI[name])
    assert width < row.width < 1.15 * width
    assert depth < row.depth < 1.15 * depth
    assert 224 * resolution < row.size < 1.2 * 224 * resolution


@pytest.mark.parametrize(
    ("name", "stem", "head", "layers"),
    [
        # as google-research's EfficientNet code builds them
        ("b0", 32, 1280, [1, 2, 2, 3, 3, 4, 1]),
        ("b1", 32, 1280, [2, 3, 3, 4, 4, 5, 2]),
        ("b2", 32, 1408, [2, 3, 3, 4, 4, 5, 2]),
        ("b3", 40, 1536, [2, 3, 3, 5, 5, 6, 2]),
        ("b4", 48, 1792, [2, 4, 4, 6, 6, 8, 2]),
        ("b5", 48, 2048, [3, 5, 5, 7, 7, 9, 3]),
        ("b6", 56, 2304, [3, 6, 6, 8, 8, 11, 3]),
        ("b7", 64, 2560, [4, 7, 7, 10, 10, 13, 4]),
        ("b8", 72, 2816, [4, 8, 8, 11, 11, 15, 4]),
        ("l2", 136, 5504, [6, 11, 11, 16, 16, 22, 6]),
        ("lite1", None, None, [1, 3, 3, 4, 4, 5, 1]),
        ("lite4", None, None, [1, 4, 4, 6, 6, 8, 1]),
        # as google/automl's efficientnetv2 builds them
        ("v2-b0", 32, 1280, [1, 2, 2, 3, 5, 8]),
        ("v2-b1", 32, 1280, [2, 3, 3, 4, 6, 9]),
        ("v2-b2", 32, 1408, [2, 3, 3, 4, 6, 10]),
        ("v2-b3", 40, 1536, [2, 3, 3, 5, 7, 12]),
        ("v2-xl", 32, 1280, [4, 8, 8, 16, 24, 32, 8]),
        # as timm builds them
        ("efficientnetv2_rw_t", 24, 1024, [2, 4, 4, 6, 9, 14]),
        ("efficientnetv2_rw_s", 24, 1792, [2, 4, 4, 6, 9, 15]),
    ],
)
def test_the_tables_give_the_published_channels_and_layers(name, stem, head, layers):
    row = EFFICIENTNETS[name]
    assert [stage.layers for stage in scaled_stages(row)] == layers
    if stem is not None:
        assert stem_channels(row) == stem
        assert head_channels(row) == head


def test_v2_rounds_to_the_nearest_multiple_of_8_even_below_90_percent():
    # 1.2 x 16 = 19.2 is 16 in google/automl's and timm's V2-B3, and 24 in V1's B3
    assert [stage.channels for stage in scaled_stages(EFFICIENTNETS["v2-b3"])] == [16, 40, 56, 112, 136, 232]
    assert scaled_stages(EFFICIENTNETS["b3"])[0].channels == 24


def test_timms_v2_t_is_v2_s_by_width_and_depth_with_v1s_rounding():
    # timm 1.0.31: _gen_efficientnetv2_s with channel_multiplier=0.8 and depth_multiplier=0.9
    small, tiny = STAGES["v2-s"], STAGES["v2-rw-t"]
    assert (tiny.stem, tiny.head) == (round_channels(0.8 * small.stem), round_channels(0.8 * small.head))
    for stage, scaled in zip(small.stages, tiny.stages, strict=True):
        channels, layers = round_channels(0.8 * stage.channels), round_layers(stage.layers, 0.9)
        assert scaled == stage._replace(channels=channels, layers=layers)


def test_d0_to_d4_and_d6_have_the_rules_input_size():
    for phi in (0, 1, 2, 3, 4, 6):
        assert EFFICIENTDETS[f"d{phi}"].size == efficientdet_coefficients(phi)[3]
    assert efficientdet_coefficients(5)[3] == 1152 < EFFICIENTDETS["d5"].size  # the paper's table 1 has 1280


@pytest.mark.parametrize("phi", range(7))
def test_heads_and_bifpn_deepen_and_widen_with_phi(phi):
    row, (width, layers, head_layers, _) = EFFICIENTDETS[f"d{phi}"], efficientdet_coefficients(phi)
    assert row.head_layers == head_layers == 3 + phi // 3
    assert row.layers == (layers if phi <= 4 else layers - 1)  # table 1 departs from equation 1 at D5
    assert row.channels % 8 == 0
    # Equation 1's width, 64 x 1.35^phi, is the nearest multiple of 8 but for D2 and D4, which are a step beside it.
    assert row.channels == pytest.approx(width, abs=4 if phi not in (2, 4) else 12)


def test_each_detectors_backbone_has_its_own_number():
    assert [EFFICIENTDETS[f"d{phi}"].backbone for phi in range(7)] == [f"b{phi}" for phi in range(7)]
    assert EFFICIENTDETS["d7"].backbone == "b6" and EFFICIENTDETS["d7x"].backbone == "b7"
    assert [EFFICIENTDETS[f"det-v2-{size}"].backbone for size in ("b0", "s")] == ["v2-b0", "v2-s"]
    assert [EFFICIENTDETS[f"det-lite{phi}"].backbone for phi in range(5)] == [f"lite{phi}" for phi in range(5)]
