"""Training from the command line to the checkpoint: what decides the weights, what is written, what is refused."""

import dataclasses
import gc
import json
import os

import pytest
import torch
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training import loop
from effedge.pipeline.training.distributed.processes import SINGLE_PROCESS
from effedge.pipeline.training.initial_state import start_state
from effedge.pipeline.training.log.state import resume_path
from effedge.pipeline.training.loop import Schedule, train
from effedge.pipeline.training.losses import BOX_LOSSES
from effedge.pipeline.training.optimizer import learning_rate, make_optimizer
from effedge.pipeline.training.step import batch_loss, make_normalize, train_step
from effedge.pipeline.training.validation import make_validation
from effedge.pipeline.weights.load import load_weights
from effedge.pipeline.weights.published import preprocessing
from effedge.pipeline.weights.state_file import read_state
from tests.pipeline.small_training import B0, COLOURS, D0, assert_equal, data_of, error_of, run_main, write_coco

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_seed_decides_the_weights(tmp_path, folders):
    short = dataclasses.replace(B0, steps=2)
    other = dataclasses.replace(short, seed=1)
    runs = [train(options, data_of(options, folders), tmp_path / f"{k}.safetensors")[0]
            for k, options in enumerate((short, other))]  # fmt: skip
    assert not torch.equal(runs[0]["conv_stem.weight"], runs[1]["conv_stem.weight"])


@pytest.mark.parametrize("options", [B0, dataclasses.replace(D0, steps=2)])
def test_validating_on_the_way_changes_nothing(tmp_path, folders, capsys, options):
    path = folders if options is B0 else write_coco(tmp_path, 5)
    images = tmp_path / "photographs"
    data = data_of(options, path, images)
    look = preprocessing(options.model, "")
    validation = make_validation(options.model, str(path), images, data.labels, options.size, look)
    plain, nothing = train(options, data, tmp_path / "plain.safetensors")
    validated, figure = train(options, data, tmp_path / "validated.safetensors", Schedule(validation, 1))
    assert_equal(plain, validated)
    assert nothing is None and 0 <= figure <= 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert len(lines) == options.steps
    assert lines[-1] == f"step {options.steps}: validation {validation.figure} {figure:.4f}"


class Knot:
    """What only the garbage collector frees, as tensors in a cycle are; it notes the process that did."""

    def __init__(self, folder):
        self.folder, self.itself = folder, self

    def __del__(self):
        (self.folder / str(os.getpid())).touch()


def test_a_worker_leaves_the_garbage_of_the_training_alone(tmp_path, folders, monkeypatch):
    """A forked process that frees a tensor of the GPU is ended by CUDA."""
    data, noted = data_of(B0, folders), tmp_path / "noted"
    noted.mkdir()

    def draw(index):
        gc.collect()
        return data.draw(index)

    original = loop.start_state

    def start(*arguments):
        state = original(*arguments)
        gc.disable()
        Knot(noted)
        return state

    monkeypatch.setattr(loop, "start_state", start)
    try:
        options = dataclasses.replace(B0, steps=2)
        train(options, data._replace(draw=draw), tmp_path / "b0.safetensors")
    finally:
        gc.enable()
    assert [path.name for path in noted.iterdir()] == [str(os.getpid())]
    assert gc.get_freeze_count() == 0


def test_what_is_written_loads_with_its_labels_size_and_figure(monkeypatch, capsys, tmp_path, folders):
    out = tmp_path / "mine" / "b0.safetensors"
    run_main(monkeypatch, "b0", "--data", folders, "--val", folders, "--size", 64, "--steps", 2, "--batch", 4,
             "--seed", 3, "--out", out)  # fmt: skip
    loaded = load_weights("b0", str(out))
    assert loaded.labels == ["blue", "green", "red"] and loaded.classes == 3 and loaded.size == (64, 64)
    assert loaded.preprocessing == preprocessing("b0", "")
    metadata = read_state(out)[1]
    assert metadata["model"] == "b0" and 0 <= float(metadata["val_top1"]) <= 1
    assert json.loads(metadata["options"])["seed"] == 3
    assert not resume_path(out).exists()
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_a_classifier_of_drawn_digits_says_that_the_crop_is_the_whole_input(monkeypatch, tmp_path):
    monkeypatch.setattr("effedge.pipeline.training.validation.DIGITS_COUNT", {"classification": 60})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "b0.safetensors"
    run_main(monkeypatch, "b0", "--size", 32, "--steps", 1, "--batch", 4, "--out", out, "-q")
    loaded = load_weights("b0", str(out))
    assert loaded.labels == list("0123456789") and loaded.preprocessing.crop == 1.0
    assert read_state(out)[1]["val_data"] == "digits"


def test_a_table_of_numbers_gets_numbers_for_labels(tmp_path, folders):
    table = tmp_path / "images.tsv"
    table.write_text("".join(f"classes/{name}/0.png\t{k}\n" for k, name in enumerate(COLOURS)))
    data = data_of(B0, table)
    assert data.labels == ["0", "1", "2"] and data.epoch_length == 3


def test_a_quiet_run_prints_only_what_it_wrote(monkeypatch, capsys, tmp_path, folders):
    out = tmp_path / "b0.safetensors"
    run_main(monkeypatch, "b0", "--data", folders, "--size", 32, "--steps", 1, "--batch", 2, "--out", out, "-q")
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n" and captured.err == ""


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys, tmp_path, folders):
    monkeypatch.setattr("effedge.pipeline.training.log.progress.LINE_SECONDS", -1.0)
    train(dataclasses.replace(B0, steps=2), data_of(B0, folders), tmp_path / "b0.safetensors")
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith("step 1/2: class ") and "images a second" in lines[0] and lines[1].endswith(" 00:00 left")
    )


# The schedule.


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    rates = [learning_rate(step, 110, 2.0, 10) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert rates[10] == 2.0 and rates[60] == pytest.approx(1.0) and 0 < rates[-1] < 0.001
    assert learning_rate(0, 1, 2.0, 0) == 2.0


def test_only_kernels_and_matrices_decay():
    model = create_model("det-lite0", 2)
    groups = make_optimizer(model, 0.1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    kept = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    for name, parameter in model.named_parameters():
        vector = name.endswith(".bias") or "bn" in name
        assert id(parameter) in (kept if vector else decayed), name


# What is refused, in one line.


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, folders):
    options = dataclasses.replace(B0, rate=1e30, warmup=0)
    with pytest.raises(UserError, match="at step 1: lower --rate"):
        train(options, data_of(options, folders), tmp_path / "b0.safetensors")


def test_an_image_that_turns_out_damaged_is_named_in_one_line(tmp_path, folders):
    data = data_of(B0, folders)
    for path in folders.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot read the image '.*png'") as error:
        train(B0, data, tmp_path / "b0.safetensors")
    assert "Traceback" not in str(error.value)


def test_an_init_that_fits_nowhere_is_refused(monkeypatch, tmp_path, folders):
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "other.pth")
    message = error_of(monkeypatch, "b0", "--data", folders, "--size", 32, "--init", tmp_path / "other.pth",
                       "--out", tmp_path / "b0.safetensors")  # fmt: skip
    assert "none of the" in message and "of b0" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["b9"], "did you mean 'b"),
        (["b0", "--epochs", 2], "is drawn anew and has no epochs"),
        (["b0", "--recipe", "efficientnet"], "is drawn anew and has no epochs"),
        (["b0", "--recipe", "efficientdet"], "--recipe efficientdet is for detection, b0 is for classification"),
        (["b0", "--recipe", "finetuen"], "did you mean 'finetune'"),
        (["b0", "--steps", 2, "--epochs", 2], "give one of them"),
        (["b0", "--batch", 8, "--accumulate", 3], "--batch 8 cannot be split into 3 equal parts"),
        (["b0", "--batch", 8, "--accumulate", 8], "leaves an image at a time"),
        (["b0", "--precision", "fp61"], "did you mean 'fp"),
        (["b0", "--ema", 1], "--ema 1.0"),
        (["b0", "--randaugment", 2, 31], "--randaugment 2 31.0"),
        (["b0", "--data", "{folders}", "--patience", 5], "--patience needs images"),
        (["b0", "--device", "cuda"], "finds no GPU here"),
        (["b0", "--size", 50], "size 50 does not suit b0"),
        (["b0", "--size", "64x96", "--turns"], "--turns rotates"),
        (["b0", "--size", "64x96", "--progressive", 32, 64], "--progressive grows square images"),
        (["b0", "--size", "64x96", "--data", "digits"], "the digits' crops are square"),
        (["b0", "--batch", 1], "--batch 1: expected 2 or more"),
        (["b0", "--steps", 0], "--steps 0: expected 1 or more"),
        (["b0", "--freeze-norm"], "give it with --init"),
        (["b0", "--drop-connect", 1], "--drop-connect 1.0"),
        (["b0", "--data", "nowhere"], "data 'nowhere' does not exist"),
        (["b0", "--data", "{coco}"], "is for detection, b0 is for classification"),
        (["d0", "--data", "{folders}"], "is for classification, d0 is for detection"),
        (["b0", "--data", "{folders}", "--val", "{digits}"], "have no class in common"),
        (["b0", "--data", "{folders}", "--validate-every", 5], "--validate-every needs images"),
        (["b0", "--data", "{folders}", "--val", "{folders}", "--validate-every", 0], "--validate-every 0"),
        (["b0", "--data", "{one}"], "has one class"),
        (["b0", "--out", "{folders}/red/0.png/b0.safetensors"], "cannot write"),
        (["b0", "--out", "b0.pth"], "ends in .safetensors"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, tmp_path, folders, coco, words, expected):
    for name in "0123":
        (tmp_path / "digits" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "digits" / name / "a.png")
    (tmp_path / "one" / "only").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "only" / "a.png")
    places = {"coco": coco, "folders": folders, "digits": tmp_path / "digits", "one": tmp_path / "one"}
    words = [str(word).format(**places) for word in words]
    images = ["--images", tmp_path / "photographs"] if str(coco) in words else []
    out = [] if "--out" in words else ["--out", tmp_path / "out.safetensors"]
    size = [] if "--size" in words or words[0] == "b9" else ["--size", 128]
    assert expected in error_of(monkeypatch, *words, *images, *size, *out)
    assert not list(tmp_path.glob("out*"))


def test_a_box_outside_of_its_image_is_named_before_the_training(tmp_path):
    path = write_coco(tmp_path, 3, box=[200, 10, 50, 50])
    with pytest.raises(UserError, match=r"the box \[200.0, 10.0, 250.0, 60.0\] .*0.png' of 160 x 120 pixels"):
        data_of(D0, path, tmp_path / "photographs")
    # One that reaches over the edge by some pixels is common, and clipped.
    data_of(D0, write_coco(tmp_path, 3, box=[150, 10, 50, 50]), tmp_path / "photographs")


def test_the_exif_orientation_decides_what_is_outside(tmp_path):
    path = write_coco(tmp_path, 1, box=[10, 130, 20, 20])  # inside 120 x 160, outside 160 x 120
    file = tmp_path / "photographs" / "0.png"
    with pytest.raises(UserError, match="outside"):
        data_of(D0, path, tmp_path / "photographs")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.save(file, exif=exif)
    data_of(D0, path, tmp_path / "photographs")


def test_data_without_objects_or_with_a_file_that_is_no_image_is_refused(tmp_path):
    path = write_coco(tmp_path, 2)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(UserError, match="2 images without any object"):
        data_of(D0, path, tmp_path / "photographs")
    path.write_text(json.dumps(content))
    (tmp_path / "photographs" / "1.png").write_text("text")
    with pytest.raises(UserError, match="1.png' is no image"):
        data_of(D0, path, tmp_path / "photographs")


def test_a_training_refuses_images_that_were_cut_short_unless_it_may_skip_them(tmp_path, monkeypatch, capsys):
    path, out = write_coco(tmp_path, 6), tmp_path / "out.safetensors"
    file = tmp_path / "photographs" / "3.png"
    file.write_bytes(file.read_bytes()[:-2000])
    words = ["det-lite0", "--data", path, "--images", tmp_path / "photographs", "--size", "128", "--steps", "1",
             "--batch", "2", "--val", path, "--out", out]  # fmt: skip
    assert "1 of 6 images cannot be read: replace them, or train without them" in error_of(monkeypatch, *words)
    assert "3.png" in capsys.readouterr().err and not out.exists()
    run_main(monkeypatch, *words, "--skip-unreadable")
    printed = capsys.readouterr().out
    assert "data: 5 images" in printed and "validation: 1 of 6 images cannot be read and are left out" in printed
    assert out.exists()


# That it learns. BatchNorm's statistics move by 1% a step, so even what is easy takes some hundred steps.


@pytest.mark.slow
def test_a_classifier_learns_colours(tmp_path, folders):
    options = dataclasses.replace(B0, model="lite0", steps=300, batch=6, rate=3e-3)
    data, look = data_of(options, folders), preprocessing("lite0", "")
    validation = make_validation("lite0", str(folders), None, data.labels, options.size, look)
    assert train(options, data, tmp_path / "lite0.safetensors", Schedule(validation))[1] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("matching", "box_loss"), [("iou", "huber"), ("compensated", "giou")])
def test_a_detector_learns_coloured_squares(tmp_path, matching, box_loss):
    path, images = write_coco(tmp_path, 12), tmp_path / "photographs"
    options = dataclasses.replace(D0, model="det-lite0", steps=400, batch=8, rate=5e-3, warmup=20, drop_connect=0.0,
                                  matching=matching, box_loss=box_loss)  # fmt: skip
    data, look = data_of(options, path, images), preprocessing("det-lite0", "")
    validation = make_validation("det-lite0", str(path), images, data.labels, Size(128, 128), look)
    figure = train(options, data, tmp_path / "det.safetensors", Schedule(validation))[1]
    assert figure is not None and figure > 0.5


def test_a_step_has_the_box_loss_of_the_options(tmp_path):
    options = dataclasses.replace(D0, drop_connect=0.0)
    data = data_of(options, write_coco(tmp_path, 2), tmp_path / "photographs")
    batch, normalize, found = data.collate([data.draw(0), data.draw(1)]), make_normalize("d0"), {}
    for name in BOX_LOSSES:
        given = dataclasses.replace(options, box_loss=name)
        state = start_state(given, 3, tmp_path / "none", {})
        expected = batch_loss(state.model, normalize(batch.images), batch, 3, box_loss=name)["box"].item()
        found[name] = train_step(state, state.model, [batch], normalize, given, 3, SINGLE_PROCESS)["box"]
        assert found[name] == pytest.approx(expected, rel=1e-3)
    assert found["giou"] != pytest.approx(found["huber"], rel=0.1)


def test_two_trainings_into_one_output_wait_and_other_processes_of_torchrun_do_not(monkeypatch, tmp_path):
    from effedge.pipeline.training.train import lock_of

    out = tmp_path / "mine.safetensors"
    with lock_of(out):
        assert [path.name for path in tmp_path.iterdir()] == [".mine.safetensors.lock"]
    monkeypatch.setenv("RANK", "1")
    with lock_of(out):
        assert list(tmp_path.iterdir()) == []
