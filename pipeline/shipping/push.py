"""A bundle brought to a board over ssh, installed there, its figures brought back: what `make deploy` runs.

    effedge deploy build/d0-digits/d0-digits-int8-jetson-orin.tar.gz user@board

On the board everything is in ~/effedge/NAME. Each step looks first at how far an earlier run came: the copy goes on
where it was cut; an installation, which does not need the connection once it has begun, is watched again from its
first line. What it made is put beside the archive, into NAME@BOARD/.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

from tqdm import tqdm

from effedge.deploy.common.cli import EXIT_USER_ERROR, Parser, UserError
from effedge.deploy.common.files import sha256, whole_folder
from effedge.deploy.latency import table
from effedge.engines.stage import progress_disabled
from effedge.pipeline.shipping.ssh import Board, Lost

SUFFIX = ".tar.gz"
CHUNK_BYTES = 1 << 16
BROUGHT = ("engine/manifest.json", "latency.json", "installed.json", "found.json", "install.log")
SPACE = 4  # times the archive: itself, unpacked, the engine, what a backend caches of it
# The state of the board: the free KiB of its disk, then whether the bundle is unpacked there, or how many bytes of it
# are there.
LOOK = """
command -v python3 >/dev/null || {{ echo "no python3: install Python 3.8 or later there" >&2; exit 1; }}
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
# The installation is a process of its own, which goes on without us. While it runs, install.pid names it; its exit
# status is written when it has ended. The log is followed by plain sh, as not every `tail` ends with a process.
INSTALL = """
cd effedge/{name} || exit 1
running() {{ kill -0 "$(cat install.pid)" && grep -q install.sh "/proc/$(cat install.pid)/cmdline"; }} 2>/dev/null
if running; then echo "deploy: the installation is running there already"; else
    rm -f install.status; : > install.log || exit 1
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
BRING = "cd effedge/{name} && tar cf - {files}"


def deploy(archive: Path, board: Board, quiet: bool = False) -> Path:
    """Run all steps; returns the folder of what was brought back. Raises UserError, Lost if there is no connection."""
    if not archive.name.endswith(SUFFIX) or not archive.is_file():
        raise UserError(f"no bundle at '{archive}': expected the {SUFFIX} that `make bundle` writes")
    name, digest = archive.name[: -len(SUFFIX)], sha256(archive)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"the bundle's name '{name}' has more than letters, digits, '.', '_' and '-': rename it")
    words = {"name": name, "digest": digest, "part": f".{name}-{digest[:16]}.part"}
    free, state = board.run(LOOK.format(**words)).decode().split()[-2:]
    if state == "whole":
        print(f"copy: up to date, {board.host}:effedge/{name}")
    else:
        needed = SPACE * archive.stat().st_size - int(state)
        if 1024 * int(free) < needed:
            raise UserError(
                f"{mib(1024 * int(free))} are free on '{board.host}', {mib(needed)} are needed: make room there"
            )
        copy(archive, board, words, int(state), quiet)
        board.run(UNPACK.format(**words))
    install(board, words)
    folder = archive.with_name(f"{name}@{re.sub(r'[^A-Za-z0-9.]+', '_', board.host.rpartition('@')[2])}")
    bring(board, words, folder)
    return folder


def copy(archive: Path, board: Board, words: dict[str, str], start: int, quiet: bool) -> None:
    """Append to the board's part of the archive what it lacks from byte `start` on."""
    size = archive.stat().st_size
    start = min(start, size)  # more than there is: the hash will tell
    print(
        f"copy: {board.host}:effedge/{words['name']}" + (f", going on at {mib(start)} of {mib(size)}" if start else "")
    )
    sent = start
    bar = tqdm(
        total=size, initial=start, unit="B", unit_scale=True, desc="copying", disable=progress_disabled(quiet)
    )  # fmt: skip
    with bar, open(archive, "rb") as file, board.open(COPY.format(**words), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        said: list[bytes] = []
        stderr = process.stderr
        listener = threading.Thread(target=lambda: said.append(stderr.read()))
        listener.start()
        file.seek(start)
        try:
            while chunk := file.read(CHUNK_BYTES):
                process.stdin.write(chunk)
                sent += len(chunk)
                bar.update(len(chunk))
            process.stdin.close()
        except BrokenPipeError:  # ssh has ended: its status and words say why
            pass
        status = process.wait()
        listener.join()
    try:
        board.check(status, b"".join(said))
    except Lost as lost:
        if not sent:
            raise
        raise Lost(f"{lost} (about {mib(sent)} of {mib(size)} were sent)") from lost


def install(board: Board, words: dict[str, str]) -> None:
    """Begin the installation, or watch the one that runs, line by line; UserError with its own last line."""
    error = None
    with board.open(INSTALL.format(**words), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            if line.startswith("error: "):
                error = line[len("error: ") :]
                continue
            print(line, flush=True)
        status = process.wait()
    if status == EXIT_USER_ERROR and error:
        raise UserError(f"on '{board.host}': {error}")
    board.check(status, "\n".join(lines[-3:]).encode())


def bring(board: Board, words: dict[str, str], folder: Path) -> None:
    """Put what the installation made into `folder`."""
    content = board.run(BRING.format(files=" ".join(BROUGHT), **words))
    with whole_folder(folder) as temporary, tarfile.open(fileobj=io.BytesIO(content)) as files:
        for name in BROUGHT:
            member = files.extractfile(name)
            assert member is not None
            (temporary / Path(name).name).write_bytes(member.read())


def mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def figures(folder: Path, host: str) -> str:
    """What was got, for a reader, in a few lines."""
    got: dict[str, Any] = json.loads((folder / "installed.json").read_text())
    test, backend = got["self_test"], got["backend"]
    convolutions = ", ".join(f"{count} {kind}" for kind, count in got["convolutions"].items())
    return "\n".join([
        table(json.loads((folder / "latency.json").read_text())),
        f"{got['name']} on {host}: {backend['name']} {backend.get('version', '')} ({got['built_for']}), convolutions: "
        f"{convolutions or 'unknown'}; self-test: {test['expected']} expected, IoU {test['iou']}, scores within "
        f"{test['score']}",
    ])  # fmt: skip


def main() -> None:
    parser = Parser(prog="effedge deploy", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.tar.gz")
    parser.add_argument("host", metavar="HOST", help="user@board, or a Host of ~/.ssh/config")
    parser.add_argument("--ssh-options", default="", metavar="TEXT", help='more for ssh, such as "-p 2222 -i key"')
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args()
    folder = deploy(given.bundle, Board(given.host, given.ssh_options), given.quiet)
    sys.stdout.flush()
    print(figures(folder, given.host))
    print(folder)
