"""Copies a bundle to a board over ssh, installs it there, and brings the results back.

    effedge deploy build/d0-digits/d0-digits-int8-jetson-orin.tar.gz user@board

On the board ~/effedge/NAME is a link to the folder in which the bundle was installed, .NAME-HASH. Another bundle of the
name gets a folder of its own, and the link is turned, in one rename, once its engine has passed its self-test: until
then, and if anything fails, the earlier engine serves with the code and the model that it came with. The link
.NAME-before leads to the one that served before (fleet/board.py turns back). With --key the board takes no bundle from
now on that is not signed by that key (trust.py).

Every step continues from where an earlier run stopped: a copy that was cut is resumed; an installation, which runs on
without the connection, is watched again from its first line. The results are put beside the archive, into NAME@BOARD/.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effedge.deploy.common.cli import EXIT_USER_ERROR, Parser, UserError
from effedge.deploy.common.files import atomic_folder, read_json, sha256
from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import log, track
from effedge.deploy.latency import table
from effedge.engines.installation.candidate import MADE_HERE
from effedge.engines.proof.prove import SUFFIX as PROOF_SUFFIX
from effedge.pipeline.shipping.ssh import Board, ConnectionLost, quoted
from effedge.pipeline.shipping.trust import CHECK, pin, put_signature, sign_or_check

SUFFIX = ".tar.gz"
CHUNK_BYTES = 1 << 16
REMEDY = "deploy the bundle again"
KEY_HELP = "a private key, which signs the bundle, or the public key that it is signed by; no other is trusted there"
RESULTS = ("engine/manifest.json", "latency.json", "installed.json", "found.json", "install.log")
SPACE = 4  # times the archive: the archive itself, its files, the engine, the backend's cache of it
# Prints the free KiB of the board's disk, then "whole" if the bundle is unpacked there, else the number of its bytes
# that are there. {work} is .NAME- and 16 digits of the archive's hash.
INSPECT = """
command -v {python} >/dev/null || {{
    echo "no "{python}": install Python 3.8 or later there, or name another" >&2; exit 1; }}
mkdir -p effedge && cd effedge || exit 1
[ -e {name} ] || [ ! -d .{name}-earlier ] || mv .{name}-earlier {name}
for other in .{name}-????????????????; do
    [ "$other" != {work} ] || continue
    for pid in "$other"/*.pid; do
        if grep -q install.sh "/proc/$(cat "$pid" 2>/dev/null)/cmdline" 2>/dev/null; then
            case $pid in */prove.pid) done=proved;; *) done=installed;; esac
            echo "another bundle {name} is being $done there (process $(cat "$pid")): wait for it, or end it" >&2
            exit 1
        fi
    done
    case $other in "$(readlink {name})"|"$(readlink .{name}-before)") ;; *) rm -rf "$other";; esac
done
for part in .{name}-????????????????.part; do [ "$part" = {work}.part ] || rm -f "$part"; done
rm -rf .{name}-????????????????.new
df -Pk . | awk 'NR == 2 {{ print $4 }}'
if [ -d {work} ]; then echo whole; else wc -c 2>/dev/null < {work}.part || echo 0; fi
"""
# Appends to the archive's part there. A lock on it, where the board has util-linux's flock, keeps two runs apart.
COPY = """
cd effedge || exit 1
exec 9>> {work}.part
if command -v flock >/dev/null && ! flock -n 9; then
    echo "another run is copying {name} there: wait for it, then run the same command again" >&2; exit 1
fi
[ "$(wc -c < {work}.part)" -eq {start} ] || {{
    echo "another run has copied a part of {name} there: run the same command again" >&2; exit 1; }}
cat >> {work}.part
"""
# What the bundle of the last installation made is linked into the new folder: what is up to date there is not made
# anew. {twin} is the name of the same model's bundle for a proof, or without one. A folder of the final name is whole,
# as it is renamed; `sync` is for boards that lose their power.
UNPACK = """
cd effedge || exit 1
[ ! -d {work} ] || {{ rm -f {work}.part; exit 0; }}
trap 'rm -rf {work}.new' EXIT
trap 'exit 1' HUP INT TERM
[ "$(sha256sum < {work}.part | cut -d ' ' -f 1)" = {digest} ] || {{
    rm -f {work}.part
    echo "the copy was damaged on the way and is removed: run the same command again" >&2; exit 1; }}
rm -rf {work}.new && mkdir {work}.new && tar xzf {work}.part -C {work}.new || exit 1
last={name}
[ -e $last ] || last={twin}
for made in {made}; do
    [ -e $last/$made ] || continue
    cp -Rl $last/$made {work}.new/{name} 2>/dev/null && continue
    rm -rf {work}.new/{name}/$made
    cp -R $last/$made {work}.new/{name} || exit 1
done
sync
mv {work}.new/{name} {work} && rm -f {work}.part
"""
# Turns the link ~/effedge/NAME to the folder {work}; `mv -T` does not move into the folder that the link leads to. A
# folder in the link's place comes from an effedge before the link, or from somebody's own `tar`.
TURN = """
sync
cd .. || exit 1
before=$(readlink {name}); [ "$before" != {work} ] || before=$(readlink .{name}-before)
rm -rf .{name}-link && ln -s {work} .{name}-link &&
    {{ [ -L {name} ] || [ ! -e {name} ] || mv {name} .{name}-earlier; }} && mv -fT .{name}-link {name} || {{
    rm -f .{name}-link; exit 1; }}
[ ! -d "$before" ] || ln -sfn "$before" .{name}-before
for other in .{name}-???????????????? .{name}-earlier; do
    case $other in {work}|"$before") ;; *) rm -rf "$other";; esac; done
"""
# A job, such as the installation, is a process of its own, which runs on without the connection. While it runs, JOB.pid
# holds its id; its exit status is written when it has ended. In the middle of execve(2) a process has no command line:
# one look does not tell that the job has ended. Plain sh follows the log, as not every `tail` ends with a process.
JOB = """
cd effedge/{work} || exit 1
running() {{ kill -0 "$(cat {job}.pid)" && grep -q install.sh "/proc/$(cat {job}.pid)/cmdline"; }} 2>/dev/null
if running; then echo "{job}: it is running there already"; else
    rm -f {job}.status; : > {job}.log || exit 1
    PYTHON={python}; export PYTHON
    nohup sh -c {script} </dev/null >/dev/null 2>&1 &
    echo $! > {job}.pid
fi
shown=0
while :; do
    if running || {{ [ ! -f {job}.status ] && sleep 0.1 && running; }}; then last=; else last=1; fi
    size=$(wc -c < {job}.log)
    if [ "$size" -gt "$shown" ]; then tail -c +$((shown + 1)) {job}.log | head -c $((size - shown)); shown=$size; fi
    [ -z "$last" ] || break
    sleep 0.3
done
exit "$(cat {job}.status 2>/dev/null || echo 1)"
"""
FETCH = "cd effedge/{work} && tar cf - {files}"


def deploy(
    archive: Path, board: Board, python: str = "python3", iterations: int | None = None, key: Path | None = None
) -> Path:
    """Runs all steps; returns the folder of the results.

    Args:
        python: the board's.
        iterations: runs of the latency measurement; None: seconds of them.
        key: a private key to sign the bundle with, or the public one that it is signed by; it is pinned on the board.

    Raises UserError, and ConnectionLost without a connection.
    """
    if not archive.name.endswith(SUFFIX) or not archive.is_file():
        raise UserError(f"no bundle at '{archive}': expected the {SUFFIX} that `make bundle` writes")
    names = names_there(archive, python)
    folder = archive.with_name(f"{names['name']}@{board.word}")
    with locked(folder):
        if key is not None and pin(board, sign_or_check(archive, key), names["python"]):
            log.info(f"trust: {board.host} takes only bundles signed by '{key}' from now on")
        install(archive, board, names, iterations)
        fetch(board, names, RESULTS, folder)
    return folder


def install(archive: Path, board: Board, names: dict[str, str], iterations: int | None) -> None:
    """Copies the bundle to the board and installs it there.

    Args: as of `deploy`, and what `names_there` returns.
    """
    free, state = board.run(INSPECT.format(**names)).decode().split()
    if state == "whole":
        log.info(f"copy: up to date, {board.host}:effedge/{names['name']}")
    else:
        needed = SPACE * archive.stat().st_size - int(state)
        if 1024 * int(free) < needed:
            raise UserError(
                f"{mib(1024 * int(free))} are free on '{board.host}', {mib(needed)} are needed: make room there"
            )
        copy(archive, board, names, int(state))
        board.run(UNPACK.format(made=" ".join(map(str, MADE_HERE)), **names))
    put_signature(board, archive, names["work"])
    count = "" if iterations is None else f" --iterations {iterations}"
    run_job(board, names, "install", f"sh install.sh{count}", TURN.format(**names))


def names_there(archive: Path, python: str) -> dict[str, str]:
    """Returns what the scripts for a bundle's board have in common: its name and folder there, its twin's name, its
    hash, and the Python. Raises UserError for a name that is no word."""
    name, digest = archive.name[: -len(SUFFIX)], sha256(archive)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"the bundle's name '{name}' has more than letters, digits, '.', '_' and '-': rename it")
    twin = name[: -len(PROOF_SUFFIX)] if name.endswith(PROOF_SUFFIX) else name + PROOF_SUFFIX
    work = f".{name}-{digest[:16]}"
    return {"name": name, "work": work, "twin": twin, "digest": digest, "python": quoted(python)}


def copy(archive: Path, board: Board, names: dict[str, str], start: int) -> None:
    """Appends the archive's bytes from `start` on to the board's part of it."""
    size, script = archive.stat().st_size, COPY.format(start=start, **names)
    start = min(start, size)  # where the board has more bytes, the hash will differ
    log.info(
        f"copy: {board.host}:effedge/{names['name']}" + (f", going on at {mib(start)} of {mib(size)}" if start else "")
    )
    sent = start
    bar = track(total=size, initial=start, unit="B", unit_scale=True, desc="copying")
    with bar, open(archive, "rb") as file, board.open(script, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        messages: list[bytes] = []
        listener = threading.Thread(target=lambda stderr: messages.append(stderr.read()), args=[process.stderr])
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


def run_job(board: Board, names: dict[str, str], job: str, command: str, afterwards: str = "") -> None:
    """Starts a job in the bundle's folder on the board, or follows a running one, and prints its lines.

    Args:
        command: begins with "sh install.sh".
        afterwards: a script that is run there if the command succeeds, as part of the job.

    Raises UserError with the job's own last line.
    """
    script = f"""(({CHECK}) && {command} && ({afterwards or ":"})) >> {job}.log 2>&1; echo $? > .{job}.status
mv .{job}.status {job}.status"""
    error = None
    with board.open(
        JOB.format(job=job, script=shlex.quote(script), **names), stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            if line.startswith("error: "):
                error = line[len("error: ") :]
                continue
            log.info(line.replace(f"/effedge/{names['work']}/", f"/effedge/{names['name']}/"))
        status = process.wait()
    if status == EXIT_USER_ERROR and error:
        raise UserError(f"on '{board.host}': {error}")
    board.check(status, "\n".join(lines[-3:]).encode())


def fetch(board: Board, names: dict[str, str], files: Sequence[str], folder: Path) -> None:
    """Writes files of the bundle's folder on the board into `folder`, each under its own name."""
    content = board.run(FETCH.format(files=" ".join(files), **names))
    with atomic_folder(folder) as temporary, tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in files:
            member = archive.extractfile(name)
            assert member is not None
            (temporary / Path(name).name).write_bytes(member.read())


def mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def summary(folder: Path, host: str) -> str:
    """Summarizes the results in a few lines."""
    installed: dict[str, Any] = read_json(folder / "installed.json", REMEDY)
    test, backend = installed["self_test"], installed["backend"]
    convolutions = ", ".join(f"{count} {kind}" for kind, count in installed["convolutions"].items())
    return "\n".join([
        table(read_json(folder / "latency.json", REMEDY)),
        f"{installed['name']} on {host}: {backend['name']} {backend.get('version', '')} ({installed['built_for']}), "
        f"convolutions: {convolutions or 'unknown'}; self-test: {test['expected']} expected, IoU {test['iou']}, scores "
        f"within {test['score']}"
        + (f"; plan B: {installed['fallback']['reason']}" if installed.get("fallback") else ""),
    ])  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.tar.gz")
    parser.add_argument("host", metavar="HOST", help="user@board, or a Host of ~/.ssh/config")
    python = "the device's Python, such as a venv's that sees the system's packages (default: %(default)s)"
    parser.add_argument("--device-python", default="python3", metavar="PATH", help=python)
    parser.add_argument("--key", type=Path, metavar="FILE", help=KEY_HELP)
    parser.add_argument("--ssh-options", default="", metavar="TEXT", help='more for ssh, such as "-p 2222 -i key"')
    parser.add_quiet()
    arguments = parser.parse_args()
    board = Board(arguments.host, arguments.ssh_options)
    folder = deploy(arguments.bundle, board, arguments.device_python, key=arguments.key)
    sys.stdout.flush()
    print(summary(folder, arguments.host))
    print(folder)
