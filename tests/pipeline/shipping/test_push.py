"""A bundle brought to a board by a stand-in for ssh that runs everything here, and can be told to break."""

import fcntl
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import sha256
from effedge.deploy.common.outputs import names_in
from effedge.pipeline.shipping import push
from effedge.pipeline.shipping.push import deploy
from effedge.pipeline.shipping.ssh import Board
from tests.pipeline.shipping.small_bundle import INSTALL, LATENCY, NAME, folder_of, pack


@pytest.fixture
def call(call_main, archive):
    return lambda *words: call_main(push.main, archive, "me@board", "-q", *words)


def runs(board):
    return (board / "effedge/net-int8-jetson-orin/runs").read_text().count("begun")


def part(board):
    [path] = (board / "effedge").glob(".*.part")
    return path


def test_it_copies_installs_brings_back_and_gives_the_figures_last(call, archive, board):
    status, out, err = call()
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "copy: me@board:effedge/net-int8-jetson-orin"
    assert lines[1:3] == ["engine: making engine", "install: it runs here"]
    assert "1.63" in lines[-3]
    assert lines[-2] == (
        "net-int8-jetson-orin on me@board: tensorrt 10.3.0 (jetson-orin), convolutions: 80 int8; "
        "self-test: 7 expected, IoU 0.97, scores within 0.01"
    )
    folder = archive.parent / "net-int8-jetson-orin@board"
    assert lines[-1] == str(folder)
    assert names_in(folder) == sorted(name.split("/")[-1] for name in push.RESULTS)
    assert json.loads((folder / "latency.json").read_text()) == LATENCY
    assert (folder / "install.log").read_text().splitlines() == lines[1:3]
    assert not list((board / "effedge").glob(".*.part"))


def test_a_second_run_copies_nothing(call, board):
    call()
    status, out, _ = call()
    assert status == 0 and "copy: up to date" in out
    assert "cat >>" not in "".join((board / "arguments").read_text().splitlines()[4:])


def test_what_a_shell_there_prints_at_its_start_is_no_part_of_an_answer(call, archive, board, monkeypatch):
    monkeypatch.setenv("GREETING", "Welcome to the board\n12 34")
    status, out, err = call()
    assert (status, err) == (0, "")
    folder = archive.parent / "net-int8-jetson-orin@board"
    assert out.splitlines()[-1] == str(folder) and names_in(folder) == sorted(
        name.split("/")[-1] for name in push.RESULTS
    )


def test_a_cut_copy_is_one_line_and_the_second_run_goes_on(call, archive, board, monkeypatch):
    monkeypatch.setenv("CUT", "200000")
    status, _, err = call()
    assert status == 2 and err.count("\n") == 1
    assert "the connection to 'me@board' broke (client_loop: send disconnect: Broken pipe): run the same command" in err
    assert part(board).read_bytes() == archive.read_bytes()[:200000]
    monkeypatch.delenv("CUT")
    status, out, _ = call()
    assert status == 0 and "going on at 0.2 MiB of 0.3 MiB" in out
    assert runs(board) == 1


def test_a_copy_that_was_damaged_is_removed(call, archive, board, monkeypatch):
    monkeypatch.setenv("CUT", "100000")
    call()
    monkeypatch.delenv("CUT")
    part(board).write_bytes(b"x" * 100000)
    status, _, err = call()
    assert status == 2 and err.count("\n") == 1 and "damaged on the way and is removed" in err
    assert not list((board / "effedge").glob(".*.part"))
    assert call()[0] == 0


def test_another_bundle_of_the_name_does_not_go_on_with_the_parts_of_the_first(call, archive, board, monkeypatch):
    monkeypatch.setenv("CUT", "100000")
    call()
    monkeypatch.delenv("CUT")
    old = part(board)
    content = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(content, 1))
    status, out, _ = call()
    assert status == 0 and "going on" not in out and not old.exists()
    assert (board / "effedge" / NAME).resolve() == folder_of(board, archive)


def test_a_cut_installation_runs_on_and_the_second_run_watches_it(call, archive, board, monkeypatch):
    (board / "wait").touch()
    monkeypatch.setenv("STOP", "engine: making engine")
    status, out, err = call()
    assert status == 2 and "the connection to 'me@board' broke" in err and "engine: making engine" in out
    monkeypatch.delenv("STOP")
    pid = int((folder_of(board, archive) / "install.pid").read_text())
    os.kill(pid, 0)
    (board / "wait").unlink()
    status, out, _ = call()
    assert status == 0 and "install: it runs here" in out
    assert runs(board) in (1, 2)  # 2: it had ended before the second run looked


def test_the_second_run_watches_an_installation_that_goes_on(call, archive, board, monkeypatch):
    (board / "wait").touch()
    monkeypatch.setenv("STOP", "engine: making engine")
    call()
    monkeypatch.setenv("STOP", "install: it is running there already")
    status, out, _ = call()
    assert status == 2 and "install: it is running there already" in out
    assert (folder_of(board, archive) / "runs").read_text() == "begun\n"
    (board / "wait").unlink()
    status_file = folder_of(board, archive) / "install.status"
    for _ in range(200):
        if status_file.exists():
            break
        time.sleep(0.05)
    assert status_file.read_text() == "0\n"  # without any connection
    assert (board / "effedge" / NAME / "installed.json").exists()


@pytest.fixture
def earlier(call, archive, board):
    """A finished installation, beside the archive of another bundle of its name: the files of the first by name."""
    assert call()[0] == 0
    pack(archive)
    folder = board / "effedge" / NAME
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_before(board, earlier):
    folder = board / "effedge" / NAME
    return earlier == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_bundle_takes_the_place_of_the_first_which_is_kept_until_a_third_does(call, archive, board, earlier):
    model, first = Path("model/model.onnx"), (board / "effedge" / NAME).resolve()
    status, out, _ = call()
    assert status == 0 and "install: it runs here" in out
    assert (board / "effedge" / NAME / model).read_bytes() != earlier[model]
    second, before = folder_of(board, archive), board / "effedge" / f".{NAME}-before"
    assert sorted(os.listdir(board / "effedge")) == sorted([NAME, before.name, first.name, second.name])
    assert before.resolve() == first
    assert call()[0] == 0 and before.resolve() == first  # the same bundle again
    pack(archive)
    assert call()[0] == 0
    third = folder_of(board, archive)
    assert sorted(os.listdir(board / "effedge")) == sorted([NAME, before.name, second.name, third.name])
    assert before.resolve() == second


def test_the_first_serves_until_the_second_is_installed(call, archive, board, earlier, monkeypatch):
    (board / "wait").touch()
    monkeypatch.setenv("STOP", "engine: making engine")
    assert call()[0] == 2
    assert as_before(board, earlier)
    monkeypatch.delenv("STOP")
    (board / "wait").unlink()
    assert call()[0] == 0
    assert not as_before(board, earlier)


def test_what_the_first_bundle_made_is_there_when_the_second_is_installed(call, archive, board, earlier):
    pack(archive, INSTALL.replace("mkdir -p engine", "grep -q '{}' engine/manifest.json && mkdir -p engine"))
    assert call()[0] == 0


def refuse(board, archive, monkeypatch):
    (board / "refuse").touch()
    return "this bundle is for jetson-orin, and this board is another"


def damage(board, archive, monkeypatch):
    archive.write_bytes(archive.read_bytes()[:-1000])  # a tar that ends early, whose hash is as on the host
    return "on 'me@board': "


def fill_the_disk(board, archive, monkeypatch):
    fail(board, monkeypatch, "tar", "tar: model.onnx: Cannot write: No space left on device")
    return "the disk of 'me@board' is full (tar: model.onnx: Cannot write: No space left on device)"


def fail_to_turn(board, archive, monkeypatch):
    fail(board, monkeypatch, "ln", "ln: failed to create symbolic link: No space left on device")
    return "the disk of 'me@board' is full (ln: "


def fail(board, monkeypatch, command, message):
    """The board's `command` fails with a message."""
    folder = board.parent / "failing"
    folder.mkdir()
    (folder / command).write_text(f'#!/bin/sh\necho "{message}" >&2\nexit 1\n')
    (folder / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def fail_to_rename(board, archive, monkeypatch):
    fail(board, monkeypatch, "mv", "mv: cannot move: Read-only file system")
    return "mv: cannot move: Read-only file system"


def test_what_a_cut_unpacking_left_is_removed_by_the_next_bundle(call, board):
    left = board / "effedge" / f".{NAME}-0123456789abcdef.new" / NAME
    left.mkdir(parents=True)
    assert call()[0] == 0
    assert not left.parent.exists()


def test_a_bundle_for_a_proof_leaves_the_one_without_and_takes_what_that_made(call, call_main, archive, board):
    assert call()[0] == 0
    before = folder_of(board, archive)
    proof = archive.with_name(f"{NAME}-proof.tar.gz")
    pack(proof, INSTALL.replace("mkdir -p engine", "grep -q '{}' engine/manifest.json && mkdir -p engine"))
    assert call_main(push.main, proof, "me@board", "-q")[0] == 0
    assert before.is_dir() and (board / "effedge" / NAME).resolve() == before
    assert call()[0] == 0 and runs(board) == 2
    assert (board / "effedge" / f"{NAME}-proof" / "runs").read_text().count("begun") == 1


@pytest.mark.parametrize("fault", [refuse, damage, fill_the_disk, fail_to_turn, fail_to_rename])
def test_what_fails_is_one_line_and_leaves_the_first(call, archive, board, earlier, monkeypatch, fault):
    message = fault(board, archive, monkeypatch)
    status, _, err = call()
    assert status == 2 and err.count("\n") == 1 and message in err
    assert as_before(board, earlier)
    assert not list((board / "effedge").glob("*.new"))


def test_after_a_failure_another_bundle_can_be_installed(call, archive, board, earlier):
    (board / "refuse").touch()
    call()
    failed = folder_of(board, archive)
    assert failed.is_dir()
    (board / "refuse").unlink()
    pack(archive)
    assert call()[0] == 0
    assert not failed.exists()


def test_two_bundles_of_a_name_are_not_installed_at_once(call, archive, board, monkeypatch):
    (board / "wait").touch()
    monkeypatch.setenv("STOP", "engine: making engine")
    call()
    monkeypatch.delenv("STOP")
    pid = (folder_of(board, archive) / "install.pid").read_text().strip()
    pack(archive)
    status, _, err = call()
    assert status == 2 and f"another bundle {NAME} is being installed there (process {pid}): wait for it" in err
    (board / "wait").unlink()


def test_a_bundle_whose_name_begins_with_this_one_is_left_alone(call, board):
    others = [board / "effedge" / f".{NAME}-dla-0123456789abcdef", board / "effedge" / f".{NAME}-dla-0123.part"]
    for other in others:
        other.mkdir(parents=True)
    assert call()[0] == 0
    assert all(other.exists() for other in others)


def test_a_folder_in_the_place_of_the_link_gives_its_files_and_its_place(call, board):
    old = board / "effedge" / NAME
    (old / "engine").mkdir(parents=True)
    (old / "engine" / "kept").touch()
    assert call()[0] == 0
    assert old.is_symlink() and (old / "engine" / "kept").exists()
    assert not (board / "effedge" / f".{NAME}-earlier").exists()


def test_what_the_board_refuses_is_the_one_line(call, board):
    (board / "refuse").touch()
    status, out, err = call()
    assert status == 2
    assert err == "error: on 'me@board': this bundle is for jetson-orin, and this board is another\n"
    assert "engine: making engine" in out


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ssh: Could not resolve hostname board: Name or service not known", "check the name, or give the address"),
        ("me@board: Permission denied (publickey).", "`ssh-copy-id` lets your key in there"),
        ("Host key verification failed.", "`ssh` there once by hand"),
        ("ssh: connect to host board port 22: Connection refused", "see whether sshd runs there"),
        ("ssh: connect to host board port 22: Connection timed out", "see whether it is switched on"),
        ("kex_exchange_identification: read: Connection reset by peer", "broke (kex_exchange_identification"),
    ],
)
def test_no_connection_is_one_line_with_what_to_do(call, board, monkeypatch, said, expected):
    monkeypatch.setenv("REFUSAL", said)
    status, out, err = call()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert expected in err


def only(tmp_path, monkeypatch, *names):
    """PATH with our ssh and of the others only these, as on a board without the rest."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("sh", "head", "cat", "mkdir", "rm", "wc", "echo", *names):
        path = next(p for p in (f"/bin/{name}", f"/usr/bin/{name}") if os.path.exists(p))
        (folder / name).symlink_to(path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{folder}")


def test_a_board_without_python_is_one_line(call, board, tmp_path, monkeypatch):
    only(tmp_path, monkeypatch)
    status, _, err = call()
    assert (
        status == 2 and err == "error: on 'me@board': no python3: install Python 3.8 or later there, or name another\n"
    )


def test_the_devices_python_may_be_another(call, board):
    (board / "my env").mkdir()
    (board / "my env" / "python").symlink_to(sys.executable)
    installer = board / "effedge" / NAME / "install.sh"
    assert call("--device-python", "~/my env/python")[0] == 0
    installer.write_text(installer.read_text() + 'echo "with $PYTHON"\n')
    _, out, _ = call("--device-python", "~/my env/python")
    assert f"with {board}/my env/python" in out
    status, _, err = call("--device-python", "/opt/none")
    assert status == 2 and err.startswith("error: on 'me@board': no /opt/none: install Python 3.8")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_line(call, monkeypatch, board):
    monkeypatch.setenv("FULL", "1")
    status, _, err = call()
    assert status == 2 and err.count("\n") == 1
    assert "the disk of 'me@board' is full (cat: " in err and "No space left on device): make room there" in err


def test_a_disk_that_will_be_full_is_one_line_before_the_copy(call, monkeypatch, board):
    monkeypatch.setattr(push, "SPACE", 10**12)
    status, out, err = call()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "are free on 'me@board', " in err


def test_the_users_options_stand_before_the_host(call, board):
    call("--ssh-options", "-p 2222 -i 'my key'")
    first = (board / "arguments").read_text().splitlines()[0]
    assert "-o BatchMode=yes" in first and "-p 2222 -i my key me@board sh -c" in first


@pytest.mark.parametrize(
    ("host", "options", "message"),
    [("", "", "expected user@board"), ("-oProxyCommand=x", "", "is no host"), ("a@b", "'", "cannot be read")],
)
def test_a_host_or_options_that_are_none(host, options, message):
    with pytest.raises(UserError, match=message):
        Board(host, options)


def test_no_ssh_here_is_one_line(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no `ssh` here"):
        deploy(archive, Board("me@board"))


def test_no_bundle_is_one_line(tmp_path, board):
    with pytest.raises(UserError, match="no bundle at"):
        deploy(tmp_path / "none.tar.gz", Board("me@board"))


def test_two_deploys_at_once_take_turns_and_one_from_elsewhere_is_told(archive, board, tmp_path, monkeypatch):
    """From here they wait for each other; a copy from another machine meets the lock on the board."""
    done = []
    threads = [threading.Thread(target=lambda: done.append(deploy_in_process(archive))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in done] == [0, 0] and runs(board) == 2
    assert (
        sum("copy: up to date" in said for _, said in done) == 1 and sum("waiting for" in said for _, said in done) <= 1
    )
    other = pack(tmp_path / "build" / f"{NAME}.tar.gz")
    place = board / "effedge" / f".{NAME}-{sha256(other)[:16]}.part"
    with place.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is copying net-int8-jetson-orin there"):
            deploy(other, Board("me@board"))
    deploy(other, Board("me@board"))


def deploy_in_process(archive):
    words = [sys.executable, "-m", "effedge", "deploy", str(archive), "me@board", "-q"]
    done = subprocess.run(words, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
