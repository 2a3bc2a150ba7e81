"""What is on the device that an engine shall be built on, held against its target's row: Jetson Linux, the backend."""

import signal
import subprocess
import sys
from typing import List, NamedTuple, Optional, Tuple

from effedge.deploy.common.cli import UserError
from effedge.deploy.timing.board import l4t
from effedge.engines import targets
from effedge.engines.targets import TARGETS, Target

# Importing alone does not show whether a backend works here: what else it needs, and its first call.
PROBES = {
    "openvino": "import openvino as backend; backend.Core()",
    "onnxruntime": "import onnxruntime as backend",
    "tensorrt": "import pycuda.driver; import tensorrt as backend",
    "tensorrt_rtx": "import pycuda.driver; import tensorrt_rtx as backend",
}


class Found(NamedTuple):
    """The target that can be built here, its backend's version, and the Jetson Linux release (None: no Jetson)."""

    target: Target
    version: str
    l4t: Optional[str]


def find_target(asked: Target) -> Found:
    """The target, or the one that stands in for it where its backend is missing.

    Raises UserError, with what was found and what was expected, if this is another device than the target's.
    """
    release = l4t_release()
    if asked.jetson and release is None:
        raise UserError(
            f"this bundle is for {asked.name} ({asked.device}), and this machine is no Jetson ({targets.L4T_RELEASE} "
            "is missing): make one with the TARGET of this machine"
        )
    if asked.l4t and release is not None and not release.startswith(asked.l4t):
        expected = " or ".join(f"{prefix.rstrip('.')}.x" for prefix in asked.l4t)
        fitting = [row.name for row in TARGETS.values() if row.l4t and release.startswith(row.l4t)]
        raise UserError(
            f"this bundle is for {asked.name} ({asked.device}, Jetson Linux {expected}), and this board has {release}: "
            f"make one with TARGET={' or '.join(fitting) or 'the target of this board'}"
        )
    missing: List[str] = []
    for name in (asked.name, asked.instead):
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
            return Found(row, version, release)
    remedy = "JetPack brings TensorRT, pip install pycuda the rest" if asked.jetson else "install one with pip"
    raise UserError(f"{asked.name} cannot run here without {' or '.join(missing)}: {remedy}")


def l4t_release() -> Optional[str]:
    """Like "36.4.3"; None where this is no Jetson."""
    try:
        text = targets.L4T_RELEASE.read_text(errors="replace")
    except OSError:
        return None
    return (l4t(text) or "unknown").lstrip("R")


def backend_version(backend: str) -> Tuple[Optional[str], str]:
    """(version, "") of a backend that works here, or (None, why it does not).

    It is tried in a process of its own: one that was built for another CPU may end it, not only fail.
    """
    code = f"{PROBES[backend]}; print(backend.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.split()[-1], ""
    if done.returncode < 0:
        return None, f"ends with {signal.Signals(-done.returncode).name} here"
    return None, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
