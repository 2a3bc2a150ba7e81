"""Rows are chosen as NumPy chooses them."""

import numpy as np
import pytest

from effedge.deploy.image.indexing import row_numbers


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(1, 3), [1, 2]), (slice(None), [0, 1, 2, 3]), (slice(None, None, -1), [3, 2, 1, 0]), (slice(9, 12), []),
        ([0, 2], [0, 2]), ((3, 3), [3, 3]), ([-1, -4, 0], [3, 0, 0]), ([], []), (np.array([], float), []),
        (np.array([1, 0]), [1, 0]), (np.uint8([3]), [3]),
        ([True, False, False, True], [0, 3]), (np.array([False] * 4), []),
    ],
    ids=str,
)  # fmt: skip
def test_rows_are_those_of_numpy(key, expected):
    rows = row_numbers(key, 4)
    assert rows.tolist() == expected and rows.dtype == np.int64


@pytest.mark.parametrize(("key", "row"), [(0, 0), (3, 3), (-1, 3), (-4, 0), (np.int64(2), 2)])
def test_an_index_is_one_row(key, row):
    assert row_numbers(key, 4) == row and isinstance(row_numbers(key, 4), int)


@pytest.mark.parametrize("key", [4, -5, [4], [True, False], np.zeros((4, 1), bool), [0.5], "a"])
def test_what_is_no_row_is_an_index_error(key):
    with pytest.raises(IndexError):
        row_numbers(key, 4)
