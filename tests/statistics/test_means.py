"""Standard errors of means, and of what is estimated with samples left out in turn."""

import math

import numpy as np
import pytest
from sgdstab_fast.statistics.means import left_out_in_turn, mean_of, standard_errors


def test_the_error_of_a_mean_of_two_is_half_their_distance():
    assert mean_of(np.array([1.0, 4.0])) == pytest.approx((2.5, 1.5), rel=1e-14)
    assert standard_errors(np.array([[1.0, 2.0], [4.0, 2.0]])) == pytest.approx([1.5, 0.0], rel=1e-14)
    assert standard_errors(np.ones((1, 2))).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("n_groups", [2, 8, 24, 100])
def test_the_jackknife_of_a_mean_is_its_standard_error(rng, n_groups):
    samples = rng.standard_normal(24)
    groups = samples.reshape(-1, min(n_groups, 24)).mean(axis=0)  # sample i is in group i mod n
    error = left_out_in_turn(lambda kept: float(samples[kept].mean()), 24, n_groups)
    assert error == pytest.approx(standard_errors(groups), rel=1e-12)
