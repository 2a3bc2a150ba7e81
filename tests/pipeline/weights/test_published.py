"""The rows of published checkpoints, held against timm's and effdet's conventions and a few of their figures."""

import math

import pytest

from effedge.pipeline.models.tables import (
    EFFICIENTNETS,
    TENSORFLOW_EFFICIENTDETS,
    TENSORFLOW_EFFICIENTNETS,
    is_detector,
)
from effedge.pipeline.weights.published import CROP_PADDING, HALF, PUBLISHED, preprocessing, published_kinds

MODELS = (*TENSORFLOW_EFFICIENTNETS, *TENSORFLOW_EFFICIENTDETS)


def test_every_model_has_published_weights():
    assert [model for model in MODELS if not published_kinds(model)] == []


def test_every_file_name_carries_its_own_hash():
    prefixes = [row.sha256_prefix for row in PUBLISHED.values()]
    assert len(set(prefixes)) == len(prefixes) == 67
    assert PUBLISHED["d0", "coco"].sha256_prefix == "f153e0cf"  # tf_efficientdet_d0_34-f153e0cf.pth


def test_a_row_of_a_model_names_that_model_in_its_file():
    for (model, _), row in PUBLISHED.items():
        stem = model.replace("det-", "").replace("-", "_")  # timm's tf_efficientnetv2_s is v2-s here
        assert f"{stem}_" in row.url.rsplit("/", 1)[1].replace("-", "_"), row


def test_detectors_have_coco_and_classifiers_imagenet():
    for model in MODELS:
        family = "coco" if is_detector(model) else "imagenet"
        assert all(kind.startswith(family) for kind in published_kinds(model))
    assert published_kinds("l2") == ["imagenet-ns"]
    assert published_kinds("d0") == ["coco", "coco-ap"]
    assert published_kinds("d6") == ["coco"]
    assert published_kinds("v2-xl") == ["imagenet21k", "imagenet21k-ft1k"]  # too large for ImageNet alone
    assert published_kinds("v2-b3") == ["imagenet"]


# timm 1.0.31's crop_pct; its sizes for lite3 and lite4 are 300 and 380 where effedge's are the authors' 280 and 300.
@pytest.mark.parametrize(
    ("model", "crop"),
    [
        ("b0", 0.875), ("b1", 0.882), ("b2", 0.890), ("b3", 0.904), ("b4", 0.922), ("b5", 0.934), ("b6", 0.942),
        ("b7", 0.949), ("b8", 0.954), ("l2", 0.96), ("lite0", 0.875), ("lite1", 0.882), ("lite2", 0.890),
        ("v2-b0", 0.875), ("v2-b1", 0.882), ("v2-b2", 0.890), ("v2-b3", 0.904),
    ],
)  # fmt: skip
def test_the_crop_is_timms_and_gives_the_authors_size(model, crop):
    actual = preprocessing(model, "imagenet").crop
    assert actual is not None and abs(actual - crop) <= 0.0011
    size = EFFICIENTNETS[model].size
    assert math.floor(size / actual) == size + CROP_PADDING


def test_timms_own_models_are_cropped_as_in_their_training():
    # timm 1.0.31's crop_pct
    crops = {"b0": 0.875, "b1": 0.9, "b3": 0.875, "b7": 0.949, "lite3": 0.904}
    assert {name: preprocessing(f"efficientnet_{name}", "").crop for name in crops} == crops
    assert preprocessing("efficientnet_lite3", "").interpolation == "bicubic"


def test_advprop_and_lite_scale_pixels_to_minus_one_to_one():
    for model, kind in [("b3", "imagenet-ap"), ("d2", "coco-ap"), ("lite1", "imagenet"), ("det-lite2", "coco")]:
        assert preprocessing(model, kind)[:2] == (HALF, HALF)
    assert preprocessing("b3", "imagenet-ns").mean == (0.485, 0.456, 0.406)
    assert preprocessing("d2", "").std == (0.229, 0.224, 0.225)


def test_v2_b3_of_imagenet_alone_is_normalized_as_b0_and_that_of_imagenet21k_is_not():
    # timm 1.0.31: tf_efficientnetv2_b3.in1k, and tf_efficientnetv2_b3.in21k_ft_in1k
    assert preprocessing("v2-b3", "imagenet")[:3] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    assert preprocessing("v2-b3", "")[:2] == (HALF, HALF) and preprocessing("v2-b3", "").crop == 0.9
    assert preprocessing("v2-s", "imagenet21k") == preprocessing("v2-s", "imagenet")


def test_a_letterbox_is_filled_as_effdet_fills_it():
    assert preprocessing("d0", "coco").fill == (124, 116, 104)
    assert preprocessing("d0", "coco-ap").fill == (0, 0, 0)
    assert preprocessing("det-lite0", "coco").fill == (128, 128, 128)
