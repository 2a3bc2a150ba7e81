"""Messages go to standard output, warnings to standard error; progress is a bar, or lines, or nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from effedge.deploy.common import messages
from effedge.deploy.common.messages import LINES, LineBar, log, messages_to_stderr, printable, silence, track


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, in a list of one."""
    seconds = [0.0]
    monkeypatch.setattr(messages.time, "monotonic", lambda: seconds[0])
    return seconds


def test_information_goes_to_standard_output_and_a_warning_to_standard_error(capsys):
    log.info("made it")
    log.warning("note: slower")
    assert capsys.readouterr() == ("made it\n", "note: slower\n")


def test_within_messages_to_stderr_standard_output_is_for_the_result_alone(capsys):
    with messages_to_stderr():
        log.info("made it")
    log.info("again")
    assert capsys.readouterr() == ("again\n", "made it\n")


def test_a_name_commands_no_terminal(capsys):
    log.warning("note: the class \x1b[2J\u202egod\x9b2J\r\nand\tmore")
    assert capsys.readouterr().err == "note: the class \\x1b[2J\\u202egod\\x9b2J\\x0d\nand\tmore\n"
    assert printable("a\nb\u2028c é日") == "a\\x0ab\\u2028c é日"


def test_silence_keeps_warnings_and_ends_with_its_block(capsys, monkeypatch):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda stream: True)
    with silence():
        log.info("nothing")
        log.warning("note: this")
        assert track(range(3)).disable
    log.info("something")
    assert capsys.readouterr() == ("something\n", "note: this\n")
    bar = track(range(3))
    assert not bar.disable
    bar.close()


def test_a_program_that_uses_effedge_as_a_library_sees_warnings_alone():
    script = "from effedge.deploy.common.messages import log; log.info('made it'); log.warning('note: slower')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "note: slower\n")


def test_a_line_every_ten_seconds(clock, capsys):
    with LineBar(None, "building", 4, disable=False) as lines:
        lines.set_postfix_str("compile")
        lines.update()
        for clock[0] in (5, 10.5, 12, 20.6):
            lines.refresh()
    lines.refresh()
    assert capsys.readouterr().err.splitlines() == ["building: 25%, 10 s, compile", "building: 25%, 21 s, compile"]


def test_lines_through_items_know_how_many_there_are(clock, capsys):
    for _ in LineBar([1, 2, 3, 4], "reading", None, disable=False):
        clock[0] += 6
    for _ in LineBar(iter([1, 2, 3, 4]), "reading", None, disable=False):
        clock[0] += 6
    assert capsys.readouterr().err.splitlines() == [
        "reading: 50%, 12 s, ", "reading: 100%, 24 s, ", "reading: 2, 12 s, ", "reading: 4, 24 s, "
    ]  # fmt: skip


def test_tqdm_unless_it_is_missing_or_a_log_is_written(monkeypatch):
    tqdm = pytest.importorskip("tqdm").tqdm
    assert isinstance(track(total=1, desc="building"), tqdm)
    monkeypatch.setenv(LINES, "lines")
    assert isinstance(track(total=1, desc="building"), LineBar)
    monkeypatch.delenv(LINES)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(track(total=1, desc="building", bar_format=""), LineBar)


def test_without_tqdm_and_without_a_terminal_only_a_log_that_was_asked_for_has_lines(monkeypatch, clock, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for environment, expected in (("", 0), ("lines", 1)):
        monkeypatch.setenv(LINES, environment)
        with track(total=2, desc="building") as bar:
            clock[0] += 11
            bar.update()
        assert len(capsys.readouterr().err.splitlines()) == expected
