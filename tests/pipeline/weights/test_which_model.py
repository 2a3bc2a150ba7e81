"""Files that are of another model than was asked for, or may be of several."""

import argparse
import logging
import re

import pytest
import torch

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.anchors import make_anchors
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import MODELS
from effedge.pipeline.weights.load import load_weights
from effedge.pipeline.weights.save import save_weights
from effedge.pipeline.weights.which_model import arch_of, recognize
from tests.pipeline.synthetic_weights import fill

SMALL = [
    "b0", "b1", "b2", "efficientnet_b4", "v2-b0", "v2-b3", "v2-s", "lite0", "lite2", "d0", "d1", "det-lite0",
    "efficientdet_lite0", "efficientnetv2_rw_t", "efficientnetv2_rw_s", "det-v2-b0", "efficientdetv2_dt",
]  # fmt: skip


@pytest.fixture(scope="module")
def states():
    """The state dict of a model by its name, made once."""
    made = {}

    def state(name, classes=3):
        if name not in made:
            made[name] = fill(create_model(name, classes).state_dict())
        return made[name]

    return state


@pytest.fixture
def load(tmp_path, caplog):
    """Saves what a trainer would, loads it as a model, and returns (weights, messages), or the error."""

    def run(content, name, **options):
        torch.save(content, tmp_path / "mine.pth")
        caplog.clear()
        with caplog.at_level(logging.INFO, "effedge"):
            try:
                loaded = load_weights(name, str(tmp_path / "mine.pth"), **options)
            except UserError as error:
                assert "\n" not in str(error)
                return str(error)
        return loaded, [record.getMessage() for record in caplog.records]

    return run


@pytest.mark.parametrize("name", SMALL)
def test_the_models_of_a_size_are_recognized_under_any_prefix(name):
    with torch.device("meta"):
        state = create_model(name, 5).state_dict()
    found = recognize({f"net.model.{key}": value for key, value in state.items()})
    assert name in found
    stem = name.removeprefix("efficientnet_").removeprefix("efficientdet_")
    assert {other.removeprefix("efficientnet_").removeprefix("efficientdet_") for other in found} == {stem}


@pytest.mark.parametrize("name", ["d0-panet", "d0-fpn", "d0-bifpn-sum", "det-lite0-panet-fast"])
def test_another_neck_is_recognized_where_no_published_model_has_it(name):
    with torch.device("meta"):
        state = create_model(name, 5).state_dict()
    assert recognize(state) == [name, f"efficientdet_{name.removeprefix('det-')}"]


def test_a_detector_of_another_neck_is_named_whatever_model_was_asked_for(states, load):
    message = load(states("det-lite0-panet"), "det-lite0")
    assert "its sizes are those of det-lite0-panet and efficientdet_lite0-panet: give MODEL=det-lite0-panet" in message
    assert "give MODEL=det-lite0" in load(states("det-lite0"), "det-lite0-fpn")


def test_effdets_own_detector_with_another_neck_needs_no_name_of_its_own(states, load):
    """effdet's trainer says `arch` and has the neck as `fpn_name` of its configuration."""
    said = {"arch": "efficientdet_lite0", "config": {"fpn_name": "pan_fa"}}
    content = said | {"state_dict": states("efficientdet_lite0-panet-fast")}
    loaded, lines = load(content, "efficientdet_lite0-panet-fast")
    assert loaded.classes == 3 and not any("it fits" in line for line in lines)
    assert load(content, "det-lite0-panet-fast").endswith("give MODEL=efficientdet_lite0-panet-fast")


def test_softmax_fusion_is_not_taken_for_fast_normalized_fusion(states, load, tmp_path):
    content = {"state_dict": states("d0"), "config": {"fpn_name": "bifpn_attn"}}
    assert load(content, "d0").endswith("give MODEL=d0-bifpn-softmax")
    assert load(content, "d0-bifpn-softmax")[0].classes == 3
    # A file that says nothing is taken as asked, without a doubt about softmax, which no published weights have.
    assert not any("it fits" in line for line in load(states("d0"), "d0")[1])
    # effedge's own file says which neck it has.
    own = tmp_path / "own.safetensors"
    save_weights(states("d0"), own, {"model": "d0-bifpn-softmax", "labels": '["a", "b", "c"]', "size": "128"})
    assert load_weights("d0-bifpn-softmax", str(own)).size == (128, 128)
    with pytest.raises(UserError, match="is of d0-bifpn-softmax, and MODEL is d0: give MODEL=d0-bifpn-softmax"):
        load_weights("d0", str(own))


def test_every_name_of_timm_and_effdet_leads_back_to_its_model():
    from effedge.pipeline.models.names import model_of_arch

    assert [model_of_arch(arch_of(name)) for name in MODELS] == list(MODELS)


def test_a_deeper_network_of_the_same_width_is_not_cut_to_the_model(states, load):
    """All of B0's tensors are in B1's, with the same shapes."""
    message = load(states("b1"), "b0")
    assert "does not fit b0: 360 of 360 tensors match, and there are 128 more" in message
    assert "give MODEL=b1" in message


def test_a_classifier_asked_for_as_a_detector_is_named(states, load):
    assert "none of its 360 tensors has a name of d0's" in load(states("b0"), "d0")
    assert "its sizes are those of b0 and efficientnet_b0: give MODEL=b0" in load(states("b0"), "d0")


def test_a_network_that_is_none_of_ours_is_called_as_its_file_calls_it(load):
    message = load({"arch": "resnet50", "state_dict": {"layer1.0.conv1.weight": torch.ones(2)}}, "b0")
    assert "the file calls its network 'resnet50'" in message and "check MODEL" in message


def test_bare_tensors_that_fit_two_families_are_taken_as_asked_and_said(states, load):
    for name, other, marks in (
        ("b0", "efficientnet_b0", "symmetric padding and BatchNorm epsilon 1e-05"),
        ("efficientnet_b0", "b0", "TensorFlow's SAME padding and BatchNorm epsilon 0.001"),
    ):
        _, lines = load(states("b0"), name)
        assert any(
            f"it fits {name} and {other}, and was taken as {name} by MODEL; {other} has {marks}" in x for x in lines
        )


def test_a_file_that_names_its_model_leaves_no_doubt(states, load):
    content = {"state_dict": states("b0"), "args": argparse.Namespace(model="efficientnet_b0")}
    _, lines = load(content, "efficientnet_b0")
    assert not any("it fits" in line for line in lines)
    assert load(content, "b0").endswith("give MODEL=efficientnet_b0")


def test_effdets_own_detector_has_no_biases_and_is_not_taken_for_tensorflows(states, load):
    message = load(states("efficientdet_d0"), "d0")
    assert "has no biases in front of BatchNorm, as efficientdet_d0, unlike d0: give MODEL=efficientdet_d0" in message
    message = load(states("d0"), "efficientdet_d0")
    assert "has biases in front of BatchNorm, as d0, unlike efficientdet_d0: give MODEL=d0" in message


def test_the_name_in_the_file_decides_over_the_biases(states, load):
    """effdet's trainer makes tf_efficientdet_d0 without them, by redundant_bias=False."""
    loaded, _ = load({"arch": "tf_efficientdet_d0", "state_dict": states("efficientdet_d0")}, "d0")
    assert not loaded.state["fpn.cell.0.fnode.0.after_combine.conv.conv_pw.bias"].any()
    loaded, _ = load({"arch": "efficientdet_d0", "state_dict": states("d0")}, "efficientdet_d0")
    key = "fpn.resample.3.conv."
    moved = states("d0")[f"{key}bn.running_mean"] - states("d0")[f"{key}conv.bias"]
    torch.testing.assert_close(loaded.state[f"{key}bn.running_mean"], moved)


def test_a_detector_of_one_family_only_leaves_no_doubt(states, load):
    assert not any("it fits" in line for line in load(states("d0"), "d0")[1])


def test_keys_of_lukemelas_are_of_tensorflows_family(load):
    from tests.pipeline.weights.test_key_dialects import other_state

    theirs = fill(other_state("b0"))
    message = load(theirs, "efficientnet_b0")
    assert "has the keys of lukemelas's project" in message and message.endswith("give MODEL=b0")
    assert not any("it fits" in line for line in load(theirs, "b0")[1])


def test_d6_and_d7_are_told_apart_by_their_anchors(load):
    """With meta tensors: of these models only the shapes matter, and 400 MB are saved."""
    from pathlib import Path

    from effedge.pipeline.weights.fit import fit
    from effedge.pipeline.weights.which_model import check_twins

    with torch.device("meta"):
        state = create_model("d6", 2).state_dict()
    fitted = fit("d6", state, Path("mine.pth"), None)
    [doubt] = check_twins("d6", fitted, Path("mine.pth"), anchors_known=False)
    assert "it fits d6 and d7" in doubt and "d7 has an input of 1536, anchor scale 5" in doubt
    assert check_twins("d6", fitted, Path("mine.pth"), anchors_known=True) == []


def bench(state, size, scale=4.0, prefix="model."):
    """What effdet's DetBenchTrain saves."""
    boxes = torch.from_numpy(make_anchors(size, 5, scale)[:, [1, 0, 3, 2]].copy())
    return {prefix + key: value for key, value in state.items()} | {"anchors.boxes": boxes}


def test_input_and_anchors_of_effdets_bench_are_taken_and_said(states, load):
    loaded, lines = load({"model_state_dict": bench(states("d0"), (640, 640), 3.0)}, "d0")
    assert loaded.size == (640, 640) and loaded.anchors[0] == pytest.approx([3.0, 3.0])
    [line] = lines
    assert "its input is 640, d0's own 512; its anchors are base=3 scales=1,1.26,1.587" in line
    loaded, lines = load(bench(states("d0"), (512, 512)), "d0")
    assert loaded.size == (512, 512) and lines == []


def test_effdets_v2_detector_comes_with_its_order_of_norms_its_resizes_and_its_aspects(states, load):
    """effdet 0.4.1's efficientdetv2_dt: `head_bn_level_first`, `bilinear`, and aspect ratios as numbers."""
    state, root = states("efficientdetv2_dt"), 2**0.5
    theirs = {re.sub(r"bn_rep\.(\d)\.(\d)\.bn", r"bn_rep.\2.\1", key): value for key, value in state.items()}
    assert "box_net.bn_rep.4.2.running_var" in theirs
    boxes = torch.from_numpy(make_anchors((768, 768), 5, 4.0, [(1, 1), (root, 1 / root), (1 / root, root)]))
    config = {
        "name": "efficientdetv2_dt", "backbone_name": "efficientnetv2_rw_t", "aspect_ratios": [1.0, 2.0, 0.5],
        "num_scales": 3, "anchor_scale": 4.0, "pad_type": "", "downsample_type": "bilinear",
        "upsample_type": "bilinear", "image_size": [768, 768],
    }  # fmt: skip
    content = {"arch": "efficientdetv2_dt", "config": config, "state_dict": theirs}
    for extra in ({}, {"anchors.boxes": boxes[:, [1, 0, 3, 2]]}):
        loaded, lines = load(content | {"state_dict": theirs | extra}, "efficientdetv2_dt")
        assert lines == [] and loaded.size == (768, 768)
        assert loaded.state.keys() == state.keys()
        assert all(torch.equal(loaded.state[key], value) for key, value in state.items())
    assert load(content, "det-v2-b0").endswith("give MODEL=efficientdetv2_dt")
    content["config"] = config | {"upsample_type": "nearest"}
    message = load(content, "efficientdetv2_dt")
    assert "says config.upsample_type = 'nearest', and efficientdetv2_dt stands for 'bilinear'" in message
    loaded, lines = load(theirs, "efficientdetv2_dt", anchors="base=3")  # bare tensors are of no other model
    assert not any("it fits" in line for line in lines)
    assert loaded.anchors[1] == pytest.approx([3 * root, 3 / root])


def test_what_the_file_does_not_say_is_said(states, load):
    loaded, [line] = load(states("d0"), "d0")
    assert loaded.size is None and loaded.anchors is None
    assert "does not say the size of its input (512 unless SIZE says otherwise), its anchors (d0's own" in line


def test_anchor_boxes_of_another_pyramid_are_refused(states, load):
    content = states("d0") | {"anchors.boxes": torch.rand(49104, 4)}
    assert "'anchors.boxes' [49104, 4] is no grid of 9 anchors a cell" in load(content, "d0")


def test_another_number_of_anchors_needs_them_from_the_user(load):
    state = fill(create_model("d0", 2, anchors=12).state_dict())
    assert "has 12 anchors in a cell, d0's own are 9: give its anchors with ANCHORS" in load(state, "d0")
    loaded, _ = load(state, "d0", anchors="scales=1,1.26,1.59 ratios=1x1,1.4x0.7,0.7x1.4,3x0.3")
    assert loaded.anchors.shape == (12, 2) and loaded.classes == 2
    assert "makes 9: give its anchors" in load(state, "d0", anchors="base=3")


def test_the_users_anchors_come_before_the_files(states, load):
    loaded, [line] = load(bench(states("d0"), (512, 512), 3.0), "d0", anchors="base=5")
    assert loaded.anchors[0] == pytest.approx([5, 5])
    assert "its anchors are base=3" in line and "those of ANCHORS take their place" in line
    message = load(states("b0"), "b0", anchors="base=5")
    assert "are of detectors" in message


def test_averaged_weights_are_taken_and_said(states, load):
    last = {key: -value for key, value in states("b0").items()}
    loaded, lines = load({"state_dict": last, "state_dict_ema": states("b0")}, "b0")
    assert torch.equal(loaded.state["classifier.weight"], states("b0")["classifier.weight"])
    assert any("took the averaged weights 'state_dict_ema.', not 'state_dict.'" in line for line in lines)
    _, lines = load({"state_dict": states("b0"), "state_dict_ema": states("b0")}, "b0")
    assert not any("took" in line for line in lines)  # they are the same
