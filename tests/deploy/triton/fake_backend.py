"""The part of Triton's Python backend (triton_python_backend_utils) that effedge's models call, for tests without a
server: triton-inference-server/python_backend, README.md."""

import json
import sys
import types

import numpy as np


class TritonError:
    def __init__(self, message):
        self.message = message


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self.arrays = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = None if error is None else error.message


class Request:
    def __init__(self, arrays, **parameters):
        self.arrays, self._parameters = arrays, parameters

    def inputs(self):
        return [Tensor(name, array) for name, array in self.arrays.items()]

    def parameters(self):
        return json.dumps(self._parameters) if self._parameters else ""


def install():
    """Puts the module where the models import it from; returns it."""
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, InferenceResponse, TritonError
    sys.modules["triton_python_backend_utils"] = module
    return module


def arguments(folder):
    """The arguments of `initialize` for a model's folder, with the parameters of its config.pbtxt."""
    text = (folder / "config.pbtxt").read_text()
    words = text.split()
    keys = [words[i + 1].strip('"') for i, word in enumerate(words) if word == "key:"]
    values = [words[i + 1].strip('"') for i, word in enumerate(words) if word == "string_value:"]
    parameters = {key: {"string_value": value} for key, value in zip(keys, values)}
    config = json.dumps({"parameters": parameters})
    return {"model_repository": str(folder), "model_version": "1", "model_config": config}


def files(*contents):
    """BYTES [N,1], as Triton gives it."""
    return np.array([[content] for content in contents], dtype=object)
