"""TensorRT's timing cache: how long each kernel took, kept between builds, so that the next measures only what is new.

A file for each TensorRT version, GPU and target, in the user's cache folder: $XDG_CACHE_HOME/effedge/timing or
~/.cache/effedge/timing. TensorRT checks by itself that a cache is of this version and this GPU, and one that is not
begins anew. What was measured under another power mode stays as it was measured: after `nvpmodel` delete the file where
the last millisecond counts. TensorRT-RTX measures nothing while it builds; its timing cache does nothing.
"""

import re
from pathlib import Path
from typing import Any, Optional

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import user_cache, whole_file
from effedge.engines.gpu import Gpu
from effedge.engines.targets import Target


def cache_file(version: str, gpu: Gpu, target: Target) -> Path:
    """Where the cache of a TensorRT version, GPU and target is."""
    words = [target.backend, version, gpu.name, gpu.capability, target.name]
    return user_cache() / "timing" / ("_".join(re.sub(r"[^\w.]+", "-", word) for word in words) + ".cache")


def attach(config: Any, path: Path) -> bool:
    """Give the builder's config the cache at `path`, or an empty one. Returns True if the file's was taken."""
    content = path.read_bytes() if path.is_file() else b""
    for blob in [content, b""] if content else [b""]:
        cache = config.create_timing_cache(blob)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return bool(blob)
    return False


def keep(config: Any, path: Path) -> Optional[str]:
    """Write what the config's cache holds now. Returns why it could not, which is no reason to fail a build."""
    cache = config.get_timing_cache()
    if cache is None:
        return None
    content = cache.serialize()
    try:
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
    except UserError as error:
        return str(error)
    return None
