"""Moments of batches, data orders, optimisers with memory and random matrices: exact values, enumeration, walkers."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, T1, T1_EXPONENT, T1_EXPONENTS
from reference.laws import Law, law
from reference.statistics import assert_within
from reference.systems import random_gram
from scipy.linalg import block_diag
from scipy.optimize import brentq
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.exact.moments import ExactMomentsOfSteps
from sgdstab_fast.learning_rates.critical_moment import critical_moment
from sgdstab_fast.moments.finite_time import finite_time_probability
from sgdstab_fast.moments.starts import leading_kinds
from sgdstab_fast.simulation.options import Budget, Options

POLLICOTT = [[[2, 1], [1, 1]], [[3, 1], [2, 1]]]
T1_MOMENTS = {float(order): exponent for order, exponent in T1_EXPONENTS.items()}
PAIR = np.array([[2, 0.5], [0.5, 1]])
SYSTEMS = {
    "two of four": {"gram": K4, "learning_rate": 0.3, "batch_size": 2},
    "two with replacement": {"gram": K4, "learning_rate": 0.3, "batch_size": 2, "sampling": "with_replacement"},
    "epochs": {"gram": K4, "learning_rate": 0.3, "sampling": "epoch"},
    "uneven epochs": {"gram": K4, "learning_rate": 0.3, "batch_size": 3, "sampling": "epoch"},
    "cyclic": {"gram": K4, "learning_rate": 0.3, "sampling": "cyclic"},
    "full": {"gram": K4, "learning_rate": 0.3, "batch_size": 4},
    "importance": {"gram": K4, "learning_rate": 0.3, "probabilities": [0.32, 0.15, 0.2, 0.33]},
    "groups": {"gram": K4, "learning_rate": 0.2, "groups": [0, 0, 1, 2]},
    "heavy ball": {"gram": PAIR, "learning_rate": 0.3, "momentum": 0.5},
    "Nesterov in batches": {
        "gram": PAIR, "learning_rate": 0.3, "batch_size": 3, "sampling": "with_replacement", "momentum": 0.5,
        "nesterov": True},
}  # fmt: skip
SIMULATED = [name for name in SYSTEMS if name not in ("cyclic", "full")]
SHORT = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of runs to a given length


def system_of(name):
    return sf.LinearizedSGD(**SYSTEMS[name])


def ensemble(found):
    return sf.MatrixEnsemble(found.matrices, found.probabilities)


def moments(system, orders, **options):
    return sf.moment_exponent(system, orders, **{"rng": 1, **options})


def critical(system, order, **options):
    budget = Budget(options.get("rtol", 1e-3), 0.0, options.get("max_steps", 2_000_000))
    return critical_moment(system, order, Options(budget, 32, seed_from(1)))


# Bounds by what single steps do


@pytest.mark.parametrize("order", [-1.0, 0.5, 2.0, 3.0])
@pytest.mark.parametrize("name", ["two of four", "epochs", "importance", "heavy ball"])
def test_no_product_does_more_than_its_steps(name, order):
    system = system_of(name)
    low, high = ExactMomentsOfSteps(system).bounds(order)
    found = moments(system, order, rtol=1e-2, max_steps=4_000_000)
    assert low <= found.exponent + 4 * found.standard_error
    assert found.exponent - 4 * found.standard_error <= high
    assert math.isfinite(max(low, high))


def test_bounds_of_conformal_matrices_agree(rng):
    turns = np.linalg.qr(rng.standard_normal((3, 3, 3)))[0]
    sizes, probabilities = np.array([0.5, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
    low, high = ExactMomentsOfSteps(sf.MatrixEnsemble(sizes[:, None, None] * turns, probabilities)).bounds(1.5)
    assert (low, high) == pytest.approx((math.log(probabilities @ sizes**1.5),) * 2, abs=1e-13)


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(("probability", "size"), [(1e-7, 1e10), (1e-9, 1e12), (1e-6, 1e8)])
def test_rare_outcomes_that_are_long(rng, probability, size):
    """They carry the moment, and no walker meets them."""
    others = 0.8 * np.eye(3) + 0.3 * rng.standard_normal((3, 3, 3))
    turn = size * np.linalg.qr(rng.standard_normal((3, 3)))[0]
    probabilities = np.array([*[(1 - probability) / 3] * 3, probability])
    system = sf.MatrixEnsemble([*others, turn], probabilities)
    found = moments(system, [0.5, 1], rtol=1e-2, max_steps=1_000_000)
    for order, value, error in zip(found.p, found.exponents, found.standard_errors, strict=True):
        if not np.isnan(value):
            most = math.log(probabilities @ np.linalg.norm(system.matrices, 2, axis=(1, 2)) ** order)
            assert value <= most
            assert value + 4 * error >= math.log(probability) + order * math.log(size)


# Exact values


def test_pollicotts_constants():
    found = moments(sf.MatrixEnsemble(POLLICOTT), [1, 2])
    np.testing.assert_allclose(found.exponents, [1.15881036042994681, 2.34729475540106], rtol=0, atol=1e-10)
    assert (found.numerical_errors < 1e-10).all()
    assert (found.converged, found.stopped_by, found.n_steps) == (True, "closed form", 0)
    assert found.derivative_at_zero == pytest.approx(1.1433110351029492, abs=1e-9)
    assert found.steps_per_epoch == 1


def test_two_examples_as_matrices():
    found = moments(ensemble(law(T1, 0.5)), list(T1_MOMENTS))
    np.testing.assert_allclose(found.exponents, list(T1_MOMENTS.values()), rtol=0, atol=1e-10)
    plain = moments(sf.LinearizedSGD(T1, 0.5), list(T1_MOMENTS))
    assert found.derivative_at_zero == pytest.approx(T1_EXPONENT, abs=1e-10)
    for name in ("clt_variance", "tail_index"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), rel=1e-7)
    assert found.rate_function(-0.12) == pytest.approx(plain.rate_function(-0.12), rel=1e-7)
    assert found.largest_amplification == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rate": 0.1, "batch_size": 2}, -0.0504526002242061),
        ({"learning_rate": 0.3, "batch_size": 2}, -0.153667062921271),
        ({"learning_rate": 0.5, "batch_size": 3}, -0.264962199544957),
        ({"learning_rate": 0.3, "batch_size": 4}, -0.155923082939424),
        ({"learning_rate": 0.6599364073047066, "batch_size": 2, "sampling": "with_replacement"}, 0.0),
        ({"learning_rate": 0.1, "momentum": 0.5}, -0.104072945537193),
        ({"learning_rate": 0.1, "momentum": 0.9}, 0.064029312548534),
        ({"learning_rate": 0.1, "momentum": 0.5, "batch_size": 4}, -0.10883173398226),
        ({"learning_rate": 0.1, "momentum": 0.5, "nesterov": True}, -0.101516469852836),
        ({"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "batch_size": 2}, -0.121600307687646),
        ({"learning_rate": 0.3, "sampling": "epoch"}, -0.22838193388169),
        ({"learning_rate": 0.3, "sampling": "cyclic"}, -0.25721823636658),
    ],
)
def test_second_moments_of_k4(options, expected):
    found = moments(sf.LinearizedSGD(K4, **options), 2)
    assert found.exponent == pytest.approx(expected, abs=1e-12)
    assert found.n_steps == 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_even_orders_by_enumeration(name):
    expected, system = law(**SYSTEMS[name]), system_of(name)
    found = moments(system, [2, 4])
    for order, value in zip((2, 4), found.exponents, strict=True):
        assert value == pytest.approx(expected.moment_exponent(order), abs=1e-9)
    assert found.n_steps == 0
    assert found.steps_per_epoch == system.steps_per_epoch


@pytest.mark.parametrize("name", ["cyclic", "full"])
def test_steps_that_repeat_have_a_straight_line(name):
    system = system_of(name)
    exponent = sf.lyapunov_exponent(system).exponent
    found = moments(system, [-3, 0, 0.5, 1])
    np.testing.assert_allclose(found.exponents, exponent * found.p, rtol=1e-12, atol=1e-14)
    assert found.clt_variance == pytest.approx(0, abs=1e-9)
    assert found.tail_index == math.inf
    assert moments(system, 1, method="population").n_steps == 0


def test_first_moments_of_a_cone():
    # Steps of T1 have no negative entries: Lambda(1) = log rho of the mean.
    for options in ({"batch_size": 2, "sampling": "with_replacement"}, {"sampling": "epoch"}):
        found = moments(sf.LinearizedSGD(T1, 0.5, **options), 1)
        assert found.exponent == pytest.approx(law(T1, 0.5, **options).positive_moment_exponent(), abs=1e-12)
        assert found.n_steps == 0


def test_matrices_that_annihilate():
    nilpotent = moments(sf.MatrixEnsemble([[[0, 1], [0, 0]]]), [-1, 0, 1, 2])
    assert nilpotent.exponents.tolist() == [math.inf, 0, -math.inf, -math.inf]
    assert [bool(reason) for reason in nilpotent.reasons] == [True, False, True, True]
    with_zero = moments(sf.MatrixEnsemble([[[2, 0], [0, 0.5]], np.zeros((2, 2))]), [-1, 1, 2])
    np.testing.assert_allclose(with_zero.exponents, [math.inf, 0, math.log(2)], atol=1e-14)
    for found in (nilpotent, with_zero):
        with pytest.raises(ValueError, match="order"):
            found.clt_variance  # noqa: B018


# By walkers


@SHORT
@pytest.mark.parametrize("name", SIMULATED)
def test_walkers_agree_with_enumeration(name):
    found = moments(system_of(name), 4, method="population", rtol=0, max_steps=200_000)
    expected = law(**SYSTEMS[name]).moment_exponent(4)
    assert found.methods == ("population",)
    assert_within(found.exponent, found.standard_error + 1e-9, expected)
    assert found.standard_error < 0.05 * abs(expected)


def test_second_moments_of_epochs_of_k4():
    found = moments(sf.LinearizedSGD(K4, 0.3, sampling="epoch"), 2, method="population", max_steps=200_000)
    assert found.methods == ("population",)
    assert_within(found.exponent, found.standard_error + 1e-13, -0.22838193388169)


def test_first_moment_of_batches_of_k4():
    system = sf.LinearizedSGD(K4, 0.3, 2)
    exact, found = moments(system, 1), moments(system, 1, method="population", max_steps=2_000_000)
    assert exact.n_steps == 0
    assert_within(found.exponent, found.standard_error, exact.exponent)
    assert found.standard_error <= 1e-3 * abs(exact.exponent)


@SHORT
@pytest.mark.parametrize("order", T1_MOMENTS)
def test_walkers_of_two_matrices(order):
    found = moments(ensemble(law(T1, 0.5)), order, method="population", rtol=0, max_steps=150_000)
    assert_within(found.exponent, found.standard_error + 1e-12, T1_MOMENTS[order])


@SHORT
def test_errors_of_epochs_are_those_of_their_products_over_their_steps():
    epochs = sf.LinearizedSGD(K4[:3, :3], 0.3, sampling="epoch")
    products, n_steps = epochs.matrix_moments(6 * 9)
    of_steps, of_products = ExactMomentsOfSteps(epochs).at(4), products.at(4)
    assert n_steps == 3
    assert of_steps.exponent == of_products.exponent / 3
    assert of_steps.error == of_products.error / 3 > 0


def test_epochs_by_walkers_without_their_own_metric():
    found = moments(sf.LinearizedSGD(K4, 0.3, sampling="epoch"), 3, method="population", rtol=0, max_steps=150_000)
    low, high = moments(sf.LinearizedSGD(K4, 0.3, sampling="epoch"), [2, 4]).exponents
    assert 3 * low / 2 - 4 * found.standard_error <= found.exponent <= (low + high) / 2 + 4 * found.standard_error
    # More epochs than are gone through.
    many = sf.LinearizedSGD(random_gram(np.random.default_rng(4), 12), 0.5, 2, sampling="epoch")
    first, second = moments(many, [1, 2], max_steps=500_000, rtol=1e-2).exponents
    exponent = sf.lyapunov_exponent(many, max_steps=400_000, rtol=1e-3, rng=1).exponent
    assert exponent * 1.01 < first < second / 2 * 0.99 < 0


@SHORT
def test_batches_with_momentum_of_sixty_examples():
    system = sf.LinearizedSGD(random_gram(np.random.default_rng(3), 60), 1.0, 8, momentum=0.5)
    found = moments(system, 1, max_steps=1_000_000)
    exponent = sf.lyapunov_exponent(system, rng=1, max_steps=300_000)
    errors = 4 * (found.standard_error + exponent.standard_error)
    assert found.standard_error < 1e-3 * abs(found.exponent)
    assert exponent.exponent - errors < found.exponent
    assert found.exponent < sf.mean_square_exponent(system).exponent / 2 + errors


@SHORT
def test_curve_of_batches():
    system = sf.LinearizedSGD(K4, 0.3, 2)
    found = moments(system, [-1, -0.5, 0.5, 1, 1.5], max_steps=150_000)
    exponent = sf.lyapunov_exponent(system, rng=1, max_steps=100_000)
    slope_error = math.hypot(exponent.standard_error, found.derivative_at_zero_standard_error)
    assert_within(found.derivative_at_zero, slope_error, exponent.exponent)
    assert 0 < found.clt_variance < 0.01
    assert found.rate_function(found.derivative_at_zero) == pytest.approx(0, abs=1e-12)
    assert 2.0 in found.known[0]
    found.plot()


def test_orders_are_independent_of_each_other():
    system = sf.LinearizedSGD(K4, 0.3, 2)
    options = {"method": "population", "rtol": 0, "max_steps": 100_000}
    alone, together = moments(system, 1.5, **options), moments(system, [-0.5, 1.5], **options)
    assert alone.exponent == together.exponents[1]
    seen = []
    with ThreadPoolExecutor(2) as executor:
        again = moments(system, 1.5, executor=executor, progress=seen.append, **options)
    assert again.exponent == alone.exponent
    assert seen[-1].n_steps == again.n_steps


# Blocks


def test_largest_block_at_positive_orders():
    gram = block_diag(K4, 0.5 * K4, [[7.0]])
    parts = [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    system = sf.LinearizedSGD(gram, 0.25, 2)
    matrices, probabilities, _ = system.matrices()
    for order in (2, 4):
        each = [Law(matrices[:, part][:, :, part], probabilities).moment_exponent(order) for part in parts]
        assert moments(system, order).exponent == pytest.approx(max(each), abs=1e-10)


@SHORT
def test_negative_orders_of_blocks():
    # K = diag(1, 3, 5), B = 2: all shrink, and 1 the least: Lambda(-1) is that of the first block.
    found = moments(sf.LinearizedSGD(np.diag([1.0, 3, 5]), 0.5, 2), -1, max_steps=500_000, rtol=1e-2)
    assert_within(found.exponent, found.standard_error, math.log(1 / 3 + 2 / 3 / 0.75))


# How much a step does


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_step_does_more_than_the_largest_amplification(name):
    options = SYSTEMS[name]
    bound = moments(system_of(name), 0).largest_amplification
    if name in ("cyclic", "full"):
        assert bound == pytest.approx(math.exp(sf.lyapunov_exponent(system_of(name)).exponent))
        return
    expected = law(**options)
    largest = float(np.linalg.norm(expected.matrices, 2, axis=(1, 2)).max())
    assert largest <= bound**expected.steps + 1e-12


def test_curvature_of_many_batches_is_bounded():
    gram = random_gram(np.random.default_rng(5), 40)
    bound = sf.LinearizedSGD(gram, 0.5, 20).largest_curvature()
    batch = np.arange(20)
    assert np.linalg.eigvalsh(gram[np.ix_(batch, batch)])[-1] / 20 <= bound <= gram.diagonal().max()
    exact = sf.LinearizedSGD(K4, 0.5, 2).largest_curvature()
    assert exact == pytest.approx(2.80901699437495, abs=1e-12)


def test_no_tail_where_no_step_grows():
    assert moments(sf.LinearizedSGD(K4, 0.3, 2), [1, 2]).tail_index == math.inf
    found = moments(sf.LinearizedSGD(K4, 0.8, 2), [2, 4, 6])
    assert 4 < found.tail_index < 6
    assert found.curve.value(found.tail_index) == pytest.approx(0, abs=1e-12)


# Critical learning rates


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2},
        {"sampling": "epoch"},
        {"momentum": 0.5, "batch_size": 2},
    ],
)
def test_critical_learning_rates_of_even_orders(options):
    for order in (2, 4):
        found = critical(sf.LinearizedSGD(K4, 0.3, **options), order)
        assert found.n_steps == 0
        at = [moments(sf.LinearizedSGD(K4, found.value * (1 + shift), **options), order) for shift in (-1e-7, 1e-7)]
        assert at[0].exponent < 0 < at[1].exponent
        assert moments(sf.LinearizedSGD(K4, found.value, **options), order).exponent == pytest.approx(0, abs=1e-9)


@SHORT
def test_critical_learning_rate_of_a_first_moment():
    options = {"batch_size": 2, "sampling": "with_replacement"}
    found = critical(sf.LinearizedSGD(K4, 0.3, **options), 1, rtol=5e-3)
    threshold = critical(sf.LinearizedSGD(K4, 0.3, **options), 2).value
    assert threshold < found.value < 1.15 * threshold
    there = moments(sf.LinearizedSGD(K4, found.value, **options), 1, rtol=0, max_steps=300_000)
    assert_within(there.exponent, math.hypot(there.standard_error, found.derivative * found.standard_error), 0)


def test_critical_learning_rate_of_repeating_epochs():
    found = critical(sf.LinearizedSGD(K4, 0.3, sampling="cyclic"), 1)
    expected = brentq(lambda rate: law(K4, rate, sampling="cyclic").moment_exponent(2), 0.3, 0.8, xtol=1e-13)
    assert found.value == pytest.approx(expected, rel=1e-10)


# Bad input


def test_what_is_refused():
    system = sf.LinearizedSGD(K4, 0.3, 2)
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble"):
        sf.moment_exponent(K4, 1)
    with pytest.raises(ValueError, match="p is beyond floating point"):
        sf.moment_exponent(sf.MatrixEnsemble([[[1e10]], [[1.0]]]), 20)
    with pytest.raises(ValueError, match="max_steps must be at least"):
        sf.moment_exponent(system, 1.5, max_steps=1000)
    with pytest.raises(ValueError, match="finite_time_probability is for SGD on single examples"):
        finite_time_probability(system, 12)


def test_walkers_that_are_annihilated_leave_those_that_are_not():
    matrices = np.array([[[-2.0, 2], [0, 1]], [[0, 1], [-1, 0]], [[1, -1], [-1, 1]]])  # the last one takes (1, 1) to 0
    vectors, sums = np.array([[1.0, 0.3]]), []
    for _ in range(11):  # of all products
        vectors = (matrices[:, None] @ vectors[None, :, :, None]).reshape(-1, 2)
        vectors = vectors[vectors.any(axis=1)]
        sums.append((np.square(vectors).sum(axis=1) ** 0.25).sum())
    truth = np.log(sums[-1] / sums[-2] / 3)  # 0.1636; the last digits still move by 1e-4
    found = moments(sf.MatrixEnsemble(matrices), 0.5)
    assert found.converged
    assert found.exponent == pytest.approx(truth, abs=1e-4 + 4 * found.standard_error)


def test_growth_that_is_infinite_beside_that_of_others_warns_of_nothing():
    growth = [np.ones((4, 64, 1)), np.full((4, 64, 1), np.inf)]
    leading, missed = leading_kinds(growth)
    assert leading.shape == (2,)
    assert not missed < 0
