"""Keeps a backend's compiled model in the engine's folder, so that the next load need not compile.

The cache is filled on the first load. It is used only where everything that it depends on is the same (the machine, the
runtime's version, the engine's files, the settings; the file's name is a digest of them) and its content is intact (it
begins with its SHA-256). A folder that cannot be written has no cache; deleting the cache is always safe.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Mapping, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file, digest_of_json

FOLDER = ".compiled"  # hidden: not a part of the engine, whose files the manifest lists
DIGEST_BYTES = 32


def cache_path(engine: Path, kind: str, depends_on: Mapping[str, object]) -> Path:
    """Returns the path of the compiled model of a kind ("latency") for exactly these conditions."""
    return engine.parent / FOLDER / f"{kind}-{digest_of_json(depends_on)}.bin"


def read_compiled(path: Path) -> Optional[bytes]:
    """Reads a compiled model; None if there is none, or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:  # there is none yet, or it may not be read: then the caller compiles
        return None
    digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return blob if hashlib.sha256(blob).digest() == digest else None


def keep_compiled(path: Path, blob: bytes) -> None:
    """Writes a compiled model and deletes the others of its kind, which are of another version or machine."""
    with contextlib.suppress(UserError, OSError):  # a folder that cannot be written has no cache
        with atomic_file(path) as temporary:
            temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
        for other in path.parent.glob(path.name.partition("-")[0] + "-*.bin"):
            if other != path:
                other.unlink()
