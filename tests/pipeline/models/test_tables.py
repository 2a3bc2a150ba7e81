"""The model tables: the sizes that the papers print, and the names and sizes that are refused."""

import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.tables import (
    EFFICIENTDETS,
    EFFICIENTNETS,
    LISTED_EFFICIENTDETS,
    MODELS,
    NECKS,
    PYTORCH_EFFICIENTDETS,
    PYTORCH_EFFICIENTNETS,
    Size,
    input_size,
    normalization,
    parse_size,
)

# The side of the input, as the papers, EfficientNet-Lite's release notes and V2's code (eval_size) print it.
SIZES = {
    "b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600, "l2": 800,
    "lite0": 224, "lite1": 240, "lite2": 260, "lite3": 280, "lite4": 300,
    "v2-s": 384, "v2-m": 480, "v2-l": 480, "v2-xl": 512, "v2-b0": 224, "v2-b1": 240, "v2-b2": 260, "v2-b3": 300,
    "d0": 512, "d1": 640, "d2": 768, "d3": 896, "d4": 1024, "d5": 1280, "d6": 1280, "d7": 1536, "d7x": 1536,
    "det-lite0": 320, "det-lite1": 384, "det-lite2": 448, "det-lite3": 512, "det-lite4": 640,
    "det-v2-b0": 512, "det-v2-s": 1024,  # D0's, and that of effdet's efficientdetv2_ds
}  # fmt: skip


def test_all_37_published_models_are_there_and_two_on_v2():
    classifiers = [*(f"b{index}" for index in range(9)), "l2", *(f"lite{index}" for index in range(5))]
    classifiers += [f"v2-{size}" for size in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")]
    detectors = [*(f"d{index}" for index in range(8)), "d7x", *(f"det-lite{index}" for index in range(5))]
    detectors += ["det-v2-b0", "det-v2-s"]
    own = [name for name in MODELS if name not in (*PYTORCH_EFFICIENTNETS, *PYTORCH_EFFICIENTDETS)]
    assert sorted(own) == sorted(classifiers + detectors)


def test_timms_and_effdets_own_models_have_their_names_and_the_input_of_their_configurations():
    # timm 1.0.31's pretrained_cfg and effdet 0.4.1's image_size.
    timm = {"b0": 224, "b1": 240, "b2": 256, "b3": 288, "b4": 320, "b5": 448, "b6": 528, "b7": 600}
    timm |= {"lite0": 224, "lite1": 240, "lite2": 260, "lite3": 300, "lite4": 380}
    effdet = {"d0": 512, "d1": 640, "d2": 768, "d3": 896, "d4": 1024, "d5": 1280, "lite0": 384}
    # Of V2 timm's test_input_size is the row's size, as of the authors' V2, and its input_size that of the training.
    second = {"efficientnetv2_rw_t": 288, "efficientnetv2_rw_s": 384}
    second_detectors = {"efficientdetv2_dt": 768, "efficientdetv2_ds": 1024}
    assert {name: row.size for name, row in PYTORCH_EFFICIENTNETS.items()} == {
        f"efficientnet_{name}": size for name, size in timm.items()
    } | second
    assert [EFFICIENTNETS[name].train_size for name in second] == [224, 288]
    assert {name: row.size for name, row in PYTORCH_EFFICIENTDETS.items()} == {
        f"efficientdet_{name}": size for name, size in effdet.items()
    } | second_detectors
    assert {row.epsilon for row in PYTORCH_EFFICIENTNETS.values()} == {1e-5}
    assert all(EFFICIENTNETS[row.backbone].symmetric for row in PYTORCH_EFFICIENTDETS.values())


@pytest.mark.parametrize("name", SIZES)
def test_the_input_size_is_that_of_the_papers(name):
    assert input_size(name) == Size(SIZES[name], SIZES[name])


@pytest.mark.parametrize("name", MODELS)
def test_the_published_size_suits_its_model(name):
    side = (EFFICIENTNETS | EFFICIENTDETS)[name].size
    assert input_size(name, Size(side, side)) == (side, side)


@pytest.mark.parametrize(("name", "size"), [("d0", 500), ("d0", 96), ("d0", 0), ("b0", 225), ("b0", 0), ("b0", -32)])
def test_a_size_that_does_not_suit_is_refused_with_those_that_do(name, size):
    with pytest.raises(UserError, match=f"size {size} does not suit {name}: expected a multiple of 32, "):
        input_size(name, Size(size, size))


def test_a_wide_input_has_a_multiple_of_32_on_either_side():
    assert input_size("d0", Size(384, 640)) == (384, 640)
    for height, width in ((384, 600), (96, 640)):
        with pytest.raises(UserError, match=f"size {height}x{width} does not suit d0: expected multiples of 32, 128 "):
            input_size("d0", Size(height, width))


@pytest.mark.parametrize("text", ["", "x", "512x", "x512", "512x512x3", "-512", "51.2", "512,640", "1" * 30, "\u0665"])
def test_what_is_no_size_is_one_line(text):
    with pytest.raises(UserError, match="HEIGHTxWIDTH such as 384x640"):
        parse_size(text)


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown model 'B0': did you mean 'b0'"):
        input_size("B0")


def test_only_d7x_has_a_level_more():
    assert EFFICIENTDETS["d7x"].levels == EFFICIENTDETS["d7x-fpn"].levels == 6
    assert {row.levels for name, row in EFFICIENTDETS.items() if not name.startswith("d7x")} == {5}


def test_every_detector_has_each_other_neck_and_nothing_else_changed():
    assert len(EFFICIENTDETS) == len(LISTED_EFFICIENTDETS) * len(NECKS)
    for name, row in LISTED_EFFICIENTDETS.items():
        variants = {neck: EFFICIENTDETS[f"{name}-{neck}"] for neck in NECKS if neck != row.neck}
        assert len(variants) == len(NECKS) - 1 and f"{name}-{row.neck}" not in EFFICIENTDETS
        for neck, variant in variants.items():
            assert variant == row._replace(name=f"{name}-{neck}", neck=neck)
            assert normalization(variant.name) == normalization(name) and input_size(variant.name) == input_size(name)


def test_the_published_necks_are_bifpns_weighted_but_for_d6_and_larger_and_lite():
    # google/automl's and effdet's configurations
    summed = {"d6", "d7", "d7x", *(f"det-lite{index}" for index in range(5))}
    assert {name for name, row in LISTED_EFFICIENTDETS.items() if row.neck == "bifpn-sum"} == summed
    assert {row.neck for row in LISTED_EFFICIENTDETS.values()} == {"bifpn-sum", "bifpn-fast"}


def test_each_family_is_normalized_as_it_was_trained():
    # timm's and effdet's own: ImageNet's, Lite too; but efficientnet_b1's weights are of pixels in -1..1 now
    assert normalization("efficientnet_lite0") == normalization("efficientdet_d1") == normalization("b3")
    assert normalization("efficientnet_b1") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    # ImageNet's mean and standard deviation (torchvision prints them); Lite: (pixel - 127) / 128, about a half
    assert normalization("b3") == normalization("d3") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalization("lite2") == normalization("det-lite2") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    # google/automl, efficientnetv2: V2-B0 to B3 are trained as V1's B's, the others on (pixel - 128) / 128
    assert normalization("v2-b0") == normalization("b3") and normalization("v2-m") == normalization("lite2")
    # a detector as its backbone, whose weights it starts from; effdet's efficientdetv2_* say no mean: ImageNet's
    assert normalization("det-v2-b0") == normalization("v2-b0") and normalization("det-v2-s") == normalization("v2-s")
    assert normalization("efficientdetv2_ds") == normalization("efficientnetv2_rw_s") == normalization("b3")


def test_v2s_largest_training_images_are_smaller_than_its_input():
    # google/automl, effnetv2_configs.py: train_size
    sizes = {"v2-s": 300, "v2-m": 384, "v2-l": 384, "v2-xl": 384}
    sizes |= {"v2-b0": 192, "v2-b1": 192, "v2-b2": 208, "v2-b3": 240}
    assert {name: EFFICIENTNETS[name].train_size for name in EFFICIENTNETS if name.startswith("v2-")} == sizes


def test_only_effdets_v2_detectors_resize_bilinearly_and_have_exact_aspects():
    # effdet 0.4.1: downsample_type and upsample_type "bilinear", aspect_ratios [1.0, 2.0, 0.5]
    names = {name for name, row in LISTED_EFFICIENTDETS.items() if row.bilinear}
    assert names == {"efficientdetv2_dt", "efficientdetv2_ds"}
    for name, row in LISTED_EFFICIENTDETS.items():
        ratios = [width / height for width, height in row.aspects]
        assert ratios == pytest.approx([1, 2, 1 / 2], rel=1e-12 if name in names else 1e-6)
        assert all(width * height == pytest.approx(1 if name in names else (1, 0.98, 0.98)[index])
                   for index, (width, height) in enumerate(row.aspects))  # fmt: skip
