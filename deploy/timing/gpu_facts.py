"""Reads clocks, temperature, power and throttling of NVIDIA's GPUs, by NVML (the package nvidia-ml-py).

Without the package, or without a driver, there are no GPUs. A fact that a GPU does not tell (a Jetson's NVML knows
little) is left out.
"""

from typing import Any, Callable, Dict, List, Optional, TypedDict

# Reasons for which the clocks are lower than they could be, that are neither idleness nor what the user set.
REASONS = {0x04: "power cap", 0x08: "hardware slowdown", 0x20: "too hot (software)", 0x40: "too hot (hardware)",
           0x80: "power brake"}  # fmt: skip


class Gpu(TypedDict, total=False):
    """A GPU, as far as known; `limits_mhz` are the lowest and the highest clock that it may have."""

    name: str
    driver: str
    mhz: Optional[int]
    memory_mhz: int
    limits_mhz: Optional[List[int]]
    temperature_c: int
    power_w: float
    power_limit_w: int
    throttled_by: List[str]  # reasons


def gpus() -> List[Gpu]:
    """Reads the facts of every GPU."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [facts(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def facts(pynvml: Any, index: int) -> Gpu:
    """Reads the facts of one GPU."""
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    readers: Dict[str, Callable[[], object]] = {
        "name": lambda: decoded(pynvml.nvmlDeviceGetName(device)),
        "driver": lambda: decoded(pynvml.nvmlSystemGetDriverVersion()),
        "mhz": lambda: pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_MEM),
        "limits_mhz": lambda: [0, pynvml.nvmlDeviceGetMaxClockInfo(device, pynvml.NVML_CLOCK_SM)],
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: round(pynvml.nvmlDeviceGetPowerUsage(device) / 1000, 1),
        "power_limit_w": lambda: round(pynvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000),
        "throttled_by": lambda: reasons(pynvml, device),
    }
    gpu: Gpu = {}
    for name, read in readers.items():
        try:
            gpu[name] = read()  # type: ignore[literal-required]
        except pynvml.NVMLError:
            continue
    return gpu


def reasons(pynvml: Any, device: Any) -> List[str]:
    """Reads the reasons that slow a GPU down now."""
    try:
        mask = pynvml.nvmlDeviceGetCurrentClocksEventReasons(device)
    except (AttributeError, pynvml.NVMLError):  # before driver 535, and in packages of then
        if not hasattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons"):
            return []
        mask = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
    return [reason for bit, reason in REASONS.items() if mask & bit]


def decoded(name: object) -> str:
    """A name as text: old versions of the package give bytes."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
