"""A backend's compiled model kept in the engine's folder, so that the next load need not compile.

It is a cache: made on the first load, used only where everything that it depends on is the same (the machine, the
runtime's version, the engine's files, the settings; all in the file's name) and its content is whole (its SHA-256 comes
first). A folder that cannot be written has none; deleting it is always safe.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Mapping, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import whole_file

FOLDER = ".compiled"  # hidden: not a part of the engine, whose files are those that the manifest lists
DIGEST_BYTES = 32


def cache_path(engine: Path, kind: str, depends_on: Mapping[str, Any]) -> Path:
    """Where the compiled model of a kind ("latency") for exactly these circumstances is kept."""
    return engine.parent / FOLDER / f"{kind}-{digest_of(depends_on)}.bin"


def digest_of(depends_on: Mapping[str, Any]) -> str:
    """The circumstances as 16 hex digits."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]


def read_compiled(path: Path) -> Optional[bytes]:
    """What was kept, or None if there is nothing, or nothing whole."""
    try:
        content = path.read_bytes()
    except OSError:  # none yet, or not to be read by us: then it is compiled
        return None
    digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return blob if hashlib.sha256(blob).digest() == digest else None


def keep_compiled(path: Path, blob: bytes) -> None:
    """Keep a compiled model, and of its kind only this one: an older one is of another version or machine."""
    with contextlib.suppress(UserError, OSError):  # a folder that cannot be written goes without
        with whole_file(path) as temporary:
            temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
        for other in path.parent.glob(path.name.partition("-")[0] + "-*.bin"):
            if other != path:
                other.unlink()
