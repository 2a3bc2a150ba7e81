"""Names the files of a bundle and of its installation, and moves a new engine into the place of an earlier one.

All files are made in candidate/ first and move up once the engine has passed.
"""

import contextlib
import os
import platform
import shutil
from pathlib import Path
from typing import Iterator

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import read_json, write_json
from effedge.deploy.common.messages import log
from effedge.deploy.common.outputs import exchange, link_or_copy
from effedge.engines.device import DetectedDevice
from effedge.engines.stage import record_path

BUNDLE, DEVICE, INSTALLED = Path("bundle.json"), Path("device.json"), Path("installed.json")
MODEL, IMAGE, EXPECTED = Path("model/model.onnx"), Path("selftest/image.png"), Path("selftest/expected.json")
OUTPUTS = Path("selftest/outputs.npz")  # of the reference, for IMAGE
FALLBACK = Path("model/fallback.onnx")  # plan B, where the builder may have no INT8 implementation of some layers
RANGES = Path("model/calibration.cache")  # where INT8 is by ranges
ENGINE, PREDICTION, LATENCY = Path("engine"), Path("found.json"), Path("latency.json")
# In the order in which they move up: wherever a kill interrupts that, the next run finds each record with its file.
MADE_HERE = (
    DEVICE, PREDICTION, record_path(PREDICTION), LATENCY, record_path(LATENCY), ENGINE, record_path(ENGINE), INSTALLED,
)  # fmt: skip
CANDIDATE, EARLIER = Path("candidate"), Path("earlier-engine")


@contextlib.contextmanager
def keep_earlier_engine() -> Iterator[None]:
    """Adds to a UserError within the block that the engine of an earlier installation is still there, if there is
    one."""
    try:
        if not ENGINE.exists() and EARLIER.exists():  # a kill came between the two renames of `move_up`
            os.replace(str(EARLIER), str(ENGINE))
        yield
    except UserError as error:
        if not ENGINE.exists():
            raise
        raise UserError(f"{error}; the earlier engine stays") from error


def begin_candidate(device: DetectedDevice) -> None:
    """Prepares candidate/ for the steps, with what an unfinished run has left there.

    Files of a finished installation are linked into it, so that a step is skipped if it is up to date; but none that
    were made with another backend or on another device, as a plan runs only where it was built.
    """
    current = {
        "machine": [platform.node(), platform.machine()],
        "target": device.target.name,
        "version": device.version,
        "l4t": device.l4t,
    }
    begun = CANDIDATE / DEVICE
    if begun.exists() and read_json(begun, f"remove {CANDIDATE}/") != current:
        shutil.rmtree(str(CANDIDATE))
    write_json(begun, current)
    if not DEVICE.exists():
        return
    if read_json(DEVICE, "remove it") != current:
        log.info("install: this device or its backend has changed, so everything is made anew")
        return
    for path in MADE_HERE:
        if path.exists() and not (CANDIDATE / path).exists():
            link(path, CANDIDATE / path)


def link(source: Path, target: Path) -> None:
    """Makes hard links of a file, or of a folder's files; copies where the file system has no links. Nothing writes
    into a file that exists (effedge.deploy.common.files), so a link is as good as a copy."""
    if source.is_dir():
        shutil.copytree(str(source), str(target), copy_function=link_or_copy)
    else:
        link_or_copy(source, target)


def move_up() -> None:
    """Moves the files of candidate/, whose engine has passed, to their places. The engine and the earlier one change
    places in one step, or with two renames where the system has no such step."""
    is_new = not same_file(CANDIDATE / record_path(ENGINE), record_path(ENGINE))
    for path in MADE_HERE:
        if path != ENGINE:
            os.replace(str(CANDIDATE / path), str(path))
        elif not ENGINE.exists():
            os.replace(str(CANDIDATE / ENGINE), str(ENGINE))
        elif is_new:
            # candidate/ keeps the new engine: after a kill the next run finds it there, beside its record.
            remove(EARLIER)
            link(CANDIDATE / ENGINE, EARLIER)
            if not exchange(EARLIER, ENGINE):
                remove(EARLIER)
                os.replace(str(ENGINE), str(EARLIER))
                os.replace(str(CANDIDATE / ENGINE), str(ENGINE))
    for folder in (CANDIDATE, EARLIER):
        shutil.rmtree(str(folder), ignore_errors=True)


def remove(folder: Path) -> None:
    """Removes a folder, if it is there."""
    if folder.exists():
        shutil.rmtree(str(folder))


def same_file(first: Path, second: Path) -> bool:
    """Tells if both exist with the same content."""
    return second.exists() and first.read_bytes() == second.read_bytes()
