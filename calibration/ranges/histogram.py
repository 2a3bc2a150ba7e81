"""Counts magnitudes in a histogram that takes any number of values in fixed memory and never rounds them twice.

Of a large array every k-th value is counted, as k values; its smallest and its largest value are exact. A percentile of
99.999 over a hundred samples then rests on dozens of values, at a tenth of the time.

The range is a power of two and doubles when a larger value comes: then neighbouring bins are added in pairs. The bin
edges of a range are edges of every smaller power-of-two range as well. So the counts are at all times exactly those
of one pass over all counted values with the final range, in whatever order and portions the values came.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

BINS = 4096
COUNTED = 1 << 15  # values of an array, about, at most
LOWEST_EXPONENT = -100  # a range below 2**-100 is as good as zero, and its bin width would leave float32


@dataclass
class Histogram:
    """Counts of |x|: bin i holds [i, i + 1) * 2**exponent / BINS.

    `low` and `high` are the smallest and the largest x itself, 0 included.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    exponent: int = LOWEST_EXPONENT
    low: float = 0.0
    high: float = 0.0

    @property
    def amax(self) -> float:
        """The largest magnitude, exactly."""
        return max(-self.low, self.high)

    @property
    def total(self) -> int:
        """The number of values; of large arrays, rounded up to the distance of those that are counted."""
        return int(self.counts.sum())

    @property
    def bin_width(self) -> float:
        return 2.0**self.exponent / BINS

    @property
    def centres(self) -> np.ndarray:
        """The middle of every bin, float64 [BINS]."""
        return (np.arange(BINS) + 0.5) * self.bin_width

    def add(self, values: np.ndarray, first: int = 0) -> None:
        """Counts the values (float32, any shape).

        Args:
            first: another for each array, so that other positions of large arrays are counted.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("not finite")
        self._widen(max(-low, high))
        self.low, self.high = min(self.low, low), max(self.high, high)
        scale = np.float32(1.0 / self.bin_width)  # a power of two: the product is exact
        flat = values.reshape(-1)
        distance = max(1, flat.size // COUNTED) | 1  # odd: rows of pixels have even lengths, so all columns are met
        bins = (np.abs(flat[first % min(distance, flat.size) :: distance]) * scale).astype(np.intp)
        self.counts += distance * np.bincount(bins, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Adds the counts of another histogram, as if its values had come to this one."""
        self._widen(other.amax)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.counts += _halve(other.counts, self.exponent - other.exponent)

    def copy(self) -> Histogram:
        return dataclasses.replace(self, counts=self.counts.copy())

    def percentile(self, percent: float) -> float:
        """Returns the magnitude that `percent` of all values do not exceed; too large by at most one bin, never too
        small."""
        if self.total == 0:
            return 0.0
        if percent >= 100:  # the largest may not have been counted
            return self.amax
        rank = max(1, int(np.ceil(self.total * (percent / 100.0))))
        bin_index = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min((bin_index + 1) * self.bin_width, self.amax)

    def _widen(self, magnitude: float) -> None:
        """Doubles the range until it holds the magnitude."""
        exponent = max(int(np.frexp(magnitude)[1]), LOWEST_EXPONENT)  # magnitude < 2**exponent
        if exponent > self.exponent:
            self.counts = _halve(self.counts, exponent - self.exponent)
            self.exponent = exponent


def _halve(counts: np.ndarray, times: int) -> np.ndarray:
    """Returns the counts over a range that is 2**times as wide."""
    wide = np.zeros_like(counts)
    width = min(1 << times, BINS)
    wide[: BINS // width] = counts.reshape(-1, width).sum(axis=1)
    return wide
