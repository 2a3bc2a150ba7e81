"""Detects the device's Jetson Linux and backend, and checks them against the row of the target to build for."""

import signal
import subprocess
from typing import List, NamedTuple, Optional, Tuple

from effedge.deploy.common.cli import UserError
from effedge.engines.installation.launch import command
from effedge.engines.targets import TARGETS, Target, check_machine, find_jetson
from effedge.engines.targets.packages import how_to_get, installed_version

INITIALIZE_CUDA = "from effedge.deploy.runtime.tensorrt.gpu import cuda; cuda.init()"
# An import alone does not show that a backend works here: a probe also imports its dependencies and makes a first call.
PROBES = {
    "openvino": "import effedge, openvino as backend; backend.Core()",  # effedge turns telemetry off
    "onnxruntime": "import effedge, onnxruntime as backend",
    "tensorrt": f"import tensorrt as backend; {INITIALIZE_CUDA}",
    "tensorrt_rtx": f"import tensorrt_rtx as backend; {INITIALIZE_CUDA}",
}


class DetectedDevice(NamedTuple):
    """The target that can be built here, its backend's version, and the Jetson Linux release (None: no Jetson, or not
    known, as in a container)."""

    target: Target
    version: str
    l4t: Optional[str]


def detect_device(requested: Target) -> DetectedDevice:
    """Returns the device with the requested target, or with the target's stand-in where its backend is missing.

    Raises UserError, with the detected and the expected device and the command that helps, if this is another device
    than the target's.
    """
    board = find_jetson()
    missing: List[str] = []
    how = ""
    for name in (requested.name, requested.stand_in):
        if name is None:
            continue
        row = TARGETS[name]
        version, reason = backend_version(row.backend)
        check_machine(row, board, version or installed_version(row), "make bundle")
        if version is not None:
            return DetectedDevice(row, version, board.l4t if board else None)
        missing.append(f"{row.backend} ({reason})")
        how = how_to_get(row, reason)
    raise UserError(f"{requested.name} cannot run here without {' or '.join(missing)}: {how}")


def backend_version(backend: str) -> Tuple[Optional[str], str]:
    """Returns (version, "") of a backend that works here, or (None, reason) of one that does not.

    The probe runs in a process of its own, because a backend that was built for another CPU may end its process.
    """
    code = f"{PROBES[backend]}; print(backend.__version__)"
    done = subprocess.run(command("-c", code), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.split()[-1], ""
    if done.returncode < 0:
        return None, f"ends with {signal.Signals(-done.returncode).name} here"
    return None, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
