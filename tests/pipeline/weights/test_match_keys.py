"""A model's tensors are found under any prefix, and the best of several sets is taken."""

import pytest
import torch

from effedge.pipeline.models.create import create_model
from effedge.pipeline.weights.match_keys import find_matches


def meta_state(name):
    with torch.device("meta"):
        return create_model(name, 7).state_dict()


@pytest.fixture(scope="module")
def b0():
    return meta_state("b0")


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "net.", "model.encoder.", "state_dict.model.model.", "a.b.c.d.e.f.", "blocks."])
def test_the_prefix_may_be_any(prefix, b0):
    [match] = find_matches(under(prefix, b0) | {"loss.weight": torch.ones(3), "epoch": torch.ones(1)}, b0)
    assert match.prefix == prefix and match.state.keys() == b0.keys() and match.surplus == []


def test_the_set_with_most_tensors_is_taken_whatever_its_place_and_name(b0):
    half = dict(list(b0.items())[:100])
    found = find_matches(under("state_dict.", half) | under("ema.", half) | under("zzz.", b0), b0)
    assert [match.prefix for match in found] == ["zzz."]


def test_a_network_of_another_width_is_not_taken_for_the_model(b0):
    tensors = under("teacher.", meta_state("b3")) | under("zstudent.", b0)
    assert [match.prefix for match in find_matches(tensors, b0)] == ["zstudent."]


def test_a_deeper_network_of_the_same_width_comes_after_the_model_and_has_a_surplus(b0):
    first, second = find_matches(under("a.", meta_state("b1")) | under("b.", b0), b0)
    assert (first.prefix, first.surplus) == ("b.", [])
    assert second.prefix == "a." and "blocks.0.1.conv_dw.weight" in second.surplus


@pytest.mark.parametrize(
    "name", ["state_dict_ema", "model_ema", "ema", "ema_model", "net.ema_model", "swa", "averaged"]
)
def test_averaged_weights_are_taken_before_the_last(name, b0):
    first, second = find_matches(under("state_dict.", b0) | under(f"{name}.", b0), b0)
    assert first.prefix == f"{name}." and first.averaged
    assert second.prefix == "state_dict." and not second.averaged


@pytest.mark.parametrize("name", ["schema", "remaining", "swarm", "emanuel"])
def test_a_name_that_only_contains_ema_is_not_averaged(name, b0):
    assert not find_matches(under(f"{name}.", b0), b0)[0].averaged


def test_a_trainers_usual_name_comes_before_others(b0):
    tensors = under("best.", b0) | under("state_dict.model.", b0)
    assert find_matches(tensors, b0)[0].prefix == "state_dict.model."


def test_a_profilers_tensors_and_a_backbones_head_are_no_surplus():
    d0 = meta_state("d0")
    more = ["class_net.predict.total_ops", "backbone.conv_head.weight", "backbone.bn2.bias", "anchors.boxes", "epoch"]
    [match] = find_matches(d0 | {key: torch.ones(1) for key in more}, d0)
    assert match.surplus == []
    [match] = find_matches(d0 | {"fpn.cell.3.fnode.0.combine.edge_weights": torch.ones(2)}, d0)
    assert match.surplus == ["fpn.cell.3.fnode.0.combine.edge_weights"]


def test_tensors_of_another_kind_are_no_match(b0):
    assert find_matches({"layer1.0.conv1.weight": torch.ones(3)}, b0) == []


def test_effdets_other_order_of_the_heads_batch_norms_is_the_same_model():
    d0 = meta_state("d0")
    theirs = {}
    for key, value in d0.items():
        head, _, rest = key.partition(".bn_rep.")
        layer, level, *leaf = rest.split(".") if rest else ("", "")
        theirs[f"{head}.bn_rep.{level}.{layer}.{leaf[-1]}" if rest else key] = value
    assert "class_net.bn_rep.4.2.running_mean" in theirs
    [match] = find_matches(theirs, d0)
    assert match.state.keys() == d0.keys() and match.surplus == []
