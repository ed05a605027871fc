"""Curves through moment exponents against closed forms, exact and with noise: slopes, roots and rate functions."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast.curves.moments import MomentCurve

# Lambda(p) = log((3^-p + 2^p) / 2)
SLOPE, VARIANCE, ROOT = math.log(2 / 3) / 2, math.log(6) ** 2 / 4, 0.5233052688527641
NODES = 0.5 + 2 * np.cos(np.linspace(np.pi, 0, 30))
NINE = np.linspace(-1, 3, 9)


def two_steps(p):
    return np.logaddexp(-p * math.log(3), p * math.log(2)) - math.log(2)


def two_steps_rate(x):
    """Relative entropy of the binary distribution whose mean is x, from the even one."""
    u = (x + math.log(3)) / math.log(6)
    return math.log(2) + u * np.log(u) + (1 - u) * np.log(1 - u)


def exact(function, orders):
    orders = np.asarray(orders, dtype=float)
    return MomentCurve.fit(orders, function(orders), np.zeros(orders.size))


def least_curvature(curve):
    """The smallest Lambda'' over the largest."""
    second = curve.second_derivative(np.linspace(*curve.orders_range, 3001))
    return second.min() / second.max() if second.max() > 0 else 0.0


@pytest.fixture(scope="module")
def noisy_curves():
    """200 fits at errors of 1e-3 abs(p)."""
    rng = np.random.default_rng(5)
    orders = np.linspace(-1.5, 1.5, 13)
    errors = 1e-3 * np.abs(orders)
    return [MomentCurve.fit(orders, two_steps(orders) + errors * rng.standard_normal(13), errors) for _ in range(200)]


@pytest.mark.parametrize("scale", [1, 1e-6, 1e3])
def test_closed_form_from_exact_values(scale):
    curve = exact(lambda p: scale * two_steps(p), NODES)
    assert curve.derivative_at_zero / scale == pytest.approx(SLOPE, abs=1e-11)
    assert curve.clt_variance / scale == pytest.approx(VARIANCE, abs=1e-9)
    root = curve.zero()
    assert root == pytest.approx(ROOT, abs=1e-10)
    assert curve.zero_standard_error() < 1e-10
    x = np.linspace(-0.7, 0.6, 14)
    np.testing.assert_allclose(curve.rate(scale * x) / scale, two_steps_rate(x), rtol=0, atol=1e-11)
    np.testing.assert_allclose(curve.derivative(curve.maximiser(scale * x)), scale * x, rtol=0, atol=1e-12 * scale)
    assert curve.misfit < 10
    assert least_curvature(curve) >= 0


@pytest.mark.parametrize(("slope", "variance"), [(-0.3, 0.2), (0.4, 1.0), (-1e-3, 1e-2)])
def test_normal_exponents(slope, variance):
    curve = exact(lambda p: slope * p + variance / 2 * p**2, np.linspace(-2, 4, 13))
    assert curve.derivative_at_zero == pytest.approx(slope, rel=1e-11)
    assert curve.clt_variance == pytest.approx(variance, rel=1e-11)
    x = np.linspace(*curve.exponents_range, 9)
    np.testing.assert_allclose(curve.rate(x), (x - slope) ** 2 / (2 * variance), rtol=1e-9, atol=1e-13)
    root = -2 * slope / variance
    assert curve.zero() == (pytest.approx(root, rel=1e-11) if slope < 0 and root < 4 else None)


@pytest.mark.parametrize("shrinkage", [0.5, 0.9, 0.05])
def test_projections(shrinkage):
    curve = exact(lambda p: np.log((1 + shrinkage**p) / 2), NODES)
    assert curve.derivative_at_zero == pytest.approx(math.log(shrinkage) / 2, rel=1e-8)
    assert curve.clt_variance == pytest.approx(math.log(shrinkage) ** 2 / 4, rel=1e-6)
    assert curve.zero() is None  # Lambda <= 0


def test_values_of_t1_from_seven_orders():
    exponents = [
        0.2816289648804516847556,
        0.1388564891406052209223,
        -0.06754519737207070508495,
        math.log(7 / 8),
        -0.2595539679913346780622,
        -0.374693449441410693607,
        -0.4741392294187319871817,
    ]
    curve = MomentCurve.fit([-2, -1, 0.5, 1, 2, 3, 4], exponents, np.zeros(7))
    for value, error, expected, size in (
        (curve.derivative_at_zero, curve.derivative_at_zero_standard_error, -0.1364810610335893838266, 1e-5),
        (curve.clt_variance, curve.clt_variance_standard_error, 0.005262216433921990102258, 1e-4),
        (curve.rate(-0.12), curve.rate_standard_error(-0.12), 0.01962721169871, 1e-5),
    ):
        assert abs(value - expected) < 3 * error < size
    assert curve.maximiser(-0.12) == pytest.approx(2.11503113147, abs=1e-3)


@pytest.mark.parametrize("slope", [-0.3, 2.0, 1e-6])
def test_an_affine_curve_stays_affine(slope):
    curve = exact(lambda p: slope * p, NINE)
    assert curve.derivative_at_zero == pytest.approx(slope, rel=1e-13)
    assert 0 <= curve.clt_variance < 1e-13 * abs(slope)
    assert curve.rate(slope) == pytest.approx(0, abs=1e-13 * abs(slope))
    assert curve.zero() is None


def test_isometries():
    curve = exact(np.zeros_like, NINE)
    assert curve.derivative_at_zero == curve.clt_variance == curve.rate(0.0) == 0


@pytest.mark.parametrize(
    "orders",
    [(-1, 1), (1, 2), (0.5, 1, 2), (-1, 1, 2), (-3, -2, -1), NINE, np.linspace(0.5, 4, 8), np.linspace(-2, 2, 6)],
)
def test_errors_of_few_exact_orders_are_honest(orders):
    curve = exact(two_steps, orders)
    assert abs(curve.derivative_at_zero - SLOPE) < 3 * curve.derivative_at_zero_standard_error
    assert abs(curve.clt_variance - VARIANCE) < 3 * curve.clt_variance_standard_error
    between = np.linspace(*curve.orders_range, 101)
    error = np.abs(curve.value(between) - two_steps(between))
    assert (error <= 3 * curve.value_standard_error(between) + 1e-13).all()
    assert least_curvature(curve) >= -1e-6


def test_intervals_cover_at_their_nominal_rate(noisy_curves):
    x = np.array([-0.5, 0.1, 0.25])
    scores = []
    for curve in noisy_curves:
        slope = (curve.derivative_at_zero - SLOPE) / curve.derivative_at_zero_standard_error
        variance = (curve.clt_variance - VARIANCE) / curve.clt_variance_standard_error
        zero = (curve.zero() - ROOT) / curve.zero_standard_error()
        rates = (curve.rate(x) - two_steps_rate(x)) / curve.rate_standard_error(x)
        scores.append([slope, variance, zero, *rates])
    covered = (np.abs(scores) <= 1.96).mean(axis=0)
    assert ((covered >= 0.9) & (covered <= 0.99)).all(), covered


def test_noisy_curves_are_convex_and_within_their_errors(noisy_curves):
    assert min(map(least_curvature, noisy_curves)) > -1e-6
    assert max(curve.misfit for curve in noisy_curves) < 4


def test_convexity_is_kept_where_data_contradict_it():
    orders = np.array([-2.0, -1, 1, 2, 3])
    curve = MomentCurve.fit(orders, -0.1 * orders - 0.01 * orders**2, np.full(5, 0.01))
    assert least_curvature(curve) >= -1e-6
    assert 0.5 < curve.misfit < 9  # a straight line is off by 9 at the last
    assert curve.clt_variance < 1e-3
    assert curve.clt_variance_standard_error > 1e-3


def test_orders_that_no_convex_curve_meets_are_left_as_they_are():
    # Rates that are powers of one number, to rounding: a line that is bent by its errors, and rounding forbids to mend.
    found = sf.moment_exponent(
        sf.LinearizedSGD(2 * np.eye(4), 1.160225247745701), [-1.752227830869896, -0.1883054406576849]
    )
    assert np.isfinite([found.clt_variance, found.derivative_at_zero]).all()
    assert np.isfinite(found.clt_variance_standard_error)


def test_zero_at_zero():
    curve = exact(two_steps, NINE)
    assert curve.value(0.0) == curve.value_standard_error(0.0) == 0
    given = MomentCurve.fit(NINE, np.where(NINE == 0, 7.0, two_steps(NINE)), np.zeros(9))
    np.testing.assert_array_equal(given.coefficients, curve.coefficients)


def test_infinite_moments_end_the_range():
    orders = np.array([-3.0, -2, -1, 1, 2])
    curve = MomentCurve.fit(orders, np.where(orders < -1, np.inf, two_steps(orders)), np.where(orders < -1, np.nan, 0))
    assert curve.orders_range == (-1, 2)
    assert curve.n_orders == 3
    np.testing.assert_array_equal(curve.coefficients, exact(two_steps, [-1, 1, 2]).coefficients)


def test_one_order_gives_a_line():
    curve = MomentCurve.fit([2.0], [-0.5], [0.01])
    assert curve.value(1.0) == pytest.approx(-0.25)
    assert curve.value_standard_error(2.0) == pytest.approx(0.01, rel=1e-6)
    assert curve.zero() is None
    for name in ("derivative_at_zero", "clt_variance", "clt_variance_standard_error"):
        with pytest.raises(ValueError, match=r"both sides of 0, such as numpy.linspace\(-1, 1, 9\)"):
            getattr(curve, name)


def test_slopes_out_of_range_are_named():
    curve = exact(two_steps, NINE)
    low, high = curve.exponents_range
    np.testing.assert_allclose(curve.maximiser([low, high]), curve.orders_range, atol=1e-6)
    for x in (low - 0.01, high + 0.01, math.nan):
        with pytest.raises(ValueError, match=rf"x = {x!r} is not between {low!r} and {high!r}"):
            curve.rate([0.0, x])
    with pytest.raises(ValueError, match=r"order 3.5 is not between -1.0 and 3.0"):
        curve.value([0.0, 3.5])


@pytest.mark.parametrize(
    ("orders", "exponents", "errors", "message"),
    [
        ([1, 2], [-np.inf, -np.inf], [0, 0], "order 1.0 is -inf"),
        ([0], [0], [0], "both sides of 0"),
        ([-1], [np.inf], [0], "both sides of 0"),
        ([1, 1], [0, 0], [0, 0], "distinct"),
        ([2, 1], [0, 0], [0, 0], "ascending"),
        ([1, 2], [0, np.nan], [0, 0], "NaN"),
        ([1, 2], [0, 0], [0, -1], "negative"),
        ([1, 2], [0, 0], [0], "one length"),
    ],
)
def test_arguments_that_make_no_sense(orders, exponents, errors, message):
    with pytest.raises(ValueError, match=message):
        MomentCurve.fit(orders, exponents, errors)
