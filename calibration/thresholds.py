"""From a range to a threshold: the magnitude that INT8's 127 stands for.

Symmetric INT8 (zero point 0) as TensorRT wants it: scale = threshold / 127; values beyond the threshold clip.
"""

from __future__ import annotations

from calibration.histogram import Histogram
from deploy.cli import choose

# 99.99, the customary one, is fine on Lite0 (21.4 dB at the logits, min-max 20.9), but on a network with heavy tails
# (D0 with random weights) it clips what carries the signal: 1.1 dB, min-max 12.5. This one gives 21.7 and 12.6.
PERCENT = 99.9999
METHODS = {
    # Nothing clips; a single outlier costs every other value its resolution.
    "minmax": lambda histogram: histogram.amax,
    # One value in a million may clip.
    "percentile": lambda histogram: histogram.percentile(PERCENT),
}
INT8_MAX = 127  # -128 is not used: the range stays symmetric, and TensorRT and OpenVINO agree on it


def threshold(histogram: Histogram, method: str) -> float:
    """The threshold of a tensor (or of tensors that share one, merged); 0 if nothing but zeros was seen.

    Raises:
        UserError: `method` is none of METHODS.
    """
    value = METHODS[choose("method", method, METHODS)](histogram)
    # A tensor that is zero but for a handful of values has a percentile of 0: it keeps its largest value.
    return value if value > histogram.bin_width else histogram.amax
