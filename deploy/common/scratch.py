"""Makes temporary folders beside their outputs, and removes those of runs that were killed.

The temporary folder of an output NAME is `.NAME.xxxxxxxx.effedge`. Its writer holds a lock on it (flock(2)), which the
system releases however the writer ends. So a folder that can be locked is a left-over, whatever other machines or
containers see of the writer's process id. On a file system without such locks left-overs stay.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".effedge"
LEFT_OVER = re.compile(r"\..+\.[a-z0-9_]{8}\.effedge", re.DOTALL)
LONGEST_NAME = 200  # bytes of NAME; a file's name has 255 at most
EARLIER = "earlier"  # within a temporary folder: holds a folder while another takes its place


def try_lock(descriptor: int) -> bool:
    """Locks an open file or folder; returns False if another has the lock. Raises OSError where there are no locks."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def scratch_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yields a temporary folder for the output `name` in `folder`; removes it at the end, and left-overs at the
    beginning."""
    remove_left_overs(folder)
    scratch, descriptor = make_locked(folder, name)
    try:
        yield scratch
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def make_locked(folder: Path, name: str) -> Tuple[Path, Optional[int]]:
    """Makes a temporary folder; returns its path and the descriptor of its lock, None without locks."""
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{shortened(name)}.", suffix=SUFFIX, dir=str(folder)))
        try:
            descriptor = os.open(str(scratch), os.O_RDONLY)
        except FileNotFoundError:  # taken for a left-over: nobody had its lock yet
            continue
        except OSError:  # Windows opens no folders
            return scratch, None
        try:
            if try_lock(descriptor) and scratch.exists():
                return scratch, descriptor
        except OSError:
            os.close(descriptor)
            return scratch, None
        os.close(descriptor)  # another run is removing it


def shortened(name: str) -> str:
    """Cuts a name so that another may be made of it, with a dot in front and a suffix."""
    return os.fsdecode(os.fsencode(name)[:LONGEST_NAME])


def remove_left_overs(folder: Path) -> None:
    """Removes the temporary folders in `folder` whose writers have ended."""
    try:
        names = os.listdir(str(folder))
    except OSError:
        return
    for name in filter(LEFT_OVER.fullmatch, names):
        with contextlib.suppress(OSError):  # a link, no folder, another user's, or there are no locks
            remove_left_over(folder / name)


def remove_left_over(scratch: Path) -> None:
    """Removes a temporary folder unless its writer lives. A folder that was moved into it, to make room for one that
    never came, goes back to its place. Raises OSError if the folder cannot be opened or locked."""
    descriptor = os.open(str(scratch), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid() and try_lock(descriptor):
            earlier = scratch / EARLIER
            for path in earlier.iterdir() if earlier.is_dir() else ():
                if not os.path.lexists(str(scratch.parent / path.name)):
                    os.replace(str(path), str(scratch.parent / path.name))
            shutil.rmtree(str(scratch), ignore_errors=True)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> List[Path]:
    """Makes a folder and its parents; returns those that were missing, the innermost first.

    Raises OSError if one of them cannot be made; the others are removed then.
    """
    missing: List[Path] = []
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            break
        missing.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty([path for path in missing if os.path.lexists(str(path))])
        raise
    return missing


def remove_empty(folders: List[Path]) -> None:
    """Removes folders, the innermost first, up to the first that has something in it."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
