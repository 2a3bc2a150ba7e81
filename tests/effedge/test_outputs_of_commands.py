"""Every command refuses an output's path that nothing can be written to: one line, exit status 2, nothing left.

The options are read from the commands' own parsers, so that a new command, or a new option, is held to it at once.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path

import pytest

from effedge.commands import COMMANDS
from effedge.deploy import latency_test
from effedge.deploy.common.cli import Parser
from effedge.deploy.common.paths import json_file, output_file, output_folder, output_path
from tests.read_only_mount import read_only as read_only

OUTPUT_TYPES = (output_file, output_folder, output_path, json_file)
# Arguments whose type is a path, and which are read; "baseline" is written with --record.
INPUTS = {
    "baseline", "bundle", "calibration", "data", "engine", "engines", "fallback", "figures", "float", "float_model",
    "images", "images_dir", "int8", "int8_model", "inventory", "key", "labels", "model", "onnx", "peers", "ranges",
    "samples", "selftest_image", "signed", "val_images", "validation",
}  # fmt: skip
LONG = "a" * 300


class Captured(Exception):
    """Carries a command's parser out of its `main`."""


@functools.cache
def arguments_of(name):
    """The arguments of a command, as argparse has them."""

    def capture(parser, *_):
        raise Captured(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", capture)
        patch.setattr(sys, "argv", ["effedge"])
        try:
            importlib.import_module(COMMANDS[name].module).main()
        except Captured as captured:
            return captured.args[0]._actions
    raise AssertionError(f"{name} parsed nothing")


def outputs_of(name):
    return [action for action in arguments_of(name) if action.type in OUTPUT_TYPES]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_argument_that_is_a_path_is_read_or_has_the_type_of_an_output(name):
    paths = {action.dest for action in arguments_of(name) if action.type is Path}
    assert paths <= INPUTS, "read: add it to INPUTS here; written: give it output_file, output_folder or output_path"
    named = {action.dest for action in arguments_of(name) if action.dest in ("out", "json", "plot")}
    assert named == {action.dest for action in outputs_of(name)} & {"out", "json", "plot"}


def test_the_commands_that_write_are_found():
    assert len([name for name in COMMANDS if outputs_of(name)]) >= 25


@pytest.mark.parametrize("name", COMMANDS)
def test_json_goes_to_standard_output_and_no_other_output_does(name, call_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(COMMANDS[name].module).main
    for action in outputs_of(name):
        assert (action.type is json_file) == (action.dest == "json")
        if action.type is not json_file:
            status, out, error = call_main(main, action.option_strings[-1], "-")
            assert (status, out, error.count("\n")) == (2, "", 1)
            assert "'-' was given" in error and "only --json" in error
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_number_that_is_not_finite_is_one_line(name, call_main):
    main = importlib.import_module(COMMANDS[name].module).main
    for action in arguments_of(name):
        for text in ("nan", "inf", "1e999") if action.type is float else ():
            option = [action.option_strings[-1], *["1"] * ((action.nargs or 1) - 1), text]
            status, out, error = call_main(main, *option)
            assert (status, out, error.count("\n")) == (2, "", 1)
            assert f"'{text}' was given, expected a finite number" in error


PATHS = {
    "/proc/x/y": "No such file or directory ('/proc')",
    "/dev/full/x": "Not a directory ('/dev/full')",
    "/dev/full/x/y": "Not a directory ('/dev/full')",
    "file/x": "Not a directory (",
    "file/x/y": "Not a directory (",
    LONG: "File name too long",
    f"new/{LONG}/x": "File name too long",
    "loop/x": "Not a directory (",
    "": "'' was given, expected a path",
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:20] or "empty")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_nothing_can_be_written_to_is_one_line(name, path, call_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    main = importlib.import_module(COMMANDS[name].module).main
    for action in outputs_of(name):
        status, out, error = call_main(main, action.option_strings[-1], path)
        assert (status, out, error.count("\n")) == (2, "", 1), error
        assert error.startswith("error: ") and PATHS[path] in error and f"'{path}'" in error
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.parametrize("path", [path for path in PATHS if path], ids=lambda path: path[:20])
def test_a_baseline_that_cannot_be_recorded_is_one_line(path, call_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    status, out, error = call_main(latency_test.main, tmp_path, "--baseline", path, "--record")
    assert (status, out, error.count("\n")) == (2, "", 1) and f"cannot write '{path}'" in error
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_is_no_file_and_a_file_no_folder(name, call_main, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    main = importlib.import_module(COMMANDS[name].module).main
    for action in outputs_of(name):
        if action.type is not output_path:
            odd = "folder" if action.type in (output_file, json_file) else "file"
            status, out, error = call_main(main, action.option_strings[-1], tmp_path / odd)
            assert (status, out, error.count("\n")) == (2, "", 1)
            assert "cannot write " in error and f"a {odd}" in error
    assert (tmp_path / "file").read_text() == "kept"


def test_a_new_folder_on_a_read_only_disk_is_one_line(read_only, call_main):
    for name in COMMANDS:
        main = importlib.import_module(COMMANDS[name].module).main
        for action in outputs_of(name):
            status, out, error = call_main(main, action.option_strings[-1], read_only / "new" / "x")
            assert (status, out, error.count("\n")) == (2, "", 1)
            assert "Read-only file system" in error
