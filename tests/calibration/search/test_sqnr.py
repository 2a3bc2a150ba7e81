"""The error that INT8 makes of a tensor, from its histogram, against the tensor itself."""

import numpy as np
import pytest

from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.thresholds import INT8_MAX, least_errors, quantization_parameters, signal_to_noise


def measured(values, threshold):
    step = threshold / INT8_MAX
    error = values - np.clip(np.rint(values / step), -INT8_MAX, INT8_MAX) * step
    return 10 * np.log10((values.astype(np.float64) ** 2).sum() / (error.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_cauchy"])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_ratio_is_that_of_the_quantized_values(draw, share):
    values = getattr(np.random.default_rng(0), draw)(size=200_000).astype(np.float32)
    values = np.clip(values, -1000, 1000)
    histogram = Histogram()
    for part in np.array_split(values, 4):  # small enough that all values are counted
        histogram.add(part)
    threshold = share * histogram.amax
    assert signal_to_noise(histogram, threshold) == pytest.approx(measured(values, threshold), abs=0.5)


def test_the_least_error_is_below_that_of_the_extremes():
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    histogram = Histogram()
    for part in np.array_split(values, 4):  # small enough that all values are counted
        histogram.add(part)
    [best] = least_errors(histogram, [1.0])
    assert 0 < best < histogram.amax
    assert measured(values, best) > measured(values, histogram.amax) + 1
    assert measured(values, best) >= measured(values, 0.9 * best) - 0.1
    assert measured(values, best) >= measured(values, 1.1 * best) - 0.1


def cost(values, threshold, weight, low):
    """The squared error of INT8, clipped values weighed, value by value."""
    scale, zero_point = quantization_parameters(threshold, low)
    whole = np.clip(np.rint(values / scale) + zero_point, -128 if zero_point else -127, 127)
    errors = np.square(values - (whole - zero_point) * scale)
    return np.where(values > threshold, weight * errors, errors).sum()


@pytest.mark.parametrize("low", [None, 0.0, -0.3])
@pytest.mark.parametrize("weight", [64.0, 1.0, 1 / 16])
def test_the_threshold_of_a_weight_is_the_best_for_the_steps_that_the_tensor_has(low, weight):
    values = np.random.default_rng(0).exponential(size=60_000).astype(np.float64) + (low or 0.0)
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    [found] = least_errors(histogram, [weight], low)
    tried = [cost(values, value, weight, low) for value in np.geomspace(0.1, 1, 200) * histogram.amax]
    assert cost(values, found, weight, low) <= 1.03 * min(tried)


def test_finer_steps_leave_more_of_the_range_and_lighter_clipping_less():
    values = np.random.default_rng(0).exponential(size=60_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    symmetric, one_sided = (least_errors(histogram, [np.inf, 1.0, 1 / 64, 1 / 4096], low) for low in (None, 0.0))
    assert symmetric[0] == one_sided[0] == values.max()
    assert symmetric == sorted(symmetric, reverse=True) and len(set(symmetric)) == 4
    assert all(finer > coarser for finer, coarser in zip(one_sided[1:], symmetric[1:], strict=True))
