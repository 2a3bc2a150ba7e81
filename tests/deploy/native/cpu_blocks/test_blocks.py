"""The CPU blocks in C++ against NumPy, for this CPU and without its extensions; and where there are none."""

import ctypes
import mmap
import multiprocessing
import os
import subprocess
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.native import compiled_library
from effedge.deploy.native.cpu_blocks import blocks
from effedge.deploy.native.cpu_blocks.blocks import CpuBlocks, CpuBlocksLibrary
from effedge.deploy.native.cpu_blocks.description import (
    EXPANSION,
    FIELDS,
    FORMAT,
    NONE,
    STEM,
    BlocksDescription,
    read_description,
    relative_error,
    sample_image,
)
from effedge.deploy.timing.machine import cpu
from tests.deploy.cpu_blocks_cases import library_or_skip, random_description, reference, with_expected

# (entry, channels, kernel, stride, squeezed, out_channels, feature) of each block
CASES = {
    "d0": (96, 128, [(STEM, 32, 3, 1, 8, 16, 0), (EXPANSION, 96, 3, 2, 4, 24, 0), (EXPANSION, 144, 3, 1, 6, 24, 1)]),
    "5x5": (64, 64, [(STEM, 32, 5, 1, 8, 40, 1), (EXPANSION, 240, 5, 2, 10, 40, 0), (EXPANSION, 80, 5, 1, 10, 40, 1)]),
    "no expansion": (50, 70, [(STEM, 40, 3, 1, 10, 24, 0), (NONE, 0, 3, 1, 6, 24, 1), (NONE, 0, 5, 1, 3, 112, 1)]),
    "odd sizes": (37, 75, [(STEM, 33, 3, 1, 1, 17, 0), (EXPANSION, 50, 5, 1, 2, 17, 1), (EXPANSION, 8, 3, 2, 2, 9, 1)]),
    "narrow": (200, 32, [(STEM, 48, 3, 1, 12, 24, 0), (EXPANSION, 144, 3, 1, 6, 24, 1)]),
    "grows": (64, 68, [(STEM, 16, 3, 2, 4, 8, 0), (NONE, 0, 3, 1, 2, 40, 0), (EXPANSION, 88, 3, 1, 4, 120, 1)]),
    "deep": (34, 34, [(STEM, 56, 3, 1, 14, 200, 0), (EXPANSION, 100, 3, 1, 8, 130, 1)]),
    "stride in the first": (70, 66, [(STEM, 32, 3, 2, 8, 16, 1)]),
}
# The largest relative error to float64's outputs: of bfloat16 and FP16, or of swish's polynomial alone.
MAX_ERROR = {"bf16": 0.012, "f16": 0.012, "f32": 0.004}
VARIANTS = {
    "this CPU": ["-O3", "-march=native"],
    "without AMX": ["-O2", "-march=native", "-mno-amx-tile", "-mno-amx-bf16"],
    "without FP16": ["-O2", "-march=native", "-DFLOAT_ONLY"],
    "AVX2": ["-O2", "-mavx2", "-mfma", "-Wall", "-Wextra", "-Werror"],
    "any CPU": ["-O2", "-Wall", "-Wextra", "-Werror"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def library(request, tmp_path_factory):
    """The library, compiled for these tests whatever the user's cache has."""
    flags = VARIANTS[request.param]
    if any(flag.startswith(("-mavx", "-mno-amx")) for flag in flags) and not on_x86_with("avx2"):
        pytest.skip("no x86 with AVX2")
    path = tmp_path_factory.mktemp("cpu_blocks") / "cpu_blocks.so"
    try:
        command = [*compiled_library.find_compiler(), *flags, *blocks.SOURCE.flags, "-shared", "-fPIC", "-o", str(path)]
    except UserError as reason:
        pytest.skip(str(reason))
    done = subprocess.run([*command, str(blocks.SOURCE.folder / blocks.SOURCE.main)])
    if done.returncode and request.param == "without AMX":
        pytest.skip("this compiler knows no AMX")
    assert done.returncode == 0
    loaded = CpuBlocksLibrary(path)
    if not loaded.request_permission():
        pytest.skip("the system does not let this process use AMX")
    return loaded


def on_x86_with(ability):
    return os.uname().machine == "x86_64" and ability in cpu()["abilities"].split()


def random_image(description, seed=0):
    return np.random.default_rng(seed).integers(0, 256, description.image_shape, np.uint8)


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_numpy_gives(library, name):
    description = random_description(np.random.default_rng(1), *CASES[name])
    images = np.stack([random_image(description, seed) for seed in range(2)])
    images[1] = images[1] // 200 * 255  # mostly black
    outputs = CpuBlocks(library, description, 2)(images)
    assert {key: array.shape[1:] for key, array in outputs.items()} == description.output_shapes
    for index, image in enumerate(images):
        for key, expected in reference(description, image).items():
            assert relative_error(outputs[key][index], expected) < MAX_ERROR[library.product_precision]


def test_how_many_threads_compute_it_changes_no_bit(library):
    description = random_description(np.random.default_rng(2), *CASES["d0"])
    images = random_image(description)[None]
    by_one_thread = CpuBlocks(library, description, 1)(images)
    for threads in (2, 3, 5):
        cpu_blocks = CpuBlocks(library, description, threads)
        for _ in range(3):
            for name, array in cpu_blocks(images).items():
                np.testing.assert_array_equal(array, by_one_thread[name])


def test_several_at_once(library):
    description = random_description(np.random.default_rng(3), *CASES["5x5"])
    several = [CpuBlocks(library, description, 2) for _ in range(4)]
    images = [random_image(description, seed)[None] for seed in range(4)]
    expected = [cpu_blocks(image) for cpu_blocks, image in zip(several, images)]
    right = []

    def repeat(index):
        for _ in range(20):
            outputs = several[index](images[index])
            right.append(all(np.array_equal(outputs[name], expected[index][name]) for name in outputs))

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 80


def test_nothing_is_read_behind_the_image(library):
    """The image ends where the memory does, before a page that may not be read."""
    description = random_description(np.random.default_rng(4), *CASES["odd sizes"])
    size, page = int(np.prod(description.image_shape)), mmap.PAGESIZE
    room = -(-size // page) * page
    memory = mmap.mmap(-1, room + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + room), page, 0):
        pytest.skip("memory cannot be protected here")
    image = np.frombuffer(memory, np.uint8, size, room - size).reshape(description.image_shape)
    expected = CpuBlocks(library, description, 1)(np.zeros((1, *description.image_shape), np.uint8))
    for name, array in CpuBlocks(library, description, 2)(image[None]).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_forked_process_computes_it_alone(library):
    description = random_description(np.random.default_rng(5), *CASES["narrow"])
    cpu_blocks = CpuBlocks(library, description, 2)
    images = random_image(description)[None]
    expected = cpu_blocks(images)

    def again():
        for name, array in cpu_blocks(images).items():
            np.testing.assert_array_equal(array, expected[name])

    process = multiprocessing.get_context("fork").Process(target=again)
    process.start()
    process.join(20)
    assert process.exitcode == 0


def stem_weights(description):
    """Returns the number of weights of the stem and its bias, which follow the means."""
    return 28 * int(description.column("channels")[0])


@pytest.mark.parametrize("factor", [1e4, -1e4, np.nan])
def test_numbers_that_fp16_does_not_hold_are_told(library, factor):
    description = random_description(np.random.default_rng(7), *CASES["stride in the first"])
    weights = description.weights.copy()
    weights[3 : 3 + stem_weights(description)] *= np.float32(factor)  # of both signs: a sum may have no value
    cpu_blocks = CpuBlocks(library, description._replace(weights=weights), 2)
    images = random_image(description)[None]
    if library.vector_precision == "f32" and np.isfinite(factor):
        assert all(np.isfinite(array).all() for array in cpu_blocks(images).values())
        return
    with pytest.raises(UserError, match=f"larger than {library.vector_precision} holds.* --cpu-blocks off"):
        cpu_blocks(images)
    spoilt = description._replace(weights=np.append(description.weights[:-1], np.float32(np.inf)))  # the last bias
    with pytest.raises(UserError, match="--cpu-blocks off"):
        CpuBlocks(library, spoilt, 1)(images)


def test_an_image_that_was_too_large_does_not_spoil_the_next(library):
    """Behind a map lie values of an earlier map; the next block multiplies them by 0."""
    layers = [(STEM, 40, 3, 2, 10, 40, 0), (NONE, 0, 3, 1, 6, 40, 0), (EXPANSION, 80, 3, 1, 6, 88, 1)]
    description = random_description(np.random.default_rng(8), 64, 68, layers, means=(0.0, 0.0, 0.0))
    weights = description.weights.copy()
    weights[3 : 3 + 27 * 40] *= 2000  # without the biases: a white image's sums are too large, a black one's are not
    cpu_blocks = CpuBlocks(library, description._replace(weights=weights), 2)
    dark = np.zeros((1, *description.image_shape), np.uint8)
    expected = cpu_blocks(dark)
    if library.vector_precision == "f16":
        with pytest.raises(UserError, match="larger than"):
            cpu_blocks(255 + dark)
    for name, array in cpu_blocks(dark).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.fixture
def description():
    unchecked = random_description(np.random.default_rng(6), *CASES["narrow"])
    return with_expected(unchecked, sample_image(unchecked.image_shape))


@pytest.fixture
def compiled():
    return library_or_skip()


def test_one_that_gives_something_else_is_not_taken(compiled, description):
    assert blocks.checked_cpu_blocks(compiled, description, 2) is not None
    large = description._replace(weights=description.weights * np.float32(1e4))
    assert blocks.checked_cpu_blocks(compiled, large, 1) is None
    other = description._replace(weights=np.where(description.weights > 2, 0, description.weights).astype(np.float32))
    assert blocks.checked_cpu_blocks(compiled, other, 2) is None
    assert blocks.checked_cpu_blocks(compiled, description._replace(expected=description.expected[1:]), 2) is None


def test_images_of_another_size_are_refused(compiled, description):
    cpu_blocks = CpuBlocks(compiled, description, 1)
    for images in (np.zeros((1, 32, 200, 3), np.uint8), np.zeros((1, *description.image_shape), np.float32)):
        with pytest.raises(ValueError, match="not uint8"):
            cpu_blocks(images)


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [
        (0, "width", 8), (1, "channels", 0), (1, "out_height", 0), (1, "entry", 3), (0, "entry", EXPANSION),
        (1, "entry", STEM), (1, "in_channels", 25), (1, "in_height", 99), (0, "residual", 1), (1, "kernel", 7),
        (1, "stride", 3), (1, "top", 3), (0, "out_width", 200), (0, "entry_left", 3), (1, "feature", 0), (0, "top", -1),
        (0, "feature", 2), (0, "in_channels", 4), (1, "height", 101), (1, "width", 17), (0, "height", 102),
        (0, "width", 33), (1, "squeezed", 2**31 - 1), (1, "out_channels", 2**20),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_is_told(compiled, description, block, field, value):
    layout = description.layout.copy()
    layout[block, FIELDS.index(field)] = value
    with pytest.raises(UserError, match="CPU blocks are damaged"):
        CpuBlocks(compiled, description._replace(layout=layout), 1)


def test_other_damage_is_told(compiled, description):
    wider = description.layout.copy()
    wider[0, FIELDS.index("squeezed")] += 1
    with pytest.raises(UserError, match="not as many weights"):
        CpuBlocks(compiled, description._replace(layout=wider), 1)
    for changed in (
        {"layout": description.layout[:, 1:]}, {"layout": description.layout[:0]}, {"outputs": []},
        {"layout": description.layout.astype(np.int64) + 2**32}, {"layout": description.layout + 0.5},
        {"layout": description.layout[0]},
        {"weights": description.weights.astype(np.float64)}, {"weights": description.weights[None]},
        {"outputs": [*description.outputs, "more"]}, {"expected": description.expected.astype(np.int64)},
    ):  # fmt: skip
        with pytest.raises(UserError, match="CPU blocks are damaged"):
            CpuBlocks(compiled, description._replace(**changed), 1)


def save(description, path):
    np.savez(path, **{**description._asdict(), "outputs": np.array(description.outputs)})


def test_a_damaged_file_is_told(tmp_path, description):
    path = tmp_path / "cpu_blocks.npz"
    save(description, path)
    again = read_description(path)
    assert again.outputs == description.outputs and isinstance(again, BlocksDescription)
    for field in ("layout", "weights", "expected"):
        np.testing.assert_array_equal(getattr(again, field), getattr(description, field))
    complete = path.read_bytes()
    for content in (complete[:-200], complete[: len(complete) // 2], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            read_description(path)
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        read_description(path)
    np.save(str(path), np.array([{"an": "object"}]), allow_pickle=True)
    path.with_suffix(".npz.npy").rename(path)
    with pytest.raises(UserError, match="is damaged"):
        read_description(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("layout.npy", bytes(2**30 + 1))  # one MB, and one GB in memory
    with pytest.raises(UserError, match="too large"):
        read_description(path)


def test_it_is_computed_only_on_the_cpu_that_timed_it_and_with_a_compiler(monkeypatch, tmp_path, compiled, description):
    save(description, tmp_path / "cpu_blocks.npz")
    entry = {"format": FORMAT, "file": "cpu_blocks.npz", "cpu": blocks.cpu(), "precisions": compiled.precisions}
    backend = {"cpu_blocks": entry}
    engine = tmp_path / "engine.xml"
    assert blocks.load_cpu_blocks(engine, {}, 1) == (None, None)
    first, computed_by = blocks.load_cpu_blocks(engine, backend, 1)
    assert computed_by == compiled_library.COMPILED and first.output_shapes == description.output_shapes
    several = [first, first.another(), first.another()]
    assert len(set(map(id, several))) == 3 and {one.image_shape for one in several} == {description.image_shape}
    for field, other, reason in (
        ("cpu", {"model": "another"}, blocks.OTHER_CPU),
        ("format", 0, blocks.OTHER_FORMAT),
        ("precisions", ["f64", "f64"], blocks.OTHER_COMPILER),
    ):
        assert blocks.load_cpu_blocks(engine, {"cpu_blocks": {**entry, field: other}}, 1) == (None, reason)
    assert blocks.load_cpu_blocks(engine, {"front": entry}, 1) == (None, blocks.OTHER_FORMAT)  # the older key
    for name in (None, "../cpu_blocks.npz", str(tmp_path / "cpu_blocks.npz"), "none.npz"):
        with pytest.raises(UserError, match=r"is damaged|expected a file inside"):
            blocks.load_cpu_blocks(engine, {"cpu_blocks": {**entry, "file": name}}, 1)
    monkeypatch.setattr(blocks, "load_cpu_blocks_library", lambda: None)
    assert blocks.load_cpu_blocks(engine, backend, 1) == (None, blocks.NO_LIBRARY)
    monkeypatch.setattr(blocks, "load_cpu_blocks_library", lambda: compiled)
    monkeypatch.setattr(blocks, "MAX_ERROR", 0.0)
    assert blocks.load_cpu_blocks(engine, backend, 1) == (None, blocks.WRONG)


def test_there_is_none_where_the_system_does_not_allow_it(monkeypatch):
    blocks.load_cpu_blocks_library.cache_clear()
    monkeypatch.setattr(blocks, "load_compiled_library", lambda *_: SimpleNamespace(request_permission=lambda: 0))
    assert blocks.load_cpu_blocks_library() is None
    blocks.load_cpu_blocks_library.cache_clear()


def test_swish_is_the_engines(compiled):
    """The polynomial in blocks.cpp is that of engines/openvino/swish.py in another variable."""
    swish = pytest.importorskip("effedge.engines.openvino.swish")
    text = (blocks.SOURCE.folder / blocks.SOURCE.main).read_text()
    numbers = text.split("MINUS_H[] = {")[1].split("}")[0].replace("f", "").split(",")
    t = np.linspace(0, swish.FINEST.end, 200)
    inner = np.polynomial.polynomial.polyval(2 * t / swish.FINEST.end - 1, [float(number) for number in numbers])
    np.testing.assert_allclose(-inner, np.polynomial.polynomial.polyval(t, [0, *swish.FINEST.coefficients]), atol=2e-6)
