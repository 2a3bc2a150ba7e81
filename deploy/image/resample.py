"""Names Pillow's filters, and computes the weights of its bilinear resize (`libImaging/Resample.c`), for the letterbox
kernel.

Each pixel of the result is a weighted sum of neighbours along one axis; when an image shrinks, the triangle of weights
widens with it (antialiasing). Pillow computes the weights as doubles and sums pixels with them in fixed point, of 22
fractional bits; so does this, to the last bit.
"""

from functools import lru_cache
from typing import Any, Tuple

import numpy as np
from PIL import Image

FRACTION_BITS = 22
# Pillow has the enumeration from 9.1 on, and before it its members in the module itself.
_RESAMPLING: Any = getattr(Image, "Resampling", Image)
FILTERS = {"bilinear": _RESAMPLING.BILINEAR, "bicubic": _RESAMPLING.BICUBIC}  # by the spec's "interpolation"


@lru_cache(maxsize=64)
def resample_table(length: int, new_length: int) -> Tuple[np.ndarray, int]:
    """Computes the table that letterbox.h describes, from `length` pixels to `new_length`.

    Returns the table, int32 [new_length * (1 + taps)], and `taps`, the number of pixels in each sum.

    >>> table, taps = resample_table(4, 2)
    >>> table[:2], taps
    (array([0, 1], dtype=int32), 3)
    """
    scale = length / new_length
    stretch = max(scale, 1.0)  # half the triangle's width
    centres = (np.arange(new_length) + 0.5) * scale
    first = np.maximum((centres - stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + stretch + 0.5).astype(np.int64), length)
    taps = int((end - first).max())
    # All sums have the same number of pixels: the pixels beyond its own weigh nothing in a shorter one.
    start = np.minimum(first, length - taps)
    pixels = start[:, None] + np.arange(taps)
    weights = np.maximum(1.0 - np.abs((pixels - centres[:, None] + 0.5) * (1.0 / stretch)), 0.0)
    weights[(pixels < first[:, None]) | (pixels >= end[:, None])] = 0.0
    totals = np.zeros(new_length)
    for tap in range(taps):  # one after the other, as Pillow adds them: np.sum would round differently
        totals += weights[:, tap]
    fixed = (0.5 + weights / totals[:, None] * (1 << FRACTION_BITS)).astype(np.int32)
    table = np.concatenate([start.astype(np.int32), fixed.ravel()])
    table.flags.writeable = False  # the cache's
    return table, taps
