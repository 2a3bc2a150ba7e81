"""The CUDA kernels' arithmetic, compiled for the host, against Pillow and NumPy; and nvcc, where it is installed."""

import ctypes
import os
import subprocess

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.preprocess import stretch
from effedge.deploy.image.resample import FILTERS, resample_table
from effedge.deploy.native.cuda import kernels
from tests.deploy.kernel_cases import FILL, candidates, letterbox_cases, reference, sizes


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def by_kernel(host_kernels, image, size, resized):
    (height, width), (new_height, new_width) = image.shape[:2], resized
    (across, taps_across), (down, taps_down) = resample_table(width, new_width), resample_table(height, new_height)
    horizontal, out = np.empty((height, new_width, 3), np.uint8), np.empty((*size, 3), np.uint8)
    host_kernels.resize_horizontal(
        pointer(image), pointer(horizontal), pointer(across), height, width, new_width, taps_across
    )
    fill = ctypes.c_uint32(FILL[0] + 256 * FILL[1] + 65536 * FILL[2])
    host_kernels.letterbox(
        pointer(horizontal), pointer(out), pointer(down), new_height, new_width, taps_down, *size, fill
    )
    return out


@pytest.mark.parametrize("seed", range(8))
def test_the_letterbox_kernels_give_pillows_pixels_to_the_last_bit(host_kernels, seed):
    for image, size, expected in letterbox_cases(seed, 250):
        np.testing.assert_array_equal(by_kernel(host_kernels, image, size, expected.resized_size), expected.pixels)


def test_an_image_that_fills_the_input_is_stretched_to_the_last_bit_as_pillow_does(host_kernels):
    for (height, width), size in sizes(3, 100):
        if max(height, width) <= 64 * min(height, width):
            image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
            expected = stretch(image, size, 1.0, FILTERS["bilinear"]).pixels
            np.testing.assert_array_equal(by_kernel(host_kernels, image, size, size), expected)


def test_resample_weights_worked_by_hand():
    table, taps = resample_table(4, 2)  # centres at 1 and 3, a triangle over two pixels to each side
    assert taps == 3
    assert table[:2].tolist() == [0, 1]
    weights = table[2:].reshape(2, 3) / 2**22
    np.testing.assert_allclose(weights, [[3 / 7, 3 / 7, 1 / 7], [1 / 7, 3 / 7, 3 / 7]], atol=2**-22)


@pytest.mark.parametrize(("threads", "rounds"), [(1, 2000), (7, 60)])
def test_the_nms_kernel_keeps_what_numpy_keeps(host_kernels, threads, rounds):
    random, kept_at_all = np.random.default_rng(threads), 0
    for _ in range(rounds):
        count = int(random.choice([0, 1, 2, 60, 300] if threads > 1 else [0, 1, 2, 60, 300, 1000]))
        boxes, scores, classes = candidates(random, count)
        if count and random.random() < 0.1:
            scores[random.integers(0, count)] = np.nan
        size = random.integers(1, 513, 2).astype(np.int32)
        threshold, iou = float(random.choice([0, 0.05, 0.3])), float(random.choice([0.3, 0.5, 0.7]))
        most = int(random.choice([1, 10, 100, 1000]))
        kept = np.full(most, 77, np.int32)
        arguments = [pointer(array) for array in (boxes, scores, classes, size, kept)]
        host_kernels.nms_by_threads(threads, 1, *arguments, count, most, ctypes.c_float(threshold), ctypes.c_float(iou))
        expected = reference(boxes, scores, classes, size, threshold, iou, most)
        assert kept[kept >= 0].tolist() == expected.tolist()
        assert (kept[len(expected) :] == -1).all()
        kept_at_all += len(expected)
    assert kept_at_all > 20 * rounds / 2


def test_a_box_at_exactly_the_iou_stays(host_kernels):
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.01]])
    kept, scores, classes = np.empty(3, np.int32), np.float32([0.9, 0.8, 0.85]), np.zeros(3, np.int32)
    arguments = [pointer(array) for array in (boxes, scores, classes, np.int32([64, 64]), kept)]
    host_kernels.nms_by_threads(1, 1, *arguments, 3, 3, ctypes.c_float(0), ctypes.c_float(0.5))
    assert kept.tolist() == [0, 1, -1]


@pytest.fixture
def nvcc():
    try:
        return kernels.find_nvcc()
    except UserError as reason:
        pytest.skip(f"kernels are not compiled for GPUs here: {reason}")


@pytest.mark.parametrize("name", ["letterbox", "nms"])
def test_nvcc_compiles_the_kernels_for_every_architecture_that_it_knows(nvcc, tmp_path, name):
    listed = subprocess.run([nvcc, "--list-gpu-arch"], stdout=subprocess.PIPE, check=True, text=True)
    numbers = [line.replace("compute_", "") for line in listed.stdout.split()]
    assert len(numbers) >= 3
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    output = tmp_path / "all.fatbin"
    strict = ["-Werror", "all-warnings", "--threads", "2", "-std=c++14"]
    source = str(kernels.SOURCES / f"{name}.cu")
    subprocess.run([nvcc, "-fatbin", *codes, *strict, "-o", str(output), source], check=True)
    assert output.stat().st_size > 1000 * len(numbers)


def test_nvcc_leaves_the_arithmetic_as_it_is_written(nvcc, tmp_path):
    """A product contracted with a sum (fma) is rounded once, in NumPy twice; the letterbox has no floats."""
    for name, unwanted in (("nms", "fma"), ("letterbox", ".f32"), ("letterbox", ".f64")):
        ptx = tmp_path / f"{name}.ptx"
        subprocess.run([nvcc, "-ptx", "-o", str(ptx), str(kernels.SOURCES / f"{name}.cu")], check=True)
        assert ".visible .entry" in ptx.read_text() and unwanted not in ptx.read_text()


def test_a_kernel_is_compiled_once_and_kept_in_the_engines_folder(nvcc, tmp_path, monkeypatch):
    engine = tmp_path / "engine.plan"
    binary = kernels.compiled_kernels("nms", "sm_87", engine)
    assert binary[:4] == b"\x7fELF" and b"nms" in binary
    monkeypatch.setattr(kernels, "compile_cubin", None)  # must not be needed
    assert kernels.compiled_kernels("nms", "sm_87", engine) == binary
    [kept] = (tmp_path / ".compiled").iterdir()
    assert kept.name.startswith("nms-")


def test_an_architecture_that_nvcc_does_not_know_is_a_reason(nvcc, tmp_path):
    with pytest.raises(UserError, match=r"cannot compile nms\.cu for sm_999: .*sm_999"):
        kernels.compiled_kernels("nms", "sm_999", tmp_path / "engine.plan")


def test_nvcc_is_found_where_jetpack_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(kernels, "DEFAULT_FOLDER", str(tmp_path / "usual"))
    with pytest.raises(UserError, match="nvcc is not on PATH, in CUDA_HOME, or in .*usual"):
        kernels.find_nvcc()
    for place in ("usual", "home/bin"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "nvcc").write_text("")
        os.chmod(str(tmp_path / place / "nvcc"), 0o755)
    assert kernels.find_nvcc() == str(tmp_path / "usual" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert kernels.find_nvcc() == str(tmp_path / "home" / "bin" / "nvcc")
