"""Frames from files and cameras: what is taken, what is dropped, and how it ends."""

import threading
import time

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.video.frame_reader import AHEAD, FrameReader
from effedge.deploy.video.source import Video
from tests.deploy.videos import FakeCamera


def live(camera, **fields):
    return FrameReader(Video("camera:0", camera, True, **fields))


def test_a_camera_that_is_quicker_than_the_consumer_gives_its_newest_frame_and_the_rest_are_counted():
    class Stepped(FakeCamera):
        """Gives as many frames as are allowed."""

        allowed = threading.Semaphore(0)

        def read(self):
            return super().read() if self.allowed.acquire(timeout=60) else (False, None)

    camera = Stepped(every=0)
    with live(camera) as reader:
        frames, came = iter(reader), 0
        for more in (1, 10, 1, 4):
            for _ in range(more):
                camera.allowed.release()
            came += more
            patience = time.perf_counter() + 20
            while not (reader.waiting and reader.waiting[-1].number == came - 1) and time.perf_counter() < patience:
                time.sleep(0.001)
            frame = next(frames)
            assert frame.number == came - 1 and frame.pixels[0, 0].tolist() == [came - 1, 0, 0]  # RGB
            assert 0 <= time.perf_counter() - frame.arrival < 60 and abs(time.time() - frame.seconds) < 60
        assert (reader.read, reader.dropped) == (16, 12)
        camera.allowed.release()
        reader.stop()
    assert camera.released


def test_a_consumer_that_is_quicker_than_the_camera_gets_every_frame():
    with live(FakeCamera(every=0.01, last=20)) as reader:
        assert [frame.number for frame in reader] == list(range(20)) and reader.dropped == 0


def test_an_unplugged_camera_ends_it_and_says_so():
    with live(FakeCamera(every=0, last=5)) as reader:
        assert list(reader)[-1].number == 4  # the last one is not lost, however slow the consumer
    assert reader.end_reason() == "'camera:0' gave no more frames after 5: it was unplugged, or the stream ended"


def test_a_file_is_read_whole_and_in_order_only_a_few_frames_ahead():
    camera = FakeCamera(every=0, last=30)
    with FrameReader(Video("a.mp4", camera, False, 30, 25.0)) as reader:
        numbers = []
        for frame in reader:
            time.sleep(0.002)
            assert camera.given <= frame.number + AHEAD + 3
            numbers.append((frame.number, frame.seconds))
    assert numbers == [(index, pytest.approx(index / 25)) for index in range(30)]
    assert reader.dropped == 0 and reader.end_reason() is None


@pytest.mark.parametrize(
    ("there", "said", "fps", "short"),
    [(57, 300, 25, True), (290, 300, 25, False), (300, 300, 25, False), (0, 300, 25, True), (9, None, None, False)],
)
def test_a_file_that_is_shorter_than_it_says_was_cut(there, said, fps, short):
    with FrameReader(Video("a.mp4", FakeCamera(every=0, last=there), False, said, fps)) as reader:
        assert len(list(reader)) == there
    assert (reader.end_reason() is not None) == short
    if there == 57:
        assert "ends after 57 of 300 frames" in reader.end_reason()


def test_a_stream_is_connected_to_once_more_and_then_it_is_over(monkeypatch, capsys):
    monkeypatch.setattr("effedge.deploy.video.frame_reader.RETRY_AFTER_SECONDS", 0.01)
    cameras = [FakeCamera(every=0.001, last=3) for _ in range(9)]
    opened = iter(cameras[1:])
    with live(cameras[0], reopen=lambda: next(opened)) as reader:
        assert [frame.number for frame in reader][-1] == 5
    assert reader.read == 6 and cameras[0].released and cameras[1].released and not cameras[2].given
    assert capsys.readouterr().err == "camera:0: ended after 3 frames, connecting again\n"


def test_a_stream_that_lasted_is_connected_to_each_time_it_ends(monkeypatch):
    monkeypatch.setattr("effedge.deploy.video.frame_reader.RETRY_AFTER_SECONDS", 0.01)
    monkeypatch.setattr("effedge.deploy.video.frame_reader.STEADY_SECONDS", 0.0)
    cameras = iter([FakeCamera(every=0.001, last=2) for _ in range(4)])

    def reopen():
        try:
            return next(cameras)
        except StopIteration:
            raise UserError("no answer") from None

    with live(next(cameras), reopen=reopen) as reader:
        list(reader)
    assert reader.read == 8 and "after 8" in reader.end_reason()


def test_stop_ends_it_at_once_even_while_it_waits_for_a_frame():
    with live(FakeCamera(every=1.0)) as reader:
        started = time.perf_counter()
        reader.stop()
        assert list(reader) == [] and time.perf_counter() - started < 0.9
    with FrameReader(Video("a.mp4", FakeCamera(every=0), False, 10**6, 25.0)) as reader:
        next(iter(reader))
        started = time.perf_counter()
    assert not reader.thread.is_alive() and time.perf_counter() - started < 2


def test_a_defect_in_the_reading_thread_is_raised_where_frames_are_taken():
    class Broken(FakeCamera):
        def read(self):
            raise RuntimeError("decoder gone")

    with live(Broken()) as reader, pytest.raises(RuntimeError, match="decoder gone"):
        next(iter(reader))
