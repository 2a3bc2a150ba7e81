"""Finds the Python package of a backend without importing it, and says how to get one that this Python does not see.

Source: PEP 668 (Pythons that refuse pip, as Ubuntu 24.04's).
"""

import importlib.metadata
import importlib.util
import re
import shlex
import sys
import sysconfig
from pathlib import Path
from typing import Optional, Sequence

from effedge.engines.targets import jetson
from effedge.engines.targets.table import Target

DIST_PACKAGES = "usr/lib/python3*/dist-packages"  # where apt puts TensorRT's Python package, as JetPack does
INSTALLER = "install.sh"  # of a bundle, which it changes its folder to
SYSTEM_PREFIX, SYSTEM_PYTHON = "/usr", "/usr/bin/python3"


def installed(names: Sequence[str]) -> Optional[str]:
    """Returns the first of the distributions that is installed, without importing it."""
    for name in names:
        try:
            importlib.metadata.version(name)
            return name
        except importlib.metadata.PackageNotFoundError:
            pass
    return None


def installed_version(target: Target) -> Optional[str]:
    """Reads the version of the target's backend without importing it; None if that is missing or does not say.

    JetPack's package need not be known to pip; then the version is read from its source.
    """
    name = installed(target.distributions)
    if name is not None:
        return importlib.metadata.version(name)
    origin = getattr(importlib.util.find_spec(target.backend), "origin", None)
    if origin is None:
        return None
    source = Path(origin).read_text(errors="replace")
    match = re.search(r"^__version__ = [\"'](\d[\w.]*)[\"']\s*$", source, re.MULTILINE)
    return None if match is None else match.group(1)


def how_to_get(target: Target, reason: str) -> str:
    """Returns the command that makes the target's backend importable.

    `reason`: the message of the ImportError. A virtual environment without the system's packages, and a Python other
    than Ubuntu's, do not see the TensorRT that apt and JetPack install.
    """
    match = re.search(r"No module named '([\w.]+)'", reason)
    if match is None:
        if "libnvdla_compiler" in reason:  # which TensorRT 10.3 wants, and slim systems lack
            return "sudo apt install nvidia-l4t-dla-compiler"
        if "libcuda" in reason or "cuInit" in reason:
            return "the NVIDIA driver does not answer; a container needs docker run --runtime nvidia"
        return "install it anew"
    module = match.group(1)
    folder = next(iter(sorted(jetson.ROOT.glob(f"{DIST_PACKAGES}/{module}"))), None)
    if module == "tensorrt" and folder is not None:
        seen_by = f"{folder} is there, and {sys.executable} does not see it"
        if sys.prefix != sys.base_prefix == SYSTEM_PREFIX:  # the command changes an environment in its place
            return f"{seen_by}: {SYSTEM_PYTHON} -m venv --system-site-packages {shlex.quote(sys.prefix)}"
        return f"{seen_by}: {how_to_use(SYSTEM_PYTHON)}"
    if module == "tensorrt" and target.jetson:
        return "sudo apt install python3-libnvinfer"
    return how_to_pip_install(target.distributions[0] if module == target.backend else module)


def how_to_pip_install(package: str) -> str:
    """Returns the command that installs a package for this Python: by a virtual environment where pip is refused.

    `package`: words of a command line, quoted where a shell needs it.
    """
    python = shlex.quote(sys.executable)
    refuses = sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
    if not refuses:
        return f"{python} -m pip install {package}"
    folder = shlex.quote(str(Path.home() / "effedge-python"))
    make = f"{python} -m venv --system-site-packages {folder} && {folder}/bin/pip install {package}"
    return f"{make}, then {how_to_use(f'{folder}/bin/python')}"


def how_to_use(python: str) -> str:
    """Returns the words that say how to use another Python: install.sh takes one, where it runs; elsewhere effedge has
    to be installed with that Python."""
    if Path(INSTALLER).is_file():
        return f"PYTHON={python} sh {INSTALLER} (make deploy DEVICE_PYTHON={python})"
    return f"install effedge with {python} and run it there"
