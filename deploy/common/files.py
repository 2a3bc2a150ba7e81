"""Writes files and folders atomically, and computes digests.

Everything that effedge writes goes to a temporary name first and is then renamed. A rename within a folder is atomic on
POSIX file systems, so a reader, or a later run after a kill, finds the complete file or none.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterable, Iterator, Union

from effedge.deploy.common.cli import UserError

CHUNK_BYTES = 1 << 20
# Encodings by their byte-order mark (Unicode 15.0, section 23.8); UTF-32's begins with UTF-16's and comes first.
OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def sha256(path: Union[str, Path]) -> str:
    """Computes the SHA-256 of a file's content, as 64 hex digits."""
    with open(str(path), "rb") as file:
        return sha256_of_bytes(iter(lambda: file.read(CHUNK_BYTES), b""))


def sha256_of_bytes(chunks: Iterable[bytes]) -> str:
    """Computes the SHA-256 of the chunks, one after the other, as 64 hex digits."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Computes one SHA-256 over the names and contents of files, in this order."""
    return sha256_of_bytes(path.name.encode() + b"\0" + bytes.fromhex(sha256(path)) for path in paths)


def sha256_of_path(path: Path) -> str:
    """Computes the SHA-256 of a file, or one over the names and contents of all files in a folder.

    In a folder the order on the disk does not count, nor does what has a name that begins with a dot: it may come and
    go.
    """
    if not path.is_dir():
        return sha256(path)
    files = sorted((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
    return sha256_of_bytes(
        f"{name.as_posix()}\0{sha256(file)}\n".encode()
        for name, file in files
        if not any(part.startswith(".") for part in name.parts)
    )


def digest_of_json(value: Any) -> str:
    """Computes 16 hex digits that stand for a JSON value, whatever the order of its keys."""
    return sha256_of_bytes([json.dumps(value, sort_keys=True).encode()])[:16]


def read_text(path: Union[str, Path], expected: str) -> str:
    """Reads a text file of a user: UTF-8, with or without the byte-order mark that Windows' editors put in front.

    Raises UserError, with what is `expected`, if the file is missing, cannot be read, or is of another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"'{path}' does not exist: expected {expected}") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}): expected {expected}") from error
    encoding = next((name for mark, name in OTHER_MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:  # no text in UTF-8 has one, and English text in UTF-16 has many
        encoding = "UTF-16 without a byte-order mark, or no text"
    if encoding is not None:
        raise UserError(f"'{path}' is {encoding}: save it as UTF-8 (expected {expected})")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise UserError(f"'{path}' is no UTF-8 ({where}): save it as UTF-8 (expected {expected})") from error


def read_json(path: Union[str, Path], remedy: str) -> Any:
    """Reads a JSON file. Raises UserError if it cannot be read, or is damaged: then with the `remedy`."""
    try:
        return json.loads(Path(path).read_bytes())  # of bytes, json finds the encoding, and skips a byte-order mark
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise UserError(f"'{path}' is damaged ({error}): {remedy}") from error


def check_output_path(path: Path) -> None:
    """Raises UserError if `path` is a folder, or lies in a folder that does not exist. To be called before the work."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"cannot write '{path}': expected a file in a folder that exists")


# Errors of a disk that cannot be written. Any other OSError has another cause, and is not turned into a UserError.
REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
)  # fmt: skip


def user_cache() -> Path:
    """Returns effedge's folder in the user's cache: $XDG_CACHE_HOME/effedge or ~/.cache/effedge.

    Raises UserError if the user has no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), ".cache"))
    if not root.is_absolute():
        raise UserError("this user has no home folder: set XDG_CACHE_HOME")
    return root / "effedge"


@contextlib.contextmanager
def explain_os_error(path: Union[str, Path]) -> Iterator[None]:
    """Turns errors of the disk (no permission, no space, a file where a folder must be) into a UserError with the
    path."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise UserError(f"cannot write '{path}': {error.strerror}; make room there or choose another place") from error


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, whose parents are created. If the block fails, all of them are
    removed."""
    created = [parent for parent in path.parents if not parent.exists()]
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
            for parent in created:
                parent.rmdir()
        raise
    shutil.rmtree(str(scratch), ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path: Union[str, Path]) -> Iterator[Path]:
    """Yields a temporary path; renames the file there to `path` if the block ends well, else removes it.

    The folder of `path` is created if need be. Raises UserError if the disk cannot be written.
    """
    path = Path(path)
    with scratch_beside(path) as scratch:
        # The name keeps its suffix: onnx, safetensors and OpenVINO choose the format by it.
        temporary = scratch / path.name
        yield temporary
        os.replace(str(temporary), str(path))


@contextlib.contextmanager
def atomic_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Like `atomic_file`, for a folder: a folder at `path` is replaced, with all of its files."""
    path = Path(path)
    with scratch_beside(path) as scratch:
        temporary, previous = scratch / "new", scratch / "old"
        temporary.mkdir()
        yield temporary
        if path.exists():
            os.replace(str(path), str(previous))
        os.replace(str(temporary), str(path))


def write_json(path: Union[str, Path], content: object) -> None:
    """Writes JSON values to a file, whole or not at all. Raises UserError if the disk refuses."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
