"""The front in C++ against NumPy, for this CPU and without what this CPU has; and where there is none to be had."""

import ctypes
import mmap
import multiprocessing
import os
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.native import compiled_library
from effedge.deploy.native.cpu_blocks import blocks
from effedge.deploy.native.cpu_blocks.blocks import (
    EXPANSION,
    FIELDS,
    NONE,
    STEM,
    Description,
    Front,
    FrontLibrary,
    distance,
)
from effedge.deploy.timing.machine import cpu
from tests.deploy.cpu_blocks_cases import expecting, random_front, reference

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
# How far the numbers may be from float64's, in root mean squares: of bfloat16 and FP16, or of swish's polynomial alone.
NEAR = {"bf16": 0.012, "f16": 0.012, "f32": 0.004}
VARIANTS = {
    "this CPU": ["-O3", "-march=native"],
    "without AMX": ["-O2", "-march=native", "-mno-amx-tile", "-mno-amx-bf16"],
    "without FP16": ["-O2", "-march=native", "-DFLOAT_ONLY"],
    "AVX2": ["-O2", "-mavx2", "-mfma", "-Wall", "-Wextra", "-Werror"],
    "any CPU": ["-O2", "-Wall", "-Wextra", "-Werror"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def library(request, tmp_path_factory):
    """Compiled for these tests, whatever the user's cache has."""
    flags = VARIANTS[request.param]
    if any(flag.startswith(("-mavx", "-mno-amx")) for flag in flags) and not on_x86_with("avx2"):
        pytest.skip("no x86 with AVX2")
    path = tmp_path_factory.mktemp("front") / "front.so"
    try:
        command = [*compiled_library.compiler(), *flags, *blocks.SOURCE.flags, "-shared", "-fPIC", "-o", str(path)]
    except UserError as reason:
        pytest.skip(str(reason))
    done = subprocess.run([*command, str(blocks.SOURCE.folder / blocks.SOURCE.main)])
    if done.returncode and request.param == "without AMX":
        pytest.skip("this compiler knows no AMX")
    assert done.returncode == 0
    made = FrontLibrary(path)
    if not made.allowed():
        pytest.skip("the system does not let this process use AMX")
    return made


def on_x86_with(ability):
    return os.uname().machine == "x86_64" and ability in cpu()["abilities"].split()


def picture_of(description, seed=0):
    return np.random.default_rng(seed).integers(0, 256, description.picture, np.uint8)


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_numpy_gives(library, name):
    height, width, blocks = CASES[name]
    description = random_front(np.random.default_rng(1), height, width, blocks)
    pictures = np.stack([picture_of(description, seed) for seed in range(2)])
    pictures[1] = pictures[1] // 200 * 255  # mostly black
    found = Front(library, description, 2)(pictures)
    assert {key: array.shape[1:] for key, array in found.items()} == description.shapes
    for index, picture in enumerate(pictures):
        for key, expected in reference(description, picture).items():
            assert distance(found[key][index], expected) < NEAR[library.product_precision]


def test_how_many_threads_compute_it_changes_no_bit(library):
    description = random_front(np.random.default_rng(2), *CASES["d0"])
    pictures = picture_of(description)[None]
    alone = Front(library, description, 1)(pictures)
    for threads in (2, 3, 5):
        many = Front(library, description, threads)
        for _ in range(3):
            for name, array in many(pictures).items():
                np.testing.assert_array_equal(array, alone[name])


def test_several_at_once(library):
    description = random_front(np.random.default_rng(3), *CASES["5x5"])
    fronts = [Front(library, description, 2) for _ in range(4)]
    pictures = [picture_of(description, seed)[None] for seed in range(4)]
    expected = [one(picture) for one, picture in zip(fronts, pictures)]
    right = []

    def repeat(index):
        for _ in range(20):
            found = fronts[index](pictures[index])
            right.append(all(np.array_equal(found[name], expected[index][name]) for name in found))

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 80


def test_nothing_is_read_behind_the_picture(library):
    """A picture that ends where the memory does, on a page behind which none may be read."""
    description = random_front(np.random.default_rng(4), *CASES["odd sizes"])
    size, page = int(np.prod(description.picture)), mmap.PAGESIZE
    room = -(-size // page) * page
    memory = mmap.mmap(-1, room + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + room), page, 0):
        pytest.skip("memory cannot be protected here")
    picture = np.frombuffer(memory, np.uint8, size, room - size).reshape(description.picture)
    expected = Front(library, description, 1)(np.zeros((1, *description.picture), np.uint8))
    for name, array in Front(library, description, 2)(picture[None]).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_forked_process_computes_it_alone(library):
    description = random_front(np.random.default_rng(5), *CASES["narrow"])
    made = Front(library, description, 2)
    pictures = picture_of(description)[None]
    expected = made(pictures)

    def again():
        for name, array in made(pictures).items():
            np.testing.assert_array_equal(array, expected[name])

    process = multiprocessing.get_context("fork").Process(target=again)
    process.start()
    process.join(20)
    assert process.exitcode == 0


def first_weights(description):
    """How many numbers there are of the stem and its bias, behind the means."""
    return 28 * int(description.column("channels")[0])


@pytest.mark.parametrize("factor", [1e4, -1e4, np.nan])
def test_numbers_that_fp16_does_not_hold_are_told(library, factor):
    description = random_front(np.random.default_rng(7), *CASES["stride in the first"])
    weights = description.weights.copy()
    weights[3 : 3 + first_weights(description)] *= np.float32(factor)  # of both signs: a sum may have no value
    made = Front(library, description._replace(weights=weights), 2)
    pictures = picture_of(description)[None]
    if library.vector_precision == "f32" and np.isfinite(factor):
        assert all(np.isfinite(array).all() for array in made(pictures).values())
        return
    with pytest.raises(UserError, match=f"larger than {library.vector_precision} holds.* --front off"):
        made(pictures)
    spoilt = description._replace(weights=np.append(description.weights[:-1], np.float32(np.inf)))  # the last bias
    with pytest.raises(UserError, match="--front off"):
        Front(library, spoilt, 1)(pictures)


def test_a_picture_that_was_too_large_does_not_spoil_the_next(library):
    """Behind a map lies what an earlier one left; the next block multiplies it by 0."""
    blocks = [(STEM, 40, 3, 2, 10, 40, 0), (NONE, 0, 3, 1, 6, 40, 0), (EXPANSION, 80, 3, 1, 6, 88, 1)]
    description = random_front(np.random.default_rng(8), 64, 68, blocks, means=(0.0, 0.0, 0.0))
    weights = description.weights.copy()
    weights[3 : 3 + 27 * 40] *= 2000  # without the biases: a white picture's sums are too large, a black one's are not
    made = Front(library, description._replace(weights=weights), 2)
    dark = np.zeros((1, *description.picture), np.uint8)
    expected = made(dark)
    if library.vector_precision == "f16":
        with pytest.raises(UserError, match="larger than"):
            made(255 + dark)
    for name, array in made(dark).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.fixture
def described():
    description = random_front(np.random.default_rng(6), *CASES["narrow"])
    return expecting(description, blocks.sample_picture(description.picture))


@pytest.fixture
def compiled():
    found = blocks.front_library()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def test_one_that_gives_something_else_is_not_taken(compiled, described):
    assert blocks.checked_front(compiled, described, 2) is not None
    large = described._replace(weights=described.weights * np.float32(1e4))
    assert blocks.checked_front(compiled, large, 1) is None
    other = described._replace(weights=np.where(described.weights > 2, 0, described.weights).astype(np.float32))
    assert blocks.checked_front(compiled, other, 2) is None
    assert blocks.checked_front(compiled, described._replace(expected=described.expected[1:]), 2) is None


def test_pictures_of_another_size_are_refused(compiled, described):
    made = Front(compiled, described, 1)
    for pictures in (np.zeros((1, 32, 200, 3), np.uint8), np.zeros((1, *described.picture), np.float32)):
        with pytest.raises(ValueError, match="not uint8"):
            made(pictures)


@pytest.mark.parametrize(
    ("block", "field", "value"),
    [
        (0, "width", 8), (1, "channels", 0), (1, "out_height", 0), (1, "entry", 3), (0, "entry", EXPANSION),
        (1, "entry", STEM), (1, "in_channels", 25), (1, "in_height", 99), (0, "residual", 1), (1, "kernel", 7),
        (1, "stride", 3), (1, "top", 3), (0, "out_width", 200), (0, "entry_left", 3), (1, "feature", 0), (0, "top", -1),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_is_told(compiled, described, block, field, value):
    layout = described.layout.copy()
    layout[block, FIELDS.index(field)] = value
    with pytest.raises(UserError, match="front is damaged"):
        Front(compiled, described._replace(layout=layout), 1)


def test_other_damage_is_told(compiled, described):
    wider = described.layout.copy()
    wider[0, FIELDS.index("squeezed")] += 1
    with pytest.raises(UserError, match="not as many weights"):
        Front(compiled, described._replace(layout=wider), 1)
    for changed in ({"layout": described.layout[:, 1:]}, {"layout": described.layout[:0]}, {"outputs": []}):
        with pytest.raises(UserError, match="front is damaged"):
            Front(compiled, described._replace(**changed), 1)


def test_a_damaged_file_is_told(tmp_path, described):
    path = tmp_path / "front.npz"
    np.savez(path, **{**described._asdict(), "outputs": np.array(described.outputs)})
    again = blocks.read_front(path)
    assert again.outputs == described.outputs and isinstance(again, Description)
    for field in ("layout", "weights", "expected"):
        np.testing.assert_array_equal(getattr(again, field), getattr(described, field))
    whole = path.read_bytes()
    for content in (whole[:-200], whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            blocks.read_front(path)
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        blocks.read_front(path)


def test_it_is_computed_only_on_the_cpu_that_raced_it_and_with_a_compiler(monkeypatch, tmp_path, compiled, described):
    np.savez(tmp_path / "front.npz", **{**described._asdict(), "outputs": np.array(described.outputs)})
    told = {"format": blocks.FORMAT, "file": "front.npz", "cpu": blocks.cpu(), "precisions": compiled.precisions}
    engine = tmp_path / "engine.xml"
    assert blocks.front_of(engine, {"backend": {}}, 1) == (None, None)
    first, who = blocks.front_of(engine, {"backend": {"front": told}}, 1)
    assert who == compiled_library.COMPILED and first.shapes == described.shapes
    made = [first, first.another(), first.another()]
    assert len(set(map(id, made))) == 3 and {one.picture for one in made} == {described.picture}
    for field, other, reason in (
        ("cpu", {"model": "another"}, blocks.OTHER_CPU),
        ("format", 0, blocks.OTHER_FORMAT),
        ("precisions", ["f64", "f64"], blocks.OTHER_COMPILER),
    ):
        assert blocks.front_of(engine, {"backend": {"front": {**told, field: other}}}, 1) == (None, reason)
    with pytest.raises(UserError, match="is damaged"):
        blocks.front_of(engine, {"backend": {"front": {**told, "file": None}}}, 1)
    monkeypatch.setattr(blocks, "front_library", lambda: None)
    assert blocks.front_of(engine, {"backend": {"front": told}}, 1) == (None, blocks.NO_LIBRARY)
    monkeypatch.setattr(blocks, "front_library", lambda: compiled)
    monkeypatch.setattr(blocks, "FARTHEST", 0.0)
    assert blocks.front_of(engine, {"backend": {"front": told}}, 1) == (None, blocks.WRONG)


def test_there_is_none_where_the_system_does_not_allow_it(monkeypatch):
    blocks.front_library.cache_clear()
    monkeypatch.setattr(blocks, "host_library", lambda *_: SimpleNamespace(allowed=lambda: 0))
    assert blocks.front_library() is None
    blocks.front_library.cache_clear()


def test_swish_is_the_engines(compiled):
    """The polynomial in front.cpp is that of engines/openvino/swish.py in another variable."""
    swish = pytest.importorskip("effedge.engines.openvino.swish")
    text = (blocks.SOURCE.folder / blocks.SOURCE.main).read_text()
    numbers = text.split("MINUS_H[] = {")[1].split("}")[0].replace("f", "").split(",")
    t = np.linspace(0, swish.FINEST.end, 200)
    inner = np.polynomial.polynomial.polyval(2 * t / swish.FINEST.end - 1, [float(number) for number in numbers])
    np.testing.assert_allclose(-inner, np.polynomial.polynomial.polyval(t, [0, *swish.FINEST.coefficients]), atol=2e-6)
