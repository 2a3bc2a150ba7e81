"""Keeps a backend's compiled model in the engine's folder, so that the next load need not compile.

The cache is filled on the first load. It is used only where everything that it depends on is the same (the machine, the
runtime's version, the engine's files, the settings; the file's name is a digest of them), and where its content is
intact, of this engine, and written by this user or root (deploy/common/trusted.py): a compiled model is code. A folder
that cannot be written has no cache; deleting the cache is always safe.
"""

import contextlib
from pathlib import Path
from typing import Mapping, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import digest_of_json, sha256
from effedge.deploy.common.trusted import trusted_folder
from effedge.deploy.runtime.manifest import NAME

FOLDER = ".compiled"  # hidden: not a part of the engine, whose files the manifest lists


def cache_path(engine: Path, kind: str, depends_on: Mapping[str, object]) -> Path:
    """Returns the path of the compiled model of a kind ("latency") for exactly these conditions."""
    return engine.parent / FOLDER / f"{kind}-{digest_of_json(depends_on)}.bin"


def read_compiled(path: Path) -> Optional[bytes]:
    """Reads a compiled model; None if there is none, it is damaged or another engine's, or others may write it."""
    try:
        with trusted_folder(path.parent, create=False) as folder:
            return folder.read(path.name, identity(path))
    except (OSError, UserError):  # there is none yet, or it may not be read: then the caller compiles
        return None


def keep_compiled(path: Path, blob: bytes) -> None:
    """Writes a compiled model and deletes the others of its kind, which are of another version or machine."""
    with contextlib.suppress(UserError, OSError), trusted_folder(path.parent) as folder:
        folder.keep(path.name, blob, identity(path))
        for other in folder.path.glob(path.name.partition("-")[0] + "-*.bin"):
            if other.name != path.name:
                other.unlink()


def identity(path: Path) -> str:
    """Returns what a compiled model belongs to: the conditions that its name says, and the engine, by its manifest,
    which lists the SHA-256 of each of its files."""
    manifest = path.parent.parent / NAME
    return f"{path.name} {sha256(manifest) if manifest.is_file() else ''}"
