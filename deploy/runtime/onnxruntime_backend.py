"""Engines for CPUs where OpenVINO does not run, run by ONNX Runtime: the prepared ONNX itself."""

from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnxruntime

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.backends import Backend
from effedge.deploy.timing.machine import cores

ERRORS = 3  # its log's level: warnings are of its own passes, nothing that a user could act on


def load(path: Path, manifest: Dict[str, Any], throughput: bool = False) -> Backend:
    """Open the ONNX at `path`.

    For latency all cores compute one run; for throughput as many runs as there are cores go side by side, on one each.
    Raises UserError if ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS
    options.intra_op_num_threads = 1 if throughput else cores()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class but Exception
        built = manifest["backend"].get("version")
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load '{path}', built by {built} ({reason}): "
            "build the engine again here"
        ) from error
    return OnnxRuntimeEngine(session, cores() if throughput else 1)


class OnnxRuntimeEngine:
    """An open session, which several threads may call at once."""

    def __init__(self, session: Any, parallel: int) -> None:
        self.session, self.parallel = session, parallel
        self.outputs = [output.name for output in session.get_outputs()]

    def __call__(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run arrays by input name. Returns the outputs by name."""
        return dict(zip(self.outputs, self.session.run(self.outputs, feeds)))
