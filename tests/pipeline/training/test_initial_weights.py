"""Training that starts from other weights: which of them fit, and frozen statistics."""

import dataclasses
from pathlib import Path

import pytest
import torch

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.training import initial_state
from effedge.pipeline.training.initial_weights import initial_file, initialize
from effedge.pipeline.training.loop import train
from effedge.pipeline.training.step import batch_loss, make_normalize
from effedge.pipeline.weights.save import load_matching, save_weights
from tests.pipeline.small_training import D0, assert_equal, data_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_lite_classifiers_kernels_start_the_efficientnet_of_the_same_shapes(tmp_path):
    given = create_model("lite0", 5)
    save_weights(given.state_dict(), tmp_path / "lite0.safetensors", {})
    model = create_model("b0", 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    line = initialize(model, "b0", str(tmp_path / "lite0.safetensors"))
    state, theirs = model.state_dict(), given.state_dict()
    common = [key for key in state if key in theirs and theirs[key].shape == state[key].shape]
    assert line.endswith(f": {len(common)} of {len(state)} tensors")
    assert "classifier.weight" not in common and not any(".se." in key for key in common)
    for key, value in state.items():
        expected = theirs[key] if key in common else before[key]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)


def test_a_classifiers_weights_start_a_detectors_backbone_and_a_detectors_only_its_own_places(tmp_path):
    classifier = create_model("lite0", 7)
    torch.save(classifier.state_dict(), tmp_path / "lite0.pth")
    detector = create_model("det-lite0", 3)
    taken = load_matching(detector, tmp_path / "lite0.pth")
    backbone = detector.backbone.state_dict()
    assert taken == len(backbone)
    for key, value in backbone.items():
        assert torch.equal(value, classifier.state_dict()[key])
    other = create_model("det-lite0", 4)
    save_weights(detector.state_dict(), tmp_path / "det.safetensors", {})
    assert load_matching(other, tmp_path / "det.safetensors") == len(detector.state_dict()) - 2  # not the class head


def test_lukemelas_keys_start_a_detectors_backbone(tmp_path):
    """A few keys by hand: stem, the first block, and the second stage's first, which names its parts otherwise."""
    detector = create_model("d0", 3)
    own = detector.backbone.state_dict()
    names = {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.2._bn2.running_mean": "blocks.1.1.bn3.running_mean",
    }
    theirs = {name: torch.randn(own[key].shape) for name, key in names.items()}
    torch.save(theirs, tmp_path / "b0.pth")
    assert load_matching(detector, tmp_path / "b0.pth") == len(names)
    for name, key in names.items():
        assert torch.equal(detector.backbone.state_dict()[key], theirs[name])


def test_init_may_be_the_weights_of_another_model_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "effedge.pipeline.training.initial_weights.locate_weights",
        lambda model, weights: Path(f"{model}/{weights}"),
    )
    assert initial_file("d0", "lite0:imagenet") == Path("lite0/imagenet")
    assert initial_file("d0", "coco") == Path("d0/coco")
    # A detector's own weights first, else its backbone's.
    assert initial_file("det-lite0", "imagenet") == Path("lite0/imagenet")
    assert initial_file("det-v2-b0", "imagenet") == Path("v2-b0/imagenet")
    assert initial_file("det-v2-s", "imagenet21k") == Path("v2-s/imagenet21k")
    assert initial_file("b0", "imagenet") == Path("b0/imagenet")
    (tmp_path / "b0:mine.pth").touch()
    assert initial_file("d0", str(tmp_path / "b0:mine.pth")) == Path(f"d0/{tmp_path}/b0:mine.pth")
    with pytest.raises(UserError, match="did you mean 'lite"):
        initial_file("d0", "lite9:imagenet")
    monkeypatch.setattr("effedge.pipeline.training.initial_weights.locate_weights", lambda model, weights: None)
    assert initial_file("d0", "random") is None


def test_frozen_statistics_stay_and_are_what_the_loss_sees(tmp_path, coco):
    """Scales and biases learn; mean and variance are those of --init, in training as in the engine."""
    init = tmp_path / "init.safetensors"
    start = create_model("d0", 3, 128)
    for name, value in start.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    save_weights(start.state_dict(), init, {})
    load_matching(start, init)  # as rounded to 16 bit
    before = {name: value.clone() for name, value in start.state_dict().items()}
    options = dataclasses.replace(D0, init=str(init), freeze_norm=True, drop_connect=0.0, steps=2)
    data = data_of(options, coco, tmp_path / "photographs")
    batch, normalize = data.collate([data.draw(0), data.draw(1)]), make_normalize("d0")
    training = initial_state.start_state(options, 3, tmp_path / "none", {}).model
    losses = [batch_loss(model, normalize(batch.images), batch, 3) for model in (training, start.eval())]
    assert losses[0]["class"].item() == pytest.approx(losses[1]["class"].item(), rel=1e-5)

    after, _ = train(options, data, tmp_path / "d0.safetensors")
    assert_equal(*({name: state[name] for name in state if "running_" in name} for state in (before, after)))
    assert not torch.equal(before["backbone.bn1.weight"], after["backbone.bn1.weight"])
