"""FixRes: the classifier and the last BatchNorm learn at the new resolution, and nothing else changes."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from effedge.deploy.image.preprocess import preparation
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS
from effedge.pipeline.training.fixres import freeze_all_but_last
from effedge.pipeline.training.initial_state import start_state
from effedge.pipeline.training.loop import train
from effedge.pipeline.training.optimizer import learning_rate
from effedge.pipeline.training.options import apply_recipe, make_parser, read_options
from effedge.pipeline.weights.published import preprocessing
from effedge.pipeline.weights.save import save_weights
from effedge.pipeline.weights.state_file import read_state
from tests.pipeline.small_training import B0, data_of, error_of

pytestmark = pytest.mark.usefixtures("one_thread")
LEARNT = {"bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var", "bn2.num_batches_tracked",
          "classifier.weight", "classifier.bias"}  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """Images of two classes, a folder for each."""
    random = np.random.default_rng(0)
    for name, level in (("dark", 30), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            pixels = level + random.integers(0, 40, (50, 60, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "trained.safetensors"
    save_weights(create_model("b0", 2).state_dict(), path, {})
    return path


def options_of(*words, epoch_length=None):
    given = make_parser("").parse_args(["b0", "--recipe", "fixres", *map(str, words), "--out", "x.safetensors"])
    apply_recipe(given)
    return read_options(given, epoch_length)


def test_the_constants_are_the_authors():
    options = options_of("--init", "a.pth", "--data", "imagenet", epoch_length=1281167)
    assert (options.batch, options.rate, options.decay, options.ema) == (512, 0.008, 1e-4, 0.0)
    assert options.steps == round(56 * 1281167 / 512) and options.drop_connect == 0.0
    assert learning_rate(0, options.steps, options.rate, options.warmup, options.falling) == 0.008
    small = options_of("--init", "a.pth", "--batch", 64, "--steps", 100)  # drawn digits, which have no epochs
    assert (small.rate, small.steps) == (0.001, 100)
    assert small.augmentation.evaluation_crop and not dataclasses.replace(small, recipe="finetune").augmentation[-1]


def test_only_the_last_batchnorm_and_the_classifier_change(folders, trained, tmp_path):
    options = dataclasses.replace(
        B0, recipe="fixres", init=str(trained), size=Size(64, 64), ema=0.0, rate=0.1, warmup=0, steps=3
    )
    before, _ = read_state(trained)
    after, _ = train(options, data_of(options, folders), tmp_path / "fixed.safetensors", workers=0)
    assert {key for key in after if not torch.equal(after[key].float(), before[key].float())} == LEARNT
    loaded, _ = read_state(tmp_path / "fixed.safetensors")
    assert loaded.keys() == before.keys()


def test_nothing_is_dropped_and_no_gradient_reaches_the_trunk():
    model = create_model("b0", 2)
    freeze_all_but_last(model)
    x = torch.randn(3, 3, 64, 64)
    model.bn2.momentum = 0.0
    first, second = model(x), model(x)
    assert torch.equal(first, second)
    first.sum().backward()
    assert {name for name, each in model.named_parameters() if each.grad is not None} == LEARNT & {
        name for name, _ in model.named_parameters()
    }


def test_several_processes_leave_the_same_parts_to_learn(tmp_path):
    options = dataclasses.replace(B0, recipe="fixres")
    group = dataclasses.replace(SINGLE_PROCESS, world_size=2)
    model = start_state(options, 2, tmp_path / "none", {}, group).model
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert learning == LEARNT & {name for name, _ in model.named_parameters()}
    assert [name for name, module in model.named_modules() if name and module.training] == ["bn2"]


def test_images_are_cut_as_the_engine_will_cut_them(folders, trained):
    options = dataclasses.replace(B0, recipe="fixres", init=str(trained), size=Size(48, 48), flips=False)
    data = data_of(options, folders)
    look = preprocessing("b0", "")
    prepare = preparation({"size": [48, 48], "batch": [1, 1, 1], "resize": "center-crop", "crop": look.crop,
                           "interpolation": look.interpolation})  # fmt: skip
    images = [np.asarray(Image.open(path)) for path in sorted(folders.rglob("*.png"))]
    expected = {prepare(image).pixels.tobytes() for image in images}
    assert {data.draw(index)[0].tobytes() for index in range(8)} == expected


def test_what_cannot_be_fixed_is_one_line(folders, trained, monkeypatch, tmp_path):
    words = ["b0", "--recipe", "fixres", "--size", 64, "--batch", 2, "--out", tmp_path / "out.safetensors"]
    data = ["--data", folders, "--epochs", 1, "--workers", 0]
    assert "--recipe fixres fine-tunes a trained classifier: give it with --init" in error_of(
        monkeypatch, *words, *data
    )
    assert "is for classification" in error_of(monkeypatch, "d0", *words[1:3], *words[5:], *data, "--init", trained)
    save_weights(create_model("b0", 3).state_dict(), tmp_path / "three.safetensors", {})
    message = error_of(monkeypatch, *words, *data, "--init", tmp_path / "three.safetensors")
    assert "has 3 classes where the data has 2: train it on this data with another recipe first" in message
    save_weights(create_model("lite0", 2).state_dict(), tmp_path / "lite0.safetensors", {})
    message = error_of(monkeypatch, *words, *data, "--init", tmp_path / "lite0.safetensors")
    assert "does not fit b0" in message and "MODEL=lite0" in message
    assert "has no epochs" in error_of(monkeypatch, *words, "--init", trained)
