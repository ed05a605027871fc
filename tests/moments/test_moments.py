"""Moment exponents against closed forms, Kronecker powers, reference runs, and the laws of a convex function."""

import itertools
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, PLANE, REAL_GRAMS, T1, T1_EXPONENT, T1_EXPONENTS, T1_VARIANCE, kronecker_exponent
from reference.laws import factor_of
from reference.statistics import assert_within, budget
from reference.systems import random_gram
from scipy.linalg import block_diag
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp
from scipy.stats import binom, chi2
from sgdstab_fast.exact.moments import ExactMoments
from sgdstab_fast.moments.populations import walkers_from

pytestmark = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")

IRIS = REAL_GRAMS["iris_trained_40"]
# (learning rate, order, Lambda(p), its standard error), from long runs of populations
IRIS_MOMENTS = [
    (0.469, -1, 3.212655618156131e-06, 1.1121096229517825e-13),
    (0.469, 1, -3.2125035516089405e-06, 3.7344449595702155e-14),
    (0.469, 3, -9.637054332615954e-06, 1.212692388844685e-13),
    (1.004, -1, 6.877974088254264e-06, 1.4002498970612999e-12),
    (1.004, 1, -6.877100884103864e-06, 4.651232451384394e-13),
    (1.004, 3, -2.0628684195319507e-05, 1.419913187163297e-12),
    (1.473, -1, -0.021710739966655825, 4.46927591213152e-06),
    (1.473, 1, 0.02750389572915201, 2.288650705210344e-06),
    (1.473, 3, 0.11059216949450996, 2.2527232778966922e-05),
]


def moments(gram, learning_rate, orders, **options):
    system = sf.LinearizedSGD(np.asarray(gram, dtype=float), learning_rate)
    return sf.moment_exponent(system, orders, **{"rng": 1, **options})


def simulated(gram, learning_rate, orders, n_steps=300_000, **options):
    """Lambda after exactly a budget, without tolerances."""
    return moments(gram, learning_rate, orders, **{"rtol": 0, "max_steps": n_steps, **options})


def assert_computed(gram, learning_rate, orders, expected, tolerance=1e-10):
    """Lambda(p) without simulation, within a tolerance that is relative above 1; nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = moments(gram, learning_rate, orders)
    np.testing.assert_allclose(result.exponents, expected, rtol=tolerance, atol=tolerance)
    assert "population" not in result.methods
    assert (result.n_steps, result.n_chains, result.population, result.stopped_by) == (0, 0, 0, "closed form")
    np.testing.assert_array_equal(result.standard_errors, 0)
    assert result.converged
    return result


# What can be computed.


def test_known_exponents_of_two_projections():
    result = assert_computed(T1, 0.5, [*T1_EXPONENTS], [*T1_EXPONENTS.values()])
    assert result.derivative_at_zero == pytest.approx(T1_EXPONENT, abs=1e-10)
    assert result.clt_variance == pytest.approx(T1_VARIANCE, abs=1e-10)
    assert result.rate_function(-0.12) == pytest.approx(0.01962721169871, abs=1e-10)
    assert result.rate_function(T1_EXPONENT) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("learning_rate", [0.3, 2.0])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_fourth_moments_are_eigenvalues_of_kronecker_powers(rng, n, learning_rate):
    gram = 2 * random_gram(rng, n)
    assert_computed(gram, learning_rate, 4, kronecker_exponent(factor_of(gram), learning_rate, 4))


@pytest.mark.parametrize("learning_rate", [0.05, 0.425, 0.8])
def test_second_moment_is_the_mean_square_exponent(rng, learning_rate):
    for gram in (K4, PLANE, random_gram(rng, 9), random_gram(rng, 6, 3), block_diag(K4, 2 * PLANE)):
        system = sf.LinearizedSGD(gram, learning_rate)
        assert_computed(gram, learning_rate, 2, sf.mean_square_exponent(system).exponent, 1e-13)


@pytest.mark.parametrize("learning_rate", [0.3, 0.5])
def test_uncoupled_examples_grow_like_the_worst(learning_rate):
    orders = np.array([0.5, 1, 2, 3, 4.5])
    factors = np.abs(1 - learning_rate * np.array([1.0, 3, 5]))
    expected = np.log(2 / 3 + factors[:, None] ** orders / 3).max(axis=0)
    assert_computed(np.diag([1.0, 3, 5]), learning_rate, orders, expected, 1e-12)


@pytest.mark.parametrize("order", [-0.3, -1, -4, -8])
@pytest.mark.parametrize("factors", [(0.64, 0.8), (0.8, 0.8), (1.2, 1.44)])
def test_uncoupled_examples_at_negative_orders_against_binomial_sums(factors, order):
    logs = np.log(factors)

    def log_moment(n):
        """Of max(a^m, b^(n - m)), with m of n steps on the first example."""
        m = np.arange(n + 1)
        return logsumexp(binom.logpmf(m, n, 0.5) + order * np.maximum(m * logs[0], (n - m) * logs[1]))

    n = 300_000  # the paths on which both are equal have an integer m
    growth = (log_moment(2 * n) - log_moment(n)) / n
    # Where these paths decide, the sum is c exp(n Lambda) / sqrt(n).
    either = [growth, growth + math.log(2) / (2 * n)]
    diagonal = [1 - a if a < 1 else 1 + a for a in factors]
    found = assert_computed(np.diag(diagonal), 1.0, order, np.mean(either), 2e-6).exponent
    assert np.abs(np.subtract(either, found)).min() < 1e-8


def test_one_example_and_rank_one_are_means_of_powers():
    orders = np.array([-1.5, -0.5, 1, 2, 3.3])
    assert_computed([[2.0]], 0.7, orders, orders * math.log(0.4), 1e-13)
    v = np.array([1.0, 2, 0.5])
    expected = np.log((np.abs(1 - 0.4 * v**2)[:, None] ** orders).mean(axis=0))
    assert_computed(np.outer(v, v), 0.4, orders, expected, 1e-13)


def test_what_a_step_annihilates_has_infinite_negative_moments():
    result = assert_computed([[2.0]], 0.5, -1, math.inf)
    assert result.reasons == ("a step annihilates every displacement",)
    assert assert_computed([[2.0]], 0.5, 1, -math.inf).reasons != ("",)
    assert_computed(np.eye(2), 1.0, -1, math.inf)
    # An example beside the annihilated one survives.
    assert_computed(np.diag([1.0, 2.0]), 0.5, -1, math.log(1.5))


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_reflections_preserve_every_moment(rng, n):
    gram = random_gram(rng, n)
    scale = 1 / np.sqrt(gram.diagonal())
    gram = gram * scale * scale[:, None]
    np.fill_diagonal(gram, 1)
    assert_computed(gram, 2.0, [-3, -1, 0.5, 1, 2, 3, 4, 7.5], 0, 1e-14)


@pytest.mark.parametrize("correlation", [0.3, -0.9])
def test_two_projections_repeat_or_turn(correlation):
    # Each step but a repeated one multiplies the norm by abs(r).
    orders = np.array([-3, -1, -0.5, 0.5, 1, 3])
    expected = np.log((1 + abs(correlation) ** orders) / 2)
    assert_computed([[1, correlation], [correlation, 1]], 1.0, orders, expected)


@pytest.mark.statistics
@pytest.mark.parametrize("learning_rate", [0.45, 1.1])
def test_moments_of_blocks_are_the_largest_of_theirs(learning_rate):
    def idle(gram, share, orders):
        alone = moments(gram, learning_rate, orders, rtol=1e-3)
        growth = share * np.exp(alone.exponents)
        value = np.log(1 - share + growth)
        return value, growth / np.exp(value) * alone.standard_errors

    orders = [1, 3]
    planes = [idle(gram, 1 / 2, orders)[0] for gram in (PLANE, 1.1 * T1)]
    assert_computed(block_diag(PLANE, 1.1 * T1), learning_rate, orders, np.max(planes, axis=0))
    values, errors = zip(*(idle(gram, share, orders) for gram, share in ((K4, 2 / 3), (2 * PLANE, 1 / 3))), strict=True)
    leader = np.argmax(values, axis=0)
    result = moments(block_diag(K4, 2 * PLANE), learning_rate, orders)
    for i, block in enumerate(leader):
        assert_within(result.exponents[i], result.standard_errors[i], values[block][i], errors[block][i])


def joint_exponent(first, second, learning_rate, order):
    """min_theta log E N_1^(p theta) N_2^(p (1 - theta)) of two blocks, which take turns, and theta."""
    exact = [ExactMoments(sf.LinearizedSGD(gram, learning_rate)) for gram in (first, second)]
    share = len(first) / (len(first) + len(second))

    def value(theta):
        one, other = exact[0].at(order * theta), exact[1].at(order * (1 - theta))
        return math.log(share * math.exp(one.exponent) + (1 - share) * math.exp(other.exponent))

    found = minimize_scalar(value, bounds=(0, 1), method="bounded", options={"xatol": 1e-5})
    return min(found.fun, value(0), value(1)), found.x


# Down to p = -1 one block decides; at p = -3 paths on which both shrink alike do.
@pytest.mark.parametrize(("learning_rate", "order"), [(0.5, -0.5), (0.5, -1), (0.3, -1), (0.3, -3), (0.5, -3)])
def test_negative_orders_of_blocks_that_take_turns(learning_rate, order):
    expected, theta = joint_exponent(PLANE, T1, learning_rate, order)
    assert (theta > 0.01) == (order == -3)
    for seed in (1, 2):
        result = simulated(block_diag(PLANE, T1), learning_rate, order, rng=seed)
        assert_within(result.exponent, result.standard_error, expected, 1e-9)
        assert result.standard_error < 0.1 * abs(expected)


def test_repeated_examples_change_no_moment():
    exact = moments(K4, 0.45, [2, 4]).exponents
    assert_computed(np.kron(K4, np.ones((2, 2))), 0.45, [2, 4], exact, 1e-12)
    assert_computed(np.kron(T1, np.ones((2, 2))), 0.5, [*T1_EXPONENTS], [*T1_EXPONENTS.values()], 1e-12)
    one, two = simulated(K4, 0.45, [-1, 1, 3]), simulated(np.kron(K4, np.ones((2, 2))), 0.45, [-1, 1, 3], rng=2)
    for each in zip(one.exponents, one.standard_errors, two.exponents, two.standard_errors, strict=True):
        assert_within(*each)


# What is simulated.


@pytest.mark.parametrize("order", T1_EXPONENTS)
def test_populations_find_the_known_exponents(order):
    result = moments(T1, 0.5, order, method="population")
    assert result.methods == ("population",)
    assert 0 < result.standard_error <= 1e-3 * abs(result.exponent)
    assert_within(result.exponent, result.standard_error, T1_EXPONENTS[order])


@pytest.mark.parametrize(("largest_step", "n_steps"), [(2.5, 5e6), (3.5, 2e6), (5.0, 2e6)])
def test_populations_agree_with_symmetric_tensors(largest_step, n_steps):
    gram = IRIS[:16, :16]
    learning_rate = largest_step / gram.diagonal().max()
    expected = assert_computed(gram, learning_rate, 4, moments(gram, learning_rate, 4).exponent).exponent
    result = simulated(gram, learning_rate, 4, n_steps, method="population")
    assert_within(result.exponent, result.standard_error, expected)
    assert 0 < result.standard_error <= 1e-3 * expected
    assert 0 < abs(result.population_biases[0]) < 0.01 * expected
    assert 1 <= result.effective_walkers[0] <= result.population


@pytest.mark.parametrize("learning_rate", [0.425, 0.8])
@pytest.mark.parametrize("order", [2, 4])
def test_populations_of_k4(learning_rate, order):
    result = simulated(K4, learning_rate, order, 1e6, method="population")
    assert_within(result.exponent, result.standard_error, moments(K4, learning_rate, order).exponent)
    assert 0 < result.standard_error <= 1e-3 * abs(result.exponent)


@pytest.mark.parametrize(("learning_rate", "order", "expected", "error"), IRIS_MOMENTS)
def test_moments_of_a_real_gram(learning_rate, order, expected, error):
    result = simulated(IRIS, learning_rate, order, 2e6)
    assert result.methods == ("population",)
    assert_within(result.exponent, result.standard_error, expected, error)
    assert result.standard_error < 5e-3 * abs(expected)


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (3, 3), (4, 4), (5, 3), (6, 2), (7, 5)])
def test_laws_of_a_convex_function(n, rank):
    rng = np.random.default_rng(n)
    features = rng.standard_normal((n, rank)) * np.exp(rng.normal(0, 0.3, n))[:, None]
    learning_rate = rng.uniform(0.5, 3) / (features**2).sum(axis=1).max()
    system = sf.LinearizedSGD.from_factor(features, learning_rate)
    orders = np.array([-0.5, 0, 0.5, 1, 2, 3])
    result = sf.moment_exponent(system, orders, rng=n, rtol=0, max_steps=100_000)
    value, error = result.exponents, np.hypot(result.standard_errors, result.numerical_errors) + 1e-14
    assert (value[1], result.standard_errors[1], result.methods[1]) == (0, 0, "closed form")
    for i, j, k in itertools.combinations(range(orders.size), 3):
        weight = (orders[k] - orders[j]) / (orders[k] - orders[i])
        joint = np.linalg.norm([weight * error[i], error[j], (1 - weight) * error[k]])
        assert value[j] <= weight * value[i] + (1 - weight) * value[k] + 4 * joint
    slopes, slope_errors = np.delete(value / np.where(orders, orders, 1), 1), np.delete(error, 1)
    slope_errors /= np.abs(np.delete(orders, 1))
    assert (np.diff(slopes) >= -4 * np.hypot(slope_errors[1:], slope_errors[:-1])).all()
    exponent = budget(system, 100_000)
    assert (value >= orders * exponent.exponent - 4 * np.hypot(error, orders * exponent.standard_error)).all()
    assert value[4] == pytest.approx(sf.mean_square_exponent(system).exponent, rel=1e-12)
    assert (np.abs(result.curve.value(orders) - value) <= 4 * error + 1e-9 * np.abs(value)).all()


# Running, stopping and reporting.


def test_fourth_moments_carried_by_other_examples_than_the_second():
    # Two uncorrelated examples: one leads at p = 2, with its friends the other one at p = 4.
    gram = REAL_GRAMS["digits_trained_128"]
    largest = np.argsort(gram.diagonal())[-40:]
    gram = gram[np.ix_(largest, largest)]
    exact = moments(gram, 1.558, 4).exponent
    for seed in (1, 2):
        result = simulated(gram, 1.558, 4, n_steps=1_000_000, rng=seed)
        assert_within(result.exponent, result.standard_error, exact)
        assert result.standard_error < 2e-3 * exact


@pytest.mark.parametrize("order", [-2, -3])
def test_negative_moments_are_those_of_the_norm_of_the_product(order):
    # A vector along a gradient would do worse than the product's norm.
    gram = np.array([[2.5, 0.9], [0.9, 0.4]])
    exact = moments(gram, 0.7, order)
    assert exact.methods == ("transfer operator",)
    result = simulated(gram, 0.7, order)
    assert_within(result.exponent, result.standard_error, exact.exponent)


@pytest.mark.calibrate
def test_the_slope_of_many_orders_is_as_good_as_it_says():
    system = sf.LinearizedSGD(K4, 0.425)
    squares = []
    for seed in range(12):
        found = sf.moment_exponent(system, np.linspace(-1, 1, 25), rtol=0, max_steps=50_000, rng=seed)
        squares.append(((found.derivative_at_zero + 0.0020511387) / found.derivative_at_zero_standard_error) ** 2)
    # Of twelve standard normal errors, with a probability of 1e-4 each.
    assert sum(squares) < chi2.isf(1e-4, 12)


@pytest.mark.statistics
def test_runs_that_a_tolerance_stops_early_are_as_good_as_they_say():
    # Several directions compete at high orders, and walkers change between them only now and then.
    features = np.random.default_rng(0).standard_normal((5, 20))
    system = sf.LinearizedSGD(features @ features.T / 20, 1.5)
    exact = sf.moment_exponent(system, 8).exponent
    found = [sf.moment_exponent(system, 8, method="population", rtol=5e-3, rng=seed) for seed in range(12)]
    squares = [((each.exponent - exact) / each.standard_error) ** 2 for each in found]
    assert sum(squares) < chi2.isf(1e-4, 12)


# By exact sums over the multinomial numbers of steps.
@pytest.mark.parametrize(
    ("diagonal", "order", "expected"),
    [([1, 0.5, 1.7], -30, 8.322), ([1, 0.5, 1.7], -50, 13.94), ([1, 0.5, 1.7], -100, 28.0), ([1, 3], -100, -0.6931)],
)
def test_uncoupled_examples_at_very_negative_orders(diagonal, order, expected):
    assert moments(np.diag(diagonal), 0.8, order).exponent == pytest.approx(expected, rel=5e-4)


def test_blocks_share_the_budget():
    system = sf.LinearizedSGD(np.kron(np.eye(6), K4), 0.4)
    for order in (1, -1):
        found = sf.moment_exponent(system, order, rtol=0, max_steps=1_000_000, rng=1)
        assert found.n_steps <= 1_000_000


def test_same_bits_whatever_the_threads_and_the_sequence_of_orders():
    orders = [-1, 1, 3]
    reference = simulated(K4, 0.45, orders, 100_000, n_threads=1)
    with ThreadPoolExecutor(3) as threads:
        others = [simulated(K4, 0.45, orders, 100_000, **each) for each in ({"n_threads": 2}, {"executor": threads})]
    for other in others:
        for name in ("exponents", "standard_errors", "population_biases", "n_steps"):
            np.testing.assert_array_equal(getattr(other, name), getattr(reference, name))
    mixed = simulated(K4, 0.45, [3, 1, 0, -1, 1], 100_000)
    np.testing.assert_array_equal(mixed.exponents[[3, 1, 0]], reference.exponents)
    np.testing.assert_array_equal(mixed.standard_errors[[3, 4, 0]], reference.standard_errors)
    for index, order in enumerate(orders):
        assert simulated(K4, 0.45, order, 100_000).exponent == reference.exponents[index]
    assert (simulated(K4, 0.45, orders, 100_000, rng=2).exponents != reference.exponents).all()


def test_progress_is_told():
    seen = []
    result = simulated(K4, 0.45, [-1, 1, 3], 100_000, progress=seen.append)
    steps = [state.n_steps for state in seen]
    assert len(steps) >= 3
    assert (np.diff(steps) >= 0).all()
    assert steps[-1] <= seen[-1].max_steps == 300_000
    assert result.n_steps <= 300_000


def test_a_budget_too_short_is_reported():
    with pytest.warns(sf.AccuracyWarning, match="max_steps=100000 ended the simulation at p = 1 short of rtol=1e-09"):
        result = moments(K4, 0.45, [1, 2], rtol=1e-9, max_steps=100_000)
    assert (result.converged, result.stopped_by) == (False, "max_steps")
    np.testing.assert_array_equal(result.within_tolerance, [False, True])
    met = moments(K4, 0.45, 1, rtol=1e-2)
    assert (met.converged, met.stopped_by) == (True, "rtol")
    assert met.standard_error <= 1e-2 * met.exponent
    met = moments(K4, 0.45, 1, rtol=0, atol=1e-3)
    assert (met.converged, met.stopped_by) == (True, "atol")


@pytest.mark.parametrize("max_steps", [600, 1000, 5000])
def test_a_budget_is_kept(max_steps):
    assert 0 < simulated(K4, 0.45, 1, max_steps).n_steps <= max_steps
    assert 0 < simulated(K4, 0.45, -1, max_steps, population=4).n_steps <= max_steps


def test_a_budget_below_one_step_of_every_walker_is_refused():
    with pytest.raises(ValueError, match=r"max_steps must be at least .*, not 100"):
        simulated(K4, 0.45, 1, 100)


# What follows for finite-time exponents.


@pytest.mark.parametrize(("learning_rate", "variance"), [(0.3, 0.01258), (0.5, 0.0409)])
def test_slope_and_curvature_at_zero(learning_rate, variance):
    result = simulated(K4, learning_rate, np.linspace(-1, 1, 9), 1e6)
    exponent = budget(sf.LinearizedSGD(K4, learning_rate), 2e6)
    error = result.derivative_at_zero_standard_error
    assert error < 2e-3 * abs(exponent.exponent)
    assert_within(result.derivative_at_zero, error, exponent.exponent, exponent.standard_error)
    assert result.clt_variance == pytest.approx(variance, rel=0.05)
    assert 0 < result.clt_variance_standard_error < 0.05 * variance


def test_tail_index_solves_kestens_equation():
    v = np.array([1.0, 2, 0.5])  # factors 1 - eta v_i^2 of a scalar recursion
    expected = brentq(lambda p: np.mean(np.abs(1 - 0.55 * v**2) ** p) - 1, 0.1, 60, xtol=1e-12)
    assert moments(np.outer(v, v), 0.55, 1).tail_index == pytest.approx(expected, abs=1e-8)


def test_tail_index_of_k4():
    result = simulated(K4, 0.425, np.linspace(-1, 3, 17), 500_000)
    assert 0 < result.tail_index_standard_error < 0.05
    assert_within(result.tail_index, result.tail_index_standard_error, 0.4115, 0.002)
    with pytest.raises(ValueError, match=r"the tail index is beyond 0.25, the largest order"):
        _ = simulated(K4, 0.425, [-0.5, -0.25, 0.25], 200_000, method="population").tail_index


def test_tail_index_is_infinite_where_no_step_grows_and_zero_without_a_stationary_law():
    assert moments(T1, 0.5, [-0.5, 0.5, 1]).tail_index == math.inf
    assert simulated(K4, 0.3, 1, 10_000).tail_index == math.inf
    result = simulated(K4, 0.5, [-0.5, 0.5, 1], 100_000)
    assert (result.tail_index, result.tail_index_standard_error) == (0, 0)


@pytest.fixture(scope="module")
def three():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        return simulated(K4, 0.45, [-0.5, 1, 3], 100_000)


def test_rate_function_is_the_legendre_transform(three):
    low, high = three.trusted_exponents
    x, orders = np.linspace(low, high, 9), np.linspace(*three.trusted_orders, 20001)
    conjugate = (orders * x[:, None] - three.curve.value(orders)).max(axis=1)
    np.testing.assert_allclose(three.rate_function(x), conjugate, rtol=0, atol=1e-7)
    assert three.rate_function(three.derivative_at_zero) == pytest.approx(0, abs=1e-12)
    assert isinstance(three.rate_function(x[3]), float)
    assert (three.rate_function_standard_error(x) >= 0).all()
    for outside in (5, [x[3], 5]):
        with pytest.raises(ValueError, match=r"x = 5\.0 is not between"):
            three.rate_function(outside)


def test_the_result_looks_like_every_estimate(three):
    for name in ("exponent", "standard_error"):
        with pytest.raises(ValueError, match="there are 3 orders: use exponents and standard_errors"):
            getattr(three, name)
    one = moments(K4, 0.45, 1, max_steps=100_000)
    assert (one.exponent, one.standard_error) == (one.exponents[0], one.standard_errors[0])
    low, high = three.confidence_interval(0.9)
    wide_low, wide_high = three.confidence_interval(0.999)
    assert ((wide_low < low) & (low < three.exponents) & (three.exponents < high) & (high < wide_high)).all()
    exact = moments(T1, 0.5, [-1, 1])
    np.testing.assert_array_equal(exact.confidence_interval(), [exact.exponents, exact.exponents])
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, not 95"):
        three.confidence_interval(95)
    np.testing.assert_array_equal(three.per_epoch, 4 * three.exponents)
    assert repr(three).startswith("MomentExponents(Lambda(-0.5)=")
    assert "methods=['population'], converged=False" in repr(three)
    assert "6 more" in repr(moments(T1, 0.5, np.linspace(0, 1, 11)))
    columns = three.to_dict()
    assert {len(column) for column in columns.values()} == {3}
    np.testing.assert_array_equal(columns["p"], [-0.5, 1, 3])
    np.testing.assert_array_equal(columns["exponent"], three.exponents)
    assert three.provenance["seed_entropy"] == 1


def test_what_one_order_does_not_tell():
    result = moments(K4, 0.45, 0)
    assert result.exponent == 0
    assert not result.has_curve
    with pytest.raises(ValueError, match="lambda needs finite exponents at two orders"):
        _ = result.derivative_at_zero


def test_plots(three):
    from matplotlib.figure import Figure  # draws without a display

    figure = Figure()
    pair = figure.subplots(1, 2)
    assert tuple(three.plot(pair)) == tuple(pair)
    assert three.plot(pair[0]) is pair[0]
    for axes in pair:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.lines
    figure.draw_without_rendering()


def test_walkers_of_any_length_have_unit_vectors():
    vectors = np.array([[[3e160, 4e160], [3.0, 4.0]]])
    np.testing.assert_array_equal(walkers_from(vectors)[0, :, :2], [[0.6, 0.8], [0.6, 0.8]])
