"""Training from the command line to the checkpoint: going on after a kill, what is written, and what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.cli import UserError
from pipeline import train as train_module
from pipeline.checkpoint import load_matching, save_weights
from pipeline.ema import Ema
from pipeline.initial import initial_file, initialize
from pipeline.interrupt import Interrupts
from pipeline.optimize import learning_rate, make_optimizer
from pipeline.published import preprocessing
from pipeline.resume import resume_path
from pipeline.state_file import read_state
from pipeline.train import main, train
from pipeline.training_data import training_data
from pipeline.training_options import Options
from pipeline.validation import make_validation
from pipeline.weights import load_weights
from pipeline.zoo import create_model

ROOT = Path(train_module.__file__).parent.parent
COLOURS = {"blue": (20, 30, 220), "green": (20, 210, 30), "red": (230, 20, 10)}
B0 = Options(model="b0", data="", size=32, steps=5, batch=2, rate=1e-3, warmup=2, decay=1e-2, drop_connect=0.2, seed=0,
             init=None)  # fmt: skip
D0 = dataclasses.replace(B0, model="d0", size=128, steps=4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folders(tmp_path):
    """Two pictures of each colour, noisy enough that a crop tells which."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "classes" / name).mkdir(parents=True)
        for index in range(2):
            noise = random.integers(-20, 20, (50, 60, 3))
            Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(
                tmp_path / "classes" / name / f"{index}.png"
            )
    return tmp_path / "classes"


def write_coco(folder, pictures, box=None):
    """Pictures of one square each, of a colour that is its class; all boxes `box` if given."""
    random, images, annotations = np.random.default_rng(1), [], []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for index in range(pictures):
        pixels = random.integers(0, 60, (120, 160, 3), np.uint8)
        side = int(random.integers(40, 70))
        x, y = int(random.integers(160 - side)), int(random.integers(120 - side))
        name = sorted(COLOURS)[index % 3]
        pixels[y : y + side, x : x + side] = COLOURS[name]
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png"})
        annotations.append({"id": index + 1, "image_id": index, "category_id": index % 3 + 1,
                            "bbox": box or [x, y, side, side]})  # fmt: skip
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(sorted(COLOURS))]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path, 6)


def data_of(options, path, images=None):
    return training_data(options.model, str(path), images, options.size, options.seed, options.flips)


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
    main()


def assert_equal(a, b):
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, {different[0]}"


class Killed(Exception):
    """Stands for SIGKILL: nothing of ours runs afterwards but the next process."""


def stop_in_step(monkeypatch, step, how):
    """Have a signal, or the end of the world, arrive in the middle of a step (counted from 0)."""
    update = Ema.update

    def stopping(self, model, now):
        if now == step:
            if how is Killed:
                raise Killed
            os.kill(os.getpid(), how)
        update(self, model, now)

    monkeypatch.setattr(Ema, "update", stopping)


@pytest.mark.parametrize(
    ("options", "how"), [(B0, signal.SIGINT), (B0, signal.SIGTERM), (B0, Killed), (D0, signal.SIGINT)]
)
def test_a_run_that_was_stopped_ends_with_the_very_weights_of_one_that_was_not(
    monkeypatch, tmp_path, folders, options, how
):
    data = data_of(options, folders if options is B0 else write_coco(tmp_path, 5), tmp_path / "pictures")
    whole, _ = train(options, data, tmp_path / "whole.safetensors", None, None, True)

    out = tmp_path / "parts.safetensors"
    with monkeypatch.context() as patched:
        stop_in_step(patched, 2, how)
        if how is Killed:
            patched.setattr(train_module, "CHECKPOINT_SECONDS", -1.0)  # after every step
        with pytest.raises(Killed if how is Killed else UserError) as stopped:
            train(options, data, out, None, None, True)
    done = 2 if how is Killed else 3  # a polite signal lets the step end
    assert torch.load(resume_path(out))["step"] == done
    if how is not Killed:
        assert "the same command goes on" in str(stopped.value) and "after step 3 of" in str(stopped.value)
    torch.rand(7)  # another process has another generator state
    parts, _ = train(options, data, out, None, None, True)
    assert_equal(parts, whole)


def test_the_seed_decides_the_weights(tmp_path, folders):
    short = dataclasses.replace(B0, steps=2)
    other = dataclasses.replace(short, seed=1)
    runs = [train(options, data_of(options, folders), tmp_path / f"{k}.safetensors", None, None, True)[0]
            for k, options in enumerate((short, other))]  # fmt: skip
    assert not torch.equal(runs[0]["conv_stem.weight"], runs[1]["conv_stem.weight"])


@pytest.mark.parametrize("options", [B0, dataclasses.replace(D0, steps=2)])
def test_validating_on_the_way_changes_nothing(tmp_path, folders, capsys, options):
    path = folders if options is B0 else write_coco(tmp_path, 5)
    images = tmp_path / "pictures"
    data = data_of(options, path, images)
    look = preprocessing(options.model, "")
    validation = make_validation(options.model, str(path), images, data.labels, options.size, look, True)
    plain, nothing = train(options, data, tmp_path / "plain.safetensors", None, None, True)
    validated, figure = train(options, data, tmp_path / "validated.safetensors", validation, 1, True)
    assert_equal(plain, validated)
    assert nothing is None and 0 <= figure <= 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert len(lines) == options.steps
    assert lines[-1] == f"step {options.steps}: validation {validation.figure} {figure:.4f}"


def test_an_interrupt_outside_of_a_block_is_at_once_and_inside_at_its_end():
    with Interrupts() as interrupts:
        reached = []
        with pytest.raises(KeyboardInterrupt):
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGINT)
                reached.append("end of block")
            reached.append("after it")
        assert reached == ["end of block"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_whole_process_group_is_one_line_and_the_same_command_goes_on(tmp_path, folders, how):
    """A terminal's Ctrl-C reaches the worker too, and so does a service manager's SIGTERM."""
    command = [sys.executable, "-m", "pipeline.train", "b0", "--data", folders, "--size", "32", "--batch", "2",
               "--steps", "40", "--out", tmp_path / "b0.safetensors"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "training b0 at 32: 3 classes, 40 steps of 2, 13.3 epochs of 6 pictures\n"
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
        time.sleep(0.01)  # until the training has its worker
    time.sleep(0.3)  # and the worker, a fork, its own handlers: a SIGTERM before that is a known race
    os.killpg(process.pid, how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1 and errors.startswith("error: interrupted after step")
    assert sorted(path.name for path in tmp_path.glob("*b0*")) == ["b0.safetensors.resume.pt"]
    again = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, text=True, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[1].startswith("going on from step")
    assert again.stdout.splitlines()[-1] == str(tmp_path / "b0.safetensors")
    assert sorted(path.name for path in tmp_path.glob("*b0*")) == ["b0.safetensors"]


def test_what_is_written_loads_with_its_labels_size_and_figure(monkeypatch, capsys, tmp_path, folders):
    out = tmp_path / "mine" / "b0.safetensors"
    run_main(monkeypatch, "b0", "--data", folders, "--val", folders, "--size", 64, "--steps", 2, "--batch", 4,
             "--seed", 3, "--out", out)  # fmt: skip
    loaded = load_weights("b0", str(out))
    assert loaded.labels == ["blue", "green", "red"] and loaded.classes == 3 and loaded.size == 64
    assert loaded.preprocessing == preprocessing("b0", "")
    metadata = read_state(out)[1]
    assert metadata["model"] == "b0" and 0 <= float(metadata["val_top1"]) <= 1
    assert json.loads(metadata["options"])["seed"] == 3
    assert not resume_path(out).exists()
    assert capsys.readouterr().out.splitlines()[-1] == str(out)


def test_a_classifier_of_drawn_digits_says_that_the_crop_is_the_whole_input(monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.validation.DIGITS_COUNT", {"classification": 60})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "b0.safetensors"
    run_main(monkeypatch, "b0", "--size", 32, "--steps", 1, "--batch", 4, "--out", out, "-q")
    loaded = load_weights("b0", str(out))
    assert loaded.labels == list("0123456789") and loaded.preprocessing.crop == 1.0
    assert read_state(out)[1]["val_data"] == "digits"


def test_a_table_of_numbers_gets_numbers_for_labels(tmp_path, folders):
    table = tmp_path / "pictures.tsv"
    table.write_text("".join(f"classes/{name}/0.png\t{k}\n" for k, name in enumerate(COLOURS)))
    data = data_of(B0, table)
    assert data.labels == ["0", "1", "2"] and data.pictures == 3


def test_a_quiet_run_prints_only_what_it_wrote(monkeypatch, capsys, tmp_path, folders):
    out = tmp_path / "b0.safetensors"
    run_main(monkeypatch, "b0", "--data", folders, "--size", 32, "--steps", 1, "--batch", 2, "--out", out, "-q")
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n" and captured.err == ""


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys, tmp_path, folders):
    monkeypatch.setattr("pipeline.training_log.LINE_SECONDS", -1.0)
    train(dataclasses.replace(B0, steps=2), data_of(B0, folders), tmp_path / "b0.safetensors", None, None, False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/2: class ") and lines[1].endswith(" 00:00 left")


# Starting from other weights.


def test_a_lite_classifiers_kernels_start_the_efficientnet_of_the_same_shapes(tmp_path):
    given = create_model("lite0", 5)
    save_weights(given.state_dict(), tmp_path / "lite0.safetensors", {})
    model = create_model("b0", 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    line = initialize(model, "b0", str(tmp_path / "lite0.safetensors"), True)
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
    monkeypatch.setattr("pipeline.initial.locate_weights", lambda model, weights, quiet: Path(f"{model}/{weights}"))
    assert initial_file("d0", "lite0:imagenet", True) == Path("lite0/imagenet")
    assert initial_file("d0", "coco", True) == Path("d0/coco")
    (tmp_path / "b0:mine.pth").touch()
    assert initial_file("d0", str(tmp_path / "b0:mine.pth"), True) == Path(f"d0/{tmp_path}/b0:mine.pth")
    with pytest.raises(UserError, match="did you mean 'lite"):
        initial_file("d0", "lite9:imagenet", True)
    monkeypatch.setattr("pipeline.initial.locate_weights", lambda model, weights, quiet: None)
    with pytest.raises(UserError, match="leave --init out"):
        initial_file("d0", "random", True)


def test_going_on_does_not_need_the_initial_weights_again(monkeypatch, tmp_path, folders):
    init, out = tmp_path / "init.safetensors", tmp_path / "b0.safetensors"
    save_weights(create_model("b0", 3).state_dict(), init, {})
    options = dataclasses.replace(B0, init=str(init))
    with monkeypatch.context() as patched:
        stop_in_step(patched, 1, signal.SIGINT)
        with pytest.raises(UserError, match="interrupted after step 2"):
            train(options, data_of(options, folders), out, None, None, True)
    init.unlink()
    train(options, data_of(options, folders), out, None, None, True)


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
    data = data_of(options, coco, tmp_path / "pictures")
    batch, normalize = data.collate([data.draw(0), data.draw(1)]), train_module.make_normalize("d0")
    training = train_module.start_state(options, 3, tmp_path / "none", {}, True).model
    losses = [train_module.batch_loss(model, normalize(batch.images), batch, 3) for model in (training, start.eval())]
    assert losses[0]["class"].item() == pytest.approx(losses[1]["class"].item(), rel=1e-5)

    after, _ = train(options, data, tmp_path / "d0.safetensors", None, None, True)
    assert_equal(*({name: state[name] for name in state if "running_" in name} for state in (before, after)))
    assert not torch.equal(before["backbone.bn1.weight"], after["backbone.bn1.weight"])


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


def error_of(monkeypatch, *words):
    with pytest.raises(UserError) as error:
        run_main(monkeypatch, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_resume_file_of_other_options_or_annotations_is_named(monkeypatch, tmp_path, folders):
    out = tmp_path / "b0.safetensors"
    with monkeypatch.context() as patched:
        stop_in_step(patched, 0, signal.SIGINT)
        with pytest.raises(UserError):
            train(B0, data_of(B0, folders), out, None, None, True)
    with pytest.raises(UserError, match=r"other options \(rate 0.001 instead of 0.002\)"):
        train(dataclasses.replace(B0, rate=2e-3), data_of(B0, folders), out, None, None, True)
    (folders / "red" / "1.png").rename(folders / "blue" / "2.png")
    with pytest.raises(UserError, match="other options .annotations"):
        train(B0, data_of(B0, folders), out, None, None, True)


@pytest.mark.parametrize("cut", [0, 100, 0.5, 0.999])
def test_a_damaged_resume_file_is_one_line(monkeypatch, tmp_path, folders, cut):
    out = tmp_path / "b0.safetensors"
    content = {"run": {}, "step": 3, "model": {"x": torch.zeros(1000)}}
    torch.save(content, resume_path(out))
    whole = resume_path(out).read_bytes()
    resume_path(out).write_bytes(whole[: int(cut if cut > 1 else cut * len(whole))])
    message = error_of(monkeypatch, "b0", "--data", folders, "--size", 32, "--steps", 1, "--out", out)
    assert "is damaged" in message and "remove it" in message


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, folders):
    options = dataclasses.replace(B0, rate=1e30, warmup=0)
    with pytest.raises(UserError, match="at step 1: lower --rate"):
        train(options, data_of(options, folders), tmp_path / "b0.safetensors", None, None, True)


def test_a_picture_that_turns_out_damaged_is_named_in_one_line(tmp_path, folders):
    data = data_of(B0, folders)
    for path in folders.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot read the picture '.*png'") as error:
        train(B0, data, tmp_path / "b0.safetensors", None, None, True)
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
        (["b0", "--size", 50], "size 50 does not suit b0"),
        (["b0", "--batch", 1], "--batch 1: expected 2 or more"),
        (["b0", "--steps", 0], "--steps 0: expected 1 or more"),
        (["b0", "--rate", "nan"], "--rate nan"),
        (["b0", "--freeze-norm"], "give it with --init"),
        (["b0", "--drop-connect", 1], "--drop-connect 1.0"),
        (["b0", "--data", "nowhere"], "data 'nowhere' does not exist"),
        (["b0", "--data", "{coco}"], "is for detection, b0 is for classification"),
        (["d0", "--data", "{folders}"], "is for classification, d0 is for detection"),
        (["b0", "--data", "{folders}", "--val", "{digits}"], "have no class in common"),
        (["b0", "--data", "{folders}", "--validate-every", 5], "--validate-every needs pictures"),
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
    images = ["--images", tmp_path / "pictures"] if str(coco) in words else []
    out = [] if "--out" in words else ["--out", tmp_path / "out.safetensors"]
    size = [] if "--size" in words or words[0] == "b9" else ["--size", 128]
    assert expected in error_of(monkeypatch, *words, *images, *size, *out)
    assert not list(tmp_path.glob("out*"))


def test_a_box_outside_of_its_picture_is_named_before_the_training(tmp_path):
    path = write_coco(tmp_path, 3, box=[200, 10, 50, 50])
    with pytest.raises(UserError, match=r"the box \[200.0, 10.0, 250.0, 60.0\] .*0.png' of 160 x 120 pixels"):
        data_of(D0, path, tmp_path / "pictures")
    # One that reaches over the edge by some pixels is common, and clipped.
    data_of(D0, write_coco(tmp_path, 3, box=[150, 10, 50, 50]), tmp_path / "pictures")


def test_the_exif_orientation_decides_what_is_outside(tmp_path):
    path = write_coco(tmp_path, 1, box=[10, 130, 20, 20])  # inside 120 x 160, outside 160 x 120
    picture = tmp_path / "pictures" / "0.png"
    with pytest.raises(UserError, match="outside"):
        data_of(D0, path, tmp_path / "pictures")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(picture) as image:
        image.save(picture, exif=exif)
    data_of(D0, path, tmp_path / "pictures")


def test_data_without_objects_or_with_a_file_that_is_no_picture_is_refused(tmp_path):
    path = write_coco(tmp_path, 2)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(UserError, match="2 pictures without any object"):
        data_of(D0, path, tmp_path / "pictures")
    path.write_text(json.dumps(content))
    (tmp_path / "pictures" / "1.png").write_text("text")
    with pytest.raises(UserError, match="1.png' is no picture"):
        data_of(D0, path, tmp_path / "pictures")


# That it learns. BatchNorm's statistics move by 1% a step, so even what is easy takes some hundred steps.


@pytest.mark.slow
def test_a_classifier_learns_colours(tmp_path, folders):
    options = dataclasses.replace(B0, model="lite0", steps=300, batch=6, rate=3e-3)
    data, look = data_of(options, folders), preprocessing("lite0", "")
    validation = make_validation("lite0", str(folders), None, data.labels, options.size, look, True)
    assert train(options, data, tmp_path / "lite0.safetensors", validation, None, True)[1] == 1.0


@pytest.mark.slow
def test_a_detector_learns_coloured_squares(tmp_path):
    path, images = write_coco(tmp_path, 12), tmp_path / "pictures"
    options = dataclasses.replace(D0, model="det-lite0", steps=400, batch=8, rate=5e-3, warmup=20, drop_connect=0.0)
    data, look = data_of(options, path, images), preprocessing("det-lite0", "")
    validation = make_validation("det-lite0", str(path), images, data.labels, 128, look, True)
    figure = train(options, data, tmp_path / "det.safetensors", validation, None, True)[1]
    assert figure is not None and figure > 0.5
