"""Starts simulated boards, and deploys bundles to them by the command that a user types."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulated_board.board import ROOT, Kind, SimulatedBoard
from tests.simulated_board.roots import Missing


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., SimulatedBoard]]:
    """start(kind, **options) starts a board; it ends with the test. Skips, with the reason, where there can be none."""
    running: list[SimulatedBoard] = []

    def start(kind: Kind, **options: Any) -> SimulatedBoard:
        try:
            running.append(SimulatedBoard(kind, tmp_path / f"board{len(running)}", **options))
        except Missing as reason:
            pytest.skip(str(reason))
        return running[-1]

    yield start
    for board in running:
        board.close()


def environment(board: SimulatedBoard, **more: str) -> dict[str, str]:
    """The environment of a command whose ssh reaches the board."""
    return {**os.environ, "PATH": f"{board.folder / 'bin'}:{os.environ['PATH']}", **more}


def deploy(board: SimulatedBoard, archive: Path, *words: str, **ssh: str) -> subprocess.CompletedProcess[str]:
    """Runs `effedge deploy` with more words; `ssh` are the faults of the stand-in for ssh: CUT, STOP."""
    command = [sys.executable, "-m", "effedge", "deploy", str(archive), "nvidia@board", *words]
    return subprocess.run(command, env=environment(board, **ssh), cwd=ROOT, capture_output=True, text=True)


def start_deploy(board: SimulatedBoard, archive: Path) -> subprocess.Popen[str]:
    """Runs `effedge deploy` beside the test."""
    command = [sys.executable, "-m", "effedge", "deploy", str(archive), "nvidia@board"]
    return subprocess.Popen(
        command, env=environment(board), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that ended with a user error."""
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: "), line
    return line


def predict(board: SimulatedBoard, archive: Path) -> Any:
    """What the installed engine predicts on the board for the bundle's image, as records."""
    name = archive.name[: -len(".tar.gz")]
    words = "python3 -m effedge predict engine selftest/image.png --json /tmp/record.json"
    done = board.run(f"cd effedge/{name} && {words} && cat /tmp/record.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(
        done.stdout[done.stdout.index("[") if done.stdout.startswith("[") else done.stdout.index("\n[") :]
    )


def engine_digest(board: SimulatedBoard, archive: Path) -> str:
    """The SHA-256 of the plan that is installed now."""
    done = board.run(f"cat effedge/{archive.name[: -len('.tar.gz')]}/engine/engine.plan | sha256sum")
    digest = done.stdout.split()[0]
    assert digest != hashlib.sha256(b"").hexdigest(), done.stderr
    return digest
