"""Tests the steps of an installation that the tests of the bundle, which run install.sh, cannot interrupt."""

import itertools
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines import install
from effedge.engines.device import DetectedDevice
from effedge.engines.install import lasting_folder
from effedge.engines.installation import candidate
from effedge.engines.installation.candidate import (
    CANDIDATE,
    DEVICE,
    EARLIER,
    ENGINE,
    MADE_HERE,
    begin_candidate,
    keep_earlier_engine,
    move_up,
)
from effedge.engines.targets import TARGETS

HERE = DetectedDevice(TARGETS["cpu-ort"], "1.0", None)
ELSEWHERE = HERE._replace(version="2.0")
ENGINE_FILE = "engine.onnx"


def write(folder, content):
    """Writes all that an installation makes; each file holds `content`."""
    for path in MADE_HERE:
        if path == ENGINE:
            (folder / path).mkdir()
            (folder / path / ENGINE_FILE).write_text(content)
        elif path != DEVICE:
            (folder / path).write_text(content)


def contents(folder):
    files = [path / ENGINE_FILE if path == ENGINE else path for path in MADE_HERE if path != DEVICE]
    return {(folder / path).read_text() for path in files}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder with an old installation, and a new one that has passed in candidate/."""
    monkeypatch.chdir(tmp_path)
    begin_candidate(HERE)
    shutil.copy(CANDIDATE / DEVICE, DEVICE)
    write(Path(), "old")
    write(CANDIDATE, "new")


def test_an_engine_that_passed_moves_up(installed):
    move_up()
    assert contents(Path()) == {"new"}
    assert not CANDIDATE.exists() and not EARLIER.exists()


@pytest.mark.parametrize(
    ("in_one_step", "kill"),
    [*((True, kill) for kill in range(len(MADE_HERE) - 1)), *((False, kill) for kill in range(len(MADE_HERE) + 1))],
)
def test_after_a_kill_there_is_an_engine_and_the_next_run_ends_the_move(installed, monkeypatch, kill, in_one_step):
    calls = itertools.count()
    if not in_one_step:
        monkeypatch.setattr(candidate, "exchange", lambda *_: False)

    def replace(source, target):
        if next(calls) == kill:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(install.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            move_up()
    assert ENGINE.exists() or not in_one_step
    with keep_earlier_engine():
        assert (ENGINE / ENGINE_FILE).read_text() in ("old", "new")
        begin_candidate(HERE)
    assert contents(CANDIDATE) == {"new"}
    move_up()
    assert contents(Path()) == {"new"}
    assert not CANDIDATE.exists() and not EARLIER.exists()


def test_an_unchanged_engine_is_not_even_renamed(installed, monkeypatch):
    shutil.rmtree(CANDIDATE)
    begin_candidate(HERE)
    assert contents(CANDIDATE) == {"old"}
    before = ENGINE.stat().st_ino
    move_up()
    assert ENGINE.stat().st_ino == before and contents(Path()) == {"old"}


def test_links_cost_no_space_and_where_there_are_none_files_are_copied(installed, monkeypatch):
    def refuse(*_):
        raise PermissionError("Operation not permitted")  # exFAT's answer

    inodes = []
    for _ in range(2):
        shutil.rmtree(CANDIDATE)
        begin_candidate(HERE)
        assert contents(CANDIDATE) == {"old"}
        inodes.append((CANDIDATE / ENGINE / ENGINE_FILE).stat().st_ino)
        monkeypatch.setattr(os, "link", refuse)
    assert inodes[0] == (ENGINE / ENGINE_FILE).stat().st_ino != inodes[1]


def test_nothing_of_another_device_goes_into_the_candidate(installed):
    begin_candidate(ELSEWHERE)  # whose unfinished files are another device's too
    assert [path.name for path in CANDIDATE.iterdir()] == [DEVICE.name]
    begin_candidate(ELSEWHERE)  # after a build that failed
    assert [path.name for path in CANDIDATE.iterdir()] == [DEVICE.name]
    assert contents(Path()) == {"old"}


@pytest.mark.parametrize("there", [True, False])
def test_an_error_says_that_the_earlier_engine_stays_where_there_is_one(installed, there):
    if not there:
        shutil.rmtree(ENGINE)
    with pytest.raises(UserError) as caught, keep_earlier_engine():
        raise UserError("no")
    assert str(caught.value) == ("no; the earlier engine stays" if there else "no")


@pytest.mark.parametrize("there", [True, False])
def test_the_builder_compares_on_the_bundled_image_and_gets_plan_b_where_there_is_one(installed, monkeypatch, there):
    commands = []
    monkeypatch.setattr(install, "call", lambda *words: commands.append(words))
    if there:
        install.FALLBACK.parent.mkdir()
        install.FALLBACK.touch()
    install.build({"precision": "int8", "build_options": ["--workspace-mib", "9"]}, HERE)
    [words] = commands
    more = ("--fallback", "model/fallback.onnx") if there else ()
    assert words[:2] == ("build", "model/model.onnx") and words[6:] == (
        "--out", "candidate/engine", "--compare-on", "selftest/image.png", *more, "--workspace-mib", "9",
    )  # fmt: skip


def test_the_report_and_the_last_line_say_that_plan_b_was_built_and_why(installed, monkeypatch, caplog):
    monkeypatch.setattr(install.log, "propagate", True)
    manifest = {
        "backend": {"name": "tensorrt", "version": "8.5.2"}, "precision": {"convolutions": {"int8": 1, "f16": 2}},
        "fallback": {"reason": "there is no kernel for 'conv1'", "layers": ["conv1", "conv3"]},
    }  # fmt: skip
    (CANDIDATE / ENGINE / "manifest.json").write_text(json.dumps(manifest))
    bundle = dict.fromkeys(("name", "model", "precision", "target"), "net")
    figures = {"steps": {"engine": {"p50": 1.0, "p90": 1.1, "p99": 1.2}}, "machine": {}}
    install.report(bundle, HERE, {}, figures)
    assert json.loads((CANDIDATE / install.INSTALLED).read_text())["fallback"] == manifest["fallback"]
    line = caplog.messages[-1]
    assert line.endswith("; it is plan B, with 2 more layers in 16 bit, because there is no kernel for 'conv1'")


@pytest.mark.parametrize(("version", "accepted"), [("6.2.1", False), ("7.0.0", True), ("10.2.0", True)])
def test_an_old_pillow_is_refused_with_the_command_that_works_for_this_python(monkeypatch, version, accepted):
    import PIL

    monkeypatch.setattr(PIL, "__version__", version)
    monkeypatch.setattr(install, "how_to_pip_install", lambda package: f"the command for {package}")
    if accepted:
        install.check_packages()
        return
    with pytest.raises(UserError, match="Pillow 6.2.1 is here, .* the command for --upgrade pillow"):
        install.check_packages()


def test_an_interrupt_ends_the_command_too(monkeypatch, tmp_path):
    """A process that would outlive it writes a file."""
    late = tmp_path / "late"
    code = f"import sys, time; print('up', file=sys.stderr, flush=True); time.sleep(1); open({str(late)!r}, 'w')"
    started = install.subprocess.Popen
    monkeypatch.setattr(
        install.subprocess, "Popen", lambda words, **rest: started([words[0], "-c", code], **rest)
    )  # fmt: skip
    monkeypatch.setattr(install.sys, "stderr", Interrupting())
    with pytest.raises(KeyboardInterrupt):
        install.call("build")
    time.sleep(1.5)
    assert not late.exists()


class Interrupting:
    """A stream at whose first line Ctrl-C comes."""

    def write(self, text):
        raise KeyboardInterrupt

    def flush(self):
        pass


def test_the_path_that_is_printed_is_the_link_that_lasts(tmp_path):
    work, other = (tmp_path / f".net-int8-jetson-orin-{digest}" for digest in ("0123456789abcdef", "fedcba9876543210"))
    for folder in (work, other):
        folder.mkdir()
    link = tmp_path / "net-int8-jetson-orin"
    assert lasting_folder(work) == work
    link.symlink_to(work.name)
    assert lasting_folder(work) == link
    assert lasting_folder(other) == other  # not installed yet
    assert lasting_folder(tmp_path) == tmp_path
