"""Keeps TensorRT's timing cache, the measured times of kernels, between builds, so that only new kernels are measured.

There is a file for each TensorRT version, GPU and target, in the user's cache folder: $XDG_CACHE_HOME/effedge/timing or
~/.cache/effedge/timing. TensorRT itself checks that a cache is of this version and this GPU; any other cache is
replaced by an empty one. Times that were measured under another power mode stay: after `nvpmodel`, delete the file
where the last millisecond counts. TensorRT-RTX measures nothing while it builds; its timing cache does nothing.
"""

import re
from pathlib import Path
from typing import Any, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file, user_cache
from effedge.engines.gpu import Gpu
from effedge.engines.targets import Target


def cache_file(version: str, gpu: Gpu, target: Target) -> Path:
    """Returns the file of a TensorRT version, GPU and target."""
    words = [target.backend, version, gpu.name, gpu.capability, target.name]
    return user_cache() / "timing" / ("_".join(re.sub(r"[^\w.]+", "-", word) for word in words) + ".cache")


def attach(config: Any, path: Path) -> bool:
    """Gives the builder's config the cache at `path`, or an empty one. Returns True if the file's was accepted."""
    content = path.read_bytes() if path.is_file() else b""
    for blob in [content, b""] if content else [b""]:
        cache = config.create_timing_cache(blob)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return bool(blob)
    return False


def keep(config: Any, path: Path) -> Optional[str]:
    """Writes the config's cache. Returns the reason if it cannot, because that should not fail a build."""
    cache = config.get_timing_cache()
    if cache is None:
        return None
    content = cache.serialize()
    try:
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
    except UserError as error:
        return str(error)
    return None
