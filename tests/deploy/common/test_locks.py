"""Two runs with one output: the second waits for the first, and says for which."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from effedge.deploy.common.locks import locked

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys, time
from pathlib import Path
from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import show_messages
show_messages()
with locked(Path(sys.argv[1])):
    print("in", time.monotonic(), flush=True)
    sys.stdin.readline()
    print("out", time.monotonic(), flush=True)
"""


def start(path):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), "engine"],
        cwd=str(ROOT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
    )  # fmt: skip


def test_the_second_waits_and_says_for_whom_and_since_when(tmp_path):
    first = start(tmp_path / "new" / "net")
    assert first.stdout.readline().startswith("in")
    second = start(tmp_path / "new" / "net")
    said = second.stderr.readline()
    pattern = (
        rf"waiting for process {first.pid} \(-c .*engine\), at work since \d{{4}}-\d\d-\d\d [\d:]{{8}}, which writes"
    )
    assert re.match(pattern, said) and str(tmp_path / "new" / "net") in said
    left = float(first.communicate("\n")[0].split()[1])
    came = float(second.communicate("\n")[0].split()[1])
    assert came >= left and first.returncode == second.returncode == 0
    assert list(tmp_path.iterdir()) == []  # neither the lock nor the folder that it was made in


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    first = start(tmp_path / "net")
    assert first.stdout.readline().startswith("in")
    first.kill()
    first.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".net.lock"]
    second = start(tmp_path / "net")
    assert second.communicate("\n")[1] == "" and list(tmp_path.iterdir()) == []


def test_many_runs_take_turns(tmp_path):
    script = SCRIPT.replace("sys.stdin.readline()", "time.sleep(0.01)")
    command = [sys.executable, "-c", script, str(tmp_path / "net")]
    processes = [
        subprocess.Popen(command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(6)
    ]
    spans = sorted(tuple(float(word) for word in process.communicate()[0].split()[1::2]) for process in processes)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))
    assert list(tmp_path.iterdir()) == []


def test_a_run_may_take_its_own_lock_again_and_read_only_folders_have_none(tmp_path):
    with locked(tmp_path / "net"), locked(tmp_path / "net"), locked(tmp_path / "net" / ".." / "net"):
        assert os.listdir(str(tmp_path)) == [".net.lock"]
    with locked(Path("/proc/net")):
        pass
    assert time.monotonic() and os.listdir(str(tmp_path)) == []
