"""A folder on a disk that is mounted read-only, for tests that run as root."""

import os
import subprocess

import pytest


@pytest.fixture
def read_only(tmp_path):
    """A folder on a file system that is mounted read-only; its parent can be written."""
    mounted = tmp_path / "ro"
    mounted.mkdir()
    commands = (["mount", "--bind", "ro", "ro"], ["mount", "-o", "remount,ro,bind", "ro"])
    try:
        if os.geteuid() != 0 or any(
            subprocess.call(words, cwd=str(tmp_path), stderr=subprocess.DEVNULL) for words in commands
        ):
            pytest.skip("a read-only mount needs root's rights")
        yield mounted
    finally:
        subprocess.call(["umount", str(mounted)], stderr=subprocess.DEVNULL)
