"""A name that a file says stays inside the folder."""

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.paths import inside


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "engine" / "sub").mkdir(parents=True)
    (tmp_path / "engine-old").mkdir()
    (tmp_path / "engine-old" / "weights").write_bytes(b"x")
    (tmp_path / "engine" / "engine.bin").write_bytes(b"x")
    return tmp_path / "engine"


@pytest.mark.parametrize(
    "name", ["engine.bin", "sub/new.bin", "./engine.bin", "a..b", "..a", "é", "a" * 255, "~", "$HOME"]
)
def test_names_inside_are_paths_in_the_folder_whether_or_not_they_exist(folder, name):
    assert inside(folder, name, "manifest.json") == folder / name


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../engine-old/weights", "sub/../../engine-old/weights", "sub/../engine.bin", "..", ".", "", "/",
        "//host/share", "a\0b", "a" * 256, "sub/" + "é" * 128, "a/" * 2001, "\ud800", None, 3, ["engine.bin"],
        {"a": 1}, 2**70, b"a",
    ],
)  # fmt: skip
def test_names_outside_and_impossible_names_are_refused_by_one_line(folder, name):
    with pytest.raises(UserError, match=r"manifest\.json names the file .*expected a file inside '.*engine'") as error:
        inside(folder, name, "manifest.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_links_may_lead_within_the_folder_but_not_out_of_it(folder, tmp_path):
    (folder / "within").symlink_to("engine.bin")
    (folder / "folder-within").symlink_to("sub")
    assert inside(folder, "within", "x") == folder / "within"
    assert inside(folder, "folder-within/file", "x") == folder / "folder-within" / "file"
    (folder / "out").symlink_to("../engine-old/weights")
    (folder / "folder-out").symlink_to(tmp_path / "engine-old")  # whose name begins with this folder's
    (folder / "twice").symlink_to("out")
    (folder / "self").symlink_to(".")
    for name in ("out", "folder-out/weights", "folder-out/new", "twice", "self"):
        with pytest.raises(UserError, match="a link that leads out"):
            inside(folder, name, "x")


def test_the_folder_may_be_a_link_or_relative(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    assert inside(tmp_path / "link", "engine.bin", "x") == tmp_path / "link" / "engine.bin"
    monkeypatch.chdir(folder)
    for here in (type(folder)(), type(folder)("sub/..")):
        assert inside(here, "engine.bin", "x").is_file()
    assert inside(type(folder)("/"), "etc/passwd", "x").is_file()


def test_a_loop_of_links_is_a_file_that_does_not_exist(folder):
    (folder / "loop").symlink_to("loop")
    path = inside(folder, "loop", "x")
    assert path == folder / "loop" and not path.is_file()
