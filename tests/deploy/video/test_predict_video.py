"""effedge predict on video, as its user meets it: a file, a stream, a camera, and each way that it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effedge.deploy import predict
from effedge.deploy.common.cli import UserError
from effedge.deploy.video import predict_video, writer
from effedge.deploy.video.progress import clock
from effedge.deploy.video.source import Video
from tests.deploy.videos import FakeCamera, Server, read_video, write_video

pytest.importorskip("cv2")
ROOT = Path(__file__).resolve().parents[3]


def command(*arguments):
    return [sys.executable, "-m", "effedge", "predict", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(
        command(*arguments), cwd=str(ROOT), env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", frames=30)


@pytest.fixture
def engine(build):
    return build(size=(128, 128))


def test_a_file_is_drawn_and_written_frame_by_frame(engine, clip, tmp_path):
    out, found = tmp_path / "new" / "drawn.mp4", tmp_path / "found.jsonl"
    done = run(engine, clip, "--out", out, "--json", found)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert said[0] == "0:00.00 frame 0: 1 x red" and len(said) == 4  # nothing changes after it
    assert said[1].startswith("30 frames in ") and "a second; median " in said[1] and "p99" in said[1]
    assert said[2:] == [f"video: {out}", f"json: {found}"]
    records = lines_of(found)
    assert [record["frame"] for record in records] == list(range(30))
    assert [record["time"] for record in records] == [round(0.04 * index, 3) for index in range(30)]
    for record in records:
        [box] = [found["box"] for found in record["detections"]]
        left = 2 * record["frame"]  # as the square moves; 160 pixels are letterboxed to 128, and the video is lossy
        assert box == pytest.approx([left, 40, left + 40, 80], abs=4)
    frames, fps = read_video(out)
    assert len(frames) == 30 and fps == 25
    originals, _ = read_video(clip)
    assert all(abs(drawn.astype(int) - frame).mean() > 2 for drawn, frame in zip(frames, originals))


@pytest.mark.parametrize(("out", "expected"), [("drawn", "drawn/clip.mp4"), ("drawn.MP4", "drawn.MP4")])
def test_a_folder_gets_a_video_of_the_files_name(engine, clip, tmp_path, out, expected):
    assert run(engine, clip, "--out", tmp_path / out, "-q").returncode == 0
    assert len(read_video(tmp_path / expected)[0]) == 30


@pytest.mark.parametrize("batch", [(4, 4, 4), (1, 2, 4)])
def test_an_engine_of_several_images_takes_several_frames_of_a_file(build, clip, tmp_path, batch):
    assert run(build(size=(128, 128), batch=batch), clip, "--json", tmp_path / "found.jsonl").returncode == 0
    assert len(lines_of(tmp_path / "found.jsonl")) == 30


def test_a_classifier(build, clip, tmp_path):
    engine = build("classification")
    done = run(engine, clip, "--json", tmp_path / "found.jsonl")
    assert done.returncode == 0 and len(lines_of(tmp_path / "found.jsonl")[7]["classes"]) == 5
    assert len(done.stdout.splitlines()) == 3  # one for all frames: the class stays, though its score does not
    done = run(engine, clip, "--out", tmp_path / "a.mp4")  # its classes are written into each frame
    assert done.returncode == 0 and (tmp_path / "a.mp4").stat().st_size > 0
    done = run(engine, clip, "--classes", "a")
    assert done.returncode == 2 and "--classes is for detectors" in done.stderr


def test_json_lines_on_standard_output_and_nothing_else(engine, clip):
    done = run(engine, clip, "--json", "-")
    assert done.returncode == 0 and [json.loads(line)["frame"] for line in done.stdout.splitlines()] == list(range(30))
    assert done.stderr.startswith("30 frames in ")


def test_a_reader_of_the_lines_that_leaves(engine, clip, tmp_path):
    pipe = " ".join(command(engine, clip, "--json", "-", "--out", tmp_path / "a.mp4")) + " | head -n 1"
    write_video(clip, frames=30)
    done = subprocess.run(pipe, shell=True, cwd=str(ROOT), capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
    assert "nobody reads the lines" in done.stderr or "30 frames" in done.stderr  # it may have been quicker
    assert read_video(tmp_path / "a.mp4")[0]


def test_a_stream(engine, tmp_path):
    with Server(frames=25, connections=1) as server:
        done = run(engine, f"{server.url}/live", "--out", tmp_path / "a.mp4", "--json", tmp_path / "a.jsonl")
    assert done.returncode == 2
    again, error = done.stderr.splitlines()
    assert "ended after 25 frames, connecting again" in again
    assert error.startswith("error: 'http://127.0.0.1") and "gave no more frames after 25" in error
    assert " dropped; age when done" in done.stdout
    records = lines_of(tmp_path / "a.jsonl")
    assert 1 <= len(records) <= 25 and abs(time.time() - records[-1]["time"]) < 60
    assert len(read_video(tmp_path / "a.mp4")[0]) >= len(records)


@pytest.fixture
def predict_live(monkeypatch, build, tmp_path):
    """predict_live(camera, slow): what a camera gives, into a.mp4 and a.jsonl; an image takes `slow` seconds."""

    def call(camera, slow=0.0, fps=30.0):
        monkeypatch.setattr(predict_video, "open_video", lambda source: Video(source, camera, True, None, fps))

        def load():
            model = predict.load(str(build(name=f"engine-{time.time()}")), {})
            infer = model.engine.backend
            model.engine.backend = lambda feeds: time.sleep(slow) or infer(feeds)
            return model

        predict_video.predict_video(load, "camera:0", tmp_path / "a.mp4", tmp_path / "a.jsonl", False)

    return call


def test_a_slow_engine_sees_new_frames_and_the_video_plays_as_fast_as_it_was(predict_live, capsys, tmp_path):
    started = time.perf_counter()
    with pytest.raises(UserError, match="'camera:0' gave no more frames after 200"):
        predict_live(FakeCamera(every=0.01, last=200), slow=0.08)
    took = time.perf_counter() - started
    numbers = [record["frame"] for record in lines_of(tmp_path / "a.jsonl")]
    assert len(numbers) < 120 and sum(b - a for a, b in zip(numbers, numbers[1:])) > 1.5 * len(numbers)
    out = capsys.readouterr().out
    dropped = int(out.split(" dropped")[0].split()[-1])
    assert dropped == 200 - len(numbers)
    age = float(out.split("median ")[1].split()[0])
    assert 80 < age < 500  # not the seconds that a queue would have come to
    frames, fps = read_video(tmp_path / "a.mp4")
    assert fps <= 12 and 1.0 < len(frames) / fps < took + 1


def test_ctrl_c_ends_a_camera_well(predict_live, capsys, tmp_path):
    class Pressed(FakeCamera):
        def read(self):
            if self.given == 30:
                os.kill(os.getpid(), signal.SIGINT)
            return super().read()

    before = signal.getsignal(signal.SIGINT)
    predict_live(Pressed(every=0.01))  # no error: it is how a camera ends
    assert signal.getsignal(signal.SIGINT) is before
    records = lines_of(tmp_path / "a.jsonl")
    assert records and len(read_video(tmp_path / "a.mp4")[0]) >= len(records)
    assert "age when done" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ctrl_c_systemds_stop_and_a_lost_session_end_a_file_with_what_was_done(engine, tmp_path, number, status):
    clip = write_video(tmp_path / "long.mp4", frames=2000)
    # A job in the background of a shell, and all that it starts, has Ctrl-C ignored.
    script = "import signal; signal.signal(2, signal.default_int_handler); from effedge.deploy import predict;"
    arguments = [str(engine), str(clip), "--out", str(tmp_path / "a.mp4"), "--json", str(tmp_path / "a.jsonl")]
    script += "from effedge.deploy.common.cli import run; import sys;"
    script += f"sys.argv = ['predict', *{arguments!r}]; run(predict.main)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "frame 0" in process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    records = lines_of(tmp_path / "a.jsonl")
    assert process.returncode == status and 0 < len(records) < 2000
    assert errors == f"error: interrupted after {len(records)} frames of '{clip}', which are kept\n"
    assert len(read_video(tmp_path / "a.mp4")[0]) == len(records)
    assert f"{len(records)} frames in " in out
    assert names(tmp_path) == ["a.jsonl", "a.mp4", "engine", "long.mp4"]


def test_a_file_that_was_cut_short_is_told_after_what_there_was_is_written(engine, tmp_path):
    whole = write_video(tmp_path / "a.avi", 100, 25, "MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    done = run(engine, tmp_path / "cut.avi", "--out", tmp_path / "a.mp4", "--json", tmp_path / "a.jsonl")
    records = lines_of(tmp_path / "a.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: '") and f"cut.avi' ends after {len(records)} of 100 frames" in done.stderr
    assert len(read_video(tmp_path / "a.mp4")[0]) == len(records)


def test_a_camera_without_a_frame_writes_nothing(predict_live, tmp_path):
    with pytest.raises(UserError, match="'camera:0' gave no frame"):
        predict_live(FakeCamera(last=0))
    assert not list(tmp_path.glob("a.*"))


def test_a_disk_that_fills_ends_it_and_what_was_done_is_kept(predict_live, monkeypatch, tmp_path):
    rooms = iter([1 << 40] * 30)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": next(rooms, 1 << 20)}))
    with pytest.raises(UserError, match="less than 32 MiB are free"):
        predict_live(FakeCamera(every=0.001))
    assert len(lines_of(tmp_path / "a.jsonl")) == 14  # two outputs were looked at before, and then twice a frame
    assert len(read_video(tmp_path / "a.mp4")[0]) >= 14


def test_a_video_that_cannot_be_ended_leaves_the_lines(predict_live, monkeypatch, tmp_path):
    def broken(self):
        raise UserError("a.mp4 has 3 of 9 frames")

    monkeypatch.setattr(writer.VideoWriter, "close", broken)
    with pytest.raises(UserError, match="3 of 9 frames"):
        predict_live(FakeCamera(last=9))
    assert [path.name for path in tmp_path.glob("a.*")] == ["a.jsonl"]


def test_lines_into_a_device_are_taken_as_those_of_images_are(engine, clip):
    done = run(engine, clip, "--json", "/dev/null")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "json: /dev/null"
    assert os.stat("/dev/null").st_rdev == os.makedev(1, 3)


def test_mistakes(engine, clip, tmp_path):
    (tmp_path / "file").write_text("")
    for words, expected in (
        (["/dev/video99"], "no camera '/dev/video99'"),
        ([tmp_path / "gone.mp4"], "no such video"),
        ([clip, "--out", tmp_path / "a.avi"], "expected a file such as drawn.mp4, or a folder"),
        ([clip, "--out", clip], "would replace"),
        ([clip, "--json", clip], "would replace"),
        ([clip, "--json", tmp_path], "it is a folder, expected a file"),
        ([clip, "--out", tmp_path / "x.mp4", "--json", tmp_path / "x.mp4"], "or the other output"),
        ([clip, "--out", tmp_path / "file" / "x.mp4"], "cannot write"),
        ([clip, "--threshold", "2"], "from 0 to 1"),
    ):
        before = names(tmp_path)
        done = run(engine, *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ") and expected in done.stderr
        assert names(tmp_path) == before


def test_a_terminal_gets_a_bar(engine, clip):
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    script = "from effedge.deploy.video import progress; progress.EVERY_SECONDS = 0;"
    script += "from effedge.deploy import predict; import sys;"
    script += f"sys.argv = ['predict', {str(engine)!r}, {str(clip)!r}]; predict.main()"
    subprocess.run([sys.executable, "-c", script], cwd=str(ROOT), stdout=subprocess.DEVNULL, stderr=slave, check=True)
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "\r\x1b[K[" in shown and "15/30 frames, " in shown and " left" in shown and shown.endswith("\r\x1b[K")


def test_the_clock():
    assert [clock(value) for value in (0, 0.999, 75.5, 3600)] == ["0:00.00", "0:01.00", "1:15.50", "60:00.00"]
