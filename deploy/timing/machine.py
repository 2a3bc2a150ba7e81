"""Describes the machine of a measurement, and reads the versions of the packages that ran."""

import functools
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Dict, Iterable, List, Optional, TypedDict

BOARD = Path("/proc/device-tree/model")  # a Jetson's or another board's name; PCs have none
CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")


class Machine(TypedDict):
    """A machine; `cores` are those that this process may use, and a fact that is not known is None."""

    name: str
    cpu: str
    cores: int
    memory_mib: Optional[int]
    system: str


class Cpu(TypedDict):
    """The facts of a CPU that decide which code a compiler makes for it: its model, and its instruction sets."""

    model: str
    abilities: str


def machine() -> Machine:
    """Describes this machine."""
    return {
        "name": read(BOARD).strip("\0\n ") or platform.node(),
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_mib": int((field(read(MEMORY_INFO), "MemTotal") or "0 kB").split()[0]) // 1024 or None,
        "system": platform.platform(),
    }


def cpu_name() -> str:
    """The name of the CPU's model."""
    return field(read(CPU_INFO), "model name") or platform.processor() or platform.machine()


def cpu() -> Cpu:
    """Describes this CPU to a compiler."""
    text = read(CPU_INFO)
    abilities = field(text, "flags") or field(text, "Features")  # as x86 and Arm call them
    return {"model": cpu_name(), "abilities": abilities}


@functools.lru_cache(maxsize=None)  # asked for each session of ONNX Runtime, and the CPU stays
def has_vnni() -> bool:
    """Returns True if the CPU says that it adds products of INT8 in 32 bits: x86's VNNI and AMX."""
    return any(name in cpu()["abilities"] for name in ("vnni", "amx_int8"))


def cores() -> int:
    """Counts the CPU cores that this process may use."""
    return len(usable_cores())


def usable_cores() -> List[int]:
    """Lists the numbers of those cores, and only those that the calling thread may use where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def versions(packages: Iterable[str]) -> Dict[str, str]:
    """Reads the versions of Python and of the packages (their names on PyPI) that are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def read(path: Path) -> str:
    """Reads a small file's text, empty if there is no such file: not every system has these."""
    return path.read_text(errors="replace") if path.exists() else ""


def field(text: str, name: str) -> str:
    """Finds the value of the first `name: value` line; empty without one."""
    lines = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "")
