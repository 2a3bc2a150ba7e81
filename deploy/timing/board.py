"""Reads a board's power mode, clocks, temperatures and throttling from the kernel's files.

| fact | file |
|---|---|
| Jetson Linux's version | /etc/nv_tegra_release |
| a Jetson's power mode | /var/lib/nvpmodel/status ("pmode:0002"), named in /etc/nvpmodel.conf |
| CPU clocks and governor | /sys/devices/system/cpu/cpufreq/policy*, in kHz |
| a Jetson's GPU clocks | /sys/class/devfreq (GPU_NAMES below), in Hz |
| temperatures | /sys/class/thermal/thermal_zone*, in 1/1000 degree; PCs' CPUs also /sys/class/hwmon |
| throttling now | /sys/class/thermal/cooling_device* whose state is not 0 |
| throttling so far | over-current events of a Jetson (hwmon "soctherm_oc"); thermal events of Intel CPUs |

Sources: NVIDIA's Jetson Linux Developer Guide (Platform Power and Performance, R32 to R38), the drivers' sources, and
the kernel's Documentation/ABI. A file that is missing or cannot be read is a fact that is not known, never an error: a
GPU's temperature, for one, reads as EAGAIN while the GPU is switched off. gpu_facts.py reads NVIDIA's other GPUs.
"""

import re
from pathlib import Path
from typing import Dict, Iterable, List, Optional, TypedDict

from effedge.deploy.timing.gpu_facts import Gpu, gpus

ROOT = Path("/")
KINDS = ("cur", "min", "max")
# 57000000.gpu is a Nano, 17000000.gp10b a TX2, .gv11b a Xavier, .ga10b (JetPack 5) and .gpu (6) an Orin; then a Thor.
GPU_NAMES = re.compile(r"\d+\.(gpu|gm20b|gp10b|gv11b|ga10b)|gpu-gpc-0")
# Cooling devices that slow something down; the rest are fans, or alerts for people.
THROTTLES = re.compile(r".*throttle-alert|.*cpufreq.*|.*devfreq.*|.*balanced")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower")
OVER_CURRENT = {1: "under voltage", 2: "average over-current", 3: "instantaneous over-current"}  # on Orin and Thor
COLDEST, HOTTEST = -50, 200  # degrees; a sensor that reads less or more is not there


class PowerMode(TypedDict):
    """A Jetson's power mode."""

    id: int
    name: Optional[str]


class CpuClocks(TypedDict):
    """The clocks of the slowest and the fastest core now, and the lowest and the highest that are allowed."""

    governor: Optional[str]
    mhz: Optional[List[int]]
    limits_mhz: Optional[List[int]]


class Board(TypedDict):
    """A reading of a board; a fact that is not known is None, or missing from a list."""

    l4t: Optional[str]  # Jetson Linux's version, "R36.4.3"
    power_mode: Optional[PowerMode]
    cpu: Optional[CpuClocks]
    gpus: List[Gpu]
    temperatures_c: Dict[str, float]  # by zone
    throttled_by: List[str]  # cooling devices that slow the board down now
    throttle_counts: Dict[str, int]  # events since the start, by kind


def board(root: Path = ROOT) -> Board:
    """Reads all facts of the board."""
    thermal, hwmon = root / "sys/class/thermal", root / "sys/class/hwmon"
    return {
        "l4t": l4t(text(root / "etc/nv_tegra_release")),
        "power_mode": power_mode(text(root / "var/lib/nvpmodel/status"), text(root / "etc/nvpmodel.conf")),
        "cpu": cpu_clocks(root / "sys/devices/system/cpu/cpufreq"),
        "gpus": [*tegra_gpus(root / "sys/class/devfreq"), *(gpus() if root == ROOT else [])],
        "temperatures_c": temperatures(thermal, hwmon),
        "throttled_by": throttled_by(thermal),
        "throttle_counts": {**over_currents(hwmon), **thermal_events(root / "sys/devices/system/cpu")},
    }


def l4t(release: str) -> Optional[str]:
    """Reads the version from /etc/nv_tegra_release.

    >>> l4t("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64")
    'R36.4.3'
    """
    match = re.search(r"# (R\d+) \(release\), REVISION: ([\d.]+)", release)
    return None if match is None else f"{match.group(1)}.{match.group(2)}"


def power_mode(status: str, configuration: str) -> Optional[PowerMode]:
    """Reads the power mode from nvpmodel's status, and its name from nvpmodel.conf.

    >>> power_mode("pmode:0002 fmode:quiet", "< POWER_MODEL ID=2 NAME=MAXN_SUPER >")
    {'id': 2, 'name': 'MAXN_SUPER'}
    """
    now = re.search(r"pmode:(\d+)", status)
    default = re.search(r"<\s*PM_CONFIG\s+DEFAULT=(\d+)", configuration)
    match = now or default  # there is no status until the mode is first set
    if match is None:
        return None
    number = int(match.group(1))
    names = dict(re.findall(r"(?m)^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", configuration))
    return {"id": number, "name": names.get(str(number))}


def cpu_clocks(cpufreq: Path) -> Optional[CpuClocks]:
    """Reads the CPU's clocks and governor; None where there are neither."""
    policies = entries(cpufreq, "policy*")
    now, low, high = (
        [value / 1000 for value in numbers(policy / f"scaling_{kind}_freq" for policy in policies)] for kind in KINDS
    )
    governors = sorted({text(policy / "scaling_governor") for policy in policies} - {""})
    if not (governors or now):
        return None
    return {"governor": ", ".join(governors) or None, "mhz": span(now, now), "limits_mhz": span(low, high)}


def tegra_gpus(devfreq: Path) -> List[Gpu]:
    """Reads the clocks of a Jetson's GPUs."""
    found: List[Gpu] = []
    for device in entries(devfreq, "*"):
        if GPU_NAMES.fullmatch(device.name):
            now, low, high = ([hertz / 1e6 for hertz in numbers([device / f"{kind}_freq"])] for kind in KINDS)
            mhz = round(now[0]) if now else None
            found.append({"name": device.name, "mhz": mhz, "limits_mhz": span(low, high)})
    return found


def temperatures(thermal: Path, hwmon: Path) -> Dict[str, float]:
    """Reads the temperatures of all zones, and of PCs' CPUs that of the hottest core."""
    readings = {
        text(zone / "type") or zone.name: numbers([zone / "temp"]) for zone in entries(thermal, "thermal_zone*")
    }
    for chip in entries(hwmon, "hwmon*"):
        name = text(chip / "name")
        if name in CPU_SENSORS:
            readings[name] = sorted(numbers(entries(chip, "temp*_input")))[-1:]
    degrees = {name: round(values[0] / 1000, 1) for name, values in readings.items() if values}
    return {name: value for name, value in degrees.items() if COLDEST < value < HOTTEST and name != "PMIC-Die"}


def throttled_by(thermal: Path) -> List[str]:
    """Names the cooling devices that slow the board down now."""
    states = {text(device / "type"): numbers([device / "cur_state"]) for device in entries(thermal, "cooling_device*")}
    return sorted(name for name, state in states.items() if THROTTLES.fullmatch(name) and state and state[0] > 0)


def over_currents(hwmon: Path) -> Dict[str, int]:
    """Reads a Jetson's counts of over-current events, by kind."""
    counts = {}
    for chip in entries(hwmon, "hwmon*"):
        for number, meaning in OVER_CURRENT.items():
            for count in numbers([chip / f"oc{number}_event_cnt"]):
                counts[f"{meaning} (oc{number})"] = int(count)
    return counts


def thermal_events(cpus: Path) -> Dict[str, int]:
    """Reads an Intel CPU's counts of thermal events, by kind, of the core that has most.

    Each package counts its own events, and each core tells its package's count.
    """
    kinds = {"core": "CPU core too hot", "package": "CPU package too hot"}
    most = {}
    for kind, meaning in kinds.items():
        counts = numbers(entry / f"thermal_throttle/{kind}_throttle_count" for entry in entries(cpus, "cpu[0-9]*"))
        if counts:
            most[meaning] = int(max(counts))
    return most


def span(low: List[float], high: List[float]) -> Optional[List[int]]:
    """[the smallest of `low`, the largest of `high`]; None without any."""
    return [round(min(low)), round(max(high))] if low and high else None


def text(path: Path) -> str:
    """Reads a small file's text without the space around it; empty if there is none, or if it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n")
    except (OSError, TypeError):  # Python's readers make a TypeError of a sensor's EAGAIN
        return ""


def numbers(paths: Iterable[Path]) -> List[int]:
    """Reads the files that hold a whole number, as the kernel writes it; the others are left out."""
    values = []
    for path in paths:
        try:
            values.append(int(text(path)))
        except ValueError:
            continue
    return values


def entries(folder: Path, pattern: str) -> List[Path]:
    """Lists a folder by number where the names have one: thermal_zone2 before thermal_zone10."""
    try:
        paths = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(paths, key=lambda path: (len(path.name), path.name))
