"""Saved checkpoints: 16 bit, metadata, and a classifier's weights in a detector's backbone."""

import pytest
import torch
from safetensors import safe_open

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.weights.save import load_matching, save_weights
from tests.pipeline.synthetic_weights import fill


@pytest.fixture(scope="module")
def b0():
    model = create_model("b0", 10)
    return fill(model.state_dict())


def test_weights_are_written_in_16_bit_with_their_metadata(b0, tmp_path):
    path = tmp_path / "b0.safetensors"
    save_weights(b0, path, {"labels": '["0", "1"]', "size": "64"})
    assert path.stat().st_size < 2.3 * sum(value.numel() for value in b0.values())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"labels": '["0", "1"]', "size": "64"}
        assert set(file.keys()) == set(b0)
        kernel = file.get_tensor("blocks.1.0.conv_dw.weight")
    assert kernel.dtype == torch.float16
    torch.testing.assert_close(kernel.float(), b0["blocks.1.0.conv_dw.weight"], rtol=1e-3, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["b0.safetensors"]


def test_what_float16_cannot_hold_stays_in_32_bit(tmp_path):
    path = tmp_path / "wide.safetensors"
    state = {
        "bn.running_var": torch.tensor([1e-9, 1.0]),  # float16 would make the first 0
        "conv.weight": torch.tensor([7e4]),
        "n": torch.tensor(3),
    }
    save_weights(state, path, {})
    with safe_open(path, "pt") as file:
        for key, value in state.items():
            assert torch.equal(file.get_tensor(key), value)


def test_a_classifiers_weights_start_a_detectors_backbone(b0, tmp_path):
    path = tmp_path / "b0.safetensors"
    save_weights(b0, path, {})
    model = create_model("d0", 3)
    heads = model.class_net.predict.conv_pw.weight.clone()
    # all but the classifier's own head: two convolution or linear layers and a BatchNorm
    own = [key for key in b0 if not key.startswith(("conv_head", "bn2", "classifier"))]
    assert load_matching(model, path) == len(own)
    for key in own:
        torch.testing.assert_close(model.backbone.state_dict()[key].float(), b0[key].float(), rtol=1e-3, atol=1e-6)
    assert torch.equal(model.class_net.predict.conv_pw.weight, heads)


def test_another_number_of_classes_leaves_the_head_alone(b0, tmp_path):
    path = tmp_path / "b0.safetensors"
    save_weights(b0, path, {})
    model = create_model("b0", 7)
    assert load_matching(model, path) == len(b0) - 2
    assert model.classifier.weight.shape[0] == 7


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10\x00nonsense")
    with pytest.raises(UserError, match="damaged or cut short"):
        load_matching(create_model("b0", 7), path)


def test_an_unwritable_place_is_one_line(b0, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_weights(b0, tmp_path / "file" / "b0.safetensors", {})
