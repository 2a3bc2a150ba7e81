"""Reads files and computes digests; files are written by the functions of outputs.py, which are here by name too."""

import codecs
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Iterable, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.outputs import atomic_file as atomic_file
from effedge.deploy.common.outputs import atomic_files as atomic_files
from effedge.deploy.common.outputs import atomic_folder as atomic_folder
from effedge.deploy.common.outputs import check_output_path as check_output_path
from effedge.deploy.common.outputs import explain_os_error as explain_os_error
from effedge.deploy.common.outputs import scratch_beside as scratch_beside
from effedge.deploy.common.outputs import write_json as write_json
from effedge.deploy.common.outputs import write_json_so_far as write_json_so_far
from effedge.deploy.common.strict_json import parse_json

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
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number that is not finite
        raise UserError(f"'{path}' is damaged ({error}): {remedy}") from error


def user_cache() -> Path:
    """Returns effedge's folder in the user's cache: $XDG_CACHE_HOME/effedge or ~/.cache/effedge.

    Raises UserError if the user has no home folder.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), ".cache"))
    if not root.is_absolute():
        raise UserError("this user has no home folder: set XDG_CACHE_HOME")
    return root / "effedge"
