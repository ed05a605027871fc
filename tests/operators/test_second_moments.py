"""Second moments of every independent law and recurrence, against Kronecker squares, exact values and closed forms."""

import itertools
import math

import numpy as np
import pytest
import sgdstab_fast as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.known import K4, K4_MEAN_SQUARES
from reference.systems import random_gram
from reference.two_scales import draw
from sgdstab_fast.operators.drawn_units import Draws
from sgdstab_fast.operators.level_pairs import gd_exponent_of, gd_threshold_of
from sgdstab_fast.operators.second_moments import mean_square_threshold, second_moments

PLAIN = np.eye(1), np.ones(1)


def heavy_ball(momentum):
    return np.array([[1 + momentum, -momentum], [1, 0]]), np.array([1.0, 0.0])


def nesterov(momentum):
    return np.array([[1 + momentum, -momentum], [1, 0]]), np.array([1 + momentum, -momentum])


RECURRENCES = {
    "plain": PLAIN,
    "heavy ball": heavy_ball(0.5),
    "heavy ball .9": heavy_ball(0.9),
    "nesterov": nesterov(0.6),
    "no fixed point": (np.array([[0.4, -0.5], [0.3, 0.6]]), np.array([0.7, -0.4])),
    "three levels": (np.array([[1.3, -0.2, -0.1], [1, 0, 0], [0, 1, 0]]), np.array([1.2, -0.3, 0.1])),
}


def noise(n_units, batch_size, *, with_replacement=False):
    if with_replacement or batch_size == 1:
        return 1 / batch_size
    return (n_units - batch_size) / (batch_size * (n_units - 1))


def alone(n):
    """Every row is a unit."""
    return np.arange(n), np.arange(n + 1)


def owned(labels):
    """Members and offsets of the units that labels name."""
    order = np.argsort(labels, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(labels))])


def exponent(learning_rate, batch_size, recurrence=PLAIN):
    law = noise(4, batch_size) if batch_size < 4 else 0.0
    return second_moments(Draws(K4, "gram", law, 4, *alone(4)), learning_rate, *recurrence).exponent


def threshold(gram, batch_size, recurrence=PLAIN, **options):
    n = len(gram)
    return mean_square_threshold(Draws(gram, "gram", noise(n, batch_size, **options), n, *alone(n)), *recurrence)


def steps(features, units, learning_rate, batch_size, recurrence, probabilities=None, *, with_replacement=False):
    """Every matrix that a step may be, with its probability, in factor coordinates."""
    free, readout = recurrence
    rank, n = features.shape[1], len(units)
    if with_replacement or batch_size == 1:
        p = np.full(n, 1 / n) if probabilities is None else probabilities
        batches = [(p[list(b)].prod(), b) for b in itertools.product(range(n), repeat=batch_size)]
    else:
        batches = [(1 / math.comb(n, batch_size), b) for b in itertools.combinations(range(n), batch_size)]
    kick = np.outer(np.eye(len(free))[0], readout)
    for probability, batch in batches:
        move = sum(features[units[u]].T @ features[units[u]] for u in batch)
        yield probability, np.kron(free, np.eye(rank)) - learning_rate / batch_size * np.kron(kick, move)


def assert_solves(result, products, rtol=1e-8):
    """The dominant eigenvalue of the Kronecker square, and the equations of both forms."""
    square = sum(p * np.kron(a, a) for p, a in products)
    rho = np.abs(np.linalg.eigvals(square)).max()
    growth = math.exp(result.exponent)
    assert abs(growth - rho) < 1e-11 * max(1, rho)
    assert abs(result.growth - (growth - 1)) < 1e-15 * max(1, rho)
    assert result.converged
    metric, covariance = result.metric, result.covariance
    for form, image in (
        (metric, sum(p * a.T @ metric @ a for p, a in products)),
        (covariance, sum(p * a @ covariance @ a.T for p, a in products)),
    ):
        np.testing.assert_array_equal(form, form.T)
        np.testing.assert_allclose(image, growth * form, rtol=0, atol=rtol * max(1, growth))
        assert form.diagonal().max() == 1
        assert np.linalg.eigvalsh(form)[0] > -1e-11


@pytest.mark.parametrize("recurrence", RECURRENCES.values(), ids=RECURRENCES)
@pytest.mark.parametrize("labels", [[1, 0, 0], [2, 0, 1, 0]])
@pytest.mark.parametrize("coordinates", ["gram", "factor"])
def test_agrees_with_the_kronecker_square(rng, recurrence, labels, coordinates):
    n, (members, offsets) = len(labels), owned(labels)
    n_units = len(offsets) - 1
    units = [members[a:b] for a, b in itertools.pairwise(offsets)]
    features = np.linalg.cholesky(random_gram(rng, n))
    state = np.kron(np.eye(len(recurrence[1])), features.T if coordinates == "gram" else np.eye(n))
    some = rng.dirichlet(np.full(n_units, 3.0))
    laws = [(1, None, False), (1, some, False), (2, None, False), (2, None, True), (2, some, True)]
    for (batch_size, probabilities, repeated), learning_rate in itertools.product(laws, (0.05, 0.8, 2.5)):
        p = 0.0 if batch_size == n_units and not repeated else noise(n_units, batch_size, with_replacement=repeated)
        rows = features @ features.T if coordinates == "gram" else features
        draws = Draws(rows, coordinates, p, n_units, members, offsets, probabilities)
        result = second_moments(draws, learning_rate, *recurrence)
        products = [
            (weight, np.linalg.solve(state, matrix @ state))
            for weight, matrix in steps(
                features, units, learning_rate, batch_size, recurrence, probabilities, with_replacement=repeated
            )
        ]
        assert_solves(result, products)


@pytest.mark.parametrize("recurrence", [PLAIN, heavy_ball(0.8), nesterov(0.8)], ids=["plain", "ball", "nesterov"])
def test_duplicated_examples_in_factor_coordinates(rng, recurrence):
    features = rng.standard_normal((5, 3))
    features[3], features[4] = features[0], -2 * features[1]
    for batch_size, learning_rate in itertools.product((1, 2, 4), (0.1, 0.5)):
        draws = Draws(features, "factor", noise(5, batch_size), 5, *alone(5))
        result = second_moments(draws, learning_rate, *recurrence)
        assert_solves(result, list(steps(features, np.arange(5)[:, None], learning_rate, batch_size, recurrence)))


@pytest.mark.parametrize(("batch_size", "values"), K4_MEAN_SQUARES.items())
def test_values_of_k4(batch_size, values):
    for learning_rate, expected in zip((0.1, 0.3, 0.5), values, strict=True):
        assert abs(exponent(learning_rate, batch_size) - expected) < 3e-15


@pytest.mark.parametrize(
    ("recurrence", "values"),
    [
        (heavy_ball(0.5), (-0.104072945537193, -0.107727767780282, -0.10883173398226)),
        (nesterov(0.5), (-0.101516469852836, -0.104643608536693, -0.105606271177283)),
        (heavy_ball(0.9), (0.064029312548534, -0.052002990194976, -0.10536051565782)),
        (nesterov(0.9), (-0.00334967507679127, -0.121600307687646, -0.130678323642107)),
    ],
)
def test_values_of_k4_with_momentum(recurrence, values):
    # They were computed by dense eigenvalues that a momentum of .9 makes uncertain to 1e-14.
    for batch_size, expected in zip((1, 2, 4), values, strict=True):
        assert abs(exponent(0.1, batch_size, recurrence) - expected) < 2e-14


def test_thresholds_of_k4():
    for batch_size, expected in enumerate((0.420521611224924, 0.811851180491194, 1.14549394313967), start=1):
        assert abs(threshold(K4, batch_size)[0] - expected) < 5e-15
    assert abs(mean_square_threshold(Draws(K4, "gram", 0.0, 4, *alone(4)), *PLAIN)[0] - 4 / 3) < 1e-14
    assert abs(threshold(K4, 2, with_replacement=True)[0] - 0.6599364073047066) < 2e-15
    assert abs(threshold(K4, 3, with_replacement=True)[0] - 0.8118511804911935) < 2e-15
    assert abs(threshold(K4, 1, heavy_ball(0.5))[0] - 0.261857043737) < 1e-12
    assert abs(threshold(K4, 2, heavy_ball(0.5))[0] - 0.655848135935) < 1e-12


@pytest.mark.parametrize("recurrence", [PLAIN, heavy_ball(0.9), nesterov(0.4)], ids=["plain", "ball", "nesterov"])
def test_exponents_change_sign_at_the_threshold(rng, recurrence):
    gram, labels = random_gram(rng, 12), np.repeat(np.arange(5), [1, 4, 2, 3, 2])
    draws = Draws(gram, "gram", noise(5, 2), 5, *owned(labels))
    value, error = mean_square_threshold(draws, *recurrence)
    at, *beside = (second_moments(draws, value * x, *recurrence).exponent for x in (1, 0.1, 0.5, 1 - 1e-9, 1 + 1e-9))
    assert abs(at) < 1e-14
    assert [x > 0 for x in beside] == [False, False, False, True]
    assert error < 1e-13 * value


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_full_batches(rng, momentum):
    eigenvalues = np.linalg.eigvalsh(gram := random_gram(rng, 6))
    limits = (2 * (1 + momentum), 2 * (1 + momentum) / (1 + 2 * momentum))
    for recurrence, limit in zip((heavy_ball(momentum), nesterov(momentum)), limits, strict=True):
        value = gd_threshold_of(eigenvalues, 6, *recurrence)
        assert abs(value - limit * 6 / eigenvalues[-1]) < 1e-13 * value
        assert abs(gd_exponent_of(eigenvalues, value, 6, *recurrence)) < 1e-13
        for learning_rate in (0.3 * value, 0.9 * value, 1.4 * value):
            result = second_moments(Draws(gram, "gram", 0.0, 6, *alone(6)), learning_rate, *recurrence)
            assert abs(result.exponent - 2 * gd_exponent_of(eigenvalues, learning_rate, 6, *recurrence)) <= result.error
            batch = list(steps(np.linalg.cholesky(gram), np.arange(6)[:, None], learning_rate, 6, recurrence))
            radius = np.abs(np.linalg.eigvals(batch[0][1])).max()
            assert abs(result.exponent - 2 * np.log(radius)) < 1e-12


def test_one_unit_is_gradient_descent():
    for recurrence, law in itertools.product(RECURRENCES.values(), (0.0, 1.0)):
        draws = Draws(K4, "gram", law, 1, *owned(np.zeros(4, dtype=int)))
        result = second_moments(draws, 0.2, *recurrence)
        assert abs(result.exponent - 2 * gd_exponent_of([1, 3, 4, 6], 0.2, 1, *recurrence)) < 1e-13
        assert abs(mean_square_threshold(draws, *recurrence)[0] / gd_threshold_of([6], 1, *recurrence) - 1) < 1e-13
    two_steps = second_moments(Draws(np.array([[2.0]]), "gram", 0.0, 1, *alone(1)), 0.5, *PLAIN)
    assert two_steps.exponent == -math.inf


def test_blocks_that_do_not_feel_each_other():
    gram = np.zeros((6, 6))
    gram[:4, :4], gram[4:, 4:] = K4, [[1, 0.5], [0.5, 3]]
    for recurrence, learning_rate in itertools.product((PLAIN, heavy_ball(0.5)), (0.05, 0.4, 1.0)):
        result = second_moments(Draws(gram, "gram", 1.0, 6, *alone(6)), learning_rate, *recurrence)
        features = np.linalg.cholesky(gram)
        state = np.kron(np.eye(len(recurrence[1])), features.T)
        products = list(steps(features, np.arange(6)[:, None], learning_rate, 1, recurrence))
        assert_solves(result, [(p, np.linalg.solve(state, a @ state)) for p, a in products])


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_thresholds_increase_with_the_batch_size(n, seed):
    gram = random_gram(np.random.default_rng(seed), n)
    values = [threshold(gram, batch_size)[0] for batch_size in range(1, n)]
    values.append(gd_threshold_of(np.linalg.eigvalsh(gram), n, *PLAIN))
    assert (np.diff(values) > -1e-12).all()


def test_growth_keeps_its_relative_accuracy_at_small_steps(rng):
    # rho - 1 = -2 eta w_min / (N (1 - b)) (1 + O(eta))
    gram = random_gram(rng, 8)
    smallest = np.linalg.eigvalsh(gram)[0]
    for momentum, form in itertools.product((0.0, 0.9), (heavy_ball, nesterov)):
        result = second_moments(Draws(gram, "gram", 1.0, 8, *alone(8)), 1e-10, *form(momentum))
        assert result.growth == pytest.approx(-2e-10 * smallest / 8 / (1 - momentum), rel=1e-8)


def graded(seed, n=60, smallest=1e-9):
    """A factor whose slowest direction is hardly felt, and rows of it in groups of ten."""
    vectors = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return vectors * np.sqrt(np.geomspace(1, smallest, n)), owned(np.repeat(np.arange(n // 10), 10))


@pytest.mark.parametrize("seed", range(6))
def test_at_the_pole_the_eigenvector_converges_too(seed):
    features, units = graded(seed)
    largest = max(np.linalg.norm(unit, 2) ** 2 for unit in features.reshape(6, 10, -1))
    for share in (1.0, 1.2, 1.3):
        result = second_moments(Draws(features, "factor", 1.0, 6, *units), 2 * share / largest, *PLAIN)
        assert result.converged
        assert result.exponent < 0 or share > 1


@pytest.mark.parametrize("name", ["plain", "heavy ball", "nesterov"])
@pytest.mark.parametrize("seed", range(3))
def test_what_did_not_converge_is_bounded(seed, name):
    """X - R(z) X >= 0 for one X with a positive metric: a proof, whatever X is."""
    certain = 0
    for smallest, learning_rate in itertools.product((1e-9, 1e-3), (0.3, 1.0, 2.0, 6.0)):
        features, units = graded(seed, smallest=smallest)
        draws = Draws(features, "factor", 1.0, 6, *units)
        exact = second_moments(draws, learning_rate, *RECURRENCES[name])
        for most in (1, 2, 5, 12):
            rough = second_moments(draws, learning_rate, *RECURRENCES[name], max_applications=most)
            assert abs(rough.exponent - exact.exponent) <= rough.error + exact.error
            certain += not rough.converged and rough.exponent + 2 * rough.error < 0
    assert certain > 0


@pytest.mark.parametrize("name", ["plain", "heavy ball", "nesterov"])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_that_did_not_converge_say_how_far_off_they_may_be(seed, name):
    for smallest in (1e-9, 1e-3):
        features, units = graded(seed, smallest=smallest)
        draws = Draws(features, "factor", 1.0, 6, *units)
        exact, exact_error = mean_square_threshold(draws, *RECURRENCES[name])
        for most in (1, 2, 5, 12):
            value, error = mean_square_threshold(draws, *RECURRENCES[name], max_applications=most)
            assert abs(value - exact) <= error + exact_error


def test_poles_that_are_met_exactly_are_no_eigenvalues():
    """A slowest direction that rounding can hardly tell from none: z is a pole to the last digit."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features = np.linalg.qr(rng.standard_normal((7, 7)))[0] * np.sqrt(10.0 ** np.linspace(0, -17, 7))
        result = second_moments(Draws(features, "factor", noise(7, 3), 7, *alone(7)), 0.3, *PLAIN)
        assert result.converged
        assert -1e-14 < result.exponent < 1e-15


@pytest.mark.parametrize("name", ["plain", "heavy ball"])
@pytest.mark.parametrize("coupling", [1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("learning_rate", [0.5, 0.9])
def test_blocks_that_hardly_feed_each_other(name, coupling, learning_rate):
    """The slow block is an eigenvector to rounding: the largest eigenvalue is that of the fast one."""
    gram, slow = np.zeros((6, 6)), 0.02 * np.array([[1, 0.5], [0.5, 1]])
    gram[:4, :4], gram[4:, 4:] = K4, slow
    gram[0, 4] = gram[4, 0] = coupling
    found, *blocks = (
        second_moments(Draws(each, "gram", noise(6, 2), 6, *alone(len(each))), learning_rate, *RECURRENCES[name])
        for each in (gram, K4, slow)
    )
    assert found.converged
    assert found.exponent == pytest.approx(max(block.exponent for block in blocks), rel=1e-4)


@pytest.mark.parametrize("seed", [3, 9, 22])
def test_metrics_bound_lambda_by_the_kind_that_grows_fastest(seed):
    """Two directions that hardly feed each other, and nearly the same growth of both."""
    case = draw("nearly decoupled", seed)
    (block,) = case.blocks
    kronecker = np.einsum("n,nij,nkl->ikjl", block.probabilities, block.matrices, block.matrices).reshape(4, 4)
    known = math.log(np.abs(np.linalg.eigvals(kronecker)).max())
    assert -1e-15 < case.system.growth().upper_bound - known / 2 < 1e-13
    assert sf.mean_square_exponent(case.system).exponent == pytest.approx(known, abs=1e-13)


def test_a_direction_that_is_alone_overlooks_none():
    features = np.array([[0.00282], [1.22], [1.57], [3.17], [1.8]])
    found = second_moments(Draws(features, "factor", 1.0, 5, *alone(5)), 0.159, *heavy_ball(0.994))
    assert found.converged


@pytest.mark.parametrize("seed", [2, 25, 27])
def test_weight_decay_of_a_direction_without_loss_is_found_at_its_pole(seed):
    features = 0.4 * np.random.default_rng(seed).standard_normal((6, 5)) * [1e-6, 1, 1, 1, 1]
    decayed = sf.LinearizedSGD.from_factor(features, 0.15).with_recurrence(sf.Recurrence([[0.54]], [0.45]))
    known = sf.mean_square_exponent(sf.MatrixEnsemble(*decayed.matrices()[:2])).exponent
    assert sf.mean_square_exponent(decayed).exponent == pytest.approx(known, rel=1e-9)
