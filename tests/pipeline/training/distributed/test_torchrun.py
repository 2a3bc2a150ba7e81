"""torchrun from the command line: two processes print as one, write once, and their weights load."""

import os
import subprocess
import sys

import pytest

from effedge.pipeline.training.log.journal import read_journal
from effedge.pipeline.weights.load import load_weights
from tests.pipeline.small_training import ROOT


@pytest.mark.slow
def test_torchrun_trains_in_two_processes(tmp_path, folders):
    out = tmp_path / "b0.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "effedge", "train", "b0", "--data", folders, "--val", folders, "--size", "32", "--batch", "4",
               "--steps", "4", "--validate-every", "2", "--out", out]  # fmt: skip
    ran = subprocess.run(list(map(str, command)), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
                         capture_output=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("training b0 at 32: 3 classes, 4 steps of 4, 2.7 epochs of 6 images, 2 processes") == 1
    assert ran.stdout.count("validation top-1") == 2 and ran.stdout.splitlines()[-1] == str(out)
    assert [entry["step"] for entry in read_journal(tmp_path / "b0.log.jsonl") if "rate" in entry] == [1, 2, 3, 4]
    assert load_weights("b0", str(out)).labels == ["blue", "green", "red"]
