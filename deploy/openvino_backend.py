"""Engines for the CPU, run by OpenVINO."""

from pathlib import Path
from typing import Any, Dict

import numpy as np
import openvino as ov

from deploy.backends import Backend
from deploy.cli import UserError


def load(path: Path, manifest: Dict[str, Any]) -> Backend:
    """Compile the OpenVINO model at `path` for this CPU, with the settings of the manifest's `backend.config`.

    Raises UserError if OpenVINO refuses the model.
    """
    config = {"PERFORMANCE_HINT": "LATENCY", **manifest["backend"].get("config", {})}
    try:
        compiled = ov.Core().compile_model(str(path), "CPU", config)
    except RuntimeError as error:
        built = manifest["backend"].get("version")
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"OpenVINO {ov.__version__} cannot load '{path}', built by {built} ({reason}): build the engine again here"
        ) from error
    request = compiled.create_infer_request()
    names = [(name, index) for index, output in enumerate(compiled.outputs) for name in output.get_names()]

    def infer(feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        results = request.infer(feeds, share_inputs=True)  # not shared: the outputs, which may be kept
        return {name: results[index] for name, index in names}

    return infer
