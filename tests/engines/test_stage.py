"""A stage's record: what it vouches for, and what it never does."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.engines import stage
from effedge.engines.stage import record_path, run_stage


def run(artefact, source, make=None, **options):
    return run_stage(
        "copy", artefact, inputs={"source": source}, options=options, tools=[], code=["effedge.engines.stage"],
        make=make or (lambda path: path.write_bytes(source.read_bytes() + json.dumps(options).encode())),
    )  # fmt: skip


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_text("content")
    return path


def test_a_stage_runs_once_and_again_when_something_changed(tmp_path, source):
    artefact = tmp_path / "out" / "artefact"
    assert [run(artefact, source), run(artefact, source), run(artefact, source, a=1)] == [True, False, True]
    source.write_text("other")
    assert run(artefact, source, a=1)
    artefact.write_text("damaged")
    assert run(artefact, source, a=1) and not run(artefact, source, a=1)
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["artefact", "artefact.json"]


def test_an_input_that_changes_while_it_is_read_is_an_error_and_the_earlier_artefact_stays(tmp_path, source):
    artefact = tmp_path / "artefact"
    run(artefact, source)
    before = artefact.read_bytes(), record_path(artefact).read_bytes()

    def make(path):
        path.write_bytes(source.read_bytes())
        source.write_text("changed")

    with pytest.raises(UserError, match="source' was changed while it was read"):
        run(artefact, source, make, a=1)
    assert (artefact.read_bytes(), record_path(artefact).read_bytes()) == before


def test_a_record_does_not_vouch_for_a_file_that_another_put_there(tmp_path, source, monkeypatch):
    """As where nothing can be locked: the other's file comes between the rename and the record."""
    artefact, write = tmp_path / "artefact", stage.write_json

    def write_late(path, record):
        artefact.write_text("another run's")
        write(path, record)

    monkeypatch.setattr(stage, "write_json", write_late)
    run(artefact, source)
    assert json.loads(record_path(artefact).read_text())["sha256"] != sha256(artefact)
    monkeypatch.undo()
    assert run(artefact, source)


def run_one(arguments):
    artefact, source, number = arguments
    return run(artefact, source, number=number)


def test_of_many_runs_at_once_the_record_is_of_the_artefact(tmp_path, source):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.map(run_one, [(tmp_path / "artefact", source, number) for number in range(12)], 1))
    number = json.loads((tmp_path / "artefact").read_text()[len("content") :])["number"]
    assert not run(tmp_path / "artefact", source, number=number)


def test_a_fifo_is_no_artefact(tmp_path, source):
    os.mkfifo(str(tmp_path / "fifo"))
    with pytest.raises(UserError, match="fifo' is a device or a fifo: expected a file"):
        run(tmp_path / "fifo", source)
    assert sorted(os.listdir(str(tmp_path))) == ["fifo", "source"]


@pytest.mark.parametrize("name", ["/", ".", ".."])
def test_a_folder_without_a_name_of_its_own_is_no_artefact(name, source):
    with pytest.raises(UserError, match="has no name, beside which a record can stand: give one"):
        run(Path(name), source)
