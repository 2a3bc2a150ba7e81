"""Asks the NVIDIA driver for the GPU that engines are built on, which needs no package."""

from dataclasses import dataclass
from typing import Optional

from effedge.deploy.runtime.tensorrt import libcuda


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
        libcuda.init()
        device = libcuda.Device(0)
        major, minor = device.compute_capability()
        integrated = device.get_attribute(libcuda.device_attribute.INTEGRATED)
        return Gpu(device.name(), f"{major}.{minor}", device.total_memory() >> 20, bool(integrated))
    except libcuda.Error:
        return None
