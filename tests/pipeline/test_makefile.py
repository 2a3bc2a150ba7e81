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


def test_help_lists_every_target_and_variable() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in ("engine", "deploy", "latency-test", "PRECISION", "SELFTEST_IMAGE", "PATIENCE", "BASELINE"):
        assert word in shown.split(), word
