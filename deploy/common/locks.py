"""Locks an output, so that two runs write it one after the other, and the second says which run it waits for.

The lock of NAME is a lock of the system (flock(2)) on the file `.NAME.lock` beside it, which holds the process id, the
command and the time of the run that has it, and is removed at its end. The lock of a killed run is free. Stages run on
boards, which have Python's standard library alone, so the lock is made of that.

Where nothing can be locked, because the folder is read-only or the file system has no locks, there is no lock: what is
up to date can be used all the same, and no record vouches for another run's file (engines/stage.py).
"""

import contextlib
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

from effedge.deploy.common.messages import log
from effedge.deploy.common.outputs import explain_os_error
from effedge.deploy.common.scratch import fcntl, make_folders, remove_empty, shortened, try_lock
from effedge.deploy.common.strict_json import parse_json

SECONDS_TO_NAME = 1.0  # for a run that has just taken a lock to write its name into it
LONGEST_COMMAND = 120  # characters of it in a message
NO_LOCKS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EINVAL,
)
_held: Set[str] = set()  # the locks of this process, which may be taken again


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of the output `path` within the block; waits for it while another run has it.

    The folder of `path` is made, and removed again if nothing comes into it. Raises UserError if the disk is full.
    """
    target = Path(os.path.realpath(str(path)))
    file = target.with_name(f".{shortened(target.name)}.lock")
    if str(file) in _held or fcntl is None:
        yield
        return
    created: List[Path] = []
    descriptor = None
    with explain_os_error(path):
        try:
            descriptor = acquire(file, path, created)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    if descriptor is not None:
        _held.add(str(file))
    try:
        yield
    finally:
        if descriptor is not None:
            _held.discard(str(file))
            with contextlib.suppress(OSError):
                file.unlink()  # while it is locked: who waits for it looks whether it is still the file of that name
        remove_empty(created)
        if descriptor is not None:
            os.close(descriptor)


def acquire(file: Path, shown: Path, created: List[Path]) -> int:
    """Locks a lock's file and writes this run's name into it; returns its descriptor. Raises OSError.

    Args:
        shown: the output, for the message.
        created: receives the folders that are made on the way.
    """
    is_told = False
    while True:
        created[:0] = make_folders(file.parent)
        try:
            descriptor = os.open(str(file), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            if file.parent.is_dir():  # a file system that takes no new files, such as /proc
                raise
            continue  # the run that has ended removed its folder
        try:
            if not try_lock(descriptor):
                if not is_told:
                    log.warning(f"waiting for {holder(descriptor)}, which writes '{shown}'")
                    is_told = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_same(descriptor, file):
                write_name(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_same(descriptor: int, file: Path) -> bool:
    """Tells if an open file is still the one of its name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(str(file)))
    return False


def write_name(descriptor: int) -> None:
    """Writes who has a lock into its file, for those that wait; on a full disk they do not learn it."""
    name = {"pid": os.getpid(), "command": " ".join(sys.argv), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(name).encode(), 0)


def holder(descriptor: int) -> str:
    """Describes the run that has a lock, as its file says."""
    name = read_name(descriptor)
    started = time.monotonic()
    while name is None and time.monotonic() - started < SECONDS_TO_NAME:
        time.sleep(0.02)
        name = read_name(descriptor)
    if name is None:
        return "another run"
    command = str(name["command"])
    command = command if len(command) <= LONGEST_COMMAND else command[: LONGEST_COMMAND - 3] + "..."
    return f"process {name['pid']} ({command}), at work since {name['since']}"


def read_name(descriptor: int) -> Optional[Dict[str, Any]]:
    """Reads what `write_name` wrote; None for anything else."""
    try:
        name = parse_json(os.pread(descriptor, 1 << 16, 0))
    except (OSError, ValueError):
        return None
    return name if isinstance(name, dict) and {"pid", "command", "since"} <= name.keys() else None
