"""The compiled letterbox and NMS against Pillow and NumPy, and machines on which they cannot be compiled."""

import multiprocessing
import os
import shutil
import subprocess

import numpy as np
import pytest

from effedge import Detector
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import user_cache
from effedge.deploy.image import preprocess
from effedge.deploy.image.preprocess import compiled_letterbox, letterbox, preparation
from effedge.deploy.image.resample import FILTERS
from effedge.deploy.native import compiled_library
from effedge.deploy.native.compiled_library import library_path
from effedge.deploy.native.letterbox_nms import library
from tests.deploy.kernel_cases import FILL, candidates, letterbox_cases, reference

LETTERBOX = {"size": [64, 48], "resize": "letterbox", "interpolation": "bilinear", "fill": list(FILL)}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The library, compiled for these tests whatever the user's cache has."""
    try:
        compiled_library.find_compiler()
    except UserError as reason:
        pytest.skip(str(reason))
    path = tmp_path_factory.mktemp("native") / "letterbox_nms.so"
    compiled_library.compile_library(library.SOURCE, path)
    return library.LetterboxNms(path)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache, empty; nothing has been loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.load_letterbox_nms.cache_clear()
    yield tmp_path / "cache" / "effedge"
    library.load_letterbox_nms.cache_clear()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_letterbox_gives_pillows_pixels_to_the_last_bit(compiled, monkeypatch, large, seed):
    monkeypatch.setattr(preprocess, "LARGE", 0 if large else 1 << 60)  # by two threads, or by one
    for image, size, expected in letterbox_cases(seed, 150):
        prepared = compiled_letterbox(compiled, image, size, FILL)
        np.testing.assert_array_equal(prepared.pixels, expected.pixels)
        assert prepared[1:] == expected[1:]


def test_a_image_that_is_a_view_of_another(compiled):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    for view in (image[10:70, 20:80], image[::-1], image.transpose(1, 0, 2), image[..., ::-1]):
        expected = letterbox(view, (64, 64), FILL, FILTERS["bilinear"])
        np.testing.assert_array_equal(compiled_letterbox(compiled, view, (64, 64), FILL).pixels, expected.pixels)


def test_nothing_is_read_behind_an_image(compiled):
    """The image ends where the memory does, before a page that may not be read."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + page), page, 0):
        pytest.skip("memory cannot be protected here")
    for height, width in ((7, 31), (1, 1), (30, 40), (1, 400)):
        count = 3 * height * width
        image = np.frombuffer(memory, np.uint8, count, page - count).reshape(height, width, 3)
        assert compiled_letterbox(compiled, image, (32, 32), FILL).pixels.shape == (32, 32, 3)


def test_boxes_are_those_that_numpy_chooses(compiled):
    random, kept_at_all = np.random.default_rng(0), 0
    for _ in range(1500):
        count = int(random.choice([0, 1, 2, 60, 300, 1000]))
        boxes, scores, classes = candidates(random, count)
        size = random.integers(1, 513, 2).astype(np.int32)
        threshold, iou = float(random.choice([0, 0.05, 0.3])), float(random.choice([0.3, 0.5, 0.7]))
        most = int(random.choice([1, 10, 100, 1000]))
        expected = reference(boxes, scores, classes, size, threshold, iou, most)
        (width, height), options = size, {"threshold": threshold, "iou": iou, "max_detections": most}
        for kind in (np.int32, np.int64):  # of the classes, as backends give them
            kept = compiled.choose_boxes(boxes, scores, classes.astype(kind), (height, width), **options)
            assert kept.tolist() == expected.tolist()
        kept_at_all += len(expected)
    assert kept_at_all > 15_000


@pytest.mark.parametrize("shorter", ["boxes", "scores", "classes", "sides", "flat"])
def test_candidates_of_different_lengths_are_refused(compiled, shorter):
    boxes, scores, classes = candidates(np.random.default_rng(0), 50)
    given = {
        "boxes": (boxes[:3], scores, classes), "scores": (boxes, scores[:3], classes),
        "classes": (boxes, scores, classes[:3]), "sides": (boxes[:, :2], scores, classes),
        "flat": (boxes, scores[:, None], classes),
    }  # fmt: skip
    with pytest.raises(UserError, match=r"expected \[K,4\], \[K\], \[K\]"):
        compiled.choose_boxes(*given[shorter], (64, 64), 0.0, 0.5, 100)


def test_what_the_library_cannot_hold_is_refused(compiled):
    boxes, scores, classes = candidates(np.random.default_rng(0), 50)
    with pytest.raises(UserError, match="gives the class 4000000000"):
        compiled.choose_boxes(boxes, scores, np.full(50, 4_000_000_000), (64, 64), 0.0, 0.5, 100)
    with pytest.raises(UserError, match="max_detections=-1"):
        compiled.choose_boxes(boxes, scores, classes, (64, 64), 0.0, 0.5, -1)
    assert len(compiled.choose_boxes(boxes, scores, classes, (64, 64), np.nan, 0.5, 100)) == 0


def test_a_letterbox_of_wrong_arrays_is_refused(compiled):
    image, out = np.zeros((20, 30, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    for wrong in (image[..., 0], image[:0], image.astype(np.float32), image[::-1], np.zeros((20, 30, 4), np.uint8)):
        with pytest.raises(ValueError, match="array"):
            compiled.letterbox(wrong, out, (21, 32), FILL, 0, 32)
    for resized, start, stop in (
        ((33, 32), 0, 32),
        ((21, 33), 0, 32),
        ((0, 9), 0, 32),
        ((9, 9), 0, 33),
        ((9, 9), 5, 4),
    ):
        with pytest.raises(ValueError, match="not in a letterbox"):
            compiled.letterbox(image, out, resized, FILL, start, stop)


def test_it_is_compiled_once_and_kept(compiled, cache, monkeypatch):
    assert library.load_letterbox_nms() is not None
    [kept] = cache.iterdir()
    library.load_letterbox_nms.cache_clear()
    monkeypatch.setattr(compiled_library, "find_compiler", lambda: pytest.fail("compiled again"))
    assert library.load_letterbox_nms() is not None
    assert [kept] == list(cache.iterdir())


def test_the_users_cache_is_where_xdg_or_the_home_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (None, "", "relative/folder"):
        if folder is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", folder)
        assert user_cache() == tmp_path / ".cache" / "effedge"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without a home
    with pytest.raises(UserError, match="no home folder: set XDG_CACHE_HOME"):
        user_cache()


def test_another_cpu_compiles_anew(monkeypatch):
    here = library_path(library.SOURCE)
    monkeypatch.setattr(compiled_library, "cpu", lambda: {"model": "another", "abilities": "fpu"})
    assert library_path(library.SOURCE) != here


def without_compiler(monkeypatch, cache, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def unwritable(monkeypatch, cache, tmp_path):
    cache.parent.write_text("a file where the folder would be")


def wrong_compiler(monkeypatch, cache, tmp_path):
    monkeypatch.setenv("CXX", "false")


def missing_compiler(monkeypatch, cache, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "nowhere"))


def wrong_numbers(monkeypatch, cache, tmp_path):
    """The compiled letterbox rounds in another way than Pillow."""
    for folder in ("letterbox_nms", "cuda"):
        shutil.copytree(str(library.SOURCE.folder.parent / folder), str(tmp_path / folder))
    header = tmp_path / "cuda" / "letterbox.h"
    header.write_text(header.read_text().replace("FRACTION_BITS = 22", "FRACTION_BITS = 21"))
    monkeypatch.setattr(library, "SOURCE", library.SOURCE._replace(folder=tmp_path / "letterbox_nms"))


@pytest.mark.parametrize("spoil", [without_compiler, unwritable, wrong_compiler, missing_compiler, wrong_numbers])
def test_where_it_cannot_be_compiled_pillow_and_numpy_do_it(compiled, build, cache, monkeypatch, tmp_path, spoil):
    engine = build(batch=(1, 1, 1))
    spoil(monkeypatch, cache, tmp_path)
    assert library.load_letterbox_nms() is None
    assert preparation(LETTERBOX).func is letterbox
    image = np.zeros((80, 60, 3), np.uint8)
    image[20:40, 10:30, 0] = 255
    [detections] = Detector(engine)([image])
    assert detections.labels == ["red"]
    if cache.is_dir():
        assert all(path.suffix == ".failed" for path in cache.iterdir())  # nothing half-made


def test_a_detector_finds_the_same_either_way(compiled, build, monkeypatch):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (int(h), int(w), 3), np.uint8) for h, w in random.integers(5, 200, (30, 2))]
    engine, results = build(), []
    for which in (compiled, None):
        for module in ("effedge.deploy.runtime.detector", "effedge.deploy.image.preprocess"):
            monkeypatch.setattr(f"{module}.load_letterbox_nms", lambda which=which: which)
        results.append(list(Detector(engine)(images)))
    for by_compiled, by_numpy in zip(*results):
        np.testing.assert_array_equal(by_compiled.boxes, by_numpy.boxes)
        np.testing.assert_array_equal(by_compiled.scores, by_numpy.scores)
        assert by_compiled.classes.dtype == by_numpy.classes.dtype and by_compiled.labels == by_numpy.labels
    assert sum(map(len, results[0])) > 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_a_thread_of_its_own(compiled, monkeypatch):
    monkeypatch.setattr(preprocess, "LARGE", 0)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    expected = compiled_letterbox(compiled, image, (512, 512), FILL).pixels
    process = multiprocessing.get_context("fork").Process(target=compare, args=(compiled, image, expected))
    process.start()
    process.join(20)
    assert process.exitcode == 0


def compare(compiled, image, expected):
    np.testing.assert_array_equal(compiled_letterbox(compiled, image, (512, 512), FILL).pixels, expected)


def test_the_sources_are_clean_for_any_cpu(tmp_path):
    """They compile without this CPU's instructions too, and without a warning."""
    try:
        command = compiled_library.find_compiler()
    except UserError as reason:
        pytest.skip(str(reason))
    flags = ["-O2", "-std=c++14", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    plain, source = tmp_path / "plain.so", library.SOURCE.folder / library.SOURCE.main
    subprocess.run([*command, *flags, "-o", str(plain), str(source)], check=True)
    compiled = library.LetterboxNms(plain)
    library.check_results(compiled)
    for image, size, expected in letterbox_cases(9, 60):
        np.testing.assert_array_equal(compiled_letterbox(compiled, image, size, FILL).pixels, expected.pixels)
