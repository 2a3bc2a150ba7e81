"""Progress without tqdm, or for a log: a line now and then, and none that nobody asked for."""

import sys

import pytest
from tqdm import tqdm

from effedge.deploy.common import progress
from effedge.deploy.common.progress import LINES, Lines, open_bar


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, in a list of one."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_line_every_ten_seconds(clock, capsys):
    with Lines(4, "building", disable=False) as lines:
        lines.set_postfix_str("compile")
        lines.update()
        for clock[0] in (5, 10.5, 12, 20.6):
            lines.refresh()
    lines.refresh()
    assert capsys.readouterr().err.splitlines() == ["building: 25%, 10 s, compile", "building: 25%, 21 s, compile"]


def test_tqdm_unless_it_is_missing_or_a_log_is_written(monkeypatch):
    assert isinstance(open_bar(1, "building", disable=True), tqdm)
    monkeypatch.setenv(LINES, "lines")
    assert isinstance(open_bar(1, "building", disable=True), Lines)
    monkeypatch.delenv(LINES)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(open_bar(1, "building", disable=False, bar_format=""), Lines)


def test_without_tqdm_quiet_is_quiet_and_a_log_is_not(monkeypatch, clock, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for environment, expected in (("", 0), ("lines", 1)):
        monkeypatch.setenv(LINES, environment)
        with open_bar(2, "building", disable=True) as progress:
            clock[0] += 11
            progress.update()
        assert len(capsys.readouterr().err.splitlines()) == expected
