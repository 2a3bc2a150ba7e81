"""What the NVIDIA driver says of the GPU that engines are built on, asked through libcuda: no package is needed for it.

Source: the CUDA driver API's reference (cuDeviceGetName, cuDeviceGetAttribute, cuDeviceTotalMem).
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Optional

# CUdevice_attribute
INTEGRATED, MAJOR, MINOR = 18, 75, 76


@dataclass(frozen=True)
class Gpu:
    """capability: like "8.7". memory_mib: its own, or the board's if it is integrated and shares that with the CPU."""

    name: str
    capability: str
    memory_mib: int
    integrated: bool


def first_gpu() -> Optional[Gpu]:
    """GPU 0, which the engines are built for; None where no driver answers or it counts none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    name, size = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    major, minor, integrated = (attribute(driver, which, device) for which in (MAJOR, MINOR, INTEGRATED))
    return Gpu(name.value.decode(errors="replace"), f"{major}.{minor}", size.value >> 20, bool(integrated))


def attribute(driver: Any, which: int, device: Any) -> int:
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
    return value.value
