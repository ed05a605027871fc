"""Intervals of estimates."""

from scipy import stats
from sgdstab_fast.statistics.intervals import student_quantile


def test_student_quantile_against_scipy():
    for degrees_of_freedom, tolerance in {1: 1e-12, 2: 1e-12, 3: 0.02, 5: 2e-3, 10: 1e-4, 63: 1e-6, 1000: 1e-9}.items():
        for level in (0.5, 0.95, 0.99):
            expected = stats.t.ppf((1 + level) / 2, degrees_of_freedom)
            assert abs(student_quantile(level, degrees_of_freedom) / expected - 1) < tolerance
