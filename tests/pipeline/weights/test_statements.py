"""The statements of a file: those on its network are compared with the model, those on its input are taken over."""

from pathlib import Path

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.anchors import anchor_shapes
from effedge.pipeline.weights.published import preprocessing
from effedge.pipeline.weights.statements import (
    check_model_said,
    evaluation_notes,
    said_anchors,
    said_preprocessing,
    said_size,
)

FILE = Path("mine.pth")
# What effdet 0.4.1's get_efficientdet_config says, as far as it is about the computation.
EFFDET = {
    "config.name": "tf_efficientdet_d0", "config.backbone_name": "tf_efficientnet_b0", "config.image_size": [512, 512],
    "config.min_level": 3, "config.max_level": 7, "config.num_scales": 3, "config.anchor_scale": 4.0,
    "config.aspect_ratios": [[1.0, 1.0], [1.4, 0.7], [0.7, 1.4]], "config.pad_type": "same",
    "config.act_type": "swish", "config.norm_kwargs.eps": 0.001, "config.separable_conv": True,
    "config.apply_resample_bn": True, "config.conv_bn_relu_pattern": False, "config.downsample_type": "max",
    "config.upsample_type": "nearest",
}  # fmt: skip


def refused(values, name):
    with pytest.raises(UserError) as caught:
        check_model_said(values, name, FILE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_names_the_model_is_sure():
    assert check_model_said({"arch": "tf_efficientnet_b0", "args.model": "tf_efficientnet_b0"}, "b0", FILE)
    assert check_model_said({"args.model": "tf_efficientnet_b7", "student": "efficientnet_b0"}, "efficientnet_b0", FILE)
    assert check_model_said(EFFDET, "d0", FILE)
    assert not check_model_said({"arch": "efficientnet", "epoch": 3}, "b0", FILE)  # the name of timm's class


@pytest.mark.parametrize(
    ("arch", "name", "right"),
    [
        ("efficientnet_b0", "b0", "efficientnet_b0"),
        ("tf_efficientnet_b3_ns", "b0", "b3"),
        ("tf_efficientdet_d0", "d1", "d0"),
    ],
)
def test_another_architecture_says_which_model_to_give(arch, name, right):
    message = refused({"arch": arch}, name)
    assert f"says arch '{arch}'" in message and message.endswith(f"give MODEL={right}")


def test_a_backbones_name_is_not_the_detectors():
    assert not check_model_said({"hyper_parameters.encoder": "tf_efficientnet_b0"}, "d0", FILE)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("act_type", "relu"), ("fpn_name", "bifpn_sum"), ("fpn_name", "qufpn_fa"), ("pad_type", ""),
        ("norm_kwargs.eps", 1e-5), ("downsample_type", "bilinear"), ("max_level", 6), ("separable_conv", False),
        ("backbone_name", "efficientnet_b0"), ("backbone_name", "resnet50"),
    ],
)  # fmt: skip
def test_a_configuration_of_another_network_is_refused(entry, value):
    message = refused(EFFDET | {f"config.{entry}": value}, "d0")
    assert f"says config.{entry} = {value!r}" in message and "no model here computes that" in message


def test_timms_options_tell_the_families_apart():
    assert refused({"args.bn_eps": 1e-5}, "b0").endswith("give MODEL=efficientnet_b0")
    assert refused({"args.model_kwargs.pad_type": "same"}, "efficientnet_b0").endswith("give MODEL=b0")
    assert "no model here" in refused({"args.gp": "max"}, "b0")
    assert "no model here" in refused({"arch": "tf_efficientnet_b0", "args.bn_eps": 1e-5}, "b0")
    assert not check_model_said({"args.bn_eps": 0.001, "args.gp": "avg"}, "b0", FILE)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"args.img_size": 192}, (192, 192)),
        ({"args.input_size": [3, 160, 224]}, (160, 224)),
        ({"args.img_size": 192, "args.input_size": [3, 160, 224]}, (160, 224)),  # as timm's resolve_data_config
        ({"config.image_size": [640, 512]}, (640, 512)),
        ({"hyper_parameters.data.image_size": 640, "image_size": 320}, (320, 320)),
        ({"args.img_size": "large"}, None),
        ({"args.img_size": True}, None),
        ({"args.size": 5}, None),
        ({"pretrained_cfg.input_size": [3, 300, 300], "pretrained_cfg.test_input_size": [3, 384, 384]}, (384, 384)),
        ({"pretrained_cfg.test_input_size": [3, 384, 320]}, (384, 320)),
        # that of a trainer's own options comes before a configuration's, whatever that says of evaluation
        ({"args.img_size": 192, "a.cfg.input_size": [3, 300, 300], "a.cfg.test_input_size": [3, 384, 384]}, (192, 192)),
        ({"args.img_size": 192, "cfg.test_input_size": [3, 384, 384]}, (192, 192)),
        ({"input_size": [3, 300, 300], "test_input_size": "large"}, (300, 300)),
    ],
)
def test_the_input_size_is_read(values, size):
    assert said_size(values) == size


def test_the_crop_and_its_mode_are_those_of_timms_evaluation():
    usual = preprocessing("b0", "")
    cfg = {"cfg.crop_pct": 0.9, "cfg.test_crop_pct": 1.0, "cfg.crop_mode": "squash"}
    look = said_preprocessing(cfg, "b0", usual)
    assert (look.crop, look.resize) == (1.0, "stretch")
    assert look.input_spec() == {"interpolation": "bicubic", "resize": "stretch", "crop": 1.0}
    assert said_preprocessing({**cfg, "cfg.test_crop_pct": 0, "cfg.crop_mode": ["squash"]}, "b0", usual) == (
        usual._replace(crop=0.9)
    )
    assert said_preprocessing({"crop_mode": "center", "crop_pct": 0.904}, "v2-b3", preprocessing("v2-b3", "")) == (
        preprocessing("v2-b3", "")._replace(resize="center-crop", crop=0.904)
    )
    detector = preprocessing("d0", "")
    assert said_preprocessing(cfg, "d0", detector) == detector


def test_what_is_taken_of_two_values_is_said():
    cfg = {"cfg.input_size": [3, 300, 300], "cfg.test_input_size": [3, 384, 384], "cfg.crop_pct": 1.0}
    assert evaluation_notes(cfg) == ["its test_input_size 384 is taken, not its input_size 300"]
    assert evaluation_notes({**cfg, "cfg.test_input_size": [3, 300, 300], "cfg.test_crop_pct": 0.95}) == [
        "its test_crop_pct 0.95 is taken, not its crop_pct 1.0"
    ]
    assert evaluation_notes({"cfg.input_size": 300, "cfg.crop_mode": "squash", "cfg.test_crop_pct": 0.9}) == []
    [note] = evaluation_notes({"cfg.crop_mode": "border"})
    assert note.startswith("its cfg.crop_mode is 'border', which engines do not have: the model's own")


def test_anchors_are_read_from_effdets_configuration():
    np.testing.assert_allclose(said_anchors(EFFDET, "d0"), anchor_shapes(4.0))
    values = {"config.aspect_ratios": [1.0, 2.0], "config.num_scales": 2}
    np.testing.assert_allclose(
        said_anchors(values, "d7"), anchor_shapes(5.0, [(1, 1), (2**0.5, 0.5**0.5)], [1, 2**0.5])
    )
    assert said_anchors({"arch": "tf_efficientdet_d0"}, "d0") is None
    # What the file does not say is the model's own: effdet's V2 detectors have the ratios 1, 2 and 1/2 exactly.
    exact = [(1, 1), (2**0.5, 0.5**0.5), (0.5**0.5, 2**0.5)]
    np.testing.assert_allclose(said_anchors({"anchor_scale": 3.0}, "efficientdetv2_ds"), anchor_shapes(3.0, exact))


def test_preprocessing_is_timms_options_over_the_models():
    usual = preprocessing("b0", "")
    assert said_preprocessing({"args.interpolation": "", "epoch": 1}, "b0", usual) == usual
    values = {"args.mean": [0.4], "args.std": [0.3], "args.interpolation": "bilinear", "args.crop_pct": 1.0}
    look = said_preprocessing(values, "b0", usual)
    assert (look.mean, look.std, look.interpolation, look.crop) == ((0.4,) * 3, (0.3,) * 3, "bilinear", 1.0)
    assert said_preprocessing({"args.interpolation": "random"}, "b0", usual) == usual
    assert said_preprocessing({"arch": "tf_efficientnet_b0_ap"}, "b0", usual).mean == (0.5, 0.5, 0.5)


def test_a_mean_of_0_to_255_and_a_fill_colour_are_read():
    usual = preprocessing("d0", "")
    look = said_preprocessing({"mean": [127.5, 127.5, 127.5], "std": [51.0, 51.0, 51.0]}, "d0", usual)
    assert look.mean == (0.5, 0.5, 0.5) and look.std == (0.2, 0.2, 0.2) and look.fill == (128, 128, 128)
    assert said_preprocessing({"args.fill_color": 0}, "d0", usual).fill == (0, 0, 0)
    assert said_preprocessing({"args.fill_color": "mean"}, "d0", usual) == usual
