"""Reads and writes files that become code, a compiled library or model, in a folder where nobody else may put theirs.

A folder is opened once, and everything in it is reached through that handle: its path may lead elsewhere a moment
later. Each file ends with a digest of its content and of what it belongs to, so that a damaged file, or another one
under its name, is not used.
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Iterator, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.outputs import atomic_file

DIGEST_BYTES = hashlib.sha256().digest_size
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
ROOT = 0
OPEN_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
OPEN_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)  # a fifo waits


class TrustedFolder:
    """An open folder that only this user and root may write.

    Attributes:
        path: of the folder through the handle, also for other processes, as long as it is open.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.handle = handle
        through_handle = Path(f"/proc/{os.getpid()}/fd/{handle}")
        self.path = through_handle if through_handle.exists() else path  # a system without /proc has the path alone

    def open_file(self, name: str) -> int:
        """Opens a file to read it. Raises OSError if it does not exist or is a link, UserError if others may write
        it."""
        handle = os.open(name, os.O_RDONLY | OPEN_FILE, dir_fd=self.handle)
        try:
            check_owner(os.fstat(handle), self.path / name)
        except UserError:
            os.close(handle)
            raise
        return handle

    def read(self, name: str, belongs_to: str) -> Optional[bytes]:
        """Reads a file that `keep` wrote; None if there is none, it is damaged, belongs to something else, or others
        may write it."""
        try:
            with open(self.open_file(name), "rb") as file:
                return checked_content(file.read(), belongs_to)
        except (OSError, UserError):
            return None

    def keep(self, name: str, content: bytes, belongs_to: str) -> None:
        """Writes a file, whole and on the disk or not at all. Raises UserError or OSError if it cannot be written."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(name, dir_fd=self.handle, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=self.handle)  # a link, which would be followed
        with atomic_file(self.path / name) as temporary:
            temporary.write_bytes(content + digest(content, belongs_to))
            temporary.chmod(0o644)


@contextlib.contextmanager
def trusted_folder(path: Path, create: bool = True) -> Iterator[TrustedFolder]:
    """Opens a folder for the block.

    Raises:
        OSError: the folder cannot be created or opened, or is a link.
        UserError: others may write it, or this system has no such folders.
    """
    if os.open not in os.supports_dir_fd or not hasattr(os, "geteuid"):
        raise UserError(f"'{path}': this system cannot show that nobody else writes there")
    if create:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(str(path), os.O_RDONLY | OPEN_FOLDER)
    try:
        status = os.fstat(handle)
        if status.st_uid == os.geteuid() and status.st_mode & OTHERS_MAY_WRITE:  # of an older version, by its umask
            os.fchmod(handle, stat.S_IMODE(status.st_mode) & ~OTHERS_MAY_WRITE)
            status = os.fstat(handle)
        check_owner(status, path)
        yield TrustedFolder(path, handle)
    finally:
        os.close(handle)


def check_owner(status: os.stat_result, path: Path) -> None:
    """Raises UserError if others than this user and root could have put something there, or it is neither a folder nor
    a file."""
    is_plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    if not is_plain or status.st_uid not in (os.geteuid(), ROOT) or status.st_mode & OTHERS_MAY_WRITE:
        raise UserError(f"'{path}' is another user's, or others may write it: delete it")


def digest(content: bytes, belongs_to: str) -> bytes:
    """Computes the SHA-256 of a content and of what it belongs to."""
    return hashlib.sha256(hashlib.sha256(belongs_to.encode()).digest() + content).digest()


def checked_content(content: bytes, belongs_to: str) -> Optional[bytes]:
    """Returns the content in front of its digest; None if the digest differs."""
    content, expected = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return content if digest(content, belongs_to) == expected else None
