"""Tests the timing cache's file: its name, when it is loaded, and that it is written back."""

import pytest

from effedge.engines.gpu import Gpu
from effedge.engines.targets import TARGETS
from effedge.engines.tensorrt import timing_cache

ORIN = Gpu("Orin (nvgpu)", "8.7", 30697, True)


class Cache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content


class Config:
    """A builder's config that takes what begins with b"ours", as TensorRT takes what is of its version and GPU."""

    def __init__(self):
        self.taken = None

    def create_timing_cache(self, content):
        return None if content.startswith(b"damaged") else Cache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if cache.content and not cache.content.startswith(b"ours"):
            return False
        self.taken = cache
        return True

    def get_timing_cache(self):
        return self.taken


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return timing_cache.cache_file("10.3.0", ORIN, TARGETS["jetson-orin"])


def test_the_file_says_version_gpu_and_target(path, tmp_path):
    assert path == tmp_path / "effedge" / "timing" / "tensorrt_10.3.0_Orin-nvgpu-_8.7_jetson-orin.cache"


def test_without_xdg_it_is_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        timing_cache.cache_file("8.5.2", ORIN, TARGETS["jetson-orin-jp5"]).parent.parent == tmp_path / ".cache/effedge"
    )


@pytest.mark.parametrize(
    ("content", "taken", "held"),
    [(None, False, b""), (b"ours 1", True, b"ours 1"), (b"of another GPU", False, b""), (b"damaged", False, b"")],
)
def test_what_is_not_of_this_gpu_begins_anew(path, content, taken, held):
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    config = Config()
    assert timing_cache.attach(config, path) is taken
    assert config.taken.content == held


def test_what_the_build_added_is_there_the_next_time(path):
    config = Config()
    timing_cache.attach(config, path)
    config.taken.content = b"ours and more"
    assert timing_cache.keep(config, path) is None
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # and no temporary file
    assert timing_cache.attach(Config(), path)


def test_a_cache_that_cannot_be_written_is_said_and_no_error(path):
    path.parent.parent.mkdir()
    path.parent.write_text("a file where the folder should be")
    config = Config()
    timing_cache.attach(config, path)
    assert "cannot write" in timing_cache.keep(config, path)
