"""Curves with kinks, where Lambda is the largest of several, against closed forms."""

import math

import numpy as np
import pytest
from sgdstab_fast.curves.envelope import Envelope

ORDERS = np.linspace(-2, 4, 25)
SLOW = -1e-3


def straight(p):
    """One direction, far from its edge."""
    return SLOW * p + 1e-8 * p**2


def curved(p):
    """Normal exponents of mean -0.1 and variance 0.2: as large as SLOW p at 0.99."""
    return -0.1 * p + 0.1 * p**2


KINK = (0.1 + SLOW) / (0.1 - 1e-8)


def largest(p):
    return np.where(p > 0, np.maximum(straight(p), curved(p)), straight(p))


def noisy(errors, rng):
    values = largest(ORDERS) + errors * rng.standard_normal(ORDERS.size)
    return ORDERS, np.where(ORDERS == 0, 0.0, values), np.where(ORDERS == 0, 0.0, errors)


def check(curve, error=1e-9):
    assert curve.kinks == pytest.approx([KINK], abs=0.01 + error)
    assert curve.derivative_at_zero == pytest.approx(SLOW, abs=1e-9 + 4 * curve.derivative_at_zero_standard_error)
    assert curve.clt_variance == pytest.approx(2e-8, abs=1e-9 + 4 * curve.clt_variance_standard_error)
    assert curve.zero() == pytest.approx(1.0, abs=1e-6 + 4 * curve.zero_standard_error())
    x = np.array([SLOW - 1e-8, SLOW + 1e-3, 0.05, 0.3, 0.6])
    expected = [(1e-8 / 2) ** 2 / 1e-8, (x[1] - SLOW) * KINK, (x[2] - SLOW) * KINK, (x[3] + 0.1) ** 2 / 0.4, 0.49 / 0.4]
    errors = curve.rate_standard_error(x)
    assert (np.abs(curve.rate(x) - expected) <= 4 * errors + 0.012 * np.abs(x - SLOW)).all()


def test_the_largest_of_two_parts():
    parts = [(ORDERS, function(ORDERS), np.zeros(25)) for function in (curved, straight)]
    curve = Envelope.fit((ORDERS, largest(ORDERS), np.zeros(25)), parts)
    assert curve.kinks == pytest.approx([KINK], abs=1e-9)
    check(curve)
    at = np.linspace(-2, 4, 50)
    np.testing.assert_allclose(curve.value(at), largest(at), rtol=0, atol=1e-12)


@pytest.mark.parametrize("error", [0.0, 1e-7, 1e-5])
def test_a_kink_between_orders_is_found(error, rng):
    check(Envelope.fit(noisy(np.where(largest(ORDERS) == straight(ORDERS), 0.01, 1) * error, rng)), error)


def test_a_smooth_curve_is_one_piece(rng):
    p = np.linspace(-1, 3, 17)
    values = np.logaddexp(-p * math.log(3), p * math.log(2)) - math.log(2)
    for error in (0.0, 1e-6, 1e-3):
        assert len(Envelope.fit((p, values + error * p * rng.standard_normal(17), error * np.abs(p))).pieces) == 1


def test_what_is_read_off_is_held_against_the_orders():
    """Three kinks are not found as one: what follows from the orders themselves holds."""
    values = np.maximum.reduce([-1e-3 * ORDERS, 0.3 * ORDERS - 0.3, 0.8 * ORDERS - 1.2, 2 * ORDERS - 5])
    curve = Envelope.fit((ORDERS, np.where(ORDERS > 0, values, -1e-3 * ORDERS), np.full(25, 1e-7)))
    zero = curve.zero()
    assert 0.75 <= zero <= 1.25
    assert abs(curve.derivative_at_zero + 1e-3) <= 4 * curve.derivative_at_zero_standard_error + 1e-6
    assert abs(curve.clt_variance) <= 4 * curve.clt_variance_standard_error + 1e-5
