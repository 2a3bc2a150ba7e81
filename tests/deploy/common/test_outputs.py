"""An output replaces files and own folders, is written into devices and fifos, and leaves all else alone."""

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from effedge.deploy.common import outputs, scratch
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.locks import locked
from effedge.deploy.common.outputs import MARK, atomic_file, atomic_files, atomic_folder, write_json
from tests.read_only_mount import read_only as read_only

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = {"format": 1, "spec": {}, "backend": {}, "files": {}}


def put(path, text="new"):
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def put_folder(path, name="a"):
    with atomic_folder(path) as temporary:
        (temporary / name).write_text("new")


def device(folder, minor):
    """A copy of /dev/null (3) or /dev/full (7) in `folder`, where root may lose it; for others, who may not make one,
    the device itself, which they cannot replace."""
    if os.geteuid() != 0:
        return Path("/dev", {3: "null", 7: "full"}[minor])
    os.mknod(str(folder / "device"), stat.S_IFCHR | 0o666, os.makedev(1, minor))
    return folder / "device"


def test_a_device_is_written_to_and_stays(tmp_path):
    null = device(tmp_path, 3)
    os.symlink(str(null), str(tmp_path / "link"))
    for path in (null, tmp_path / "link"):
        put(path)
        assert stat.S_ISCHR(os.stat(str(path)).st_mode)
    assert stat.S_ISLNK(os.lstat(str(tmp_path / "link")).st_mode)
    assert {path.name for path in tmp_path.iterdir()} <= {"link", "device"}


def test_a_full_device_is_one_line(tmp_path):
    full = device(tmp_path, 7)
    with pytest.raises(UserError, match=f"cannot write '{full}': No space left on device"):
        put(full)
    assert stat.S_ISCHR(os.stat(str(full)).st_mode)


def test_a_fifo_is_written_to(tmp_path):
    os.mkfifo(str(tmp_path / "fifo"))
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_text()))
    reader.start()
    put(tmp_path / "fifo")
    reader.join(10)
    assert read == ["new"] and stat.S_ISFIFO(os.stat(str(tmp_path / "fifo")).st_mode)


def test_a_reader_that_takes_a_part_and_leaves_is_no_error(tmp_path):
    os.mkfifo(str(tmp_path / "fifo"))
    read = []

    def leave():
        with (tmp_path / "fifo").open() as file:
            read.append(file.read(3))

    reader = threading.Thread(target=leave)
    reader.start()
    write_json(tmp_path / "fifo", "x" * (1 << 20))  # more than a pipe holds
    reader.join(10)
    assert read == ['"xx']


@pytest.mark.parametrize("place", ["pipe", "file"])
def test_dev_stdout_is_standard_output_in_its_order_whatever_it_is(tmp_path, place):
    stdout = tmp_path / "stdout"  # as /dev/stdout
    os.symlink("/proc/self/fd/1", str(stdout))
    script = (
        "from effedge.deploy.common.outputs import write_json; print('before');"
        f"write_json({str(stdout)!r}, [1]); print('behind')"
    )
    with open(str(tmp_path / "out"), "wb") as file:
        stream = file if place == "file" else subprocess.PIPE
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run([sys.executable, "-c", script], cwd=str(ROOT), stdout=stream, env=environment, check=True)
    written = (tmp_path / "out").read_text() if place == "file" else done.stdout.decode()
    assert written == "before\n[\n 1\n]\nbehind\n" and stdout.is_symlink()


def test_a_link_is_followed_and_stays_also_to_a_file_that_is_missing(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old.json").write_text("old")
    os.symlink("there/old.json", str(tmp_path / "a.json"))
    os.symlink("there/new.json", str(tmp_path / "b.json"))
    for name, target in (("a.json", "old.json"), ("b.json", "new.json")):
        put(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / "there" / target).read_text() == "new"
    os.symlink("loop", str(tmp_path / "loop"))
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        put(tmp_path / "loop")


def test_a_folder_or_a_socket_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="it is a folder, expected a file"):
        put(tmp_path / "folder")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        with pytest.raises(UserError, match="neither a file nor a stream"):
            put(tmp_path / "socket")


def test_only_an_empty_or_own_folder_is_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    put_folder(tmp_path / "empty")
    put_folder(tmp_path / "empty", "b")  # its own now
    assert outputs.names_in(tmp_path / "empty") == ["b"]
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"effedge did not write what is in it \('notes.txt'\)"):
        put_folder(tmp_path / "empty")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "manifest.json").write_text(json.dumps(MANIFEST))
    put_folder(tmp_path / "engine")
    engine = tmp_path / "engine-with-notes"
    engine.mkdir()
    (engine / "manifest.json").write_text(json.dumps({**MANIFEST, "files": {"engine.bin": ""}}))
    for name in ("engine.bin", "build.log", "notes.txt"):
        (engine / name).write_text("")
    for _ in range(2):
        with pytest.raises(UserError, match=r"effedge did not write what is in it \('notes.txt'\)"):
            put_folder(engine)
        (tmp_path / "engine-with-notes.json").write_text('{"key": {}, "sha256": "", "peak_mib": 1}')  # a stage's record
    (engine / "notes.txt").unlink()
    put_folder(engine)
    for _ in range(2):  # what a board sends back: a manifest, and files that it does not list
        with atomic_folder(tmp_path / "results") as results:
            (results / "manifest.json").write_text(json.dumps(MANIFEST))
            (results / "latency.json").write_text("{}")
    for name, content in (("photographs", "a.jpg"), ("website", "manifest.json"), ("checkout", ".git")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text("{}")
        with pytest.raises(UserError, match="would be replaced"):
            put_folder(tmp_path / name)
        assert (tmp_path / name / content).read_text() == "{}"
    for files in (5, [["a"]], None, {"a": 1}):
        (tmp_path / "website" / MARK).write_text(json.dumps({"files": files}))
        with pytest.raises(UserError, match="would be replaced"):
            put_folder(tmp_path / "website")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="a file is there"):
        put_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_root_and_a_full_folder_that_is_the_current_one_are_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    for path in ("/", ".", "..", str(tmp_path)):
        with pytest.raises(UserError, match=f"the folder '{path}' would be replaced"):
            put_folder(path)
    assert os.listdir(str(tmp_path)) == ["notes.txt"]


def test_what_is_refused_is_refused_before_the_work(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.jpg").write_text("")
    with pytest.raises(UserError), atomic_folder(tmp_path / "photographs"):
        raise AssertionError("the work has begun")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_takes_the_place_of_another_with_and_without_an_exchange(tmp_path, monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(outputs, "exchange", lambda *_: False)
    put_folder(tmp_path / "x")
    put_folder(tmp_path / "x", "b")
    assert outputs.names_in(tmp_path) == ["x/b"] and os.listdir(str(tmp_path)) == ["x"]


def test_where_the_second_of_two_renames_fails_the_earlier_folder_is_back(tmp_path, monkeypatch):
    put_folder(tmp_path / "x")
    real = os.replace

    def replace(source, target):
        if source.endswith("new"):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(outputs, "exchange", lambda *_: False)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="Input/output error"):
        put_folder(tmp_path / "x", "b")
    assert outputs.names_in(tmp_path) == ["x/a"] and os.listdir(str(tmp_path)) == ["x"]


def test_a_kill_between_two_renames_is_mended_by_the_next_run(tmp_path):
    left_over = tmp_path / ".x.abcdefgh.effedge" / scratch.EARLIER
    (left_over / "x").mkdir(parents=True)
    (left_over / "x" / "a").write_text("earlier")
    put(tmp_path / "y")
    assert (tmp_path / "x" / "a").read_text() == "earlier" and sorted(os.listdir(str(tmp_path))) == ["x", "y"]


def test_left_overs_of_the_dead_go_and_those_of_the_living_and_others_files_stay(tmp_path):
    script = (
        "import os, sys; from effedge.deploy.common.outputs import atomic_file\n"
        f"with atomic_file({str(tmp_path / 'big.bin')!r}) as temporary:\n"
        "    temporary.write_text('half'); print('begun', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    processes = [
        subprocess.Popen(command, cwd=str(ROOT), stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == b"begun\n"
    dead, living = processes
    dead.kill()
    dead.communicate()
    (tmp_path / ".mine.settings").mkdir()
    (tmp_path / ".mine.abcdefgh.effedge").write_text("a file")
    put(tmp_path / "other")
    found = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".big."))
    assert found == [".mine.abcdefgh.effedge", ".mine.settings", "other"]
    assert len(list(tmp_path.glob(".big.*"))) == 1
    living.communicate(b"")
    assert (tmp_path / "big.bin").read_text() == "half" and not list(tmp_path.glob(".big.*"))


def test_drawings_follow_the_same_rule(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "kept.png").write_text("old")
    os.symlink("../kept.png", str(tmp_path / "out" / "a.png"))
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with atomic_files(tmp_path / "out") as folder:
        for name in ("a.png", "b.png"):
            (folder / name).write_text("drawn")
    assert (tmp_path / "out" / "a.png").is_symlink() and (tmp_path / "kept.png").read_text() == "drawn"
    assert sorted(os.listdir(str(tmp_path / "out"))) == ["a.png", "b.png", "mine.txt"]
    with pytest.raises(ValueError), atomic_files(tmp_path / "new" / "out"):
        raise ValueError
    assert not (tmp_path / "new").exists()


def test_a_library_that_hides_a_full_disk_is_the_line_about_the_disk(tmp_path):
    """As OpenVINO's and PyTorch's writers in C++."""
    message = r"cannot write '.*x': the disk is full or fails \('iostream error'\)"
    with pytest.raises(UserError, match=message), atomic_file(tmp_path / "x"):
        raise RuntimeError("[enforce fail at serialize.cpp:1] iostream error")
    copied = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])  # an OSError without a number
    with pytest.raises(UserError, match="No space left on device"), atomic_file(tmp_path / "x"):
        raise copied
    with pytest.raises(RuntimeError, match="a defect"), atomic_file(tmp_path / "x"):
        raise RuntimeError("a defect")
    assert not list(tmp_path.iterdir())


def test_long_names_have_a_temporary_name_too(tmp_path):
    path = tmp_path / ("ä" * 127)  # 254 bytes of 255
    write_json(path, [1])
    put_folder(tmp_path / ("b" * 255))
    assert json.loads(path.read_text()) == [1]
    with pytest.raises(UserError, match="File name too long"):
        write_json(tmp_path / ("c" * 300), [])


def test_a_folder_with_an_engines_manifest_needs_no_mark(tmp_path):
    with atomic_folder(tmp_path / "engine") as temporary:
        (temporary / "manifest.json").write_text(json.dumps(MANIFEST))
    assert os.listdir(str(tmp_path / "engine")) == ["manifest.json"]
    put_folder(tmp_path / "crops")
    assert sorted(os.listdir(str(tmp_path / "crops"))) == [MARK, "a"]


def put_files(folder):
    with atomic_files(folder) as temporary:
        (temporary / "a").write_text("new")


def put_json(path):
    write_json(path, [1])


def put_locked(path):
    with locked(path):
        put(path)


WRITERS = [put, put_folder, put_files, put_json, put_locked]
# Where no file can be, and what is said of it.
PLACES = {
    "/proc/x/y": r"No such file or directory \('/proc/x'\); choose another place",
    "/proc/x": "No such file or directory",
    "/dev/full/x": r"Not a directory",
    "/dev/full/x/y": r"Not a directory \('/dev/full'\)",
    "file/x/y": r"Not a directory \('.*file'\)",
    "a" * 300: "File name too long",
    "a" * 300 + "/x": "File name too long",
    "new/" + "a" * 300 + "/x": "File name too long",
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[:20])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_place_where_no_file_can_be_is_one_line_and_nothing_is_left(write, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    for path in (Path(place), Path(os.path.abspath(place))):
        with pytest.raises(UserError, match=f"^cannot write .*{PLACES[place]}") as error:
            write(path)
        assert "\n" not in str(error.value) and "make room" not in str(error.value)
    assert os.listdir(str(tmp_path)) == ["file"] and Path("file").read_text() == "mine"


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_read_only_disk_is_one_line(write, read_only):
    for path in (read_only / "x", read_only / "new" / "x"):
        with pytest.raises(UserError, match="Read-only file system"):
            write(path)


def test_a_file_that_is_missing_while_something_is_computed_is_no_fault_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "x"):
        (tmp_path / "input").read_text()


def test_a_folder_that_goes_away_while_something_is_computed_is_one_line(tmp_path):
    removed = pytest.raises(UserError, match="cannot write '.*x': its folder was removed meanwhile")
    with removed, atomic_file(tmp_path / "new" / "x") as path:
        shutil.rmtree(str(tmp_path / "new"))
        path.write_text("new")
    assert os.listdir(str(tmp_path)) == []
