"""`effedge prove` on simulated boards: a model at every precision, on the DLA too, compared, raced and soaked there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.simulated_board.board import JETPACK_62, ROOT
from tests.simulated_board.conftest import environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of the host's artefacts: a model is exported once for all boards."""
    return tmp_path_factory.mktemp("build")


def prove(board, out, *words):
    command = [sys.executable, "-m", "effedge", "prove", "nvidia@board", "--out", str(out), *words]
    return subprocess.run(command, env=environment(board), cwd=ROOT, capture_output=True, text=True)


def test_every_precision_of_a_model_is_proved_in_one_report(start, out):
    board = start(JETPACK_62)
    done = prove(board, out, "--models", "b0", "--soak", "3", "--iterations", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "prove-board" / "report.json").read_text())
    rows = {row["label"]: row for row in report["rows"]}
    assert report["target"] == "jetson-orin" and len(rows) == 5
    for row in rows.values():
        assert row["reason"] == "", row
        assert row["installed"]["backend"]["version"] == JETPACK_62.tensorrt
        assert row["proof"]["agreement"]
    int8, on_the_dla = (row for row in rows.values() if row["precision"] == "int8")
    assert on_the_dla["dla"] and on_the_dla["installed"]["backend"]["dla"]["mode"] == "fallback"
    assert int8["proof"]["race"]["ratio"] > 0 and int8["proof"]["soak"]
    assert "jetson-orin" in (out / "prove-board" / "report.html").read_text()


def test_a_precision_that_cannot_be_built_is_a_row_with_its_reason(start, out):
    board = start(JETPACK_62)
    board.gpu.no_implementation = lambda node: node.op_type == "QuantizeLinear"
    done = prove(board, out, "--models", "b0", "--soak", "0", "--iterations", "3", "--precisions", "fp16", "int8")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((out / "prove-board" / "report.json").read_text())["rows"]
    reasons = {row["precision"]: row["reason"] for row in rows if not row["dla"]}
    assert reasons["fp16"] == "" and "Could not find any implementation" in reasons["int8"]
