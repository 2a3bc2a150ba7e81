"""Checks the files beside OUT: the best weights and the last, the journal, TensorBoard's events, the curves."""

import dataclasses
import errno
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from effedge.deploy.common.cli import UserError
from effedge.pipeline.training.ema import Ema
from effedge.pipeline.training.log.journal import Journal, read_journal
from effedge.pipeline.training.loop import Schedule, train
from effedge.pipeline.weights.state_file import read_state
from tests.pipeline.small_training import B0, data_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Figures:
    """A validation that finds what it is told to."""

    figure = "top-1"

    def __init__(self, *figures):
        self.figures = iter(figures)

    def __call__(self, model, weights):
        return {"top-1": next(self.figures), "top-5": 1.0}


def same_weights(path, state):
    found = read_state(path)[0]
    return all(torch.allclose(found[key].float(), state[key].float(), rtol=2e-3, atol=1e-5) for key in found)


@pytest.fixture
def averages(monkeypatch):
    """The averaged weights after each step."""
    kept, update = {}, Ema.update

    def keeping(self, model, step):
        update(self, model, step)
        kept[step + 1] = {key: value.clone() for key, value in self.state.items()}

    monkeypatch.setattr(Ema, "update", keeping)
    return kept


def test_the_best_weights_are_kept_and_the_last_beside_them(tmp_path, folders, averages):
    out = tmp_path / "mine.safetensors"
    options = dataclasses.replace(B0, steps=4)
    _, figure = train(options, data_of(options, folders), out, Schedule(Figures(0.2, 0.7, 0.7, 0.5), 1))
    assert figure == 0.5
    last = tmp_path / "mine-last.safetensors"
    assert same_weights(out, averages[2]) and same_weights(last, averages[4])
    assert not same_weights(out, averages[4])
    assert read_state(out)[1]["val_top1"] == "0.7000" and read_state(out)[1]["step"] == "2"
    assert read_state(last)[1]["val_top1"] == "0.5000"
    validations = [e["validation"]["top-1"] for e in read_journal(tmp_path / "mine.log.jsonl") if "validation" in e]
    assert validations == [0.2, 0.7, 0.7, 0.5]
    with Image.open(tmp_path / "mine.png") as image:
        assert image.width > 500


def test_without_validation_on_the_way_there_is_one_file(tmp_path, folders, averages):
    options = dataclasses.replace(B0, steps=2)
    for name, figures in (("plain", None), ("validated", Figures(0.1))):
        out = tmp_path / f"{name}.safetensors"
        train(options, data_of(options, folders), out, Schedule(figures))
        assert same_weights(out, averages[2]) and not (tmp_path / f"{name}-last.safetensors").exists()


def test_patience_ends_a_run_that_gains_nothing(tmp_path, folders, capsys, averages):
    out = tmp_path / "mine.safetensors"
    options = dataclasses.replace(B0, steps=9)
    figures = Figures(0.3, 0.2, 0.4, 0.4, 0.1)
    train(options, data_of(options, folders), out, Schedule(figures, 1, patience=2))
    assert max(averages) == 5 and same_weights(out, averages[3])
    assert "stopped after 2 validations without gain: the best was step 3" in capsys.readouterr().out


def test_the_journal_of_a_run_that_goes_on_has_no_step_twice(tmp_path):
    path, board = tmp_path / "a.log.jsonl", tmp_path / "board"
    journal = Journal(path, board, 0, 0)
    for step in (1, 2, 3):
        journal.step(step, {"class": 1 / step}, 0.1, 5.0)
    journal.validation(2, {"AP": 0.4, "AP50": None})
    journal.validation(3, {"AP": 0.5, "AP50": None})
    journal.close()
    with path.open("a") as file:
        file.write('{"step": 4, "cla')  # killed in the middle of a line
    journal = Journal(path, board, 2, 2)
    journal.step(3, {"class": 0.25}, 0.1, 5.0)
    journal.close()
    entries = read_journal(path)
    assert [(e["step"], e["class"]) for e in entries if "class" in e] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert [e["step"] for e in entries if "validation" in e] == [2]
    Journal(path, board, 2, 0).close()  # killed between step 2 and its validation
    assert [e["step"] for e in read_journal(path)] == [1, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    Journal(path, board, 0, 0).close()
    assert read_journal(path) == []


def test_tensorboard_files_hold_the_same_figures(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    journal = Journal(tmp_path / "a.log.jsonl", tmp_path / "board", 0, 0)
    journal.step(1, {"class": 0.75}, 0.125, 5.0)
    journal.validation(1, {"AP": 0.5, "AP50": None})
    journal.close()
    [file] = (tmp_path / "board").iterdir()
    content, found, at = file.read_bytes(), {}, 0
    while at < len(content):  # TFRecord: length, its CRC, data, its CRC
        length = int(np.frombuffer(content[at : at + 8], np.uint64)[0])
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        at += 16 + length
    assert found == {"loss/class": (1, 0.75), "training/rate": (1, 0.125), "training/images_per_second": (1, 5.0),
                     "validation/AP": (1, 0.5)}  # fmt: skip


@pytest.mark.parametrize("refused", ["a.log.jsonl", "events.out.tfevents"])
def test_a_disk_that_refuses_a_journal_is_one_line(tmp_path, monkeypatch, refused):
    if refused != "a.log.jsonl":
        pytest.importorskip("tensorboardX")
    real = io.open

    def full(path, mode="r", *rest, **words):
        if refused in str(path) and mode in ("a", "wb"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, mode, *rest, **words)

    monkeypatch.setattr(io, "open", full)
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(UserError, match="cannot write '.*': No space left on device; make room"):
        Journal(tmp_path / "a.log.jsonl", tmp_path / "board", 0, 0)


def test_weights_that_were_validated_are_there_before_the_end(tmp_path, folders):
    out = tmp_path / "mine.safetensors"

    def validation(model, weights):
        validation.calls += 1
        if validation.calls == 2:
            raise UserError("something else")
        return {"top-1": 0.5}

    validation.calls, validation.figure = 0, "top-1"
    with pytest.raises(UserError, match="something else"):
        train(B0, data_of(B0, folders), out, Schedule(validation, 1))
    assert read_state(out)[1]["step"] == "1"
