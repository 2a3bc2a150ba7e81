"""The Makefile's own decisions, with a python that prints what it is asked."""

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
    """make's target and variables -> the words that python gets."""
    python = tmp_path / "bin" / "python"
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
def test_a_detectors_pictures_are_drawn_and_a_classifiers_cannot_be(asked, tmp_path, task, drawn) -> None:
    if task is not None:  # else predict says that there is no engine
        (tmp_path / "manifest.json").write_text(json.dumps({"spec": {"task": task}}, indent=1))
    words = asked("predict", f"ENGINE={tmp_path}", "SOURCE=a.jpg")
    assert words == ["-m", "effedge", "predict", str(tmp_path), "a.jpg", *drawn]
