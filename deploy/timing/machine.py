"""What a latency was measured on: the machine, and the versions of what ran."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterable, List

BOARD = Path("/proc/device-tree/model")  # a Jetson's or another board's name; PCs have none
CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def machine() -> Dict[str, Any]:
    """{"name", "cpu", "cores" (that this process may use), "memory_mib", "system"}; what is unknown is None."""
    return {
        "name": read(BOARD).strip("\0\n ") or platform.node(),
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_mib": int((field(read(MEMORY_INFO), "MemTotal") or "0 kB").split()[0]) // 1024 or None,
        "system": platform.platform(),
    }


def cpu_name() -> str:
    return field(read(CPU_INFO), "model name") or platform.processor() or platform.machine()


def cpu() -> Dict[str, Any]:
    """What decides which code a compiler makes for this CPU: its model and its abilities."""
    text = read(CPU_INFO)
    abilities = field(text, "flags") or field(text, "Features")  # as x86 and Arm call them
    return {"model": cpu_name(), "abilities": abilities}


def cores() -> int:
    """CPU cores that this process may use."""
    return len(usable_cores())


def usable_cores() -> List[int]:
    """Their numbers, those that the calling thread may use where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def versions(packages: Iterable[str]) -> Dict[str, str]:
    """Python's version and those of the packages (their names on PyPI) that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read(path: Path) -> str:
    """A small file's text, empty if there is none: not every system has these."""
    return path.read_text(errors="replace") if path.exists() else ""


def field(text: str, name: str) -> str:
    """The value of the first `name: value` line."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")
