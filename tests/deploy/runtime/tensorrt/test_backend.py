"""Loading of plans, against a GPU and a TensorRT that compute on the host (fake_cuda.py, fake_tensorrt.py)."""

import functools
import sys

import numpy as np
import pytest

from effedge import Detector
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.parallel import ordered_map
from tests.deploy.fake_cuda import NO_GPU, FakeCuda
from tests.deploy.runtime.tensorrt.engines import MODULES, adder, assert_same, finder, random_images, write_detector


@pytest.mark.parametrize("compatible", [False, True])
def test_only_a_version_compatible_plan_may_bring_code(pretend, compatible):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    load.args[1]["backend"]["version_compatible"] = compatible
    assert getattr(load().loaded.runtime, "engine_host_code_allowed", False) is compatible


def test_more_threads_than_slots_wait_for_an_idle_one(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))(throughput=True)
    add = functools.partial(np.full, (1, 2, 2, 3), dtype=np.uint8)
    sums = ordered_map(lambda value: infer({"image": add(value)})["sums"][0, 0], range(200), 7)
    assert list(sums) == [12 * value for value in range(200)]


@pytest.mark.parametrize(("version", "slots"), [("8.5.2.2", 1), ("8.6.1", 1), ("10.3.0", 2), ("11.0.0", 2)])
def test_before_10_a_dynamic_batch_has_one_slot(pretend, version, slots):
    cuda = FakeCuda()
    assert pretend(cuda, adder(cuda), version)(throughput=True).parallel == slots
    assert pretend(cuda, adder(cuda, batch=1), version)(throughput=True).parallel == 2
    assert pretend(cuda, adder(cuda, batch=1), version)().parallel == 1


def test_a_plan_of_another_version_is_one_line_with_tensorrts_reason(pretend):
    with pytest.raises(UserError, match=r"10\.3\.0 on Pretended cannot load .*built by 10\.7 \(.*needs.*this machine"):
        pretend(FakeCuda(), None)()


def test_the_real_tensorrt_rtx_refuses_what_is_no_plan_in_one_line(pretend):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    load = pretend(FakeCuda(), None, rtx.__version__, "tensorrt_rtx", **vars(rtx))
    with pytest.raises(UserError, match=r"cannot load .*Error Code.*: build the engine on this machine") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_machine_without_a_gpu_is_one_line(pretend):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    cuda.failures["cuInit"] = NO_GPU
    with pytest.raises(UserError, match=r"engine\.plan' needs an NVIDIA GPU, and CUDA finds none \(cuInit failed"):
        load()


def test_no_memory_is_one_line_wherever_it_runs_out(pretend, kernels, host_kernels, tmp_path):
    cuda = FakeCuda(capacity=50)
    with pytest.raises(UserError, match=r"no memory left on Pretended for .*engine\.plan' \(cuMemAlloc.*smaller batch"):
        pretend(cuda, adder(cuda))()
    cuda = FakeCuda()
    engine = adder(cuda)
    engine.contexts_left = 1
    with pytest.raises(UserError, match=r"no memory left on Pretended to run .*takes 5 MiB beside its weights"):
        pretend(cuda, engine)(throughput=True)
    cuda = FakeCuda(host_kernels, capacity=300_000)
    pretend(cuda, finder(cuda))
    write_detector(tmp_path)
    detector, small = Detector(tmp_path), random_images(0, 1, [(40, 40)])
    expected = list(detector(small))
    list(detector(small))  # recorded
    with pytest.raises(UserError, match="no memory left"):
        list(detector(random_images(0, 1, [(400, 400)])))
    for _ in range(3):  # what fitted before fits after that
        assert_same(list(detector(small)), expected)


def test_the_stand_in_is_not_left_behind():
    assert not any(module in sys.modules for module in MODULES)
