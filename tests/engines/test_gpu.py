"""Tests the questions to the driver, against a stand-in for libcuda."""

import ctypes

import pytest

from effedge.engines import gpu
from effedge.engines.gpu import Gpu, first_gpu

# CUdevice_attribute of cuda.h
ATTRIBUTES = {18: 1, 75: 8, 76: 7}


class Driver:
    """An Orin, unless `count` is 0 or `cuInit` fails."""

    def __init__(self, count=1, status=0):
        self.count, self.status = count, status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device, index):
        assert index == 0
        device._obj.value = 0
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, size, device):
        size._obj.value = 7619 << 20
        return 0

    def cuDeviceGetAttribute(self, value, which, device):
        value._obj.value = ATTRIBUTES[which]
        return 0


def test_a_board_says_its_name_capability_memory_and_that_it_shares_it(monkeypatch):
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Driver())
    assert first_gpu() == Gpu("Orin", "8.7", 7619, True)


@pytest.mark.parametrize("driver", [Driver(count=0), Driver(status=100)])
def test_no_gpu(monkeypatch, driver):
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: driver)
    assert first_gpu() is None


def test_no_driver(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert first_gpu() is None
