"""Clocks, temperature, power and throttling of NVIDIA's GPUs, by NVML (the package nvidia-ml-py).

Without the package, or without a driver, there are none. What one GPU does not tell (a Jetson's NVML knows little) is
left out.
"""

from typing import Any, Callable, Dict, List

# Reasons for which the clocks are lower than they could be, that are neither idleness nor what the user set.
REASONS = {0x04: "power cap", 0x08: "hardware slowdown", 0x20: "too hot (software)", 0x40: "too hot (hardware)",
           0x80: "power brake"}  # fmt: skip


def gpus() -> List[Dict[str, Any]]:
    """[{"name", "driver", "mhz", "memory_mhz", "limits_mhz": [0, highest], "temperature_c", "power_w", "power_limit_w",
    "throttled_by": [reasons]}] of each, as far as known."""
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


def facts(pynvml: Any, index: int) -> Dict[str, Any]:
    """One GPU's."""
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    asked: Dict[str, Callable[[], Any]] = {
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
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except pynvml.NVMLError:
            continue
    return found


def reasons(pynvml: Any, device: Any) -> List[str]:
    try:
        mask = pynvml.nvmlDeviceGetCurrentClocksEventReasons(device)
    except (AttributeError, pynvml.NVMLError):  # before driver 535, and in packages of then
        if not hasattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons"):
            return []
        mask = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
    return [reason for bit, reason in REASONS.items() if mask & bit]


def decoded(name: Any) -> str:
    """Old versions of the package give bytes."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
