"""The whole chain as a user runs it: once, again, another precision, interrupted, and with every kind of bad input."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from effedge.deploy.common.cli import run
from effedge.deploy.runtime.manifest import read_manifest
from effedge.pipeline import chain

pytest.importorskip("openvino")
ROOT = Path(__file__).parents[2]
B0 = ("b0", "--weights", "random", "--size", "64", "--target", "cpu", "-q")
FOLDER = "b0-random-64"


class Done(NamedTuple):
    status: int
    out: str
    err: str
    cpu_seconds: float = 0.0


def command(out, *arguments):
    return [sys.executable, "-m", "effedge", "engine", *arguments, "--out", str(out)]


def in_new_process(out, *arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command(out, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(done.returncode, done.stdout, done.stderr, seconds)


@pytest.fixture
def call(monkeypatch, capsys):
    """call(out, *arguments): the command in this process, which is spared the imports, and without its table."""

    def inner(out, *arguments):
        monkeypatch.setattr(chain, "engine_table", lambda engine, request: f"the table of {engine.name}")
        monkeypatch.setattr(sys, "argv", ["effedge.pipeline.chain", *arguments, "--out", str(out)])
        with pytest.raises(SystemExit) as caught:
            run(chain.main)
        return Done(caught.value.code, *capsys.readouterr())

    return inner


def hidden(folder):
    """What a stage leaves while it works; the compiled engine, and its table, are kept."""
    kept = (".compiled", ".table")
    return [path for path in folder.rglob("*") if path.name.startswith(".") and path.name not in kept]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def interrupted(out):
    """The chain, with Ctrl-C in the middle of its export."""
    process = subprocess.Popen(
        command(out, *B0, "--precision", "fp32"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(1200):
            if hidden(out):
                break
            time.sleep(0.1)
        started = hidden(out)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert started, "the export never began"
    return Done(process.returncode, stdout, stderr), [str(path) for path in out.rglob("*") if not path.is_dir()]


@pytest.fixture(scope="module")
def built(out, interrupted):
    """The same command again: its whole run."""
    return in_new_process(out, *B0, "--precision", "fp32")


def test_ctrl_c_in_mid_stage_is_one_line_and_leaves_nothing(interrupted):
    done, files = interrupted
    assert done.status == 2
    assert done.err.splitlines() == ["interrupted: nothing half-written was kept; run the same command to go on"]
    assert files == []


def test_the_engines_folder_is_printed_last(built, out):
    assert (built.status, built.err) == (0, "")
    lines = built.out.splitlines()
    assert lines[-1] == str(out / FOLDER / "fp32-cpu")
    made = [line.split(":")[0] for line in lines if ": making " in line]
    assert made == ["export", "simplify", "engine"]
    assert not hidden(out)


def test_the_engine_says_what_it_is(built, out):
    manifest = read_manifest(out / FOLDER / "fp32-cpu")
    assert manifest["spec"]["model"] == "b0" and manifest["spec"]["input"]["size"] == [64, 64]
    assert manifest["precision"]["asked"] == "fp32" and manifest["target"] == "cpu"


def test_the_second_time_does_nothing_and_soon_says_so(built, out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = in_new_process(out, *B0, "--precision", "fp32")
    assert again.status == 0 and again.err == ""
    *stages, last = again.out.splitlines()
    assert stages[3:] == built.out.splitlines()[-len(stages[3:]) - 1 : -1] and "multiply-adds" in again.out
    assert [line.split(",")[0] for line in stages[:3]] == [f"{s}: up to date" for s in ("export", "simplify", "engine")]
    assert last == built.out.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert again.cpu_seconds < 5


@pytest.fixture
def two_images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(random.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_another_precision_uses_the_export_again(built, out, call, two_images):
    done = call(out, *B0, "--precision", "int8", "--calibration", str(two_images))
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "export: up to date" in done.out and "simplify: up to date" in done.out
    assert [line.split(":")[0] for line in lines if ": making " in line] == ["calibrate", "engine"]
    assert lines[-1] == str(out / FOLDER / "int8-cpu")
    assert read_manifest(Path(lines[-1]))["precision"]["built"]
    assert read_manifest(out / FOLDER / "fp32-cpu")["precision"]["asked"] == "fp32"


def test_by_latency_the_engine_is_built_of_what_pays_on_its_target(call, tmp_path, two_images, monkeypatch):
    made = {}

    def note(name, source, out):
        made[name] = (source.name, out.name)

    monkeypatch.setattr(chain, "export_stage", lambda *_, **__: None)
    monkeypatch.setattr(chain, "simplify_stage", lambda source, out: None)
    monkeypatch.setattr(chain, "calibrate", lambda model, data, out, **_: note("calibrate", model, out))
    monkeypatch.setattr(chain, "by_latency_stage", lambda int8, out, target: note(f"for {target.name}", int8, out))
    monkeypatch.setattr(chain, "make_engine", lambda onnx, out, **_: note("engine", onnx, out))
    given = [*B0, "--precision", "int8", "--calibration", str(two_images), "--by-latency"]
    assert call(tmp_path / "out", *given).out.endswith("int8-cpu\n")
    assert made["for cpu"] == ("int8-zero-points.onnx", "int8-zero-points-cpu.onnx")
    assert made["engine"] == ("int8-zero-points-cpu.onnx", "int8-cpu")
    assert call(tmp_path / "out", *given, "--until", "calibrate").out.endswith("int8-zero-points-cpu.onnx\n")


@pytest.mark.parametrize(
    ("target", "dla", "onnx", "ranges"),
    [
        ("jetson-orin", "fallback", "int8-float.onnx", "int8.cache"),
        ("jetson-xavier", "only", "int8-float.onnx", "int8.cache"),
        ("jetson-orin", "", "int8-fp16.onnx", None),
        ("jetson-xavier", "", "int8.onnx", None),
        ("jetson-orin-trt11", "fallback", "int8-fp16.onnx", None),  # by Q/DQ pairs
    ],
)
def test_int8_on_a_dla_that_takes_no_pairs_is_by_ranges(
    call, tmp_path, two_images, monkeypatch, target, dla, onnx, ranges
):
    made = []
    for name in ("export_stage", "simplify_stage", "calibrate", "convert"):
        monkeypatch.setattr(chain, name, lambda *_, **__: None)
    monkeypatch.setattr("effedge.pipeline.request.check_buildable_here", lambda target: None)
    beside = ("int8-float.onnx", "int8.cache")
    monkeypatch.setattr(chain, "ranges_stages", lambda int8, data, images: [int8.with_name(name) for name in beside])
    monkeypatch.setattr(chain, "make_engine", lambda onnx, out, **given: made.append((onnx, given["ranges"])))
    words = ["b0", "--weights", "random", "--size", "64", "--target", target, "--precision", "int8"]
    done = call(tmp_path / "out", *words, "--calibration", str(two_images), *(["--dla", dla] if dla else []))
    assert done.status == 0, done.err
    [(built, given)] = made
    assert (built.name, given and given.name) == (onnx, ranges)


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_an_engine_with_a_changed_file_is_built_again(built, out, call, damage):
    folder = out / FOLDER / "fp32-cpu"
    largest = max((folder / name for name in read_manifest(folder)["files"]), key=lambda path: path.stat().st_size)
    if damage == "changed":
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    else:
        (largest if damage == "missing" else folder / "manifest.json").unlink()
    done = call(out, *B0, "--precision", "fp32")
    assert done.status == 0
    assert [line.split(":")[0] for line in done.out.splitlines() if ": making " in line] == ["engine"]
    read_manifest(folder)


def test_a_changed_artefact_is_made_again(built, out, call):
    with open(out / FOLDER / "simplified.onnx", "ab") as file:
        file.write(b"\0")
    done = call(out, *B0, "--precision", "fp32")
    made = [line.split(":")[0] for line in done.out.splitlines() if ": making " in line]
    assert (done.status, made) == (0, ["simplify"])  # the same graph again, so the engine of it is still right


@pytest.fixture
def three_classes(tmp_path):
    """A checkpoint of B0 with three classes."""
    from effedge.pipeline.models.create import create_model
    from effedge.pipeline.weights.save import save_weights

    path = tmp_path / "three.safetensors"
    save_weights(create_model("b0", 3).state_dict(), path, {})
    return path


def refused(done, message):
    """One line, exit status 2."""
    assert done.status == 2
    assert done.err.endswith("\n") and done.err.count("\n") == 1, done.err
    assert message in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["det-lit0"], "unknown model 'det-lit0': did you mean 'det-lite0'?"),
        (["b0", "--precision", "int9"], "unknown precision 'int9': did you mean 'int8'?"),
        (["b0", "--target", "cpx"], "unknown target 'cpx': did you mean 'cpu'?"),
        (["b0", "--weights", "randm", "--precision", "fp32"], "unknown weights 'randm': did you mean 'random'?"),
        (["b0", "--weights", "runs/gone.pth", "--precision", "int8"], "weights 'runs/gone.pth' does not exist"),
        (["b0", "--weights", "coco", "--precision", "fp32"], "b0 has no 'coco' weights: expected one of"),
        (["b0", "--weights", "random", "--size", "50", "--precision", "fp32"], "size 50 does not suit b0"),
        (["b0", "--weights", "random", "--size", "large"], "--size"),
        (["b0", "--weights", "random", "--batch", "4:2"], "batch '4:2' cannot be built"),
        (["b0", "--weights", "random", "--method", "guess"], "unknown method 'guess'"),
        (["b0", "--weights", "random", "--until", "engin"], "unknown stage 'engin': did you mean 'engine'?"),
        (["b0", "--target", "rtx", "--compute-capability", "7.5"], "TensorRT-RTX has no INT8 for 7.5: leave it out"),
        (["b0", "--target", "cpu", "--compute-capability", "8.6"], "--compute-capability is for GPUs: leave it out"),
        (["b0", "--weights", "random", "--precision", "fp32", "--labels", "no.txt"], "no labels file 'no.txt'"),
        (["b0", "--precison", "int8"], "--precison"),
        ([], "expected either a model (b0 to d7x, --help lists them) or --onnx FILE, neither was given"),
        (["b0", "--weights", "random", "--calibration", "/nowhere"], "no calibration data at '/nowhere'"),
        (["b0", "--weights", "random", "--classes", "0", "--precision", "fp32"], "classes 0 makes no model"),
        (["b0", "--precision", "fp16", "--by-latency"], "BY_LATENCY (--by-latency) is of INT8, and fp16 was asked for"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(arguments, message, call, tmp_path):
    target = [] if "--target" in arguments or not arguments else ["--target", "cpu"]
    refused(call(tmp_path / "out", *arguments, *target), message)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", ["none", "nonsense", "cut short"])
def test_a_damaged_checkpoint_is_one_line(content, suffix, call, tmp_path, three_classes):
    path = tmp_path / f"broken{suffix}"
    data = {"none": b"", "nonsense": b"no weights " * 50, "cut short": three_classes.read_bytes()[:-1000]}[content]
    path.write_bytes(data)
    done = call(tmp_path / "out", "b0", "--weights", str(path), "--precision", "fp32", "--target", "cpu")
    refused(done, f"checkpoint '{path}'")
    assert not [file for file in (tmp_path / "out").rglob("*") if not file.is_dir()]


def test_a_checkpoint_with_other_classes_is_one_line(call, tmp_path, three_classes):
    weights = ("--weights", str(three_classes), "--precision", "fp32", "--target", "cpu")
    refused(call(tmp_path / "out", "b0", *weights, "--classes", "5"), "has 3 classes, 5 were asked for")
    refused(call(tmp_path / "out", "b1", *weights), "does not fit b1")


def test_int8_of_foreign_weights_wants_images(call, tmp_path, three_classes):
    refused(call(tmp_path / "out", "b0", "--weights", str(three_classes), "--target", "cpu"), "needs images")


def test_an_empty_calibration_folder_is_one_line(call, tmp_path):
    (tmp_path / "empty").mkdir()
    done = call(tmp_path / "out", *B0, "--precision", "int8", "--calibration", str(tmp_path / "empty"))
    refused(done, f"'{tmp_path / 'empty'}'")
    assert not (tmp_path / "out").exists()


def test_calibration_images_of_which_most_are_none_are_one_line(built, out, call, two_images):
    for name in ("2.jpg", "3.jpg", "4.jpg"):
        (two_images / name).write_text("no image")
    done = call(out, *B0, "--precision", "int8", "--calibration", str(two_images))
    refused(done, "2.jpg")
    assert not hidden(out)


def test_an_out_that_cannot_be_written_is_one_line(call, tmp_path):
    (tmp_path / "file").write_text("")
    refused(call(tmp_path / "file" / "build", *B0, "--precision", "fp32"), "cannot write")
    refused(call(tmp_path / "file", *B0, "--precision", "fp32"), "cannot write")
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_out_without_permission_is_one_line(call, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(call(tmp_path / "locked" / "build", *B0, "--precision", "fp32"), "cannot write")


def test_bad_input_to_the_real_command_is_one_line(tmp_path):
    refused(in_new_process(tmp_path / "out", "d00"), "unknown model 'd00': did you mean 'd0'?")
