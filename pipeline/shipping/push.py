"""Copies a bundle to a board over ssh, installs it there, and brings the results back.

    effedge deploy build/d0-digits/d0-digits-int8-jetson-orin.tar.gz user@board

On the board everything is in ~/effedge/NAME. Every step continues from where an earlier run stopped: a copy that was
cut is resumed; an installation, which runs on without the connection, is watched again from its first line. The
results are put beside the archive, into NAME@BOARD/.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

from effedge.deploy.common.cli import EXIT_USER_ERROR, Parser, UserError
from effedge.deploy.common.files import atomic_folder, sha256
from effedge.deploy.common.messages import log, track
from effedge.deploy.latency import table
from effedge.pipeline.shipping.ssh import Board, ConnectionLost

SUFFIX = ".tar.gz"
CHUNK_BYTES = 1 << 16
RESULTS = ("engine/manifest.json", "latency.json", "installed.json", "found.json", "install.log")
SPACE = 4  # times the archive: the archive itself, its files, the engine, the backend's cache of it
# Prints the free KiB of the board's disk, then "whole" if the bundle is unpacked there, else the number of its bytes
# that are there.
INSPECT = """
command -v {python} >/dev/null || {{
    echo "no "{python}": install Python 3.8 or later there, or name another" >&2; exit 1; }}
mkdir -p effedge && cd effedge || exit 1
for part in .{name}-*.part; do [ "$part" = {part} ] || rm -f "$part"; done
df -Pk . | awk 'NR == 2 {{ print $4 }}'
if [ "$(cat {name}/.unpacked 2>/dev/null)" = {digest} ]; then echo whole; else wc -c 2>/dev/null < {part} || echo 0; fi
"""
COPY = "cd effedge && cat >> {part}"
UNPACK = """
cd effedge || exit 1
[ "$(sha256sum < {part} | cut -d ' ' -f 1)" = {digest} ] || {{
    rm -f {part}; echo "the copy was damaged on the way and is removed: run the same command again" >&2; exit 1; }}
mkdir -p {name} && rm -f {name}/.unpacked && tar xzf {part} && echo {digest} > {name}/.unpacked && rm {part}
"""
# The installation is a process of its own, which runs on without the connection. While it runs, install.pid holds its
# id; its exit status is written when it has ended. The log is followed by plain sh, as not every `tail` can end with a
# process.
INSTALL = """
cd effedge/{name} || exit 1
running() {{ kill -0 "$(cat install.pid)" && grep -q install.sh "/proc/$(cat install.pid)/cmdline"; }} 2>/dev/null
if running; then echo "deploy: the installation is running there already"; else
    rm -f install.status; : > install.log || exit 1
    PYTHON={python}; export PYTHON
    nohup sh -c 'sh install.sh >> install.log 2>&1; echo $? > install.status' </dev/null >/dev/null 2>&1 &
    echo $! > install.pid
fi
shown=0
while :; do
    if running; then last=; else last=1; fi
    size=$(wc -c < install.log)
    if [ "$size" -gt "$shown" ]; then tail -c +$((shown + 1)) install.log | head -c $((size - shown)); shown=$size; fi
    [ -z "$last" ] || break
    sleep 0.3
done
exit "$(cat install.status 2>/dev/null || echo 1)"
"""
FETCH = "cd effedge/{name} && tar cf - {files}"


def deploy(archive: Path, board: Board, python: str = "python3") -> Path:
    """Runs all steps, on the board with its `python`; returns the folder of the results. Raises UserError, and
    ConnectionLost without a connection."""
    if not archive.name.endswith(SUFFIX) or not archive.is_file():
        raise UserError(f"no bundle at '{archive}': expected the {SUFFIX} that `make bundle` writes")
    name, digest = archive.name[: -len(SUFFIX)], sha256(archive)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"the bundle's name '{name}' has more than letters, digits, '.', '_' and '-': rename it")
    part = f".{name}-{digest[:16]}.part"
    names = {"name": name, "digest": digest, "part": part, "python": quoted(python)}
    free, state = board.run(INSPECT.format(**names)).decode().split()[-2:]
    if state == "whole":
        log.info(f"copy: up to date, {board.host}:effedge/{name}")
    else:
        needed = SPACE * archive.stat().st_size - int(state)
        if 1024 * int(free) < needed:
            raise UserError(
                f"{mib(1024 * int(free))} are free on '{board.host}', {mib(needed)} are needed: make room there"
            )
        copy(archive, board, names, int(state))
        board.run(UNPACK.format(**names))
    install(board, names)
    folder = archive.with_name(f"{name}@{re.sub(r'[^A-Za-z0-9.]+', '_', board.host.rpartition('@')[2])}")
    fetch_results(board, names, folder)
    return folder


def quoted(path: str) -> str:
    """A path for the board's shell, in which ~/ is the home folder there.

    >>> quoted("python3"), quoted("~/my env/bin/python")
    ('python3', '"$HOME"/\'my env/bin/python\'')
    """
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def copy(archive: Path, board: Board, names: dict[str, str], start: int) -> None:
    """Appends the archive's bytes from `start` on to the board's part of it."""
    size = archive.stat().st_size
    start = min(start, size)  # where the board has more bytes, the hash will differ
    log.info(
        f"copy: {board.host}:effedge/{names['name']}" + (f", going on at {mib(start)} of {mib(size)}" if start else "")
    )
    sent = start
    bar = track(total=size, initial=start, unit="B", unit_scale=True, desc="copying")
    with bar, open(archive, "rb") as file, board.open(COPY.format(**names), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        messages: list[bytes] = []
        stderr = process.stderr
        listener = threading.Thread(target=lambda: messages.append(stderr.read()))
        listener.start()
        file.seek(start)
        try:
            while chunk := file.read(CHUNK_BYTES):
                process.stdin.write(chunk)
                sent += len(chunk)
                bar.update(len(chunk))
            process.stdin.close()
        except BrokenPipeError:  # ssh has ended: its exit status and messages give the reason
            pass
        status = process.wait()
        listener.join()
    try:
        board.check(status, b"".join(messages))
    except ConnectionLost as lost:
        if not sent:
            raise
        raise ConnectionLost(f"{lost} (about {mib(sent)} of {mib(size)} were sent)") from lost


def install(board: Board, names: dict[str, str]) -> None:
    """Starts the installation, or follows a running one, and prints its lines; UserError with its own last line."""
    error = None
    with board.open(INSTALL.format(**names), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            if line.startswith("error: "):
                error = line[len("error: ") :]
                continue
            log.info(line)
        status = process.wait()
    if status == EXIT_USER_ERROR and error:
        raise UserError(f"on '{board.host}': {error}")
    board.check(status, "\n".join(lines[-3:]).encode())


def fetch_results(board: Board, names: dict[str, str], folder: Path) -> None:
    """Writes the installation's results into `folder`."""
    content = board.run(FETCH.format(files=" ".join(RESULTS), **names))
    with atomic_folder(folder) as temporary, tarfile.open(fileobj=io.BytesIO(content)) as files:
        for name in RESULTS:
            member = files.extractfile(name)
            assert member is not None
            (temporary / Path(name).name).write_bytes(member.read())


def mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def summary(folder: Path, host: str) -> str:
    """Summarizes the results in a few lines."""
    installed: dict[str, Any] = json.loads((folder / "installed.json").read_text())
    test, backend = installed["self_test"], installed["backend"]
    convolutions = ", ".join(f"{count} {kind}" for kind, count in installed["convolutions"].items())
    return "\n".join([
        table(json.loads((folder / "latency.json").read_text())),
        f"{installed['name']} on {host}: {backend['name']} {backend.get('version', '')} ({installed['built_for']}), "
        f"convolutions: {convolutions or 'unknown'}; self-test: {test['expected']} expected, IoU {test['iou']}, scores "
        f"within {test['score']}",
    ])  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.tar.gz")
    parser.add_argument("host", metavar="HOST", help="user@board, or a Host of ~/.ssh/config")
    python = "the device's Python, such as a venv's that sees the system's packages (default: %(default)s)"
    parser.add_argument("--device-python", default="python3", metavar="PATH", help=python)
    parser.add_argument("--ssh-options", default="", metavar="TEXT", help='more for ssh, such as "-p 2222 -i key"')
    parser.add_quiet()
    arguments = parser.parse_args()
    folder = deploy(arguments.bundle, Board(arguments.host, arguments.ssh_options), arguments.device_python)
    sys.stdout.flush()
    print(summary(folder, arguments.host))
    print(folder)
