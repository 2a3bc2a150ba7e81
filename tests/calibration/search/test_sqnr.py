"""The error that INT8 makes of a tensor, from its histogram, against the tensor itself."""

import numpy as np
import pytest

from effedge.calibration.ranges.histogram import Histogram
from effedge.calibration.ranges.thresholds import INT8_MAX, least_errors, signal_to_noise


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
