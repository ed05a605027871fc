"""Bounds from convexity, and moments of several numbers at once."""

import numpy as np
import pytest
from sgdstab_fast.curves.convexity import convex_bounds
from sgdstab_fast.curves.joint import joint_exponent_of_numbers


@pytest.mark.parametrize("at", [-3.0, -0.5, 0.3, 1.0, 3.5, 7.0])
def test_bounds_hold_convex_functions_and_lines_exactly(at, rng):
    points = np.array([-1.0, 0.0, 2.0, 4.0, 6.0])
    for _ in range(20):
        slopes, heights = rng.normal(size=(2, 5))
        values = (slopes[:, None] * points + heights[:, None]).max(axis=0)
        errors = rng.uniform(0, 0.1, points.size)
        low, high = convex_bounds(at, points, values - errors, values + errors)
        assert low - 1e-12 <= (slopes * at + heights).max() <= high + 1e-12
    low, high = convex_bounds(at, points, 3 * points, 3 * points)
    assert low == pytest.approx(3 * at)
    assert high == (pytest.approx(3 * at) if -1 < at < 6 else np.inf)


def test_nothing_known_bounds_nothing():
    assert convex_bounds(1.0, np.empty(0), np.empty(0), np.empty(0)) == (-np.inf, np.inf)
    assert convex_bounds(1.0, np.zeros(1), np.zeros(1), np.zeros(1)) == (-np.inf, np.inf)


@pytest.mark.parametrize("order", [-0.1, -1.0, -3.0])
def test_numbers_at_negative_orders_against_a_grid(order, rng):
    logs, probabilities = rng.normal(size=(4, 2)), np.array([0.1, 0.2, 0.3, 0.4])
    value, error = joint_exponent_of_numbers(order, logs, probabilities)
    shares = np.linspace(0, 1, 100_001)
    powers = order * (np.outer(logs[:, 0], shares) + np.outer(logs[:, 1], 1 - shares))
    assert value == pytest.approx(np.log(probabilities @ np.exp(powers)).min(), abs=1e-8)
    assert error < 1e-6
    with_zero = np.column_stack([logs, [0, -np.inf, 0, 0]])
    assert joint_exponent_of_numbers(order, with_zero, probabilities)[0] == pytest.approx(value, abs=1e-8)
    assert joint_exponent_of_numbers(order, with_zero[:, 2:], probabilities) == (np.inf, 0.0)
