"""The choice of the backend that runs an engine, in one place; only the one chosen is imported."""

import importlib
from pathlib import Path
from typing import Any, Callable, Dict, Union

import numpy as np

from deploy.cli import UserError, choose

# A backend takes the engine's inputs by name and returns its outputs by name, arrays that the caller may keep.
Backend = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]

# The manifest's backend name: its module here, and what pip calls the packages that the module needs.
BACKENDS = {
    "openvino": ("deploy.openvino_backend", "openvino"),
    "tensorrt": ("deploy.tensorrt_backend", "tensorrt pycuda"),
    "tensorrt_rtx": ("deploy.tensorrt_backend", "tensorrt-rtx pycuda"),
}


def load_backend(folder: Union[str, Path], manifest: Dict[str, Any]) -> Backend:
    """Load the engine of `folder` with the backend that its manifest names.

    Raises UserError if the backend is unknown or not installed, or cannot load the engine on this machine.
    """
    backend = manifest["backend"]
    module, packages = BACKENDS[choose("backend", str(backend.get("name")), BACKENDS)]
    try:
        load = importlib.import_module(module).load
        return load(Path(folder) / manifest["engine"], manifest)
    except ImportError as error:  # not installed, or installed without a library it needs: the reason says which
        raise UserError(
            f"'{folder}' runs on {backend['name']} {backend.get('version', '')}, which cannot be imported here "
            f"({error}): install {packages}"
        ) from error
