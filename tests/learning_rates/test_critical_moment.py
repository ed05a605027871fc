"""Critical learning rates of moments against closed forms, exact bounds, and moments from runs of their own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, K4_ALMOST_SURE, K4_THRESHOLD, PLANE, T1
from reference.statistics import assert_within
from reference.systems import random_gram
from scipy.linalg import block_diag
from scipy.optimize import brentq
from scipy.stats import chi2

# eta(p) and its standard error, of searches with seeds of their own.
K4_FIRST_MOMENT = (0.423014548, 4.5e-6)
K4_THIRD_MOMENT = (0.418606, 5e-6)

# Runs that check a value end where they end.
SHORT = pytest.mark.filterwarnings("ignore:max_steps=1000000:sgdstab_fast.AccuracyWarning")


def critical(gram, order, **options):
    """The one of a moment, to 1e-3 or so where it is simulated."""
    return sf.critical_learning_rate(gram, order, **{"rng": 1, "rtol": 1e-3, "max_steps": 5_000_000, **options})


def moment(gram, learning_rate, order, **options):
    return sf.moment_exponent(sf.LinearizedSGD(gram, learning_rate), order, rng=99, **options)


def assert_exact(result, expected, rtol=1e-11):
    assert result.value == pytest.approx(expected, rel=rtol, abs=0)
    assert (result.standard_error, result.n_steps, result.n_chains) == (0, 0, 0)
    assert (result.converged, result.stopped_by) == (True, "closed form")
    assert result.confidence_interval(0.9) == (result.value, result.value)
    assert result.reason


# Computed.


def test_second_moment_is_the_mean_square():
    for order in (2, 2.0):
        assert critical(K4, order).value == critical(K4, "mean-square").value
    # eta(p) is continuous there: its slope is -0.002 or so.
    result = critical(K4, 1.999)
    assert_within(result.value, result.standard_error, K4_THRESHOLD, 1e-5)


@pytest.mark.parametrize("order", [4, 6])
def test_even_orders_have_no_error(order):
    result = critical(K4, order)
    assert 2 / K4.diagonal().max() < result.value < K4_THRESHOLD
    assert_exact(result, result.value)
    assert abs(moment(K4, result.value, order).exponent) < 1e-9
    for factor, sign in ((1 - 1e-6, -1), (1 + 1e-6, 1)):
        assert sign * moment(K4, factor * result.value, order).exponent > 0


@pytest.mark.parametrize("order", [1, 3, 4.5])
def test_two_examples_at_positive_orders(order):
    for gram in (PLANE, np.array([[2, 0.5], [0.5, 1]])):
        result = critical(gram, order)
        assert_exact(result, result.value)
        assert abs(moment(gram, result.value, order).exponent) < 1e-9
        assert (result.value - critical(gram, 2).value) * (order - 2) <= 0


@SHORT
@pytest.mark.filterwarnings("ignore:populations were not seen to forget:sgdstab_fast.AccuracyWarning")
def test_two_examples_at_a_negative_order():
    # No cone of directions: what is not computed is simulated.
    result = critical(PLANE, -1)
    there = moment(PLANE, result.value, -1, rtol=0.01, atol=1e-4, max_steps=1_000_000)
    error = abs(result.derivative) * result.standard_error
    assert_within(0, error, there.exponent, np.hypot(there.standard_error, there.numerical_errors[0]))
    almost_sure = critical(PLANE, "almost-sure")
    assert result.value > almost_sure.value - 4 * np.hypot(result.standard_error, almost_sure.standard_error)


@pytest.mark.parametrize("order", [-2, -1, 0.5, 1, 3, 4])
def test_one_example_and_examples_that_do_not_feel_each_other(order):
    assert_exact(critical([[4.0]], order), 0.5)
    assert_exact(critical(np.diag([1.0, 3, 5]), order), 0.4)


@pytest.mark.parametrize("order", [-1, 0.5, 1, 3, 4])
@pytest.mark.parametrize("n", [2, 3])
def test_reflections_are_critical_at_every_order(rng, n, order):
    gram = random_gram(rng, n)
    scale = np.sqrt(3 / gram.diagonal())
    gram = gram * scale * scale[:, None]
    np.fill_diagonal(gram, 3)
    assert_exact(critical(gram, order), 2 / 3)


@pytest.mark.parametrize("order", [0.5, 1, 1.5, 3])
def test_rank_one_is_where_the_mean_of_powers_is_one(order):
    v = np.array([1.0, 2, 0.5])

    def growth(eta):
        return (np.abs(1 - eta * v**2) ** order).mean() - 1

    scan = np.linspace(1e-3, 2, 100_000)
    first = int(np.argmax([growth(eta) > 0 for eta in scan]))
    assert_exact(critical(np.outer(v, v), order), brentq(growth, scan[first - 1], scan[first], xtol=1e-15))


def test_nothing_moves_for_zero():
    assert critical(np.zeros((3, 3)), 3).value == np.inf


# By simulation.


@pytest.fixture(scope="module")
def k4():
    return {order: critical(K4, order) for order in (0.5, 1, 3)}


@SHORT
@pytest.mark.parametrize("order", [0.5, 1, 3])
def test_lambda_vanishes_between_the_exact_bounds(k4, order):
    result = k4[order]
    assert (result.converged, result.criterion) == (True, order)
    assert 0 < result.standard_error <= 1e-3 * result.value
    low, high = (0.4, K4_THRESHOLD) if order > 2 else (K4_THRESHOLD, K4_ALMOST_SURE[0])
    assert low < result.value < high
    there = moment(K4, result.value, order, rtol=1e-3, max_steps=1_000_000)
    assert_within(0, result.derivative * result.standard_error, there.exponent, there.standard_error)
    for factor, sign in ((0.98, -1), (1.02, 1)):
        beside = moment(K4, factor * result.value, order, rtol=0.05)
        assert sign * beside.exponent > 4 * beside.standard_error


def test_higher_moments_are_less_stable(k4):
    values = [K4_ALMOST_SURE[0], k4[0.5].value, k4[1].value, K4_THRESHOLD, k4[3].value, critical(K4, 4).value]
    assert (np.diff(values) < 0).all()


def test_order_zero_is_the_almost_sure_limit():
    result = critical(K4, 1e-3)
    assert_within(result.value, result.standard_error, K4_ALMOST_SURE[0], 1e-5)  # eta(p) has a slope of -0.005
    assert result.standard_error < 1e-3


@SHORT
def test_negative_moments_stay_beyond_the_almost_sure_edge():
    result = critical(K4, -0.3, rtol=2e-3)
    assert result.value > K4_ALMOST_SURE[0] - 4 * result.standard_error
    assert result.derivative < 0
    there = moment(K4, result.value, -0.3, rtol=1e-2, max_steps=1_000_000)
    assert_within(0, abs(result.derivative) * result.standard_error, there.exponent, there.standard_error)


def test_blocks_have_the_smallest_of_theirs():
    result = critical(block_diag(K4, 4 * T1), 1)
    assert_within(result.value, result.standard_error, *K4_FIRST_MOMENT)
    assert_exact(
        critical(block_diag(PLANE, 2 * T1), 1), critical(PLANE, 1).value if critical(PLANE, 1).value < 1 else 1
    )


@pytest.mark.calibrate
@pytest.mark.parametrize(("order", "known"), [(1, K4_FIRST_MOMENT), (3, K4_THIRD_MOMENT)])
def test_errors_cover_over_twenty_seeds(order, known):
    results = [critical(K4, order, rng=seed, max_steps=1_000_000, n_chains=16) for seed in range(20)]
    squares = [((r.value - known[0]) / np.hypot(r.standard_error, known[1])) ** 2 for r in results]
    # The sum of 20 squares of standard normal errors is beyond this with a probability of 1e-4.
    assert sum(squares) < chi2.isf(1e-4, 20)
    assert all(r.converged and r.standard_error <= 1e-3 * r.value for r in results)


@pytest.mark.parametrize("coupling", [0.1, 0.01])
def test_a_zero_lies_within_its_bounds(coupling):
    gram = np.array([[4, coupling, coupling], [coupling, coupling, coupling / 10], [coupling, coupling / 10, 0.02]])
    result = critical(gram, -1, max_steps=1_000_000, rng=0)
    assert result.bounds[0] <= result.value <= result.bounds[1]


# Running and reporting.


def test_same_bits_whatever_the_threads_and_the_executor():
    options = {"rtol": 3e-3, "max_steps": 1_000_000}
    reference = critical(K4, 1, n_threads=1, **options)
    seen = []
    with ThreadPoolExecutor(3) as threads:
        others = [critical(K4, 1, **each, **options) for each in (
            {"n_threads": 2}, {"executor": threads}, {"progress": seen.append})]  # fmt: skip
    for other in others:
        for name in ("value", "standard_error", "derivative", "n_steps", "bounds"):
            assert getattr(other, name) == getattr(reference, name)
    steps = [state.n_steps for state in seen]
    assert (np.diff(steps) >= 0).all()
    assert steps[-1] <= 1_000_000
    assert critical(K4, 1, rng=2, **options).value != reference.value


@pytest.mark.parametrize("max_steps", [10_000, 100_000])
def test_a_budget_too_short_is_kept_and_reported(max_steps):
    with pytest.warns(sf.AccuracyWarning, match=rf"max_steps={max_steps} ended the search"):
        result = critical(K4, 1, rtol=1e-9, max_steps=max_steps)
    assert (result.converged, result.stopped_by) == (False, "max_steps")
    assert 0 < result.n_steps <= max_steps
    assert_within(result.value, result.standard_error, *K4_FIRST_MOMENT)


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        (0, ValueError, r"criterion must be a finite order other than 0, not 0: Lambda\(0\) is always 0"),
        (0.0, ValueError, "criterion must be a finite order other than 0, not 0.0"),
        (np.inf, ValueError, "criterion must be a finite order other than 0, not inf"),
        (-np.inf, ValueError, "criterion must be a finite order other than 0, not -inf"),
        (np.nan, ValueError, "criterion must be a number, not nan"),
        (True, TypeError, "criterion must be one of .* or a number, not True"),
        ("1", ValueError, "criterion must be one of .*, not '1'"),
    ],
)
def test_bad_orders(criterion, error, message):
    with pytest.raises(error, match=message):
        sf.critical_learning_rate(K4, criterion)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_of_huge_powers_the_rate_is_within_its_bounds():
    """2 / max K_ii in the limit: from 1e4 on a population meets none of the products that decide."""
    found = sf.critical_learning_rate([[4, 1], [1, 3]], 1e4, rtol=1e-2, max_steps=2_000_000, rng=0)
    assert found.value == pytest.approx(0.5, rel=1e-3)
    assert found.bounds[0] <= found.value <= found.bounds[1]
    low, high = found.confidence_interval()
    assert low <= high
    assert found.standard_error > 1e-4
