"""Code is read only where nobody else can have put it, undamaged, and for what it was made for."""

import os

import pytest

from effedge.deploy.common import trusted
from effedge.deploy.common.cli import UserError
from effedge.deploy.common.trusted import trusted_folder


@pytest.fixture
def kept(tmp_path):
    """A folder with a file that was kept for "an engine"."""
    with trusted_folder(tmp_path / "a" / "cache") as folder:
        folder.keep("file", b"content", "an engine")
    return tmp_path / "a" / "cache"


def read(path, belongs_to="an engine"):
    with trusted_folder(path, create=False) as folder:
        return folder.read("file", belongs_to)


def test_what_is_kept_is_read(kept):
    assert read(kept) == b"content"
    with trusted_folder(kept) as folder:
        folder.keep("file", b"", "an engine")
    assert read(kept) == b"" and os.listdir(str(kept)) == ["file"]


def test_of_something_else_damaged_or_missing_it_is_not(kept):
    assert read(kept, "another engine") is None
    intact = (kept / "file").read_bytes()
    for position in range(len(intact)):
        (kept / "file").write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
        assert read(kept) is None
    for length in range(len(intact)):
        (kept / "file").write_bytes(intact[:length])
        assert read(kept) is None
    (kept / "file").unlink()
    assert read(kept) is None


def test_nobody_else_may_write_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with trusted_folder(tmp_path / "cache") as folder:
            folder.keep("file", b"content", "an engine")
    finally:
        os.umask(before)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "cache" / "file").stat().st_mode & 0o777 == 0o644


def test_a_link_in_a_files_place_is_replaced_and_its_target_kept(kept, tmp_path):
    target = tmp_path / "target"
    target.write_text("the user's")
    (kept / "file").unlink()
    (kept / "file").symlink_to(target)
    assert read(kept) is None
    with trusted_folder(kept) as folder:
        folder.keep("file", b"content", "an engine")
    assert target.read_text() == "the user's" and read(kept) == b"content"


def test_a_folder_is_reached_through_its_handle(kept, tmp_path):
    with trusted_folder(kept) as folder:
        kept.rename(tmp_path / "moved")
        kept.mkdir()
        folder.keep("second", b"content", "an engine")
        assert folder.read("file", "an engine") == b"content"
    assert os.listdir(str(kept)) == [] and sorted(os.listdir(str(tmp_path / "moved"))) == ["file", "second"]


def test_a_system_that_cannot_show_it_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(trusted.os, "supports_dir_fd", set())
    with pytest.raises(UserError, match="cannot show that nobody else writes there"), trusted_folder(tmp_path):
        pass
