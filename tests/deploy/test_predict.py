"""effedge predict as its user meets it: output, files, and each mistake as one line with exit status 2."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def predict(*arguments, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "effedge", "predict", *map(str, arguments)]
    return subprocess.run(command, cwd=str(cwd or ROOT), env=environment, capture_output=True, text=True)


def check_error(done, *words):
    """Exit status 2, nothing on stdout's end but what was found before, exactly one line on stderr with these words."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def scene(**boxes):
    image = np.zeros((128, 256, 3), np.uint8)
    for colour, (x0, y0, x1, y1) in boxes.items():
        image[y0:y1, x0:x1, {"red": 0, "green": 1, "blue": 2}[colour]] = 255
    return image


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(scene(red=(40, 20, 120, 100), blue=(160, 60, 256, 128))).save(folder / "b.png")
    Image.fromarray(scene(green=(0, 0, 80, 80))).save(folder / "a.png")
    Image.fromarray(scene()).save(folder / "c.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_drawn_and_written(build, images, tmp_path):
    out, found = tmp_path / "new" / "out", tmp_path / "found.json"
    done = predict(build(), images, "--out", out, "--json", found)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"{images}/a.png: 1 x green",
        f"{images}/b.png: 1 x red, 1 x blue",
        f"{images}/c.jpg: nothing",
    ]
    assert lines[3].startswith("3 images, median ")
    assert names(out) == ["a.png", "b.png", "c.jpg"]
    records = json.loads(found.read_text())
    assert records == [
        {
            "image": f"{images}/a.png",
            "detections": [{"box": [0.0, 0.0, 80.0, 80.0], "score": 0.8, "class_id": 1, "label": "green"}],
        },
        {
            "image": f"{images}/b.png",
            "detections": [
                {"box": [40.0, 20.0, 120.0, 100.0], "score": 0.9, "class_id": 0, "label": "red"},
                {"box": [160.0, 60.0, 256.0, 128.0], "score": 0.7, "class_id": 2, "label": "blue"},
            ],
        },
        {"image": f"{images}/c.jpg", "detections": []},
    ]
    with Image.open(out / "b.png") as drawn:
        assert drawn.size == (256, 128)
        assert (np.array(drawn) != np.array(Image.open(images / "b.png"))).any()


def test_one_image_a_threshold_and_quiet(build, images, tmp_path):
    engine = build()
    done = predict(engine, images / "b.png", "--threshold", "0.75")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"{images}/b.png: 1 x red"
    done = predict(engine, images / "b.png", "-q")
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["1 image"]


def test_batches_give_the_same_records(build, images, tmp_path):
    for name, batch in (("one", (1, 1, 1)), ("two", (2, 2, 2)), ("range", (1, 4, 8))):
        assert predict(build(batch=batch, name=name), images, "--json", tmp_path / f"{name}.json").returncode == 0
    one, two, many = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two", "range"))
    assert one == two == many


def test_a_classifiers_five_best(build, images, tmp_path):
    done = predict(build("classification"), images, "--json", tmp_path / "found.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{images}/a.png: b (1.00)"
    records = json.loads((tmp_path / "found.json").read_text())
    assert [set(record) for record in records] == [{"image", "classes"}] * 3
    classes = records[2]["classes"]  # black: logits 0, 0, 0, 0.25, 0.5, 0.75, 1
    assert [(one["class_id"], one["label"]) for one in classes] == [(6, "g"), (5, "f"), (4, "e"), (3, "d"), (0, "a")]
    assert all(set(one) == {"class_id", "label", "score"} for one in classes)
    total = 3 + sum(np.exp([0.25, 0.5, 0.75, 1.0]))
    assert classes[0]["score"] == pytest.approx(np.e / total, abs=1e-6)


def test_a_gif_is_drawn_as_png_under_its_whole_name(build, images, tmp_path):
    Image.fromarray(scene()).save(images / "d.gif")
    assert predict(build(), images, "--out", tmp_path / "out").returncode == 0
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.jpg", "d.gif.png"]


def test_drawings_join_what_is_in_the_folder_and_replace_earlier_ones(build, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    (out / "a.png").write_text("old")
    assert predict(build(), images, "--out", out).returncode == 0
    assert names(out) == ["a.png", "b.png", "c.jpg", "mine.txt"]
    assert Image.open(out / "a.png").size == (256, 128)


def test_file_names_that_are_no_utf8(build, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.fromarray(scene()).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / name)
    done = predict(build(), tmp_path / name, "--json", tmp_path / "found.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "found.json").read_text())[0]["image"] == str(tmp_path / name)


@pytest.mark.parametrize("batch", [(1, 1, 1), (2, 2, 2), (1, 4, 8)])
def test_images_that_cannot_be_read_are_listed_at_the_end_and_the_others_are_done(build, images, tmp_path, batch):
    whole = images / "b.png"
    (images / "aa.png").write_bytes(whole.read_bytes()[:-60])  # cut short: its head says that all is well
    (images / "bb.jpg").write_bytes(b"not an image")
    out, found = tmp_path / "out", tmp_path / "found.json"
    done = predict(build(batch=batch), images, "--out", out, "--json", found)
    assert done.returncode == 1
    assert names(out) == ["a.png", "b.png", "c.jpg"]
    records = json.loads(found.read_text())
    assert [Path(record["image"]).name for record in records] == ["a.png", "b.png", "c.jpg"]
    assert [len(record["detections"]) for record in records] == [1, 2, 0]
    with Image.open(out / "b.png") as drawn:  # each drawing is of its own image
        assert (np.array(drawn) != scene()).any() and (np.array(drawn) == np.array(Image.open(whole))).mean() > 0.8
    assert done.stdout.splitlines()[3].startswith("3 images, median ")
    first, second, last = done.stderr.splitlines()
    assert first.startswith("error: ") and "aa.png" in first and "bb.jpg" in second
    assert last == "error: 2 of 5 images could not be read; the others are done"


@pytest.mark.parametrize("broken", [b"", b"not an image"])
def test_without_an_image_that_can_be_read_nothing_is_written(build, images, tmp_path, broken):
    for path in images.iterdir():
        path.write_bytes(broken)
    out, found = tmp_path / "out", tmp_path / "found.json"
    found.write_text("earlier")
    before = names(tmp_path)
    engine = build()
    check_error(predict(engine, images, "--out", out, "--json", found), "none of the 3 images", "a.png")
    assert names(tmp_path) == sorted([*before, "engine"])  # no out, nothing temporary
    assert found.read_text() == "earlier"
    out.mkdir()
    check_error(predict(engine, images / "a.png", "--out", out), "a.png")
    assert names(out) == []


def test_hidden_files_are_no_images(build, images, tmp_path):
    for name in (".DS_Store", "._a.png", "Thumbs.db", ".hidden.jpg"):
        (images / name).write_bytes(b"Mac OS X")
    done = predict(build(), images)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.splitlines()[3].startswith("3 images, ")


def test_mistakes_about_the_source(build, tmp_path):
    engine = build()
    check_error(predict(engine, tmp_path / "gone"), "no such image or folder", "gone")
    (tmp_path / "empty").mkdir()
    check_error(predict(engine, tmp_path / "empty"), "no images in", "empty")
    (tmp_path / "notes.txt").write_text("no image")
    check_error(predict(engine, tmp_path / "notes.txt"), "notes.txt", "no image")


@pytest.mark.parametrize("threshold", ["1.5", "-0.1", "nan", "half", "inf"])
def test_a_threshold_outside_0_to_1(build, images, threshold):
    check_error(predict(build(), images, f"--threshold={threshold}"), "--threshold", threshold, "from 0 to 1")


@pytest.mark.parametrize("threshold", ["0", "1"])
def test_the_ends_of_the_thresholds_range(build, images, threshold):
    assert predict(build(), images, "--threshold", threshold).returncode == 0


def test_mistakes_about_the_engine(build, images, tmp_path, edit):
    check_error(predict(tmp_path / "gone", images), "gone", "does not exist")
    check_error(predict(images, images), "has no manifest.json")
    folder = build()
    (folder / "engine.bin").write_bytes((folder / "engine.bin").read_bytes() + b"x")
    check_error(predict(folder, images), "engine.bin", "is not the file that was built")
    folder = build(name="future")
    edit(folder, lambda manifest: manifest.update(format=2))
    check_error(predict(folder, images), "format 2")


def test_options_that_a_classifier_does_not_have(build, images, tmp_path):
    engine = build("classification")
    for option in (["--threshold", "0.5"], ["--classes", "a"], ["--max-detections", "3"], ["--class-agnostic"]):
        check_error(predict(engine, images, "--out", tmp_path / "out", *option), f"{option[0]} is for detectors")
    assert not (tmp_path / "out").exists()


def test_a_classifiers_classes_are_drawn(build, images, tmp_path):
    assert predict(build("classification"), images / "c.jpg", "--out", tmp_path / "out").returncode == 0
    with Image.open(tmp_path / "out" / "c.jpg") as drawn:
        assert (np.array(drawn)[:60, :40] > 100).any() and (np.array(drawn)[100:] < 20).all()


def test_some_classes_and_a_largest_number_of_detections(build, images):
    engine = build()
    for options, line in (
        (["--classes", "blue"], "1 x blue"),
        (["--classes", "red", "2"], "1 x red, 1 x blue"),
        (["--classes", "green"], "nothing"),
        (["--max-detections", "1"], "1 x red"),
        (["--class-agnostic"], "1 x red, 1 x blue"),
    ):
        done = predict(engine, images / "b.png", *options)
        assert done.stdout.splitlines()[0] == f"{images}/b.png: {line}", done.stderr
    check_error(predict(engine, images, "--classes", "rde"), "unknown class 'rde': did you mean 'red'")
    check_error(predict(engine, images, "--classes", "3"), "from 0 to 2")
    check_error(predict(engine, images, "--max-detections", "0"), "--max-detections", "from 1 on")


def test_names_that_would_command_a_terminal_are_escaped_and_each_image_has_one_line(build, tmp_path):
    engine = build(labels=["red\x1b[2J", "gr\neen", "blue"])
    source = tmp_path / "a\x1b[2J\nb.png"
    Image.fromarray(scene(red=(0, 0, 60, 60), green=(80, 0, 128, 60))).save(source)
    done = predict(engine, source, "--json", tmp_path / "found.json")
    assert done.stdout.splitlines()[0] == f"{tmp_path}/a\\x1b[2J\\x0ab.png: 1 x red\\x1b[2J, 1 x gr\\x0aeen"
    [record] = json.loads((tmp_path / "found.json").read_text())
    assert record["image"] == str(source) and record["detections"][0]["label"] == "red\x1b[2J"
    check_error(predict(engine, source, "--classes", "\x1b[2J"), "unknown class")


def test_outputs_that_cannot_be_written(build, images, tmp_path):
    engine = build()
    (tmp_path / "file").write_text("")
    check_error(predict(engine, images, "--out", tmp_path / "file"), "cannot write", "file")
    check_error(predict(engine, images, "--out", tmp_path / "file" / "out"), "cannot write", "file/out")
    check_error(predict(engine, images, "--json", tmp_path / "file" / "a.json"), "cannot write", "a.json")
    check_error(predict(engine, images, "--json", tmp_path), "is a folder")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    check_error(predict(engine, images, "--out", tmp_path / "out"), "a.png", "is a folder")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_json_on_standard_output_is_all_that_comes_there(build, images, tmp_path, name):
    engine = build()
    done = predict(engine, images, "--json", name, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0 and [len(record["detections"]) for record in json.loads(done.stdout)] == [1, 2, 0]
    assert "3 images, median" in done.stderr and f"{images}/a.png: " in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"engine", "images", "out"}
    done = predict(engine, images, "--json", "./-", cwd=tmp_path)
    assert "3 images, median" in done.stdout and json.loads((tmp_path / "-").read_text())


def test_standard_output_that_is_full_or_closed_is_one_line(build, images):
    words = [sys.executable, "-m", "effedge", "predict", str(build()), str(images), "-q", "--json", "-"]
    for redirection, reason in ((">/dev/full", "No space left on device"), (">&-", "closed")):
        script = " ".join(map(shlex.quote, words)) + " " + redirection
        done = subprocess.run(script, shell=True, cwd=str(ROOT), stderr=subprocess.PIPE, text=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1 and reason in errors[0] and "Traceback" not in done.stderr


def test_a_loop_of_links_as_an_output_is_one_line(build, images, tmp_path):
    engine = build()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to("a.png")
    for option, path in (("--json", "loop"), ("--out", "loop"), ("--out", "out")):
        check_error(predict(engine, images, option, tmp_path / path), "cannot write", "symbolic links")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(build, images, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    check_error(predict(build(), images, "--out", tmp_path / "out"), "cannot write", "Permission denied")


def test_outputs_that_would_replace_images_or_each_other(build, images, tmp_path):
    engine = build()
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    check_error(predict(engine, images, "--out", images), "would replace the image")
    check_error(predict(engine, "a.png", "--out", ".", cwd=images), "would replace the image")
    check_error(predict(engine, images, "--json", images / "a.png"), "would replace an image")
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before
    Image.fromarray(scene()).save(images / "d.gif")
    Image.fromarray(scene()).save(images / "d.gif.png")
    check_error(predict(engine, images, "--out", tmp_path / "out"), "d.gif.png", "rename one of them")


def test_wrong_usage(build):
    check_error(predict(), "ENGINE, SOURCE")
    check_error(predict("a", "b", "--thresh", "0.5"), "--thresh")


def test_ctrl_c_leaves_nothing(build, images, tmp_path, monkeypatch, capsys):
    import effedge.deploy.image.draw
    from effedge.deploy import predict as script
    from effedge.deploy.common.cli import run

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(effedge.deploy.image.draw, "draw_detections", interrupt)
    arguments = [build(), images, "--out", tmp_path / "out", "--json", tmp_path / "found.json"]
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(script.main)
    assert stopped.value.code == 2
    assert names(tmp_path) == ["engine", "images"]


def test_help_is_quick_and_needs_neither_numpy_nor_pillow():
    code = (
        "import sys; sys.modules.update(numpy=None, PIL=None, openvino=None); "
        "sys.argv = ['predict', '--help']; from effedge.deploy.predict import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--threshold T" in done.stdout
    started = time.perf_counter()
    assert predict("--help").returncode == 0
    assert time.perf_counter() - started < 2  # 0.2 s; with NumPy, Pillow and OpenVINO imported about 1 s
