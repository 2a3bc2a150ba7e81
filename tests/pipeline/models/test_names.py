"""The names of models: those of other projects, a neck as a suffix, and the models that tensors cannot tell apart."""

import pytest

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.names import (
    check_model,
    model_of_arch,
    models_with_equal_tensors,
    with_neck,
    without_neck,
)
from effedge.pipeline.models.tables import EFFICIENTDETS, NECKS, PYTORCH_EFFICIENTNETS


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("tf_efficientnet_b0", "b0"),
        ("tf_efficientnet_b3.ns_jft_in1k", "b3"),
        ("timm/tf_efficientnet_lite2.in1k", "lite2"),
        ("tf_efficientdet_lite3", "det-lite3"),
        ("tf_efficientdet_d2_ap", "d2"),
        ("tf_efficientdet_d7x", "d7x"),
        ("efficientnet_b2a", "efficientnet_b2"),
        ("hf-hub:timm/efficientnet_b4.ra2_in1k", "efficientnet_b4"),
        ("efficientdet_d1", "efficientdet_d1"),
        ("efficientnet-b5", "b5"),  # lukemelas's
        ("tf_efficientnetv2_s.in21k_ft_in1k", "v2-s"),
        ("tf_efficientnetv2_m_in21ft1k", "v2-m"),
        ("timm/tf_efficientnetv2_xl.in21k", "v2-xl"),
        ("tf_efficientnetv2_b3", "v2-b3"),
        ("efficientnetv2_rw_s.ra2_in1k", "efficientnetv2_rw_s"),
        ("timm/efficientnetv2_rw_t.ra2_in1k", "efficientnetv2_rw_t"),
        ("efficientdetv2_dt", "efficientdetv2_dt"),
        ("tf_efficientdetv2_b0", "det-v2-b0"),
        *(
            (other, None)
            for other in (
                "efficientnet_es",
                "efficientnet_b0_gn",
                "efficientdet_q0",
                "b0",
                "resnet50",
                "",
                "efficientnetv2_s",
                "gc_efficientnetv2_rw_t.agc_in1k",
                "efficientnetv2_rw_m.agc_in1k",
                "efficientdet_ds",
                "tf_efficientdetv2_dt",
                "tf_efficientnet_s",
            )
        ),
    ],
)
def test_the_names_of_other_projects_are_read(arch, name):
    assert model_of_arch(arch) == name


def test_another_projects_name_is_refused_with_the_name_here():
    with pytest.raises(UserError, match="unknown model 'tf_efficientdet_lite1': it is called det-lite1 here"):
        check_model("tf_efficientdet_lite1")
    with pytest.raises(UserError, match="did you mean"):
        check_model("efficientdet_d9")
    assert check_model("efficientnet_b1") == "efficientnet_b1"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("yolox.onnx", r"'yolox.onnx' is a file, .* as --onnx yolox.onnx \(make: ONNX=yolox.onnx\)"),
        ("a folder/NET.ONNX", "is a file, .* as --onnx a folder/NET.ONNX"),
        ("best.pt", r"such as d0, and give the file as --weights best.pt \(make: WEIGHTS=best.pt\)"),
        ("runs/model_best.pth.tar", "'runs/model_best.pth.tar' is a file"),
        (__file__, "is a file, where the name of a model is expected"),
        ("resnet50.a1_in1k", "unknown model 'resnet50.a1_in1k': did you mean"),  # timm's name, and no file
    ],
)
def test_a_file_in_place_of_a_name_is_told_where_it_goes(word, message):
    with pytest.raises(UserError, match=message):
        check_model(word)


def test_a_neck_is_a_suffix_of_a_detectors_name():
    assert check_model("det-lite0-bifpn-fast") == "det-lite0-bifpn-fast"
    with pytest.raises(UserError, match="unknown neck of d0 'pan': did you mean 'panet'. expected one of fpn"):
        check_model("d0-pan")
    with pytest.raises(UserError, match="unknown model 'd0-bifpn-fast': it is called d0 here"):
        check_model("d0-bifpn-fast")
    with pytest.raises(UserError, match="did you mean 'b0'"):  # a classifier has none
        check_model("b0-panet")


@pytest.mark.parametrize("name", ["d0", "d6", "det-lite2", "efficientdet_lite0"])
def test_a_name_is_put_together_from_model_and_neck_and_taken_apart(name):
    variants = {with_neck(name, neck) for neck in NECKS}
    assert name in variants and len(variants) == len(NECKS) and variants <= set(EFFICIENTDETS)
    assert {without_neck(variant) for variant in variants} == {name}
    assert without_neck("b0") == "b0"


def test_models_of_equal_tensors_are_the_same_network_of_another_family_or_input():
    for name in PYTORCH_EFFICIENTNETS:
        equal = [] if name.startswith("efficientnetv2") else [name.removeprefix("efficientnet_")]
        assert models_with_equal_tensors(name) == equal
    assert models_with_equal_tensors("efficientdetv2_ds") == ["efficientdetv2_ds-bifpn-softmax"]
    assert models_with_equal_tensors("d7") == ["d6"] and models_with_equal_tensors("d7x") == []
    assert "det-lite0" not in models_with_equal_tensors("efficientdet_lite0")  # it fuses by a plain sum


def test_models_of_equal_tensors_have_one_neck_but_for_how_the_weights_are_normalized():
    softmax = ["d4-bifpn-softmax", "efficientdet_d4-bifpn-softmax"]
    assert models_with_equal_tensors("d4") == ["efficientdet_d4", *softmax]
    assert models_with_equal_tensors("d4-panet") == ["efficientdet_d4-panet"]
    assert models_with_equal_tensors("d4-fpn") == ["efficientdet_d4-fpn"]
