"""The Makefile's own decisions, with a command `effedge` that prints its arguments."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture
def asked(tmp_path: Path):
    """make's target and variables -> the words that effedge gets."""
    python = tmp_path / "bin" / "effedge"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    shutil.copy(python, python.with_name("torchrun"))

    def run(*words: str) -> list[str]:
        done = subprocess.run(
            ["make", "-s", "-C", str(ROOT), f"BIN={python.parent}", "INSTALLED=", *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("task", "drawn"), [("detection", ["--out", "predictions"]), ("classification", []), (None, [])]
)
def test_a_detectors_images_are_drawn_and_a_classifiers_cannot_be(asked, tmp_path, task, drawn) -> None:
    if task is not None:  # else predict says that there is no engine
        (tmp_path / "manifest.json").write_text(json.dumps({"spec": {"task": task}}, indent=1))
    words = asked("predict", f"ENGINE={tmp_path}", "SOURCE=a.jpg")
    assert words == ["predict", str(tmp_path), "a.jpg", *drawn]


def test_an_engine_whose_name_begins_with_a_dash_is_no_option_of_another_program(asked, tmp_path) -> None:
    done = subprocess.run(
        ["make", "-sC", str(ROOT), f"BIN={tmp_path / 'bin'}", "INSTALLED=", "predict", "ENGINE=-$", "SOURCE=a.jpg"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["predict", "-$", "a.jpg"] and done.stderr == ""


def test_a_variable_that_does_not_exist_is_an_error_with_the_nearest_name() -> None:
    done = subprocess.run(["make", "engine", "PRECISON=fp32"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "unknown variable 'PRECISON': did you mean 'PRECISION'?" in done.stderr and done.stderr.count("\n") == 1


def test_variables_of_the_environment_do_not_leak_in(asked, monkeypatch) -> None:
    for name in ("MODEL", "SIZE", "OUT", "PRECISION", "BATCH", "NAME"):
        monkeypatch.setenv(name, "7")
    words = asked("engine")
    assert words == ["engine", "d0", "--weights", "digits", "--precision", "int8", "--target", "auto", "--out", "build"]
    assert asked("engine", "SIZE=640")[-2:] == ["--size", "640"]
    assert asked("engine", "NAME=mine")[-2:] == ["--name", "mine"]
    assert asked("engine", "ONNX=a.onnx", "HEAD=yolox")[1:5] == ["--onnx", "a.onnx", "--head", "yolox"]


def test_help_lists_every_target_and_variable() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in ("engine", "deploy", "latency-test", "PRECISION", "SELFTEST_IMAGE", "PATIENCE", "BASELINE"):
        assert word in shown.split(), word


ATTACKS = ["a'; touch {0} #", 'a"; touch {0} #', "`touch {0}`", "$(touch {0})", "$$(touch {0})", "$(shell touch {0})",
           "a;touch\t{0}", "a\n\ttouch {0}", "a & touch {0}", "a | touch {0}", "${{x:=`touch {0}`}}"]  # fmt: skip


@pytest.mark.parametrize("target", ["engine", "deploy", "train", "predict", "latency", "accuracy", "help", "prove"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_variables_value_is_never_run(asked, tmp_path, target, attack) -> None:
    mark = tmp_path / "touched"
    value = attack.format(mark)
    for extra in ("core", "train", "plot", "lite0"):
        (tmp_path / f".installed-{extra}").touch()
    variables = {"engine": "MODEL HEAD SIZE BUILD_OPTIONS CAPABILITY",
                 "deploy": "HOST OUT SELFTEST_IMAGE DEVICE_PYTHON",
                 "train": "ARGS OUT DATA PROCESSES WEIGHTS", "predict": "ENGINE SOURCE", "latency": "JSON PLOT OUT",
                 "accuracy": "PEERS OUT", "help": "MODEL OUT", "prove": "MODELS SOAK"}[target]  # fmt: skip
    for name in variables.split():
        try:
            asked(target, f"{name}={value}", f"VENV={tmp_path}", f"PYTHON={tmp_path}/none")
        except subprocess.CalledProcessError as error:
            pytest.fail(f"{name}: {error.stderr}")
        assert not mark.exists(), name


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["VENV", "PYTHON"])
def test_nor_is_that_of_the_environments_folder_or_python(tmp_path, attack, name) -> None:
    mark = tmp_path / "touched"
    words = ["make", "-s", "setup", f"VENV={tmp_path}/venv", f"{name}={attack.format(mark)}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and not mark.exists()
    if "$(" not in attack:  # make itself expands a variable's name, before it reads a file
        words = ["make", f"{attack.format(mark)}=1".replace(" ", "\t")]
        assert subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 2
        assert not mark.exists()


def test_a_value_reaches_the_command_as_it_is(tmp_path) -> None:
    value = 'it\'s $HOME; a "quoted" `word` * \\ $(x)'
    tool = tmp_path / "effedge"
    tool.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    tool.chmod(0o755)
    words = ["make", "-s", "-C", str(ROOT), f"BIN={tmp_path}", "INSTALLED=", "summary", f"MODEL={value}"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == f"summary\n{value}\n"


def test_clean_removes_its_folder_and_never_the_checkout(tmp_path) -> None:
    (tmp_path / "out" / "x").mkdir(parents=True)
    (tmp_path / "out" / "x" / "source.txt").touch()
    subprocess.run(["make", "-s", "clean", f"OUT={tmp_path}/out"], cwd=ROOT, check=True)
    subprocess.run(["make", "-s", "clean", f"OUT={tmp_path}/out"], cwd=ROOT, check=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "copy").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path / "copy")
    for out in (".", "..", str(tmp_path)):
        done = subprocess.run(["make", "-s", "clean", f"OUT={out}"], cwd=tmp_path / "copy", capture_output=True)
        assert done.returncode == 2 and (tmp_path / "copy" / "Makefile").exists()


def test_clean_removes_no_folder_or_file_of_others(tmp_path) -> None:
    (tmp_path / "notes" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "notes" / "deep" / "deeper" / "source.txt").touch()
    (tmp_path / "mine.pth").touch()
    (tmp_path / "empty").mkdir()
    for name, status in (("notes", 2), ("mine.pth", 2), ("empty", 0)):
        words = ["make", "-s", "clean", f"OUT={tmp_path / name}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status and ("it is not removed" in done.stderr) == bool(status)
        assert (tmp_path / name).exists() == bool(status)
