"""The drawn digits as files: drawn once, whole or not at all, and anew when the code that draws changes."""

import pytest

from effedge.pipeline.datasets import digits, digits_cache
from effedge.pipeline.datasets.digits_cache import digits_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFEDGE_CACHE", str(tmp_path))
    return tmp_path


def test_a_split_is_drawn_once(monkeypatch):
    folder = digits_folder("detection", "calibration", size=0, count=2)
    assert (folder / "instances.json").is_file() and len(list((folder / "images").iterdir())) == 2
    monkeypatch.setattr(digits, "write_detection", None)  # calling it would fail
    assert digits_folder("detection", "calibration", size=0, count=2) == folder


def test_crops_of_another_size_are_another_folder():
    small, large = (digits_folder("classification", "val", size=size, count=3) for size in (32, 48))
    assert small != large and len(list(small.rglob("*.png"))) == len(list(large.rglob("*.png"))) == 3


def test_code_that_draws_otherwise_draws_anew(monkeypatch):
    before = digits_folder("detection", "val", size=0, count=1)
    monkeypatch.setattr(digits_cache, "sha256", lambda path: "0" * 64)
    assert digits_folder("detection", "val", size=0, count=1) != before


def test_an_interrupted_drawing_leaves_nothing(monkeypatch, cache):
    def interrupted(folder, *_):
        (folder / "images").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "write_detection", interrupted)
    with pytest.raises(KeyboardInterrupt):
        digits_folder("detection", "val", size=0, count=1)
    assert not list(cache.iterdir())
