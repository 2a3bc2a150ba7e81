"""A training on a GPU: the CPU's losses, and a run that goes on where it was interrupted."""

import json
import sys

import pytest

# ruff: noqa: E402  (the imports below need PyTorch)
torch = pytest.importorskip("torch", exc_type=ImportError)
from safetensors.torch import load_file

from effedge.deploy.common.cli import UserError
from effedge.pipeline.training import loop, train

STEPS = 6
WORDS = ["b0", "--data", "digits", "--size", "64", "--batch", "16", "--warmup", "2", "--workers", "1", "-q"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(name, *words) trains for a few steps -> (losses, averaged weights)."""

    def train_briefly(name, *words):
        out = tmp_path / f"{name}.safetensors"
        monkeypatch.setattr(sys, "argv", ["train", *WORDS, "--steps", str(STEPS), "--out", str(out), *words])
        monkeypatch.setattr(train, "make_validation", lambda *arguments: None)
        train.main()
        rows = [json.loads(line) for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row], load_file(out)

    return train_briefly


def test_the_losses_are_those_of_the_cpu(run):
    on_cpu, _ = run("cpu", "--device", "cpu")
    on_gpu, _ = run("gpu", "--device", "cuda")
    assert len(on_gpu) == STEPS
    assert on_gpu == pytest.approx(on_cpu, rel=0.02)
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=0.005)


def test_bfloat16_learns_the_same_at_first(run):
    exact, _ = run("exact")
    half, _ = run("half", "--precision", "bf16")
    assert half == pytest.approx(exact, rel=0.05)


def test_it_goes_on_where_it_was_interrupted(run, monkeypatch):
    _, expected = run("whole")
    original, done = loop.train_step, []

    def interrupted(*arguments):
        if len(done) == STEPS // 2:
            raise KeyboardInterrupt
        done.append(None)
        return original(*arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(UserError, match=f"interrupted after step {STEPS // 2}"):
        run("parts")
    monkeypatch.setattr(loop, "train_step", original)
    losses, weights = run("parts")
    assert len(losses) == STEPS
    for name, value in expected.items():
        assert torch.allclose(weights[name].float(), value.float(), rtol=0.02, atol=0.02), name
