"""From a range to a threshold: the magnitude that INT8's 127 stands for.

Symmetric INT8 (zero point 0) as TensorRT wants it: scale = threshold / 127; values beyond the threshold clip.
"""

from __future__ import annotations

import math

import numpy as np

from calibration.histogram import Histogram
from deploy.cli import choose

# On D0 with the digits, AP of 40 validation pictures, float 0.579: 99.9999 gives 0.01, this one 0.39 with all layers in
# INT8 and 0.584 with those left out whose inputs spread too widely (quantize.LEAST_SIGNAL_TO_NOISE).
PERCENT = 99.99
INT8_MAX = 127  # -128 is not used: the range stays symmetric, and TensorRT and OpenVINO agree on it
CANDIDATES = 96  # thresholds that `least_error` tries


def squared_errors(histogram: Histogram, thresholds: np.ndarray) -> np.ndarray:
    """The summed squared error of INT8 at each threshold, on the histogram: of clipping, and of rounding.

    Rounding to a step errs by a twelfth of its square; but a value below half a step becomes 0, and errs by itself.
    """
    counts = histogram.counts.astype(np.float64)
    number, first, second = (np.cumsum(counts * histogram.centres**power) for power in (0, 1, 2))
    last = np.clip((thresholds / histogram.bin_width).astype(int), 1, len(counts)) - 1  # the bins that do not clip
    clipped = (
        (second[-1] - second[last])
        - 2 * thresholds * (first[-1] - first[last])
        + thresholds**2 * (number[-1] - number[last])
    )
    step = thresholds / INT8_MAX
    zero = np.clip((step / 2 / histogram.bin_width).astype(int), 1, len(counts)) - 1
    return clipped + second[zero] + step**2 / 12 * (number[last] - number[zero])


def least_error(histogram: Histogram) -> float:
    """The threshold with the least squared error (Sung, Shin and Hwang 2015, section 3.1)."""
    candidates = histogram.amax * np.linspace(1 / CANDIDATES, 1, CANDIDATES)
    return float(candidates[np.argmin(squared_errors(histogram, candidates))])


def signal_to_noise(histogram: Histogram, value: float) -> float:
    """The power of the values over that of INT8's error at threshold `value`, in dB."""
    power = float((histogram.counts * histogram.centres**2).sum())
    return 10 * math.log10(power / max(float(squared_errors(histogram, np.array([value]))[0]), 1e-30 * power))


METHODS = {
    # Nothing clips; a single outlier costs every other value its resolution.
    "minmax": lambda histogram: histogram.amax,
    # One value in ten thousand may clip.
    "percentile": lambda histogram: histogram.percentile(PERCENT),
    "mse": least_error,
}


def threshold(histogram: Histogram, method: str) -> float:
    """The threshold of a tensor (or of tensors that share one, merged); 0 if nothing but zeros was seen.

    Raises:
        UserError: `method` is none of METHODS.
    """
    value = METHODS[choose("method", method, METHODS)](histogram)
    # A tensor that is zero but for a handful of values has a percentile of 0: it keeps its largest value.
    return value if value > histogram.bin_width else histogram.amax
