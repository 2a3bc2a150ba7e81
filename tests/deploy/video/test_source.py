"""Checks which sources are video, and the results and refusals of opening them."""

import os
import sys

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.video.frame_reader import FrameReader
from effedge.deploy.video.source import CSI_PIPELINE, display_name, is_video, local_file, open_video
from tests.deploy.videos import Server, write_video


@pytest.mark.parametrize(
    "source",
    ["a.mp4", "DIR/A.MOV", "/dev/video0", "camera:0", "csi:1", "rtsp://host/1", "http://host/a", "file:///a.mp4",
     "videotestsrc ! appsink"],
)  # fmt: skip
def test_sources_of_video(source):
    assert is_video(source)


@pytest.mark.parametrize("source", ["a.jpg", "images", "a.gif", "wow ! such a name.jpg", "C:/a.png", "camera"])
def test_sources_of_images(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wow ! such a name.jpg").touch()
    assert not is_video(source)


def test_a_folder_named_as_a_video_is_a_folder(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    assert not is_video(str(tmp_path / "a.mp4"))


def test_messages_show_no_password():
    assert display_name("rtsp://root:secret@10.0.0.1:554/live") == "rtsp://10.0.0.1:554/live"
    assert display_name("http://host/a@b") == "http://host/a@b" and display_name("a@b.mp4") == "a@b.mp4"


def test_the_file_of_a_source():
    assert str(local_file("file:///data/a%20b.mp4")) == "/data/a b.mp4"
    assert local_file("rtsp://host/a.mp4") is None and local_file("csi:0") is None


def test_without_opencv_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match="video needs OpenCV .* pip install opencv-python-headless; on a Jetson"):
        open_video(str(tmp_path / "a.mp4"))


class TestWithOpenCV:
    @pytest.fixture(autouse=True)
    def opencv(self):
        return pytest.importorskip("cv2")

    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")])
    def test_a_file_has_a_length_and_a_rate(self, tmp_path, name, codec):
        for source in (str(write_video(tmp_path / name, 12, 25, codec)), f"file://{tmp_path / name}"):
            video = open_video(source)
            assert (video.live, video.frames, video.fps) == (False, 12, 25.0)
            with FrameReader(video) as reader:
                assert [round(frame.seconds, 2) for frame in reader] == [round(0.04 * index, 2) for index in range(12)]

    def test_a_file_that_is_no_video_or_cut_short_or_absent(self, tmp_path):
        whole = write_video(tmp_path / "a.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "text.mp4").write_text("no video")
        (tmp_path / "empty.mp4").touch()
        for name in ("cut.mp4", "text.mp4", "empty.mp4"):
            with pytest.raises(UserError, match=f"{name}' is no video that OpenCV can read, or was cut short"):
                open_video(str(tmp_path / name))
        with pytest.raises(UserError, match="no such video"):
            open_video(str(tmp_path / "gone.mp4"))
        with pytest.raises(UserError, match="is no file"):
            open_video(f"file://{tmp_path}")

    def test_a_cut_avi_is_read_as_far_as_it_goes_and_that_is_said(self, tmp_path):
        whole = write_video(tmp_path / "a.avi", 100, 25, "MJPG").read_bytes()
        (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
        with FrameReader(open_video(str(tmp_path / "cut.avi"))) as reader:
            read = len(list(reader))
        assert 20 < read < 80 and f"ends after {read} of 100 frames" in reader.end_reason()

    def test_a_file_that_a_server_sends_is_a_file(self, tmp_path):
        clip = write_video(tmp_path / "a.mp4").read_bytes()
        with Server(clip) as server, FrameReader(open_video(f"{server.url}/clip.mp4")) as reader:
            assert not reader.video.live and len(list(reader)) == 30 and reader.end_reason() is None

    def test_a_stream_is_live_and_is_connected_to_once_more(self, monkeypatch, capsys):
        monkeypatch.setattr("effedge.deploy.video.frame_reader.RETRY_AFTER_SECONDS", 0.01)
        with Server(frames=20, connections=2) as server, FrameReader(open_video(f"{server.url}/live")) as reader:
            frames = list(reader)
        assert reader.video.live and reader.read == 40 and server.server.requests == ["/live"] * 2
        assert frames[0].pixels.shape == (120, 160, 3)
        assert "ended after 20 frames, connecting again" in capsys.readouterr().err

    def test_streams_that_do_not_answer(self):
        for source in ("http://user:secret@127.0.0.1:9/live", "rtsp://user:secret@127.0.0.1:9/live"):
            with pytest.raises(UserError, match="cannot open the stream") as caught:
                open_video(source)
            assert "secret" not in str(caught.value)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="device files are Linux's")
    def test_cameras_that_are_none(self, tmp_path):
        for source, expected in (
            ("/dev/video99", "no camera '/dev/video99': connect one, or choose another"),
            ("camera:99", "no camera '/dev/video99'"),
            ("camera:front", "unknown camera 'camera:front': expected camera: and a number, such as camera:0"),
            ("csi:", "expected csi: and a number"),
        ):
            with pytest.raises(UserError, match=expected):
                open_video(source)

    def test_a_csi_camera_is_a_pipeline_of_libargus_and_needs_gstreamer(self, monkeypatch, opencv):
        asked = []

        class Capture:
            def __init__(self, *arguments):
                asked.append(arguments)

            def isOpened(self):  # noqa: N802 - OpenCV's name
                return len(asked) > 2

            def get(self, what):
                return {opencv.CAP_PROP_FPS: 30.0}.get(what, -1.0)

        monkeypatch.setattr(opencv, "VideoCapture", Capture)
        monkeypatch.setattr(opencv, "getBuildInformation", lambda: "    GStreamer:                   NO\n")
        with pytest.raises(UserError, match="'csi:0' needs an OpenCV with GStreamer.*apt install libopencv-python"):
            open_video("csi:0")
        monkeypatch.setattr(opencv, "getBuildInformation", lambda: "    GStreamer:                   YES (1.20.3)\n")
        with pytest.raises(
            UserError, match="GStreamer cannot start 'csi:0': try it by itself, gst-launch-1.0 'nvargus"
        ):
            open_video("csi:0")
        video = open_video("csi:1")
        assert (video.live, video.frames, video.fps) == (True, None, 30.0)
        assert asked[-1] == (CSI_PIPELINE.format(1), opencv.CAP_GSTREAMER)
        assert "nvarguscamerasrc sensor-id=1 ! " in asked[-1][0] and asked[-1][0].endswith("sync=false")

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
    def test_a_file_that_may_not_be_read(self, tmp_path):
        write_video(tmp_path / "a.mp4").chmod(0)
        with pytest.raises(UserError, match="Permission denied"):
            open_video(str(tmp_path / "a.mp4"))
