"""Runs a stage, which makes an artefact from files, and records what the artefact was made from.

The record (`<artefact>.json`) holds the SHA-256 of the artefact and of each input, each option, the version of each
tool, the digest of effedge's code, and the time (of the clock and of the CPU) and memory that the stage took. A stage
whose record matches is not run again; a stage whose inputs changed is, whatever the files' dates say. The artefact is
renamed into place before its record. After a kill between the two, the earlier record, with the SHA-256 of another
artefact, vouches for nothing, and the stage runs once more. Two runs of one stage wait for each other (locks.py).
"""

import importlib.metadata
import json
import resource
import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import code_digest
from effedge.deploy.common.files import atomic_file, atomic_folder, read_json, sha256, sha256_of_path, write_json
from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import log
from effedge.deploy.common.outputs import replaced_file
from effedge.deploy.common.scratch import remove_left_overs


def tool_versions(distributions: Sequence[str]) -> Dict[str, str]:
    """Returns the installed versions, without importing the packages (importing torch alone takes two seconds).

    Raises UserError if a package is not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in distributions}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the package {error.name} is not installed: `make setup` installs what is missing") from error


def record_path(artefact: Path) -> Path:
    """Returns the path of an artefact's record."""
    return artefact.with_name(artefact.name + ".json")


def up_to_date(artefact: Path, key: Mapping[str, Any]) -> bool:
    """Tells if the artefact exists, is unchanged, and was made from exactly `key`."""
    try:
        record = json.loads(record_path(artefact).read_text())
        return record["key"] == key and record["sha256"] == sha256_of_path(artefact)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # no record, or one cut short: the stage runs again


def peak_memory_mib() -> int:
    """Returns the largest resident set so far of this process or of one that it waited for, in MiB (Linux counts
    ru_maxrss in KiB)."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024


def run_stage(
    name: str,
    artefact: Path,
    *,
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    tools: Sequence[str],
    code: Sequence[str],
    make: Callable[[Path], None],
    folder: bool = False,
) -> bool:
    """Makes `artefact` by calling `make(temporary_path)`, unless its record says that it is already made.

    Args:
        name: of the stage, for the user's messages: "export", "calibrate", ...
        inputs: files that the artefact is made from, by role. A folder of images is passed as its listing's digest in
            `options` instead.
        options: JSON values; every option that changes the artefact.
        tools: PyPI distributions whose version changes the artefact.
        code: the modules that make the artefact, such as `__name__`; their imports count too (code_digest.py).
        make: writes the complete artefact to the path in its argument; raises UserError on bad input.
        folder: the artefact is a folder rather than one file.

    Returns:
        True if the stage ran, False if it was up to date. A message says which.
    """
    if artefact.name in ("", ".."):
        raise UserError(f"'{artefact}' has no name, beside which a record can stand: give one, '{artefact}/NAME'")
    if replaced_file(record_path(artefact)) is None or (not folder and replaced_file(artefact) is None):
        kind = "folder" if folder else "file"
        raise UserError(f"'{artefact}' is a device or a fifo: expected a {kind}, beside which a record can stand")
    with locked(artefact):
        remove_left_overs(artefact.parent)
        hashes = {role: sha256(path) for role, path in inputs.items()}
        key = {
            "stage": name,
            "inputs": hashes,
            "options": dict(options),
            "tools": tool_versions(tools),
            "code": code_digest(*code),
        }
        key = json.loads(json.dumps(key))  # as it will be read back: tuples become lists
        if up_to_date(artefact, key):
            log.info(f"{name}: up to date, {artefact}")
            return False
        log.info(f"{name}: making {artefact}")
        started, cpu_started = time.perf_counter(), time.process_time()
        write = atomic_folder if folder else atomic_file
        with write(artefact) as temporary:
            make(temporary)
            check_unchanged(inputs, hashes)
            # Of the file that was made here, whatever may be at the artefact's path by the time of the record.
            digest = sha256_of_path(temporary)
        seconds, cpu, mib = time.perf_counter() - started, time.process_time() - cpu_started, peak_memory_mib()
        record = {
            "key": key,
            "sha256": digest,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "peak_mib": mib,
        }
        write_json(record_path(artefact), record)
    log.info(f"{name}: done in {seconds:.1f} s, peak memory {mib} MiB")
    return True


def check_unchanged(inputs: Mapping[str, Path], hashes: Mapping[str, str]) -> None:
    """Raises UserError if an input is not what it was at the stage's start: the artefact may be made of something that
    the record does not name."""
    for role, path in inputs.items():
        if not path.is_file() or sha256(path) != hashes[role]:
            raise UserError(f"'{path}' was changed while it was read, so what was made of it is not kept: run it again")


def json_stage(
    name: str,
    artefact: Path,
    *,
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    code: Sequence[str],
    make: Callable[[Path], None],
) -> Any:
    """Runs a stage that makes a JSON file without tools, unless it is up to date; returns the file's content.

    Args: as of `run_stage`.
    """
    run_stage(name, artefact, inputs=inputs, options=options, tools=[], code=code, make=make)
    return read_json(artefact, "remove it")
