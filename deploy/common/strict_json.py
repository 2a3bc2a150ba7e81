"""Parses JSON as its standard has it (RFC 8259), where Python's parser takes more.

Python reads NaN, Infinity and 1e999, which no comparison is true of, so that a limit held against them is never
exceeded. It raises RecursionError for a list in a list in a list, 1,000 deep.
"""

import json
import math
from typing import Any, Union


def parse_json(text: Union[str, bytes]) -> Any:
    """Parses a JSON text; of bytes the encoding is recognized, and a byte-order mark is skipped.

    Raises ValueError if it is none, or has a number that is not finite.

    >>> parse_json("[1, 2.5, null]")
    [1, 2.5, None]
    """
    try:
        return json.loads(text, parse_constant=finite, parse_float=finite)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def finite(text: str) -> float:
    """Converts a number of a JSON text. Raises ValueError if it is not finite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is no finite number")
    return number
