"""A stage: files in, one artefact out, beside a record of everything it was made from.

The record (`<artefact>.json`) holds the SHA-256 of each input, each option, the version of each tool and of our own
code, and the time (on the clock, and of the CPU) and memory that it took. A stage whose record matches is not run
again; one whose inputs changed is, whatever the file dates say. The artefact is renamed into place before its record,
so a kill between the two only means that the stage runs once more.
"""

import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import code_digest
from effedge.deploy.common.files import sha256, sha256_of_folder, whole_file, whole_folder


def tool_versions(distributions: Sequence[str]) -> Dict[str, str]:
    """Installed versions, read without importing the packages (importing torch alone takes two seconds)."""
    try:
        return {name: importlib.metadata.version(name) for name in distributions}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the package {error.name} is not installed: `make setup` installs what is missing") from error


def artefact_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder."""
    return sha256_of_folder(path) if path.is_dir() else sha256(path)


def record_path(artefact: Path) -> Path:
    return artefact.with_name(artefact.name + ".json")


def up_to_date(artefact: Path, key: Mapping[str, Any]) -> bool:
    """True if the artefact is there, whole, and was made from exactly `key`."""
    try:
        record = json.loads(record_path(artefact).read_text())
        return record["key"] == key and record["sha256"] == artefact_digest(artefact)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no record, or one cut short: the stage runs again


def peak_memory_mib() -> int:
    """The largest resident set of this process so far, in MiB (Linux counts ru_maxrss in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


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
    """Make `artefact` by calling `make(temporary_path)`, unless its record says that it is already made.

    Args:
        name: what the user reads: "export", "calibrate", ...
        inputs: files that the artefact is made from, by role. A folder of images is passed as its listing's digest in
            `options` instead.
        options: JSON values; every option that changes the artefact.
        tools: PyPI distributions whose version changes the artefact.
        code: the modules that make the artefact, such as `__name__`; what they import is found (code_digest.py).
        make: writes the whole artefact to the path that it is given; raises UserError on bad input.
        folder: the artefact is a folder rather than one file.

    Returns:
        True if the stage ran, False if it was up to date. Either way one line on stdout says so.
    """
    key = {
        "stage": name,
        "inputs": {role: sha256(path) for role, path in inputs.items()},
        "options": dict(options),
        "tools": tool_versions(tools),
        "code": code_digest(*code),
    }
    key = json.loads(json.dumps(key))  # as it will be read back: tuples become lists
    if up_to_date(artefact, key):
        print(f"{name}: up to date, {artefact}")
        return False
    print(f"{name}: making {artefact}", flush=True)
    started, cpu_started = time.perf_counter(), time.process_time()
    whole = whole_folder if folder else whole_file
    with whole(artefact) as temporary:
        make(temporary)
        # From here to the new record nothing vouches for the artefact, so a kill means one more run.
        record_path(artefact).unlink(missing_ok=True)
    seconds, cpu, mib = time.perf_counter() - started, time.process_time() - cpu_started, peak_memory_mib()
    record = {
        "key": key,
        "sha256": artefact_digest(artefact),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": mib,
    }
    with whole_file(record_path(artefact)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: done in {seconds:.1f} s, peak memory {mib} MiB", flush=True)
    return True


def progress_disabled(quiet: bool = False) -> bool:
    """Progress bars are for people: off with -q and where stderr is no terminal."""
    return quiet or not sys.stderr.isatty()
