"""Holds rounding to E4M3 against the format's definition (Micikevicius et al. 2022, table 1), decoded bit by bit."""

import numpy as np
import pytest

from effedge.calibration.fp8.e4m3 import activation_scale, e4m3_scale, quantize_weight, to_e4m3


def decode(code: int) -> float:
    """Returns the number of an E4M3 code: sign, 4 bits of exponent with bias 7, 3 of mantissa; S.1111.111 is NaN."""
    sign, exponent, mantissa = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    if (exponent, mantissa) == (15, 7):
        return float("nan")
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


NUMBERS = np.array([decode(code) for code in range(256)])


def nearest(value: float) -> int:
    """Returns the code of the nearest number; of two, the one with an even mantissa."""
    distance = np.abs(NUMBERS - np.clip(value, -448, 448))
    codes = np.flatnonzero(distance == np.nanmin(distance))
    signed = [int(code) for code in codes if bool(code & 0x80) == (np.signbit(value))]
    return next(code for code in signed if len(signed) == 1 or code % 2 == 0)


def test_numbers_are_rounded_to_the_nearest_half_to_even_and_saturate():
    assert np.nanmax(NUMBERS) == 448
    finite = np.unique(NUMBERS[np.isfinite(NUMBERS)])
    halves = (finite[1:] + finite[:-1]) / 2
    random = np.random.default_rng(0).normal(0, 1, 500) * 2.0 ** np.random.default_rng(1).integers(-12, 10, 500)
    values = np.concatenate([finite, halves, random, [449, 1e6, -1e6, np.inf]]).astype(np.float32)
    codes = to_e4m3(values).view(np.uint8)
    expected = [nearest(float(value)) for value in values]
    assert [NUMBERS[code] for code in codes] == [NUMBERS[code] for code in expected]


def test_scales_are_float16_numbers_that_put_the_largest_magnitude_at_448():
    amax = np.array([1e-9, 3e-5, 0.1, 1, 448, 1e9], np.float32)
    scales = e4m3_scale(amax)
    assert scales.tolist() == scales.astype(np.float16).astype(np.float32).tolist()
    assert scales[2:5] == pytest.approx(amax[2:5] / 448, rel=2**-11)
    assert scales[0] == np.float16(6e-8) and scales[-1] == 65504  # the ends of float16
    assert e4m3_scale(0.0) == 1


def test_activations_beyond_the_calibration_data_do_not_clip():
    scale = activation_scale(2.0)
    beyond = np.float32(3 * 2.0)
    assert to_e4m3(beyond / scale).astype(np.float32) * scale == pytest.approx(beyond, rel=1 / 16)


def test_each_output_channel_of_weights_has_its_own_scale():
    weight = np.random.default_rng(0).normal(size=(4, 8, 3, 3)).astype(np.float32)
    weight *= np.array([1e-3, 1, 50, 0], np.float32).reshape(4, 1, 1, 1)
    rounded, scale = quantize_weight(weight, 0)
    restored = rounded.astype(np.float32) * scale.reshape(4, 1, 1, 1)
    normal = np.abs(weight) > scale.reshape(4, 1, 1, 1) * 2.0**-6
    assert 0.05 < np.abs(restored[normal] / weight[normal] - 1).max() <= 1 / 16
    assert np.abs(rounded.astype(np.float32)).reshape(4, -1).max(axis=1)[:3].min() >= 447
    assert scale[3] == 1 and not restored[3].any()
