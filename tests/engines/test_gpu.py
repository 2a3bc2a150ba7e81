"""Tests the questions to the driver, against a libcuda for tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from effedge.deploy.runtime.tensorrt import libcuda
from effedge.engines.device import PROBES
from effedge.engines.gpu import Gpu, first_gpu
from tests.deploy.fake_cuda import FakeCuda

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("integrated", [False, True])
def test_a_board_says_its_name_capability_memory_and_whether_it_shares_it(fake_libcuda, integrated):
    cuda = FakeCuda(integrated=integrated)
    fake_libcuda(cuda)
    assert first_gpu() == Gpu("Pretended", "8.7", 7619, integrated)
    assert cuda.errors == []


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGet"])
def test_no_gpu(fake_libcuda, function):
    cuda = FakeCuda()
    cuda.failures[function] = 100
    fake_libcuda(cuda)
    assert first_gpu() is None


def test_no_driver(monkeypatch):
    libcuda.library.cache_clear()
    monkeypatch.setattr(libcuda, "LIBRARY", "libnowhere.so.1")
    assert first_gpu() is None


def probe(folder, **environment):
    """Probes for TensorRT in a process without pycuda."""
    (folder / "tensorrt.py").write_text("")
    (folder / "pycuda.py").write_text("raise ImportError('pycuda was built for another NumPy')")
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-c", PROBES["tensorrt"]]
    return subprocess.run(command, cwd=str(ROOT), env=environment, capture_output=True, text=True)


def test_a_board_without_pycuda_has_tensorrt_if_cuda_answers(tmp_path, compiled_libcuda):
    libraries = str(Path(compiled_libcuda).parent)
    done = probe(tmp_path, LD_LIBRARY_PATH=libraries)
    assert done.returncode == 0, done.stderr
    done = probe(tmp_path, LD_LIBRARY_PATH=libraries, FAKE_CUDA_STATUS="100")
    assert done.returncode == 1 and "Error: cuInit failed" in done.stderr.splitlines()[-1]
