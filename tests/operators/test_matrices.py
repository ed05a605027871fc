"""Moments of products of dense matrices against closed forms, Kronecker powers, and published constants."""

import itertools
import math
from functools import reduce

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, T1, T1_EXPONENT, T1_EXPONENTS
from reference.systems import random_gram
from sgdstab_fast.exact.mean_square import mean_square_exponent
from sgdstab_fast.operators import matrices as matrix_moments
from sgdstab_fast.operators.matrices import MatrixMoments
from sgdstab_fast.operators.tensors import tensor_exponent

# T1 at learning rate 1/2
POSITIVE = np.array([[[2, 1], [1, 1]], [[3, 1], [2, 1]]])
FIBONACCI = np.array([[[0, 1], [1, 1]], [[0, 1], [1, -1]]])
ROTATION = np.array([[0.6, -0.8], [0.8, 0.6]])
NILPOTENT = np.array([[0, 1, 2], [0, 0, 3], [0, 0, 0]])


def uniform(matrices):
    return MatrixMoments(matrices, np.full(len(matrices), 1 / len(matrices)))


def batches(gram, learning_rate, size):
    steps = []
    for batch in map(list, itertools.combinations(range(len(gram)), size)):
        step = np.eye(len(gram))
        step[batch] -= learning_rate / size * gram[batch]
        steps.append(step)
    return np.array(steps)


def kronecker_moment(matrices, probabilities, order):
    """The mean of p-fold Kronecker powers grows like moments do, for even p and for positive matrices."""
    mean = sum(q * reduce(np.kron, [a] * order) for q, a in zip(probabilities, matrices, strict=True))
    return math.log(np.abs(np.linalg.eigvals(mean)).max())


def assert_known(found, expected, most=1e-13):
    # most: the error of what is compared with, too
    assert abs(found.exponent - expected) <= found.error + most
    assert found.error <= most


def assert_solves_its_equations(matrices, probabilities, moments, tolerance=1e-12):
    rho = math.exp(moments.exponent)
    mean = np.einsum("i,ika,kl,ilb->ab", probabilities, matrices, moments.metric, matrices, optimize=True)
    np.testing.assert_allclose(mean, rho * moments.metric, atol=tolerance * max(1, rho))
    mean = np.einsum("i,iak,kl,ibl->ab", probabilities, matrices, moments.covariance, matrices, optimize=True)
    np.testing.assert_allclose(mean, rho * moments.covariance, atol=tolerance * max(1, rho))
    for form in (moments.metric, moments.covariance):
        np.testing.assert_array_equal(form, form.T)
        assert np.linalg.eigvalsh(form)[0] > -1e-14
        assert form.diagonal().max() == 1


def test_published_constants_of_positive_matrices():
    moments = uniform(POSITIVE)
    assert moments.everywhere
    assert_known(moments.at(1), 1.15881036042994681)
    assert_known(moments.at(2), 2.34729475540106, 1e-14)
    value, slope = moments.with_slope(0)
    assert value == 0
    assert slope == pytest.approx(1.1433110351029492458, rel=1e-14)
    assert moments.at(0).exponent == 0


@pytest.mark.parametrize("order", T1_EXPONENTS)
def test_two_projections_at_every_order(order):
    moments = uniform([np.eye(2) - np.outer(f, f) / 2 for f in np.linalg.cholesky(T1)])
    assert moments.everywhere
    assert_known(moments.at(order), T1_EXPONENTS[order], 1e-14)
    assert moments.with_slope(order)[0] == pytest.approx(T1_EXPONENTS[order], abs=1e-13)
    assert moments.with_slope(0)[1] == pytest.approx(T1_EXPONENT, abs=1e-14)


@pytest.mark.parametrize(("size", "expected"), [(1, -0.143710338695453), (2, -0.153667062921271)])
def test_mean_square_of_batches(size, expected):
    steps = batches(K4, 0.3, size)
    moments = uniform(steps)
    assert_known(moments.at(2), expected, 1e-14)
    second = moments.second_moments
    assert second.converged
    assert second.residual < 1e-14
    assert second.growth == pytest.approx(math.expm1(expected), rel=1e-13)
    assert_solves_its_equations(steps, np.full(len(steps), 1 / len(steps)), second)
    assert not moments.everywhere
    assert moments.at(-1) is None
    if size == 1:
        assert moments.at(1) is None
    else:  # signs (1, -1, 1, -1) make all steps non-negative: the mean step is that of gradient descent
        assert_known(moments.at(1), sf.gd_exponent(K4, 0.3), 1e-14)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "expected"),
    [
        (0.5, False, -0.104072945537193),
        (0.9, False, 0.064029312548534),
        (0.5, True, -0.101516469852836),
        (0.9, True, -0.00334967507679127),
    ],
)
def test_momentum(momentum, nesterov, expected):
    free, readout = [[1 + momentum, -momentum], [1, 0]], [1 + momentum, -momentum] if nesterov else [1, 0]
    moves = np.eye(4) - batches(K4, 0.1, 1)
    steps = np.kron(free, np.eye(4)) - np.array([np.kron(np.outer([1, 0], readout), move) for move in moves])
    assert_known(uniform(steps).at(2), expected, 1e-12)
    # Two copies have the same moments, though no eigenvalue is simple.
    twice = uniform(np.kron(np.eye(2), steps)).second_moments
    assert_known(twice, expected, 1e-12)
    assert_solves_its_equations(np.kron(np.eye(2), steps), np.full(4, 1 / 4), twice, 1e-10)


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("d", [2, 3, 4])
def test_even_orders_are_kronecker_powers(rng, d, m):
    probabilities = rng.dirichlet(np.ones(m))
    noise = rng.standard_normal((m, d, d))
    for matrices in (noise, np.eye(d) + noise / 50, noise * np.eye(d), np.triu(noise)):
        moments = MatrixMoments(matrices, probabilities)
        for order in (2, 4, 6):
            if d**order <= 300:
                # eigenvalues of small eigenspaces: triangular matrices
                assert_known(moments.at(order), kronecker_moment(matrices, probabilities, order), 1e-11)
        assert_solves_its_equations(matrices, probabilities, moments.second_moments, 1e-7)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_odd_orders_of_positive_matrices(rng, d):
    signs, probabilities = rng.choice([-1, 1], d), rng.dirichlet(np.ones(3))
    positive = np.abs(rng.standard_normal((3, d, d)))
    # The cone of another orthant, and matrices that map it to its negative.
    for matrices in (positive, signs[:, None] * positive * signs, positive * np.array([1, -1, 1])[:, None, None]):
        moments = MatrixMoments(matrices, probabilities)
        for order in (1, 2, 3):
            assert_known(moments.at(order), kronecker_moment(positive, probabilities, order))
    if d > 2:
        assert MatrixMoments(positive * np.sign(rng.standard_normal((3, d, d))), probabilities).at(1) is None


def test_random_fibonacci_sequences():
    moments = uniform(FIBONACCI)
    assert_known(moments.at(2), math.log((1 + math.sqrt(5)) / 2), 1e-14)
    for order in (4, 6, 8):
        assert_known(moments.at(order), kronecker_moment(FIBONACCI, [0.5, 0.5], order), 1e-13)
    assert not moments.everywhere
    assert moments.with_slope(0)[1] == pytest.approx(math.log(1.1319882487943), abs=1e-5)


@pytest.mark.parametrize("order", [-2.5, -1, 0.5, 1, 2, 3])
def test_numbers_and_conformal_matrices_have_means_of_powers(order):
    expected = math.log(0.5 / 3**order + 0.5 * 2**order)
    for matrices in ([[[1 / 3]], [[-2]]], [ROTATION / 3, 2 * ROTATION.T]):
        moments = uniform(matrices)
        assert_known(moments.at(order), expected, 1e-14)
        value, slope = moments.with_slope(order)
        steps = [moments.with_slope(order + h)[0] for h in (-1e-4, 1e-4)]
        assert value == pytest.approx(expected, abs=1e-14)
        assert slope == pytest.approx((steps[1] - steps[0]) / 2e-4, abs=1e-6)
        assert moments.everywhere
    assert uniform([[[0]], [[2]]]).at(order).exponent == pytest.approx(
        math.log(2**order / 2) if order > 0 else math.inf
    )


def test_orthogonal_matrices_preserve_lengths(rng):
    units = rng.standard_normal((20, 5))
    units /= np.linalg.norm(units, axis=1)[:, None]
    moments = uniform(np.eye(5) - 2 * units[:, :, None] * units[:, None, :])
    for order in (-7, -0.5, 1, 2, 8):
        assert_known(moments.at(order), 0, 1e-12)
        assert moments.with_slope(order) == (0, 0)
    assert abs(moments.second_moments.exponent) < 1e-14
    np.testing.assert_allclose(moments.second_moments.metric, np.eye(5), atol=1e-10)


@pytest.mark.parametrize(
    "matrix", [ROTATION / 2, [[2, 1], [1, 1]], [[1, 5, 0], [0, 1, 1], [0, 0, -3]], [[4, 0], [0, 0]]]
)
def test_one_matrix_has_its_spectral_radius(matrix):
    log_radius = math.log(np.abs(np.linalg.eigvals(matrix)).max())
    moments = MatrixMoments([matrix] * 2, [0.3, 0.7])
    assert moments.everywhere
    for order in (-1.5, 0.5, 1, 2, 4):
        assert_known(moments.at(order), order * log_radius, 1e-13)
        assert moments.with_slope(order) == pytest.approx((order * log_radius, log_radius), abs=1e-13)
    assert_known(moments.second_moments, 2 * log_radius)


def test_products_that_vanish(rng):
    change = rng.standard_normal((3, 3))
    families = [[np.zeros((3, 3))], [NILPOTENT], change @ [NILPOTENT, NILPOTENT**2] @ np.linalg.inv(change)]
    for matrices in map(np.array, families):
        moments = uniform(matrices)
        assert [moments.at(order).exponent for order in (-1, 0, 0.5, 2)] == [math.inf, 0, -math.inf, -math.inf]
        second = moments.second_moments
        assert (second.exponent, second.growth, second.converged) == (-math.inf, -1, True)
        assert_solves_its_equations(matrices, np.full(len(matrices), 1 / len(matrices)), second)
    assert uniform([NILPOTENT, NILPOTENT.T]).at(2).exponent > 0
    assert uniform([np.eye(3), np.zeros((3, 3))]).at(2).exponent == pytest.approx(-math.log(2))


@pytest.mark.parametrize("scale", [1e-150, 1e-7, 1e150])
def test_scales_do_not_overflow(rng, scale):
    for matrices in (POSITIVE, rng.standard_normal((3, 3, 3)), rng.standard_normal((4, 1, 1))):
        for order in (2, 8):
            expected = uniform(matrices).at(order).exponent + order * math.log(scale)
            assert_known(uniform(scale * matrices).at(order), expected, 1e-11)
    units = np.array([1, 1e-80, 1e90])
    matrices = rng.standard_normal((3, 3, 3))
    moved = uniform(units[:, None] * matrices / units)
    assert_known(moved.at(8), uniform(matrices).at(8).exponent, 1e-12)


@pytest.mark.parametrize("learning_rate", [1e-9, 1e-6, 1e-3])
def test_small_steps_are_relatively_accurate(rng, learning_rate):
    factor = np.linalg.cholesky(random_gram(rng, 3))
    steps = np.eye(3) - learning_rate * factor[:, :, None] * factor[:, None, :]
    for order in (2, 4):
        expected = tensor_exponent(factor, learning_rate, order).exponent
        assert abs(uniform(steps).at(order).exponent - expected) < 1e-13 * abs(expected) + 2e-16


def test_iteration_agrees_with_matrices(rng, monkeypatch):
    d, probabilities = 4, rng.dirichlet(np.ones(3))
    noise = rng.standard_normal((3, d, d)) / 2
    for matrices in (noise, np.eye(d) + noise / 10):
        dense, iterated = (MatrixMoments(matrices, probabilities) for _ in range(2))
        expected = {order: dense.at(order) for order in (2, 4)}
        monkeypatch.setattr(matrix_moments, "LARGEST_MATRIX", 1)
        for order, known in expected.items():
            assert_known(iterated.at(order), known.exponent, 1e-11)
        np.testing.assert_allclose(iterated.second_moments.metric, dense.second_moments.metric, atol=1e-9)
        assert_solves_its_equations(matrices, probabilities, iterated.second_moments, 1e-10)
        monkeypatch.undo()


def test_larger_dimensions(rng):
    gram = random_gram(rng, 45)
    factor = np.linalg.cholesky(gram)
    moments = uniform(np.eye(45) - factor[:, :, None] * factor[:, None, :])
    expected = mean_square_exponent(sf.LinearizedSGD(gram, 1.0)).exponent
    assert_known(moments.at(2), expected, 1e-10)
    assert moments.at(4) is None  # it would take minutes


def test_refuses_what_is_not_a_distribution_of_matrices():
    for matrices, probabilities in ((np.eye(2), [1]), (np.ones((1, 2, 3)), [1]), (POSITIVE, [1])):
        with pytest.raises(ValueError, match="shape"):
            MatrixMoments(matrices, probabilities)
    for matrices, probabilities in ((POSITIVE, [0.5, 0.4]), (POSITIVE, [1.5, -0.5]), (POSITIVE * math.nan, [0.5, 0.5])):
        with pytest.raises(ValueError, match="of sum 1"):
            MatrixMoments(matrices, probabilities)
