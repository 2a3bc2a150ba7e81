"""Detects the device's Jetson Linux and backend, and checks them against the row of the target to build for."""

import signal
import subprocess
import sys
from typing import List, NamedTuple, Optional, Tuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.timing.board import l4t
from effedge.engines import targets
from effedge.engines.targets import TARGETS, Target

# An import alone does not show that a backend works here: a probe also imports its dependencies and makes a first call.
PROBES = {
    "openvino": "import openvino as backend; backend.Core()",
    "onnxruntime": "import onnxruntime as backend",
    "tensorrt": "import pycuda.driver; import tensorrt as backend",
    "tensorrt_rtx": "import pycuda.driver; import tensorrt_rtx as backend",
}


class DetectedDevice(NamedTuple):
    """The target that can be built here, its backend's version, and the Jetson Linux release (None: no Jetson)."""

    target: Target
    version: str
    l4t: Optional[str]


def detect_device(requested: Target) -> DetectedDevice:
    """Returns the device with the requested target, or with the target's stand-in where its backend is missing.

    Raises UserError, with the detected and the expected device, if this is another device than the target's.
    """
    release = l4t_release()
    if requested.jetson and release is None:
        raise UserError(
            f"this bundle is for {requested.name} ({requested.device}), and this machine is no Jetson "
            f"({targets.L4T_RELEASE} is missing): make one with the TARGET of this machine"
        )
    if requested.l4t and release is not None and not release.startswith(requested.l4t):
        expected = " or ".join(f"{prefix.rstrip('.')}.x" for prefix in requested.l4t)
        fitting = [row.name for row in TARGETS.values() if row.l4t and release.startswith(row.l4t)]
        raise UserError(
            f"this bundle is for {requested.name} ({requested.device}, Jetson Linux {expected}), and this board has "
            f"{release}: make one with TARGET={' or '.join(fitting) or 'the target of this board'}"
        )
    missing: List[str] = []
    for name in (requested.name, requested.stand_in):
        if name is None:
            continue
        row = TARGETS[name]
        version, reason = backend_version(row.backend)
        if version is None:
            missing.append(f"{row.backend} ({reason})")
        elif row.versions and not version.startswith(row.versions):
            expected = " or ".join(f"{prefix}x" for prefix in row.versions)
            raise UserError(
                f"this bundle is for {row.name} ({row.device}) with {row.backend} {expected}, and {version} is here: "
                "make one with the TARGET of this device"
            )
        else:
            return DetectedDevice(row, version, release)
    remedy = "JetPack brings TensorRT, pip install pycuda the rest" if requested.jetson else "install one with pip"
    raise UserError(f"{requested.name} cannot run here without {' or '.join(missing)}: {remedy}")


def l4t_release() -> Optional[str]:
    """Returns the Jetson Linux release, like "36.4.3"; None where this is no Jetson."""
    try:
        text = targets.L4T_RELEASE.read_text(errors="replace")
    except OSError:
        return None
    return (l4t(text) or "unknown").lstrip("R")


def backend_version(backend: str) -> Tuple[Optional[str], str]:
    """Returns (version, "") of a backend that works here, or (None, reason) of one that does not.

    The probe runs in a process of its own, because a backend that was built for another CPU may end its process.
    """
    code = f"{PROBES[backend]}; print(backend.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.split()[-1], ""
    if done.returncode < 0:
        return None, f"ends with {signal.Signals(-done.returncode).name} here"
    return None, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
