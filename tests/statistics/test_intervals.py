"""Intervals of estimates."""

import numpy as np
import pytest
from scipy import stats
from sgdstab_fast.statistics.intervals import interval, student_quantile


def test_student_quantile_against_scipy():
    for degrees_of_freedom, tolerance in {1: 1e-12, 2: 1e-12, 3: 0.02, 5: 2e-3, 10: 1e-4, 63: 1e-6, 1000: 1e-9}.items():
        for level in (0.5, 0.95, 0.99):
            expected = stats.t.ppf((1 + level) / 2, degrees_of_freedom)
            assert abs(student_quantile(level, degrees_of_freedom) / expected - 1) < tolerance


def test_an_interval_is_as_wide_as_its_degrees_of_freedom_say():
    low, high = interval(np.array([1.0, 1.0, -np.inf]), np.array([0.1, 0.1, 0.0]), np.array([2, 2**31, 5]), 0.95)
    half = 0.1 * np.array([student_quantile(0.95, 2), student_quantile(0.95, 2**31)])
    assert np.array_equal(low, [*(1 - half), -np.inf])
    assert np.array_equal(high, [*(1 + half), -np.inf])  # what has no error is its own interval
    assert interval(2.0, 0.0, 7, 0.5) == (2.0, 2.0)
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, not 1"):
        interval(0.0, 1.0, 7, 1)


def test_what_has_an_infinite_error_may_be_anything_at_every_level():
    for level in (5e-324, 0.5, 1 - 1e-16):
        low, high = interval(np.array([1.0, 2.0, -np.inf, -np.inf]), np.array([np.inf, 0.0, np.inf, 0.0]), 5, level)
        assert low.tolist() == [-np.inf, 2.0, -np.inf, -np.inf]
        assert high.tolist() == [np.inf, 2.0, np.inf, -np.inf]
