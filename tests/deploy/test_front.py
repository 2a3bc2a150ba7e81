"""The front in C++ against NumPy, for this CPU and without what this CPU has; and where there is none to be had."""

import ctypes
import mmap
import multiprocessing
import os
import subprocess
import threading

import numpy as np
import pytest
from front_cases import expecting, random_front, reference

from deploy import front, host_library
from deploy.cli import UserError
from deploy.front import EXPANSION, FIELDS, NONE, STEM, Description, Front, FrontLibrary, distance

# (entry, channels, kernel, stride, squeezed, out_channels, feature) of each block
CASES = {
    "d0": (96, 128, [(STEM, 32, 3, 1, 8, 16, 0), (EXPANSION, 96, 3, 2, 4, 24, 0), (EXPANSION, 144, 3, 1, 6, 24, 1)]),
    "5x5": (64, 64, [(STEM, 32, 5, 1, 8, 40, 1), (EXPANSION, 240, 5, 2, 10, 40, 0), (EXPANSION, 80, 5, 1, 10, 40, 1)]),
    "no expansion": (50, 70, [(STEM, 40, 3, 1, 10, 24, 0), (NONE, 0, 3, 1, 6, 24, 1), (NONE, 0, 5, 1, 3, 112, 1)]),
    "odd sizes": (37, 75, [(STEM, 33, 3, 1, 1, 17, 0), (EXPANSION, 50, 5, 1, 2, 17, 1), (EXPANSION, 8, 3, 2, 2, 9, 1)]),
    "narrow": (200, 32, [(STEM, 48, 3, 1, 12, 24, 0), (EXPANSION, 144, 3, 1, 6, 24, 1)]),
    "deep": (34, 34, [(STEM, 56, 3, 1, 14, 200, 0), (EXPANSION, 100, 3, 1, 8, 130, 1)]),
    "stride in the first": (70, 66, [(STEM, 32, 3, 2, 8, 16, 1)]),
}
# How far the numbers may be from float64's, in root mean squares: of bfloat16 and FP16, or of swish's polynomial alone.
NEAR = {"bf16": 0.012, "f16": 0.012, "f32": 0.004}
VARIANTS = {
    "this CPU": ["-O3", "-march=native"],
    "without AMX": ["-O2", "-march=native", "-mno-amx-tile", "-mno-amx-bf16"],
    "without FP16": ["-O2", "-march=native", "-DFLOAT_ONLY"],
    "any CPU": ["-O2", "-Wall", "-Wextra", "-Werror"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def library(request, tmp_path_factory):
    """Compiled for these tests, whatever the user's cache has."""
    flags = VARIANTS[request.param]
    if "AMX" in request.param and os.uname().machine != "x86_64":
        pytest.skip("AMX is of x86")
    path = tmp_path_factory.mktemp("front") / "front.so"
    try:
        command = [*host_library.compiler(), *flags, *front.SOURCE.flags, "-shared", "-fPIC", "-o", str(path)]
    except UserError as reason:
        pytest.skip(str(reason))
    subprocess.run([*command, str(host_library.HERE / front.SOURCE.main)], check=True)
    return FrontLibrary(path)


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
    wrong = []

    def repeat(index):
        for _ in range(20):
            found = fronts[index](pictures[index])
            wrong.extend(name for name in found if not np.array_equal(found[name], expected[index][name]))

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


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


@pytest.mark.parametrize("factor", [1e4, np.nan])
def test_numbers_that_fp16_does_not_hold_are_told(library, factor):
    description = random_front(np.random.default_rng(7), *CASES["stride in the first"])
    made = Front(library, description._replace(weights=description.weights * np.float32(factor)), 2)
    if library.vector_precision == "f32" and np.isfinite(factor):
        assert all(np.isfinite(array).all() for array in made(picture_of(description)[None]).values())
        return
    with pytest.raises(UserError, match="larger than FP16 holds .* --front off"):
        made(picture_of(description)[None])


@pytest.fixture
def described():
    description = random_front(np.random.default_rng(6), *CASES["narrow"])
    return expecting(description, front.sample_picture(description.picture))


@pytest.fixture
def compiled():
    found = front.front_library()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def test_one_that_gives_something_else_is_not_taken(compiled, described):
    assert front.checked_front(compiled, described, 2) is not None
    large = described._replace(weights=described.weights * np.float32(1e4))
    assert front.checked_front(compiled, large, 1) is None
    other = described._replace(weights=np.where(described.weights > 2, 0, described.weights).astype(np.float32))
    assert front.checked_front(compiled, other, 2) is None
    assert front.checked_front(compiled, described._replace(expected=described.expected[1:]), 2) is None


def test_pictures_of_another_size_are_refused(compiled, described):
    made = Front(compiled, described, 1)
    for pictures in (np.zeros((1, 32, 200, 3), np.uint8), np.zeros((1, *described.picture), np.float32)):
        with pytest.raises(ValueError, match="not uint8"):
            made(pictures)


def damaged(described):
    column = FIELDS.index("squeezed")
    wider = described.layout.copy()
    wider[0, column] += 1
    narrower = described.layout.copy()
    narrower[:, FIELDS.index("width")] = 8
    return {
        "not as many weights": described._replace(layout=wider),
        "damaged": described._replace(layout=described.layout[:, 1:]),
        "front is damaged": described._replace(outputs=[]),
        "is damaged": described._replace(layout=narrower),
    }


@pytest.mark.parametrize("reason", ["not as many weights", "damaged", "front is damaged", "is damaged"])
def test_a_damaged_one_is_told(compiled, described, reason):
    with pytest.raises(UserError, match=reason):
        Front(compiled, damaged(described)[reason], 1)


def test_a_damaged_file_is_told(tmp_path, described):
    path = tmp_path / "front.npz"
    np.savez(path, **{**described._asdict(), "outputs": np.array(described.outputs)})
    again = front.read_front(path)
    assert again.outputs == described.outputs and isinstance(again, Description)
    for field in ("layout", "weights", "expected"):
        np.testing.assert_array_equal(getattr(again, field), getattr(described, field))
    whole = path.read_bytes()
    for content in (whole[:-200], whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            front.read_front(path)
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        front.read_front(path)


def test_it_is_computed_only_on_the_cpu_that_raced_it_and_with_a_compiler(monkeypatch, tmp_path, compiled, described):
    np.savez(tmp_path / "front.npz", **{**described._asdict(), "outputs": np.array(described.outputs)})
    engine, told = tmp_path / "engine.xml", {"file": "front.npz", "cpu": front.cpu()}
    assert front.fronts_of(engine, {"backend": {}}, 1) == (None, None)
    fronts, who = front.fronts_of(engine, {"backend": {"front": told}}, 1)
    assert who == host_library.COMPILED and fronts.shapes == described.shapes
    made = [fronts() for _ in range(3)]
    assert len(set(map(id, made))) == 3 and {one.picture for one in made} == {described.picture}
    elsewhere = {"backend": {"front": {**told, "cpu": {"model": "another"}}}}
    assert front.fronts_of(engine, elsewhere, 1) == (None, front.OTHER_CPU)
    monkeypatch.setattr(front, "front_library", lambda: None)
    assert front.fronts_of(engine, {"backend": {"front": told}}, 1) == (None, front.NO_COMPILER)
    monkeypatch.setattr(front, "front_library", lambda: compiled)
    monkeypatch.setattr(front, "FARTHEST", 0.0)
    assert front.fronts_of(engine, {"backend": {"front": told}}, 1) == (None, front.WRONG)


def test_swish_is_the_engines(compiled):
    """The polynomial in front.cpp is that of engines/swish.py in another variable."""
    swish = pytest.importorskip("engines.swish")
    text = (host_library.HERE / "host" / "front.cpp").read_text()
    numbers = text.split("MINUS_H[] = {")[1].split("}")[0].replace("f", "").split(",")
    t = np.linspace(0, swish.FINEST.end, 200)
    inner = np.polynomial.polynomial.polyval(2 * t / swish.FINEST.end - 1, [float(number) for number in numbers])
    np.testing.assert_allclose(-inner, np.polynomial.polynomial.polyval(t, [0, *swish.FINEST.coefficients]), atol=2e-6)
