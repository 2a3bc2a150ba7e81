"""Tests that an engine releases its part of the GPU in order, and before CUDA's context, however the engine ends."""

import gc
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from tests.deploy.fake_cuda import FakeCuda
from tests.deploy.runtime.tensorrt.engines import adder

ROOT = Path(__file__).resolve().parents[4]
IMAGE = {"image": np.ones((1, 2, 2, 3), np.uint8)}
SLOT = ["execution context", *["memory"] * 4, "stream"]  # pinned memory and the GPU's, of an input and an output
THROUGHPUT = ["graph", *SLOT, *SLOT, "engine"]  # only one of the two slots has recorded

PROGRAM = """
import ctypes, functools, gc, pathlib, sys
import numpy as np
from effedge.deploy.runtime.backends import load_backend
from tests.deploy.fake_cuda import FakeCuda
from tests.deploy.fake_tensorrt import fake_tensorrt
from tests.deploy.runtime.tensorrt.engines import adder, stand_ins

driver, folder, capacity, end = sys.argv[1:]
cuda = FakeCuda(capacity=int(capacity))
cuda.print_destroyed = True
sys.modules.update(stand_ins(cuda, fake_tensorrt(functools.partial(adder, cuda)), driver))
ctypes.CDLL("libcuda.so.1").set_handler(cuda.handler)
pathlib.Path(folder, "engine.plan").write_bytes(b"plan")
manifest = {"engine": "engine.plan", "backend": {"name": "tensorrt", "version": "10.3"}}
infer = load_backend(folder, manifest, throughput=True)
for _ in range(3):
    infer({"image": np.ones((1, 2, 2, 3), np.uint8)})
if end != "global":
    infer.itself = infer
    gc.disable()
    del infer
if end == "collected":
    gc.collect()
assert cuda.errors == []
print("the program ends", flush=True)
"""


def run_program(driver, folder, libcuda, *words):
    """Runs PROGRAM; returns its process, and what it destroyed before and after its end."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(Path(libcuda).parent)}
    command = [sys.executable, "-c", PROGRAM, driver, str(folder), *words]
    done = subprocess.run(command, cwd=str(ROOT), env=environment, capture_output=True, text=True)
    before, _, after = done.stdout.partition("the program ends\n")
    return done, before.splitlines(), after.splitlines()


def test_a_global_engine_is_released_when_the_program_ends(driver, tmp_path, compiled_libcuda):
    done, before, after = run_program(driver, tmp_path, compiled_libcuda, str(1 << 20), "global")
    assert (done.returncode, done.stderr, before, after) == (0, "", [], THROUGHPUT)


@pytest.mark.parametrize("end", ["collected", "uncollected"])
def test_an_engine_in_a_reference_cycle_is_released(driver, tmp_path, compiled_libcuda, end):
    done, before, after = run_program(driver, tmp_path, compiled_libcuda, str(1 << 20), end)
    assert (done.returncode, done.stderr) == (0, "")
    assert (before, after) == ((THROUGHPUT, []) if end == "collected" else ([], THROUGHPUT))


def test_an_engine_that_could_not_be_made_is_released_before_the_context(driver, tmp_path, compiled_libcuda):
    """The traceback of the error refers to what was made, until after the interpreter has called its exit functions."""
    done, destroyed, _ = run_program(driver, tmp_path, compiled_libcuda, "300", "global")  # of 2 x 2 x 80 bytes
    assert done.returncode == 1 and "no memory left on Pretended" in done.stderr, done.stderr
    assert destroyed[: len(SLOT)] == SLOT
    assert "context" not in destroyed


def test_an_engine_that_is_dropped_in_another_thread_leaves_nothing_behind(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    infer(IMAGE)
    held = [infer]
    del infer
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert cuda.destroyed == SLOT


def test_what_runs_when_the_program_ends_is_waited_for(pretend):
    started, go_on = threading.Event(), threading.Event()
    cuda = FakeCuda()
    engine = adder(cuda)
    plain = engine.infer

    def slow(feeds):
        started.set()
        assert go_on.wait(20)
        return plain(feeds)

    engine.infer = slow
    infer = pretend(cuda, engine)()
    run = threading.Thread(target=infer, args=(IMAGE,))
    run.start()
    assert started.wait(20)
    release = threading.Thread(target=infer.finalizer)
    release.start()
    release.join(0.1)
    assert cuda.destroyed == []
    go_on.set()
    for thread in (run, release):
        thread.join(20)
    assert cuda.destroyed == SLOT


def test_a_run_after_the_release_is_one_line(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    infer.finalizer()  # as at the end of the program
    with pytest.raises(UserError, match=r"engine\.plan' has been released, because the program ends"):
        infer(IMAGE)


def test_all_engines_of_a_process_share_one_context(pretend):
    cuda = FakeCuda()
    load = pretend(cuda, adder(cuda))
    for engine in (load(), load()):
        assert engine(IMAGE)["sums"].tolist() == [[12, 12]]
    assert len(cuda.retained) == 1


def test_the_end_of_the_process_alone_releases_the_context(pretend):
    cuda = FakeCuda()
    pretend(cuda, adder(cuda))()(IMAGE)
    from effedge.deploy.runtime.tensorrt.gpu import primary_context

    primary_context.cache_clear()  # as the interpreter may do when it ends
    gc.collect()
    assert "stream" in cuda.destroyed and "context" not in cuda.destroyed


def test_a_gpu_that_has_failed_is_left_to_the_end_of_the_process(pretend):
    cuda = FakeCuda()
    infer = pretend(cuda, adder(cuda))()
    from effedge.deploy.runtime.tensorrt import gpu

    def fail():
        raise gpu.cuda.Error("cuCtxPushCurrent failed: unspecified launch failure")

    infer.gpu.context = types.SimpleNamespace(push=fail)
    infer.finalizer()  # and says nothing: the error was reported when it occurred
    assert cuda.destroyed == []
