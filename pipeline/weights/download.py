"""Downloads a published file once, and checks it against its hash.

The cache is `$EFFEDGE_CACHE`, or the user's cache folder (platformdirs). A file gets its name there only when it is
complete and its hash is right, so a killed download leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import platformdirs

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import CHUNK_BYTES, atomic_file, sha256
from effedge.deploy.common.messages import track

TIMEOUT_S = 30.0


def cache_folder() -> Path:
    """Returns the folder of the downloads: $EFFEDGE_CACHE, or effedge's folder in the user's cache."""
    return Path(os.environ.get("EFFEDGE_CACHE") or platformdirs.user_cache_dir("effedge"))


def download(url: str, sha256_prefix: str) -> Path:
    """Returns the cached file of `url`; downloads it if it is missing, or has another hash.

    Args:
        sha256_prefix: the hex digits that the file's SHA-256 begins with.

    Raises:
        UserError: no network, no such file, a transfer cut short, or a wrong hash; says where to put the file by hand.
    """
    path = cache_folder() / url.rsplit("/", 1)[-1]
    if path.is_file() and sha256(path).startswith(sha256_prefix):
        return path
    by_hand = f"to go on without a network, put the file at {path}"
    with _explain(url, by_hand), urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, atomic_file(path) as part:
        _copy(response, part, url, by_hand)
        digest = sha256(part)
        if not digest.startswith(sha256_prefix):
            raise UserError(
                f"'{url}' came with SHA-256 {digest[:16]}..., expected {sha256_prefix}...: it was changed on the way "
                f"or at its source, and is not kept; {by_hand}"
            )
    return path


def _copy(response: HTTPResponse, part: Path, url: str, by_hand: str) -> None:
    """Copies the response's body to `part`, and checks that it is complete."""
    length = response.headers.get("Content-Length")
    expected = int(length) if length else None
    received = 0
    with (
        open(part, "wb") as file,
        track(total=expected, unit="B", unit_scale=True, desc=part.name) as bar,
    ):
        # Only network errors are explained here; atomic_file explains those of the disk.
        while chunk := _read(response, url, by_hand):
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if expected is not None and received != expected:
        raise UserError(f"'{url}' was cut short at {received} of {expected} bytes: run again, or {by_hand}")


def _read(response: HTTPResponse, url: str, by_hand: str) -> bytes:
    """Reads the next chunk of the response; b"" at its end."""
    with _explain(url, by_hand):
        return response.read(CHUNK_BYTES)


@contextlib.contextmanager
def _explain(url: str, by_hand: str) -> Iterator[None]:
    """Turns a network error into one line with the URL and the place for the file."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise UserError(
            f"cannot download '{url}': the server answered {error.code} {error.reason}; {by_hand}"
        ) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"cannot download '{url}': {reason}; {by_hand}") from error
