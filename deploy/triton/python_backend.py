"""Reads and answers requests of Triton's Python backend, whose module exists in the backend's processes only.

Source: triton-inference-server/python_backend, README.md, "InferenceRequest" and "Error Handling".
"""

import importlib
import json
from pathlib import Path
from typing import Any, Dict, Mapping

import numpy as np

from effedge.deploy.common.contracts import Spec
from effedge.deploy.common.files import read_json
from effedge.deploy.runtime.engine import Engine

SPEC = "spec.json"
OWN_PARAMETERS = "triton_"  # what Triton adds to a request's parameters begins so


def api() -> Any:
    """Returns the backend's module."""
    return importlib.import_module("triton_python_backend_utils")


def arrays_of(request: Any) -> Dict[str, np.ndarray]:
    """Returns a request's inputs by name; those of BYTES are arrays of bytes."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def parameters_of(request: Any) -> Dict[str, Any]:
    """Returns the parameters that a client gave with a request."""
    parameters = json.loads(request.parameters() or "{}")
    return {name: value for name, value in parameters.items() if not name.startswith(OWN_PARAMETERS)}


def answer(arrays: Mapping[str, np.ndarray]) -> Any:
    """Makes the response with these outputs."""
    return api().InferenceResponse([api().Tensor(name, array) for name, array in arrays.items()])


def refusal(error: Exception) -> Any:
    """Makes the response that says an error to the client."""
    return api().InferenceResponse(error=api().TritonError(" ".join(str(error).split())))


def version_folder(args: Mapping[str, str]) -> Path:
    """Returns the folder of the model's version, from the arguments of `initialize`."""
    return Path(args["model_repository"]) / args["model_version"]


def options_of(args: Mapping[str, str]) -> Dict[str, str]:
    """Returns the parameters of the model's configuration, from the arguments of `initialize`."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return {name: value["string_value"] for name, value in parameters.items()}


class DescribedEngine(Engine):
    """What an engine's spec says of its input and labels, without the engine itself, which is another model."""

    def __init__(self, spec: Spec) -> None:
        """Raises KeyError, TypeError or ValueError if the spec is damaged."""
        self.set_spec(spec["model"], spec)
        self.task, self.fused = spec["task"], None


def described_engine(args: Mapping[str, str]) -> DescribedEngine:
    """Reads the engine's spec beside a step, from the arguments of `initialize`.

    Raises UserError, KeyError, TypeError or ValueError if the file is damaged; then Triton does not load the model.
    """
    return DescribedEngine(read_json(version_folder(args) / SPEC, "write the repository again"))
