"""Runs a stage with a fault at its n-th change of a file, and looks at what is on the disk then, and after a good run.

A fault is a kill -9, ENOSPC (the disk stays full until the run's end) or EIO (once), by faults.c. Before the run there
is an earlier good result, made of other inputs. After it
- each artefact is the earlier or the new one, as a whole,
- each record that vouches for an artefact (it has the artefact's hash) is one that a good run wrote with that artefact,
- the command was killed, or succeeded, or ended with one line.
After a good run of the same command all artefacts are the new ones, and no temporary file and no lock is left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from effedge.deploy.common.files import sha256_of_path
from effedge.deploy.common.outputs import MARK
from effedge.deploy.image.files import is_hidden

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("faults.c")
COUNT, KILL, FULL, BROKEN = range(4)
# Of faults.c: kind, at, calls; then a letter for each call, the first of its name.
HEADER, MOST_CALLS, WRITE = struct.Struct("3I"), 1 << 16, "w"
FAULTS = {"kill -9": KILL, "ENOSPC": FULL, "EIO": BROKEN}
# What differs from run to run; digests of the code (in "code", "versions") do where somebody edits it meanwhile.
TIMES = {
    "code",
    "versions",
    "machine",
    "board",
    "seconds",
    "cpu_seconds",
    "peak_mib",
    "images_per_second",
    "samples_ms",
    "build_seconds",
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A command under test.

    Attributes:
        name: for the test's report.
        inputs: writes the inputs of version 1 or 2 into a folder.
        call: the function of calls.py, with arguments for a version.
        modules: imported once, before the first run.
        free: names whose content may be any after a fault, and folders ("candidate/"); the good run must find them
            usable, and leaves no such folder.
        mixed: looks at a state with old and new artefacts side by side; by default that is right, as in a chain.
    """

    name: str
    inputs: Callable[[Path, int], None]
    call: Callable[[int], tuple[str, Sequence[str]]]
    modules: Sequence[str] = ()
    free: Sequence[str] = ()
    mixed: Callable[[Path], None] = lambda _: None


class Harness:
    """A stage with its server, its folder `work`, and the results of its good runs."""

    def __init__(self, stage: Stage, folder: Path, library: Path):
        self.stage, self.folder = stage, folder.resolve()
        self.work, self.base = self.folder / "work", self.folder / "base"
        self.control, self.log = self.folder / "control", self.folder / "log"
        self.order(COUNT, 0)
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library), "FAULTS_BELOW": str(self.work), "FAULTS_CONTROL": str(self.control),
            "PYTHONPATH": str(ROOT), "EFFEDGE_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", "effedge.__main__", *stage.modules],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.work.mkdir()
        self.folders = tuple(name for name in stage.free if name.endswith("/"))
        self.records: set[tuple[str, str]] = set()
        self.injected = self.calls = self.vouched = 0
        self.outcomes: Counter[str] = Counter()  # of the runs with a fault
        self.stage.inputs(self.work, 1)
        self.run_well(1)
        self.earlier = self.items()
        self.stage.inputs(self.work, 2)
        self.before = self.items()  # earlier artefacts beside other inputs
        shutil.copytree(self.work, self.base, symlinks=True)
        self.calls = self.run_well(2)
        self.letters = self.last_letters
        self.new = self.items()

    def order(self, kind: int, at: int) -> None:
        """Orders a fault for the next run."""
        self.control.write_bytes(HEADER.pack(kind, at, 0) + bytes(MOST_CALLS))

    def run(self, version: int, kind: int = COUNT, at: int = 0) -> tuple[int, str, int]:
        """Runs the stage; returns its exit status, what it printed, and the number of calls."""
        self.order(kind, at)
        name, arguments = self.stage.call(version)
        request = {"cwd": str(self.work), "log": str(self.log), "call": name, "arguments": list(arguments)}
        assert self.server.stdin is not None and self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        status = int(self.server.stdout.readline())
        control = self.control.read_bytes()
        calls = HEADER.unpack_from(control)[2]
        self.last_letters = control[HEADER.size : HEADER.size + calls].decode()
        self.order(COUNT, 0)
        return status, self.log.read_text(errors="replace"), calls

    def run_well(self, version: int) -> int:
        """Runs the stage without a fault, and notes its records; returns the number of calls."""
        status, said, calls = self.run(version)
        assert status == 0, said
        self.records |= {(key, digest) for key, digest, _ in self.vouching()}
        return calls

    def places(self, offset: int, every: int, every_write: int) -> list[int]:
        """Returns the numbers of every n-th call, from `offset` on; of writes of every n-th of these."""
        chosen = range(offset % every, self.calls, every)
        writes = [at for at in chosen if self.letters[at] == WRITE]
        left_out = set(writes).difference(writes[offset % every_write :: every_write])
        return [at + 1 for at in chosen if at not in left_out]

    def inject(self, kind: int, at: int) -> None:
        """Runs the stage with a fault, checks its outcome, runs it well, and checks again."""
        shutil.rmtree(self.work)
        shutil.copytree(self.base, self.work, symlinks=True)
        status, said, calls = self.run(2, kind, at)
        self.injected += calls >= at
        where = f"{self.stage.name}, call {at} of {self.calls}, kind {kind}: status {status}, {said}"
        assert "Traceback" not in said, where
        if calls >= at:
            assert status == -9 if kind == KILL else status in (0, 2), where
        if status == 2:
            assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1, where
        items = self.items()
        self.note(status, items)
        for name in {*items, *self.earlier}:
            accepted = {self.earlier.get(name), self.new.get(name)}
            assert items.get(name) in accepted, f"half an artefact, {name}; {where}"
        for key, digest, record in self.vouching():
            self.vouched += 1
            assert (key, digest) in self.records, f"{record} vouches for another artefact; {where}"
        if items not in (self.earlier, self.new):
            self.stage.mixed(self.work)
        status, said, _ = self.run(2)
        assert status == 0, f"the next run: {said}; {where}"
        again = self.items()
        other = sorted(name for name in {*again, *self.new} if again.get(name) != self.new.get(name))
        assert not other, f"the next run made something else: {other}; {where}"
        left = self.left_overs()
        assert not left, f"left over: {left}; {where}"

    def note(self, status: int, items: dict[str, str]) -> None:
        """Counts how a run with a fault ended, and what it left."""
        ended = {-9: "killed", 2: "ended with one line"}.get(status, "went on to the end")
        result = "the earlier" if items == self.before else "the new" if items == self.new else "some of each"
        self.outcomes.update([ended, f"with {result} result", *(["with temporary files"] if self.left_overs() else [])])

    def summary(self) -> str:
        """Says what the faults did, for the test's report."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        return (
            f"{self.stage.name}: {self.calls} calls, {self.injected} faults injected; {counts}; "
            f"{self.vouched} records vouched"
        )

    def left_overs(self) -> list[Path]:
        """Returns the temporary files and locks in the folder, and the folders that a good run removes."""
        left = [path for path in self.work.rglob("*") if path.name.endswith((".effedge", ".lock"))]
        return left + [self.work / name for name in self.folders if (self.work / name).exists()]

    def items(self) -> dict[str, str]:
        """Returns the digests of all artefacts by name; a folder that is written as a whole is one."""
        found: dict[str, str] = {}
        folders = [path.parent for name in ("manifest.json", MARK) for path in self.work.rglob(name)]
        for path in sorted(self.work.rglob("*")):
            name = path.relative_to(self.work).as_posix()
            if path.is_dir() or is_hidden(path.relative_to(self.work)):
                continue
            if name.endswith(tuple(self.stage.free)) or name.startswith(self.folders) or ".tensorboard/" in name:
                continue
            whole = next((folder for folder in folders if folder in path.parents), None)
            key = name if whole is None else whole.relative_to(self.work).as_posix()
            found[key] = hashlib.sha256((found.get(key, "") + name).encode() + without_times(path)).hexdigest()
        return found

    def vouching(self) -> list[tuple[str, str, str]]:
        """Returns the key, digest and name of each record that vouches for its artefact."""
        found = []
        for path in self.work.rglob("*.json"):
            if is_hidden(path.relative_to(self.work)):
                continue
            artefact, content = path.with_suffix(""), json.loads(path.read_text())
            if not isinstance(content, dict) or "key" not in content or not artefact.exists():
                continue
            if sha256_of_path(artefact) == content["sha256"]:
                key = {name: value for name, value in content["key"].items() if name != "code"}
                found.append((json.dumps(key, sort_keys=True), content["sha256"], path.name))
        return found

    def close(self) -> None:
        self.server.communicate("")


def without_times(path: Path) -> bytes:
    """Reads a file; of a JSON file all but the times, which differ from run to run."""
    content = path.read_bytes()
    if path.suffix != ".json":
        return content

    def stripped(value: object) -> object:
        if isinstance(value, dict):
            return {key: stripped(inner) for key, inner in value.items() if key not in TIMES}
        return [stripped(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(stripped(json.loads(content))).encode()


def compile_library(compiler: str, folder: Path) -> Path:
    """Compiles faults.c; returns the library's path."""
    library = folder / "faults.so"
    subprocess.run([compiler, "-O2", "-fPIC", "-shared", "-Wall", "-o", library, SOURCE, "-ldl"], check=True)
    return library
