"""Rounds numbers to FP8 E4M3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"; ONNX's FLOAT8E4M3FN).

A sign, 4 bits of exponent, 3 of mantissa: 448 is the largest number, 2^-6 the smallest with full precision. Rounding
errs by at most a sixteenth of the number itself, wherever between them it lies. So a scale decides
nothing but where 448 is: it is taken from the largest magnitude, and no threshold is searched, as clipping wins
nothing. For the same reason activations get HEADROOM: two of the fifteen powers of two, which no value misses, hold
what other images reach. (EfficientDet-D0 on digits, ranges of 32 images, 16 others to judge: SQNR at the last layers
35.5 dB on average and 24.1 at least without it, 38.1 and 31.0 with it.)
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from effedge.calibration.fp16.quantized import rounded_scale

E4M3 = ml_dtypes.float8_e4m3fn
LARGEST = 448.0
LARGEST_SCALE = 65504.0  # of float16
HEADROOM = 4.0


def e4m3_scale(amax: np.ndarray | float) -> np.ndarray:
    """Returns the scales for the largest magnitudes, float32: amax / 448, rounded to a float16 number, as the scales
    are float16 in the end (fp16/quantized.py). A magnitude of 0 gets scale 1, as any scale would do."""
    scale = np.minimum(np.asarray(amax, np.float32) / np.float32(LARGEST), np.float32(LARGEST_SCALE))
    with np.errstate(over="ignore"):  # of the number behind the largest
        return np.where(scale > 0, rounded_scale(scale), np.float32(1))


def activation_scale(amax: float) -> float:
    """Returns the scale of an activation with the largest magnitude `amax` on the calibration data."""
    return float(e4m3_scale(HEADROOM * amax))


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """Rounds to the nearest E4M3 number, half to even; what lies beyond 448 becomes 448, as ONNX's QuantizeLinear has
    it."""
    return np.clip(values, -LARGEST, LARGEST).astype(E4M3)


def quantize_weight(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Rounds weights to E4M3; returns them and the float32 scale of each index of `axis`."""
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != axis)
    scale = e4m3_scale(np.abs(weight).max(axis=others))
    shape = [-1 if dimension == axis else 1 for dimension in range(weight.ndim)]
    return to_e4m3(weight / scale.reshape(shape)), scale
