"""The largest of several estimates, any of which may be it."""

import math

import numpy as np
import pytest
from sgdstab_fast.statistics.largest import leading


@pytest.mark.parametrize("m", [1, 2, 20, 400])
def test_the_largest_of_equals_is_within_two_of_its_errors(rng, m):
    assert leading(np.zeros(m), np.ones(m)) == (0, pytest.approx(math.sqrt(1 + 2 * math.log(m))))
    found = [
        (values[leader], error)
        for values in rng.standard_normal((2000, m))
        for leader, error in [leading(values, np.ones(m))]
    ]
    beyond = np.mean([value > 2 * error for value, error in found])
    assert beyond < 0.03  # of one estimate 0.023


def test_what_is_surely_smaller_costs_nothing(rng):
    values = np.array([-9.0, 1.0, -8.5, -math.inf])
    assert leading(values, np.array([1.0, 0.1, 2.0, 0.0])) == (1, 0.1)
    # One that may be the largest brings its own error.
    assert leading(np.array([0.0, -1.0]), np.array([0.1, 2.0])) == (
        0,
        pytest.approx(2 * math.sqrt(1 + 2 * math.log(2))),
    )
