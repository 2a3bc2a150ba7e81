"""The declarations of libcuda's functions against NVIDIA's header, and the calls against a library in C."""

import glob
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from effedge.deploy.runtime.tensorrt import libcuda
from tests.deploy import fake_cuda
from tests.deploy.fake_cuda import FakeCuda

CUDA_HOMES = [os.environ.get("CUDA_HOME", ""), *glob.glob("/usr/local/cuda*")]
HEADERS = sorted({os.path.realpath(f"{home}/include") for home in CUDA_HOMES if Path(home, "include/cuda.h").exists()})
SOURCE = Path(fake_cuda.__file__).with_name("fake_libcuda.c")


def compiles(folder, source, *options):
    """Returns what the compiler says of a source in C; nothing if it compiles."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (gcc)")
    (folder / "source.c").write_text(source)
    command = [compiler, "-fsyntax-only", "-Wall", "-Werror", *options, str(folder / "source.c")]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr


def declared_again(declarations):
    """A source that declares the functions again after cuda.h: an unknown name, or other parameters, are an error."""
    names = ", ".join(f"(void *){name}" for name in libcuda.declared_functions())
    return f"#include <cuda.h>\nvoid *known[] = {{{names}}};\n{declarations}"


@pytest.mark.parametrize("include", HEADERS or [pytest.param("", marks=pytest.mark.skip(reason="no cuda.h is here"))])
def test_the_declarations_are_those_of_cuda_h(tmp_path, include):
    option = f"-I{include}"
    assert compiles(tmp_path, declared_again(libcuda.DECLARATIONS), option) == ""
    assert compiles(tmp_path, SOURCE.read_text(), "-DWITH_CUDA_H", option) == ""
    for right, wrong in (("cuMemAlloc_v2(CUdeviceptr *, size_t", "cuMemAlloc_v2(CUdeviceptr *, unsigned int"),
                         ("cuStreamEndCapture(CUstream, CUgraph *", "cuStreamEndCapture(CUstream, CUgraph"),
                         ("cuGraphLaunch(CUgraphExec", "cuGraphLaunch(CUgraph")):  # fmt: skip
        assert right in libcuda.DECLARATIONS
        assert "conflicting types" in compiles(
            tmp_path, declared_again(libcuda.DECLARATIONS.replace(right, wrong)), option
        )


def test_the_library_for_tests_has_the_declared_functions(tmp_path):
    assert compiles(tmp_path, SOURCE.read_text() + libcuda.DECLARATIONS) == ""
    text = SOURCE.read_text()
    assert [name for name in libcuda.declared_functions() if f"CUresult {name}(" not in text] == []


@pytest.fixture
def cuda(fake_libcuda):
    cuda = FakeCuda()
    fake_libcuda(cuda)
    yield cuda
    assert cuda.errors == []


@pytest.fixture
def current(cuda):
    context = libcuda.Device(0).retain_primary_context()
    context.push()
    yield cuda
    context.pop()


def test_the_facts_of_the_gpu(cuda):
    libcuda.init()
    device = libcuda.Device(0)
    assert (device.name(), device.compute_capability(), device.total_memory()) == ("Pretended", (8, 7), 7619 << 20)
    assert device.get_attribute(libcuda.device_attribute.INTEGRATED) == 0


def test_sizes_and_addresses_have_64_bits(current):
    with pytest.raises(libcuda.MemoryError, match="cuMemAlloc failed: out of memory"):
        libcuda.mem_alloc(1 << 32)  # 0 in 32 bits
    assert libcuda.Stream().handle > 1 << 32


def test_an_array_in_pinned_memory_goes_to_the_gpu_and_back(current):
    stream, on_gpu = libcuda.Stream(), libcuda.mem_alloc(8)
    source, target = (libcuda.pagelocked_empty(8, np.uint8) for _ in range(2))
    source[:] = range(8)
    libcuda.memcpy_htod_async(on_gpu, source[:6], stream)
    libcuda.memcpy_dtoh_async(target, on_gpu, stream)
    stream.synchronize()
    assert target.tolist() == [0, 1, 2, 3, 4, 5, fake_cuda.FIRST_BYTE, fake_cuda.FIRST_BYTE]


def test_pinned_memory_lives_as_long_as_a_view_of_it(current):
    view = libcuda.pagelocked_empty(8, np.uint8)[2:].view(np.uint16).reshape(3, 1)
    assert current.destroyed == []
    del view
    assert current.destroyed == ["memory"]


def test_what_is_dropped_in_another_thread_is_destroyed_in_its_context(current):
    held = [libcuda.Stream(), libcuda.mem_alloc(8), libcuda.Module(b"nms")]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert sorted(current.destroyed) == ["memory", "module", "stream"]


def test_without_a_current_context_nothing_is_made(cuda):
    with pytest.raises(libcuda.Error, match="cuMemAlloc failed: error 201"):
        libcuda.mem_alloc(8)


def test_a_kernel_takes_exactly_its_parameters(current):
    kernel = libcuda.Module(b"nms").get_function("nms").prepare("PPPPPiiff")
    with pytest.raises(TypeError, match="8 parameters: expected 9"):
        kernel.prepared_async_call((1, 1), (1, 1, 1), libcuda.Stream(), *range(8))


def test_a_machine_without_the_library_says_so(monkeypatch, cuda):
    libcuda.library.cache_clear()
    with monkeypatch.context() as patch, pytest.raises(libcuda.Error, match="libnowhere"):
        patch.setattr(libcuda, "LIBRARY", "libnowhere.so.1")
        libcuda.init()


def test_a_driver_that_is_too_old_is_named(cuda):
    with pytest.raises(
        libcuda.Error, match=r"libcuda\.so\.1 has no cuGraphOfLater: the driver is older than CUDA 11\.4"
    ):
        libcuda.call("cuGraphOfLater")
