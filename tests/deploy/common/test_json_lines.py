"""The file holds complete lines only, even on a disk that fills up within a line."""

import errno
import io
import json

import pytest

from effedge.deploy.common.cli import STDOUT
from effedge.deploy.common.json_lines import JsonLines, open_json_lines


class SmallDisk(io.BytesIO):
    """A disk that takes `room` bytes, if need be a part of a write, and then no more."""

    room = 40

    def write(self, data):
        left = self.room - len(self.getvalue())
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(bytes(data)[:left])


def test_a_line_that_does_not_fit_is_not_there_at_all():
    disk = SmallDisk()
    lines = JsonLines(disk, True)
    lines.write({"frame": 0, "time": 0.25})
    with pytest.raises(OSError, match="No space left"):
        lines.write({"frame": 1, "time": 0.5})
    assert disk.getvalue() == b'{"frame": 0, "time": 0.25}\n'


def test_lines_are_out_at_once_and_the_file_is_there_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    with open_json_lines(path) as lines:
        for frame in range(3):
            lines.write({"frame": frame, "label": "\u00e9"})
        [temporary] = path.parent.glob(".a.jsonl.*/a.jsonl")
        assert len(temporary.read_text().splitlines()) == 3 and not path.exists()
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_after_a_failure_there_is_no_file(tmp_path):
    with pytest.raises(RuntimeError), open_json_lines(tmp_path / "a.jsonl"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_standard_output(capfdbinary):
    with open_json_lines(STDOUT) as lines:
        lines.write({"frame": 0})
    assert capfdbinary.readouterr().out == b'{"frame": 0}\n'
    with open_json_lines(None) as lines:
        assert lines is None
