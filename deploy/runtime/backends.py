"""Loads an engine with the backend that its manifest names. No other backend's module is imported."""

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, List, Optional, Protocol, Union

import numpy as np

from effedge.deploy.common.cli import UserError, choose
from effedge.deploy.common.contracts import Manifest
from effedge.deploy.runtime.manifest import loaded_file

# From the engine's inputs by name to its outputs by name, arrays that the caller may keep.
Infer = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]
# From images, RGB uint8 [h,w,3], to a detector's outputs and "kept", the indices of the candidates that NMS keeps.
FusedDetector = Callable[[List[np.ndarray]], Dict[str, np.ndarray]]


class Backend(Protocol):
    """A loaded engine.

    It may have a method `fuse(input_spec, selection)`, from a spec's "input" and the parameters of
    `effedge.deploy.image.nms.nms` to a FusedDetector, which runs letterbox, engine and NMS in one go; or to None where
    that is not possible.

    Attributes:
        parallel: how many threads may call it at once, and for throughput should.
    """

    parallel: int

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Runs the engine, as Infer."""


# The manifest's backend name: its module, and the names on PyPI of the packages that the module needs.
BACKENDS = {
    "openvino": ("effedge.deploy.runtime.openvino_backend", "openvino"),
    "onnxruntime": ("effedge.deploy.runtime.onnxruntime_backend", "onnxruntime"),
    "tensorrt": ("effedge.deploy.runtime.tensorrt.backend", "tensorrt"),
    "tensorrt_rtx": ("effedge.deploy.runtime.tensorrt.backend", "tensorrt-rtx"),
}


def load_backend(folder: Union[str, Path], manifest: Manifest, throughput: bool = False) -> Backend:
    """Loads the engine in `folder`, for the lowest latency of one run, or for the most runs a second.

    Raises UserError if the backend is unknown or not installed, or cannot load the engine on this machine.
    """
    try:
        path = loaded_file(Path(folder), manifest, manifest["engine"])
        return import_backend(folder, manifest).load(path, manifest, throughput)
    except ImportError as error:  # the module was imported, but a library that it loads by name is missing
        raise missing_package(folder, manifest, error) from error


def first_blocks_computed_by(folder: Union[str, Path], manifest: Manifest) -> Optional[str]:
    """Returns what computes the engine's first blocks on this machine: "C++", or the reason why the inference runtime
    does; None for an engine without CPU blocks. Raises UserError as `load_backend` does."""
    backend = import_backend(folder, manifest)
    if not hasattr(backend, "first_blocks_computed_by"):
        return None
    path = loaded_file(Path(folder), manifest, manifest["engine"])
    computed_by: Optional[str] = backend.first_blocks_computed_by(path, manifest)
    return computed_by


def cuda_called_by(folder: Union[str, Path], manifest: Manifest) -> Optional[str]:
    """Returns the module that calls CUDA for the engine, "pycuda" or "libcuda"; None for an engine without CUDA. Raises
    UserError as `load_backend` does."""
    return getattr(import_backend(folder, manifest), "CUDA_CALLED_BY", None)


def check_process(loaded_by: int) -> None:
    """Raises UserError in another process than `loaded_by`, which loaded the engine.

    A process has by a fork(2) none of the threads that the runtimes compute with, so a run there would never end.
    """
    if os.getpid() != loaded_by:
        raise UserError(
            f"the engine was loaded by process {loaded_by}, and this process is a fork of it: load the engine in the "
            "process that uses it, or start that by multiprocessing's method 'spawn'"
        )


def import_backend(folder: Union[str, Path], manifest: Manifest) -> ModuleType:
    """Imports the module of the backend that the manifest names. Raises UserError as `load_backend` does."""
    module, _ = BACKENDS[choose("backend", str(manifest["backend"].get("name")), BACKENDS)]
    try:
        return importlib.import_module(module)
    except ImportError as error:  # not installed, or installed without a library that it needs: the error says which
        raise missing_package(folder, manifest, error) from error


def missing_package(folder: Union[str, Path], manifest: Manifest, error: ImportError) -> UserError:
    backend = manifest["backend"]
    _, packages = BACKENDS[backend["name"]]
    return UserError(
        f"'{folder}' runs on {backend['name']} {backend.get('version', '')}, which cannot be imported here "
        f"({error}): install {packages}"
    )
