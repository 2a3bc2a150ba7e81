"""Holds the columns of a result, which has a row for each of its parts, and turns what it is indexed with - an index,
a slice, a mask, indices - into row numbers."""

from typing import Any, Dict, List, Sequence, Union

import numpy as np

from effedge.deploy.common.cli import UserError

Indices = Union[slice, np.ndarray, Sequence[int], Sequence[bool]]


def set_columns(result: object, what: str, columns: Dict[str, Any]) -> None:
    """Sets the columns of a result, a frozen dataclass, by their names.

    Raises UserError, which says `what` was given with the columns' lengths in its {}, if these differ.
    """
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{what.format(counts)} given, expected as many of each")
    for name, column in columns.items():
        object.__setattr__(result, name, column)


def row_numbers(key: Union[int, Indices], count: int) -> Union[int, np.ndarray]:
    """Returns the row of an index, or the rows, int64 [m], of a slice, a mask (bool [count]) or indices.

    Raises IndexError for an index outside -count to count - 1, and for a mask of another length.

    >>> row_numbers(-1, 3), row_numbers([True, False, True], 3)
    (2, array([0, 2]))
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if not -count <= key < count:
            raise IndexError(f"index {key} is outside the {count} rows")
        return int(key) % count
    rows: List[int] = list(range(count))
    if isinstance(key, slice):
        return np.array(rows[key], np.int64)
    array = np.asarray(key)
    if array.dtype == bool and array.shape != (count,):
        raise IndexError(f"a mask of shape {list(array.shape)} was given, expected [{count}]")
    if array.size == 0:
        array = array.astype(np.int64)  # of an empty list NumPy makes floating-point numbers
    return np.arange(count)[array]
