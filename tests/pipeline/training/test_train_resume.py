"""Going on after Ctrl-C, a signal or a kill: to the very weights of a run that was not stopped."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.create import create_model
from effedge.pipeline.models.tables import Size
from effedge.pipeline.training import loop
from effedge.pipeline.training.ema import Ema
from effedge.pipeline.training.interrupts import Interrupts
from effedge.pipeline.training.log.journal import read_journal
from effedge.pipeline.training.log.state import resume_path
from effedge.pipeline.training.loop import Schedule, train
from effedge.pipeline.training.validation import make_validation
from effedge.pipeline.weights.published import preprocessing
from effedge.pipeline.weights.save import save_weights
from effedge.pipeline.weights.state_file import read_state
from tests.pipeline.small_training import B0, D0, ROOT, assert_equal, data_of, error_of, write_coco

pytestmark = pytest.mark.usefixtures("one_thread")


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
    ("options", "how"),
    [
        (B0, signal.SIGINT),
        pytest.param(B0, signal.SIGTERM, marks=pytest.mark.slow),
        (B0, Killed),
        pytest.param(D0, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_very_weights_of_one_that_was_not(
    monkeypatch, tmp_path, folders, options, how
):
    data = data_of(options, folders if options is B0 else write_coco(tmp_path, 5), tmp_path / "photographs")
    whole, _ = train(options, data, tmp_path / "whole.safetensors")

    out = tmp_path / "parts.safetensors"
    with monkeypatch.context() as patched:
        stop_in_step(patched, 2, how)
        if how is Killed:
            patched.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step
        with pytest.raises(Killed if how is Killed else UserError) as stopped:
            train(options, data, out)
    done = 2 if how is Killed else 3  # a polite signal lets the step end
    assert torch.load(resume_path(out))["step"] == done
    if how is not Killed:
        assert "the same command goes on" in str(stopped.value) and "after step 3 of" in str(stopped.value)
    torch.rand(7)  # another process has another generator state
    parts, _ = train(options, data, out)
    assert_equal(parts, whole)


def entries_of(out):
    """The journal, without what depends on the clock."""
    return [{key: value for key, value in entry.items() if key != "images_per_second"}
            for entry in read_journal(out.with_suffix(".log.jsonl"))]  # fmt: skip


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_writes_what_one_that_was_not_writes(monkeypatch, tmp_path, folders):
    """kill -9 in the middle of random steps; in parts of a batch, with validations, the best weights and a journal."""
    options = dataclasses.replace(B0, steps=8, batch=4, accumulate=2)
    data = data_of(options, folders)
    validation = make_validation("b0", str(folders), None, data.labels, Size(32, 32), preprocessing("b0", ""))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.2)
    outs = [tmp_path / name / "b0.safetensors" for name in ("whole", "parts")]
    for out in outs:
        out.parent.mkdir()
    whole, figure = train(options, data, outs[0], Schedule(validation, 3))
    update = Ema.update

    def process(killed_at):
        def killing(self, model, now):
            if now == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            update(self, model, now)

        monkeypatch.setattr(Ema, "update", killing)
        train(options, data, outs[1], Schedule(validation, 3))

    steps = sorted(np.random.default_rng().choice(8, 3, replace=False).tolist())
    for killed_at in steps:
        one = multiprocessing.get_context("fork").Process(target=process, args=(killed_at,))
        one.start()
        one.join()
        assert one.exitcode == -signal.SIGKILL, steps
    parts, same_figure = train(options, data, outs[1], Schedule(validation, 3))
    assert_equal(parts, whole)
    assert figure == same_figure and entries_of(outs[0]) == entries_of(outs[1]), steps
    assert len(entries_of(outs[0])) == 8 + 3
    names = [{path.name for path in out.parent.iterdir() if path.suffix == ".safetensors"} for out in outs]
    assert names[0] == names[1], steps
    for name in names[0]:
        (state, metadata), (same_state, same_metadata) = (read_state(out.parent / name) for out in outs)
        assert_equal(state, same_state)
        assert metadata == same_metadata, (name, steps)


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


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopping_the_whole_process_group_is_one_line_and_the_same_command_goes_on(tmp_path, folders, how):
    """A terminal's Ctrl-C reaches the worker too, and so does a service manager's SIGTERM."""
    command = [sys.executable, "-m", "effedge", "train", "b0", "--data", folders, "--size", "32", "--batch", "2",
               "--steps", "40", "--out", tmp_path / "b0.safetensors"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert "training b0 at 32: 3 classes, 40 steps of 2, 13.3 epochs of 6 images\n" in lines
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
        time.sleep(0.01)  # until the training has its worker
    time.sleep(0.3)  # and the worker, a fork, its own handlers: a SIGTERM before that is a known race
    os.killpg(process.pid, how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1 and errors.startswith("error: interrupted after step")
    beside = {"b0.log.jsonl", "b0.tensorboard"}
    assert {path.name for path in tmp_path.glob("*b0*")} == beside | {"b0.safetensors.resume.pt"}
    again = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, text=True, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert any(line.startswith("going on from step") for line in again.stdout.splitlines())
    assert again.stdout.splitlines()[-1] == str(tmp_path / "b0.safetensors")
    assert {path.name for path in tmp_path.glob("*b0*")} == beside | {"b0.safetensors", "b0.png"}


def test_going_on_does_not_need_the_initial_weights_again(monkeypatch, tmp_path, folders):
    init, out = tmp_path / "init.safetensors", tmp_path / "b0.safetensors"
    save_weights(create_model("b0", 3).state_dict(), init, {})
    options = dataclasses.replace(B0, init=str(init))
    with monkeypatch.context() as patched:
        stop_in_step(patched, 1, signal.SIGINT)
        with pytest.raises(UserError, match="interrupted after step 2"):
            train(options, data_of(options, folders), out)
    init.unlink()
    train(options, data_of(options, folders), out)


def stopped_training(monkeypatch, tmp_path, folders):
    """The output of a training that was stopped in its first step."""
    out = tmp_path / "b0.safetensors"
    with monkeypatch.context() as patched:
        stop_in_step(patched, 0, signal.SIGINT)
        with pytest.raises(UserError):
            train(B0, data_of(B0, folders), out)
    return out


def test_a_resume_file_of_other_options_or_annotations_is_named(monkeypatch, tmp_path, folders):
    out = stopped_training(monkeypatch, tmp_path, folders)
    with pytest.raises(UserError, match=r"other options \(rate 0.001 instead of 0.002\)"):
        train(dataclasses.replace(B0, rate=2e-3), data_of(B0, folders), out)
    (folders / "red" / "1.png").rename(folders / "blue" / "2.png")
    with pytest.raises(UserError, match="other options .annotations"):
        train(B0, data_of(B0, folders), out)


def test_a_resume_file_from_before_an_option_is_of_a_run_with_its_default(monkeypatch, tmp_path, folders):
    out = stopped_training(monkeypatch, tmp_path, folders)
    saved = torch.load(resume_path(out))
    for name in ("matching", "box_loss", "dropout"):
        del saved["run"][name]
    torch.save(saved, resume_path(out))
    with pytest.raises(UserError, match=r"other options \(box_loss huber instead of giou\)"):
        train(dataclasses.replace(B0, box_loss="giou"), data_of(B0, folders), out)
    train(B0, data_of(B0, folders), out)


@pytest.mark.parametrize("cut", [0, 100, 0.5, 0.999])
def test_a_damaged_resume_file_is_one_line(monkeypatch, tmp_path, folders, cut):
    out = tmp_path / "b0.safetensors"
    content = {"run": {}, "step": 3, "model": {"x": torch.zeros(1000)}}
    torch.save(content, resume_path(out))
    whole = resume_path(out).read_bytes()
    resume_path(out).write_bytes(whole[: int(cut if cut > 1 else cut * len(whole))])
    message = error_of(monkeypatch, "b0", "--data", folders, "--size", 32, "--steps", 1, "--out", out)
    assert "is damaged" in message and "remove it" in message
