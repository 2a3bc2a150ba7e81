"""Thresholds: the cases where percentile and min-max part."""

import numpy as np
import pytest

from calibration.histogram import Histogram
from calibration.thresholds import threshold
from deploy.cli import UserError


def test_one_outlier_in_ten_million_is_clipped_by_percentile_only() -> None:
    histogram = Histogram()
    histogram.add(np.float32([100.0]))
    ones = np.ones(1_000_000, np.float32)
    for _ in range(10):
        histogram.add(ones)
    assert threshold(histogram, "minmax") == 100
    assert threshold(histogram, "percentile") <= 1 + histogram.bin_width


def test_a_tensor_of_zeros_with_few_values_keeps_its_largest() -> None:
    histogram = Histogram()
    histogram.add(np.float32([5.0]))
    histogram.add(np.zeros(10_000_000, np.float32))
    assert threshold(histogram, "percentile") == 5


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown method 'entropi'.*minmax, percentile"):
        threshold(Histogram(), "entropi")
