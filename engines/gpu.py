"""Asks the NVIDIA driver for the GPU that engines are built on, through libcuda, which needs no package.

Source: the CUDA driver API's reference (cuDeviceGetName, cuDeviceGetAttribute, cuDeviceTotalMem).
"""

import ctypes
from dataclasses import dataclass
from typing import Optional

# CUdevice_attribute
INTEGRATED, MAJOR, MINOR = 18, 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU with a `capability` like "8.7". `memory_mib` is the GPU's own memory, or the board's if the GPU is
    `integrated` and shares memory with the CPU."""

    name: str
    capability: str
    memory_mib: int
    integrated: bool


def first_gpu() -> Optional[Gpu]:
    """Returns GPU 0, which engines are built for; None where no driver answers or it counts no GPU."""
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
    major, minor, integrated = (device_attribute(driver, index, device) for index in (MAJOR, MINOR, INTEGRATED))
    return Gpu(name.value.decode(errors="replace"), f"{major}.{minor}", size.value >> 20, bool(integrated))


def device_attribute(driver: ctypes.CDLL, index: int, device: ctypes.c_int) -> int:
    """Returns the value of a CUdevice_attribute."""
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), index, device)
    return value.value
