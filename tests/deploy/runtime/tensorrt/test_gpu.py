"""The choice of what calls CUDA."""

import re
import sys

import numpy as np
import pytest

from effedge.deploy import latency
from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.backends import cuda_called_by
from tests.deploy.fake_cuda import FakeCuda
from tests.deploy.runtime.tensorrt.engines import adder, finder, write_detector


@pytest.fixture
def load(pretend):
    cuda = FakeCuda()
    return pretend(cuda, adder(cuda))


def called_by(load):
    infer = load()
    assert infer({"image": np.ones((1, 2, 2, 3), np.uint8)})["sums"].tolist() == [[12, 12]]
    return cuda_called_by(*load.args)


def test_pycuda_is_used_where_it_is_there_and_a_report_says_so(load, driver):
    assert called_by(load) == driver


@pytest.mark.parametrize("driver", ["pycuda"], indirect=True)
def test_libcuda_can_be_chosen_beside_pycuda(load, monkeypatch):
    monkeypatch.setenv("EFFEDGE_CUDA", "libcuda")
    assert called_by(load) == "libcuda"


@pytest.mark.parametrize("driver", ["libcuda"], indirect=True)
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("pycuda", "EFFEDGE_CUDA=pycuda, but pycuda cannot be imported (import of pycuda"),
        ("pycdua", "unknown EFFEDGE_CUDA 'pycdua': did you mean 'pycuda'"),
    ],
)
def test_a_choice_that_cannot_be_had_is_one_line(load, monkeypatch, choice, message):
    monkeypatch.setenv("EFFEDGE_CUDA", choice)
    with pytest.raises(UserError, match=re.escape(message)):
        load()


@pytest.mark.parametrize("driver", ["libcuda"], indirect=True)
def test_without_pycuda_and_without_a_driver_the_missing_library_is_named(load, monkeypatch):
    from effedge.deploy.runtime.tensorrt import libcuda

    libcuda.library.cache_clear()
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"CUDA finds none \(libnowhere"):
        patch.setattr(libcuda, "LIBRARY", "libnowhere.so.1")
        load()
    assert "pycuda._driver" not in sys.modules


def test_the_latency_report_says_what_calls_cuda(pretend, kernels, host_kernels, driver, tmp_path):
    cuda = FakeCuda(host_kernels)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    report = latency.measure(str(tmp_path), [], iterations=1, with_throughput=False)
    assert report["cuda"] == driver
    assert f", tensorrt, CUDA called by {driver}\n" in latency.table(report)
