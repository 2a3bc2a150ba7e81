"""Files that are either whole or absent: everything effedge writes goes to a temporary name first and is renamed.

A rename within a folder is atomic on POSIX file systems, so a reader, or a later run after a kill, never takes half
a file for a whole one.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator, Union

from effedge.deploy.common.cli import UserError

CHUNK_BYTES = 1 << 20


def sha256(path: Union[str, Path]) -> str:
    """The SHA-256 of a file's content, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def read_json(path: Union[str, Path], remedy: str) -> Any:
    """A JSON file's content. UserError if it cannot be read, or is damaged: then with the `remedy`."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise UserError(f"'{path}' is damaged ({error}): {remedy}") from error


def check_place(path: Path) -> None:
    """UserError if `path` is a folder, or lies in one that does not exist: better now than after the work."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"cannot write '{path}': expected a file in a folder that exists")


# What a disk says when it cannot be written; any other OSError has another cause, and is not explained away.
REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
)  # fmt: skip


def sha256_of_folder(folder: Union[str, Path]) -> str:
    """One SHA-256 over the names and contents of all files in a folder, whatever their order on the disk. What has a
    name that begins with a dot is left out: it may come and go."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def user_cache() -> Path:
    """effedge's folder in the user's cache: $XDG_CACHE_HOME/effedge or ~/.cache/effedge. UserError if there is no home
    folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), ".cache"))
    if not root.is_absolute():
        raise UserError("this user has no home folder: set XDG_CACHE_HOME")
    return root / "effedge"


@contextlib.contextmanager
def explain_os_error(path: Union[str, Path]) -> Iterator[None]:
    """Turn a disk's refusal (no permission, no space, a file where a folder must be) into one line with the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise UserError(f"cannot write '{path}': {error.strerror}; make room there or choose another place") from error


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, whose parents are made; if the block fails, what was made goes again."""
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=str(path.parent)))
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}; choose another place") from error
    try:
        with explain_os_error(path):
            yield scratch
    except BaseException:
        shutil.rmtree(str(scratch), ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may have put something there
            for parent in made:
                parent.rmdir()
        raise
    shutil.rmtree(str(scratch), ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block ends well, else remove it.

    The folder is made if need be. Raises UserError if the disk refuses.
    """
    path = Path(path)
    with scratch_beside(path) as scratch:
        # The suffix stays: onnx, safetensors and OpenVINO go by it.
        temporary = scratch / path.name
        yield temporary
        os.replace(str(temporary), str(path))


@contextlib.contextmanager
def whole_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Like `whole_file`, for a folder: what stood at `path` before is replaced as a whole."""
    path = Path(path)
    with scratch_beside(path) as scratch:
        temporary, previous = scratch / "new", scratch / "old"
        temporary.mkdir()
        yield temporary
        if path.exists():
            os.replace(str(path), str(previous))
        os.replace(str(temporary), str(path))
