"""Fixtures of the tests of heads."""

import pytest


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog\nbird\n")
    return path
