"""Computes a threshold from a range: the magnitude up to which INT8 holds a tensor; larger values clip.

Symmetric INT8 (zero point 0), as TensorRT wants it, spends as many steps on negative values as on positive ones:
scale = threshold / 127. An activation function's output reaches far to one side only. Where the target takes zero
points, all 256 steps then lie between the lowest value and the threshold (Krishnamoorthi 2018, section 2.1): steps of
half the size for a ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from effedge.calibration.ranges.histogram import Histogram
from effedge.deploy.common.cli import choose

PERCENT = 99.99
INT8_MAX = 127  # -128 is not used: the range stays symmetric, and TensorRT and OpenVINO agree on it
INT8_MIN = -128  # of the image's levels, and where a zero point may lie
UINT8_MAX = 255  # steps between the ends, where a zero point says which of them is 0
CANDIDATES = 192  # thresholds that `least_errors` tries, each 2^(1 / CANDIDATES_PER_HALF) of the one before
CANDIDATES_PER_HALF = 24
ENTROPY_CANDIDATES = 200  # thresholds that `least_divergence` tries
LEAST_SHARE = 1e-7
ONE_SIDED = 0.5  # of the threshold: for a lower value a zero point would save less than a quarter of the step


class QuantizationParameters(NamedTuple):
    """The INT8 form of a tensor: x is scale * (q - zero_point), q in -128..127."""

    scale: float
    zero_point: int = 0


def quantization_parameters(threshold: float, low: float | None = None) -> QuantizationParameters:
    """Returns scale and zero point of a tensor that INT8 holds up to a threshold.

    Args:
        low: the tensor's lowest value, at most 0, where zero points are allowed; None for symmetric INT8.

    >>> cases = ((127.0, None), (127.0, -100.0), (255.0, 0.0), (254.0, -1.0))
    >>> [tuple(quantization_parameters(*case)) for case in cases]
    [(1.0, 0), (1.0, 0), (1.0, -128), (1.0, -127)]
    """
    if low is None or low < -threshold * ONE_SIDED:
        return QuantizationParameters(threshold / INT8_MAX)
    scale = (threshold - low) / UINT8_MAX
    return QuantizationParameters(scale, INT8_MIN + round(-low / scale))


def squared_errors(
    histogram: Histogram, thresholds: np.ndarray, low: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the summed squared error of INT8 at each threshold, on the histogram: that of clipping, and of rounding.

    Rounding to a step errs by a twelfth of its square; but a value below half a step becomes 0, so its error is itself.

    Args:
        low: as of `quantization_parameters`.
    """
    counts = histogram.counts.astype(np.float64)
    number, first, second = (np.cumsum(counts * histogram.centres**power) for power in (0, 1, 2))
    last = np.clip((thresholds / histogram.bin_width).astype(int), 1, len(counts)) - 1  # the bins that do not clip
    clipped = (
        (second[-1] - second[last])
        - 2 * thresholds * (first[-1] - first[last])
        + thresholds**2 * (number[-1] - number[last])
    )
    step = np.array([quantization_parameters(value, low).scale for value in thresholds])
    zero = np.clip((step / 2 / histogram.bin_width).astype(int), 1, len(counts)) - 1
    return clipped, second[zero] + step**2 / 12 * (number[last] - number[zero])


def least_errors(histogram: Histogram, clipping: Sequence[float], low: float | None = None) -> list[float]:
    """Returns the threshold with the least squared error (Sung, Shin and Hwang 2015, section 3.1) for each weight of
    the clipping's: how much worse it is than as much of the rounding's.

    Args:
        clipping: weights; infinity for the largest magnitude, with which nothing clips.
        low: as of `quantization_parameters`.
    """
    candidates = histogram.amax * 2.0 ** (-np.arange(CANDIDATES) / CANDIDATES_PER_HALF)
    candidates = candidates[candidates > histogram.bin_width]
    if not len(candidates):
        return [histogram.amax] * len(clipping)
    clipped, rounded = squared_errors(histogram, candidates, low)
    return [
        float(candidates[np.argmin(weight * clipped + rounded)]) if math.isfinite(weight) else histogram.amax
        for weight in clipping
    ]


def signal_to_noise(histogram: Histogram, value: float) -> float:
    """Returns the power of the values over that of INT8's error at threshold `value`, in dB."""
    power = float((histogram.counts * histogram.centres**2).sum())
    clipped, rounded = squared_errors(histogram, np.array([value]))
    error = float(clipped[0] + rounded[0])
    return 10 * math.log10(power / max(error, 1e-30 * power))


def at_percentile(histogram: Histogram, percent: float) -> float:
    """Returns the threshold that `percent` of the values do not exceed; the largest magnitude where that threshold is
    as good as 0, as of a tensor that is zero but for a handful of values."""
    value = histogram.percentile(percent)
    return value if value > histogram.bin_width else histogram.amax


def least_divergence(histogram: Histogram) -> float:
    """Returns the threshold whose 128 steps keep most of the distribution: the least Kullback-Leibler divergence
    (Migacz 2017, "8-bit Inference with TensorRT", the entropy calibration).

    The clipped values are added to the last bin that stays. Each step spreads its values evenly over those of its bins
    that held any.
    """
    if histogram.amax == 0:
        return 0.0
    counts = histogram.counts[: int(histogram.amax / histogram.bin_width) + 1].astype(np.float64)
    counts[0] = 0  # exact zeros and next to them: INT8 holds them at any threshold
    levels = INT8_MAX + 1
    best, bins = np.inf, len(counts)
    for stop in np.unique(np.linspace(min(levels, len(counts)), len(counts), ENTROPY_CANDIDATES).astype(int)):
        kept = counts[:stop].copy()
        held = kept > 0
        step = np.arange(stop) * levels // stop
        mass, members = np.bincount(step, kept, levels), np.bincount(step, held, levels)
        spread = np.where(held, (mass / np.maximum(members, 1))[step], 0)
        kept[-1] += counts[stop:].sum()
        divergence = _divergence(kept, spread)
        if divergence < best:
            best, bins = divergence, int(stop)
    return min(bins * histogram.bin_width, histogram.amax)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Returns sum p log(p / q) of two histograms. Where q lacks values that p has, as in the bin that the clipped
    values join, q gets next to nothing, so that it costs much."""
    if p.sum() == 0 or q.sum() == 0:
        return math.inf
    held = p > 0
    p = p[held] / p.sum()
    q = np.maximum(q[held] / q.sum(), LEAST_SHARE)
    return float((p * np.log(p / q)).sum())


AUTO = "auto"  # by the error that each threshold makes at the model's outputs (search/threshold_search.py)
HISTOGRAM_METHODS = {
    # Nothing clips; a single outlier costs every other value its resolution.
    "minmax": lambda histogram, low: histogram.amax,
    # One value in ten thousand may clip.
    "percentile": lambda histogram, low: at_percentile(histogram, PERCENT),
    "entropy": lambda histogram, low: least_divergence(histogram),
    "mse": lambda histogram, low: least_errors(histogram, [1.0], low)[0],
}
METHODS = (AUTO, *HISTOGRAM_METHODS)


def threshold(histogram: Histogram, method: str, low: float | None = None) -> float:
    """Returns the threshold of a tensor (or of tensors that share one, merged); 0 if all values are zeros.

    Args:
        low: as of `quantization_parameters`.

    Raises:
        UserError: `method` is none of HISTOGRAM_METHODS.
    """
    return HISTOGRAM_METHODS[choose("method", method, HISTOGRAM_METHODS)](histogram, low)
