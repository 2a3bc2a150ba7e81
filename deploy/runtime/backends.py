"""The choice of the backend that runs an engine, in one place; only the one chosen is imported."""

import importlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Protocol, Union

import numpy as np

from effedge.deploy.common.cli import UserError, choose

# From the engine's inputs by name to its outputs by name, arrays that the caller may keep.
Infer = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]
# From pictures, RGB uint8 [h,w,3], to a detector's outputs and the candidates that NMS keeps.
Fused = Callable[[List[np.ndarray]], Dict[str, np.ndarray]]


class Backend(Protocol):
    """An engine that is loaded; `parallel` is how many threads may, and for throughput should, call it at once.

    It may have a method `fuse(description, selection)`, from a spec's "input" and the parameters of `effedge.deploy.image.nms.nms` to
    a Fused, or None where that cannot be: letterbox, engine and NMS in one go, where that is quicker than apart.
    """

    parallel: int

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """As Infer."""


# The manifest's backend name: its module here, and what pip calls the packages that the module needs.
BACKENDS = {
    "openvino": ("effedge.deploy.runtime.openvino_backend", "openvino"),
    "onnxruntime": ("effedge.deploy.runtime.onnxruntime_backend", "onnxruntime"),
    "tensorrt": ("effedge.deploy.runtime.tensorrt.backend", "tensorrt pycuda"),
    "tensorrt_rtx": ("effedge.deploy.runtime.tensorrt.backend", "tensorrt-rtx pycuda"),
}


def load_backend(folder: Union[str, Path], manifest: Dict[str, Any], throughput: bool = False) -> Backend:
    """Load the engine of `folder` with the backend that its manifest names, for the shortest time of one run, or for
    the most runs a second.

    Raises UserError if the backend is unknown or not installed, or cannot load the engine on this machine.
    """
    backend = manifest["backend"]
    module, packages = BACKENDS[choose("backend", str(backend.get("name")), BACKENDS)]
    try:
        load = importlib.import_module(module).load
        return load(Path(folder) / manifest["engine"], manifest, throughput)
    except ImportError as error:  # not installed, or installed without a library it needs: the reason says which
        raise UserError(
            f"'{folder}' runs on {backend['name']} {backend.get('version', '')}, which cannot be imported here "
            f"({error}): install {packages}"
        ) from error
