"""The times of the frames of an .mp4, as players read them."""

import struct
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from effedge.deploy.video.frame_times import children, end_time, is_constant, set_frame_times
from effedge.deploy.video.writer import VideoWriter
from tests.deploy.videos import square

cv2 = pytest.importorskip("cv2")
ROOT = Path(__file__).resolve().parents[3]
# variable.mkv was written by PyAV (FFmpeg's Matroska muxer) with frames that follow each other at these distances.
VARIABLE = Path(__file__).with_name("variable.mkv")
GAPS = [0.04] * 10 + [0.4] * 6 + [0.021] * 6 + [0.25]
TIMES = [0.0, *accumulate(GAPS)]
POS_MSEC = 0


def times_of(path):
    """The time of each frame in seconds, and the video's length, as FFmpeg's demuxer reads them."""
    capture = cv2.VideoCapture(str(path))
    length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    times = []
    while capture.read()[0]:
        times.append(capture.get(POS_MSEC) / 1000)
    return times, length


def write(path, times, fps=30.0, length=None):
    writer = VideoWriter(path, fps, length)
    for index, time in enumerate(times):
        writer.write(square(index % 50), seconds=time)
    writer.close()
    return path


@pytest.mark.parametrize("fps", [10, 25, 29.97, 30, 59.94, 240])
def test_frames_keep_their_times(tmp_path, fps):
    times, length = times_of(write(tmp_path / "a.mp4", TIMES, fps, TIMES[-1] + 0.04))
    np.testing.assert_allclose(times, TIMES, atol=1e-3)
    assert length == pytest.approx(TIMES[-1] + 0.04, abs=2e-3)


def test_a_file_of_variable_rate_is_drawn_as_long_as_it_is(build, tmp_path):
    out = tmp_path / "a.mp4"
    command = [sys.executable, "-m", "effedge", "predict", build(size=(128, 128)), VARIABLE, "--out", out, "-q"]
    done = subprocess.run(list(map(str, command)), cwd=str(ROOT), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    times, length = times_of(out)
    np.testing.assert_allclose(times, TIMES, atol=1e-3)
    assert length == pytest.approx(3.209, abs=0.034)  # the container's duration by PyAV, and a frame of its 30 a second


def test_a_constant_rate_is_left_alone(tmp_path):
    plain = write(tmp_path / "plain.mp4", [None] * 40, 30).read_bytes()
    rounded = [round(index / 30, 3) for index in range(40)]  # as .mkv holds them
    assert write(tmp_path / "rounded.mp4", rounded, 30).read_bytes() == plain
    assert write(tmp_path / "none.mp4", [0.0] * 40, 30).read_bytes() == plain  # a format without times
    assert is_constant([5.0, 5.04, 5.08], 25) and not is_constant([5.0, 5.04, 5.09], 25)


def test_times_that_begin_late_stand_still_or_go_back_give_a_video_of_all_frames(tmp_path):
    times, _ = times_of(write(tmp_path / "a.mp4", [2.0, 2.1, 2.1, 2.05, 2.9, 3.0]))
    np.testing.assert_allclose(times, [0, 0.1, 0.1, 0.1, 0.9, 1.0], atol=2e-3)
    assert all(a < b for a, b in zip(times, times[1:]))


@pytest.mark.parametrize(("length", "end"), [(None, 1.5), (1.45, 1.45), (1.9, 1.9), (1.3, 1.5), (2.5, 1.5)])
def test_the_last_frame_is_shown_as_long_as_the_source_says_or_as_the_one_before(length, end):
    assert end_time([0, 0.5, 1.1, 1.3], length) == pytest.approx(end)  # the others: 0.5, 0.6 and 0.2 s


def test_a_file_of_another_layout_stays_as_it_is(tmp_path):
    path = write(tmp_path / "a.mp4", [None] * 5)
    whole = path.read_bytes()
    top = {box[4:8]: box for box in children(whole)}
    no_times = top[b"moov"].replace(b"stts", b"free")
    other_order = top[b"moov"].replace(b"udta", b"ctts")
    first, frames = top[b"ftyp"] + top[b"moov"] + top[b"mdat"], top[b"ftyp"] + top[b"mdat"]
    for content in (whole[: len(whole) - 9], first, frames + no_times, frames + other_order, b"", whole + b"\0" * 40):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            set_frame_times(path, [0, 1, 2, 3, 9], 10)
        assert path.read_bytes() == content


def test_frames_of_more_than_4_gib_have_a_size_of_64_bits(tmp_path):
    path = write(tmp_path / "a.mp4", [None] * 5)
    top = {box[4:8]: box for box in children(path.read_bytes())}
    # FFmpeg leaves the 8 bytes of `free` in front for this; the frames stay where they are.
    data = struct.pack(">I4sQ", 1, b"mdat", len(top[b"mdat"]) + 8) + top[b"mdat"][8:]
    path.write_bytes(top[b"ftyp"] + data + top[b"moov"])
    set_frame_times(path, [0, 1, 2, 3, 9], 10)
    times, length = times_of(path)
    assert times == pytest.approx([0, 1, 2, 3, 9], abs=1e-3) and length == pytest.approx(10, abs=1e-3)
