"""The .mp4 that is written: as other players read it, and what is noticed when it cannot be."""

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.video import writer
from effedge.deploy.video.writer import VideoWriter, check_room
from tests.deploy.videos import read_video, square

pytest.importorskip("cv2")


def test_frames_come_back_as_they_were(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 12.5)
    for index in range(5):
        writer.write(square(10 * index, colour=index % 3), times=2)
    writer.close()
    frames, fps = read_video(tmp_path / "a.mp4")
    assert len(frames) == writer.written == 10 and fps == 12.5
    for index, frame in enumerate(frames):
        assert abs(frame.astype(int) - square(10 * (index // 2), colour=index // 2 % 3)).mean() < 8  # it is lossy


@pytest.mark.parametrize("size", [(17, 33), (121, 161), (16, 16)])
def test_odd_sizes(tmp_path, size):
    writer = VideoWriter(tmp_path / "a.mp4", 25)
    writer.write(np.full((*size, 3), 200, np.uint8))
    writer.close()
    [frame], _ = read_video(tmp_path / "a.mp4")
    assert size[0] - 1 <= frame.shape[0] <= size[0] and size[1] - 1 <= frame.shape[1] <= size[1]
    assert abs(frame.astype(int) - 200).mean() < 4


def test_a_frame_of_another_size_is_resized(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 25)
    for shape in ((48, 64, 3), (96, 128, 3)):
        writer.write(np.full(shape, 90, np.uint8))
    writer.close()
    assert [frame.shape for frame in read_video(tmp_path / "a.mp4")[0]] == [(48, 64, 3)] * 2


def test_what_was_not_written_whole_is_noticed(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 25)
    writer.write(square(0))
    writer.written += 3
    with pytest.raises(UserError, match="has 1 of 4 frames: it could not be written whole"):
        writer.close()
    writer = VideoWriter(tmp_path / "b.mp4", 25)
    writer.write(square(0))
    writer.writer.release()
    (tmp_path / "b.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:200])
    with pytest.raises(UserError, match="has 0 of 1 frames"):
        writer.close()


def test_no_frame_no_file(tmp_path):
    VideoWriter(tmp_path / "a.mp4", 25).close()
    assert not (tmp_path / "a.mp4").exists()


def test_too_small_or_nowhere(tmp_path):
    with pytest.raises(UserError, match="of 8 x 20 pixels cannot be written"):
        VideoWriter(tmp_path / "a.mp4", 25).write(np.zeros((20, 8, 3), np.uint8))
    with pytest.raises(UserError, match="cannot write 'a.mp4'"):
        VideoWriter(tmp_path / "none" / "a.mp4", 25).write(square(0))


def test_a_disk_that_is_all_but_full(tmp_path, monkeypatch):
    check_room(tmp_path / "not" / "there" / "yet")
    monkeypatch.setattr(writer, "LEAST_ROOM_MIB", 1 << 40)
    with pytest.raises(UserError, match="MiB are free on the disk of"):
        check_room(tmp_path)
