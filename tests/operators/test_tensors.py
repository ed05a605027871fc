"""Lambda(p) from symmetric tensors, against Kronecker powers, closed forms, proofs in rational arithmetic, and laws."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, T1, kronecker_exponent, steps_of
from reference.systems import random_gram
from sgdstab_fast.exact.mean_square import mean_square_exponent
from sgdstab_fast.operators import tensors as symmetric_tensors
from sgdstab_fast.operators.tensors import LARGEST_TENSOR, tensor_dimension, tensor_exponent, tensors_fit


def factor_of(gram):
    vectors, values, _ = sf.LinearizedSGD(gram, 1.0).rows_of_k.decompose()
    return vectors * np.sqrt(values)


@pytest.mark.parametrize("learning_rate", [1e-6, 0.1, 1.0, 4.0, 30.0])
@pytest.mark.parametrize(("n", "order"), [(6, 2), (2, 4), (4, 4), (2, 6), (2, 8)])
def test_agrees_with_kronecker_powers(rng, n, order, learning_rate):
    for gram in (3 * random_gram(rng, n), random_gram(rng, n) + 0.5, REAL_GRAMS["digits_trained_128"][:n, :n]):
        features = factor_of(gram)
        expected = kronecker_exponent(features, learning_rate, order)
        result = tensor_exponent(features, learning_rate, order)
        # The dense eigenvalue has the rounding of matrices of norm rho or 1.
        assert abs(result.exponent - expected) < 1e-14 * max(1, abs(expected)) + result.error
        assert result.converged
        assert result.residual <= 1e-10
        assert result.error < 1e-10 * max(1, abs(expected))


@pytest.mark.parametrize(("n", "rank", "order"), [(3, 3, 6), (6, 5, 4)])
def test_agrees_with_large_kronecker_powers(rng, n, rank, order):
    features = factor_of(random_gram(rng, n))[:, :rank]  # where n > rank, K is singular
    for learning_rate in (0.5, 2.0):
        expected = kronecker_exponent(features, learning_rate, order)
        assert tensor_exponent(features, learning_rate, order).exponent == pytest.approx(expected, rel=1e-12)


def test_known_exponents():
    # Both steps of T1 are orthogonal projections at angle pi/3 in the plane.
    assert abs(tensor_exponent(factor_of(T1), 0.5, 2).exponent - -0.2595539679913346780622) < 1e-14
    assert abs(tensor_exponent(factor_of(T1), 0.5, 4).exponent - -0.4741392294187319871817) < 1e-14
    orthogonal = np.diag(np.sqrt([1.0, 3, 5]))
    assert abs(tensor_exponent(orthogonal, 0.5, 2).exponent - 0.348306694268216) < 1e-14
    assert abs(tensor_exponent(orthogonal, 0.5, 4).exponent - 0.85618680780445) < 1e-13
    assert abs(tensor_exponent(factor_of(K4), 0.3, 2).exponent - -0.143710338695453) < 1e-14
    assert abs(tensor_exponent(factor_of(K4), 0.5, 2).exponent - 0.217230316293391) < 1e-14


@pytest.mark.parametrize("order", [2, 4, 6, 8])
@pytest.mark.parametrize("learning_rate", [1e-9, 1e-3, 0.3, 0.5, 1.5, 1e6])
def test_orthogonal_gradients_have_a_closed_form(learning_rate, order):
    # Each direction on its own; mixed moments are smaller, by Hoelder's inequality.
    squares = np.array([1.0, 3, 5])
    moves = learning_rate * squares * (learning_rate * squares - 2)  # (1 - x)^2 - 1
    expected = np.log1p((np.expm1(order / 2 * np.log1p(moves)) / 3).max())
    result = tensor_exponent(np.diag(np.sqrt(squares)), learning_rate, order)
    np.testing.assert_allclose(result.exponent, expected, rtol=1e-12)


@pytest.mark.parametrize("learning_rate", [1e-6, 1.0, 2.1, 1e3])
@pytest.mark.parametrize("n", [4, 16])
def test_order_two_is_the_mean_square_exponent(n, learning_rate):
    for name in REAL_GRAMS:
        gram = REAL_GRAMS[name][:n, :n]
        expected = mean_square_exponent(sf.LinearizedSGD(gram, learning_rate)).exponent
        result = tensor_exponent(factor_of(gram), learning_rate, 2)
        assert result.exponent == pytest.approx(expected, rel=1e-12)
        assert abs(result.exponent - expected) < 2 * result.error + 1e-13 * abs(expected)


def n_eigenvalues_above(features, learning_rate, order, growth):
    """How many eigenvalues of the mean Kronecker power, minus 1, are above a number: exact, from pivots' signs."""
    exactly = np.vectorize(Fraction, otypes=[object])
    dimension = features.shape[1]
    form = -(1 + Fraction(growth)) * exactly(np.eye(dimension**order))
    for row in exactly(features):
        step = exactly(np.eye(dimension)) - Fraction(learning_rate) * np.outer(row, row)
        form = form + functools.reduce(np.kron, [step] * order) / len(features)
    positive = 0
    while len(form):
        pivot = form[0, 0]
        assert pivot != 0
        positive += pivot > 0
        form = form[1:, 1:] - np.outer(form[1:, 0], form[0, 1:]) / pivot
    return positive


@pytest.mark.parametrize("learning_rate", [1e-9, 1e-4, 0.3, 0.9, 1.5, 1e4])
@pytest.mark.parametrize(("width", "rtol"), [(1.0, 1e-12), (2.0**-17, 1e-8)])
def test_relative_accuracy_at_every_learning_rate(learning_rate, width, rtol):
    features = np.array([[1.5, 0.25], [0.75, 0.125], [-0.5, 0.25]]) * [1, width]
    result = tensor_exponent(features, learning_rate, 4)
    growth = math.expm1(result.exponent)
    # Singular vectors have the rounding of the largest singular value: narrow gradients are known less well.
    assert result.error <= rtol * abs(result.exponent)
    margin = min(rtol * abs(growth), 2 * result.error * math.exp(result.exponent))
    assert n_eigenvalues_above(features, learning_rate, 4, growth - margin) > 0
    assert n_eigenvalues_above(features, learning_rate, 4, growth + margin) == 0
    assert result.converged


@pytest.mark.parametrize("order", [2, 4, 6])
def test_steps_of_1e99_are_in_range(order):
    features = factor_of(K4)
    leading = tensor_exponent(features, 1e14, order).exponent - order * 14 * math.log(10)
    assert abs(tensor_exponent(features, 1e99, order).exponent - order * 99 * math.log(10) - leading) < 1e-10


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_reflections_have_exponent_zero(rng, n, order):
    features = rng.standard_normal((n + 1, n))
    features /= np.linalg.norm(features, axis=1)[:, None]
    result = tensor_exponent(2 * features, 0.5, order)
    assert abs(result.exponent) < 1e-12
    assert abs(result.exponent) <= result.error


@pytest.mark.parametrize("learning_rate", [0.1, 1.0, 1.9, 2.1, 2.5, 6.0])
def test_convex_in_the_order_and_above_any_direction(rng, learning_rate):
    for gram in (random_gram(rng, 5), REAL_GRAMS["iris_trained_40"][:5, :5]):
        features = factor_of(gram)
        curve = [0.0, *(tensor_exponent(features, learning_rate, order).exponent for order in (2, 4, 6, 8))]
        assert (np.diff(curve, 2) >= -1e-12).all()
        assert curve[2] >= 2 * curve[1] - 1e-12
        # M is symmetric, and s^(x)p has the quotient E <s, A s>^p for unit vectors s.
        units = np.vstack([rng.standard_normal((200, features.shape[1])), np.eye(features.shape[1]), features])
        units /= np.linalg.norm(units, axis=1)[:, None]
        moves = np.array([((units @ step) * units).sum(axis=1) for step in steps_of(features, learning_rate)])
        for order, exponent in zip((2, 4, 6, 8), curve[1:], strict=True):
            assert np.log((moves**order).mean(axis=0).max()) <= exponent + 1e-12


@pytest.mark.parametrize("learning_rate", [1.0, 2.1, 4.0])
def test_the_eigentensor_of_a_real_matrix(rng, learning_rate):
    features = factor_of(REAL_GRAMS["iris_trained_40"][:16, :16])
    result = tensor_exponent(features, learning_rate, 4)
    operator = symmetric_tensors._TensorOperator(features, learning_rate, 4)
    vector = symmetric_tensors._dominant(operator.product, operator.diagonal, operator.start)[0]
    noise = rng.standard_normal(vector.size)
    images = [math.exp(operator.log_unit) * operator.product(x) + x for x in (vector, noise)]

    *_, numbers = symmetric_tensors.occupation_ladder(16, 4)
    permutations = [numbers[list(order)] for order in itertools.permutations(range(4))]
    n_distinct = 24 / sum((numbers == other).all(axis=0) for other in permutations)

    def full(coordinates):
        tensor = np.zeros((16,) * 4)
        for indices in permutations:
            tensor[tuple(indices)] = coordinates / np.sqrt(n_distinct)
        return tensor

    for coordinates, image in zip((vector, noise), images, strict=True):
        expected = 0
        for step in steps_of(features, learning_rate):
            moved = full(coordinates)
            for _ in range(4):  # every contraction moves the next index to the front
                moved = np.tensordot(moved, step, axes=(0, 0))
            expected = expected + moved / 16
        np.testing.assert_allclose(full(image), expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    # Residuals along stiff directions count less than this one.
    np.testing.assert_allclose(images[0], math.exp(result.exponent) * vector, rtol=0, atol=1e-9)
    assert np.log(noise @ images[1] / (noise @ noise)) < result.exponent
    assert result.n_applications < 60


@pytest.mark.parametrize("coupling", [1e-2, 1e-5, 1e-9, 0.0])
@pytest.mark.parametrize("learning_rate", [0.05, 0.45, 2.0])
def test_nearly_uncoupled_blocks(learning_rate, coupling):
    # One block converges slowly, the other one may be unstable: the start must not miss it.
    gram = np.kron([[1, coupling], [coupling, 1]], [[2, 0.5], [0.5, 1]])
    gram[2:, 2:] *= 1e-2
    gram[:2, 2:] *= 0.1
    gram[2:, :2] *= 0.1
    features = np.linalg.cholesky(gram)
    for order in (2, 4):
        expected = kronecker_exponent(features, learning_rate, order)
        assert abs(tensor_exponent(features, learning_rate, order).exponent - expected) < 1e-13


def test_coordinates_do_not_matter(rng):
    features = rng.standard_normal((7, 4))
    rotated = features @ np.linalg.qr(rng.standard_normal((6, 6)))[0][:4]  # in a subspace of R^6
    for learning_rate in (1e-3, 0.2, 1.0):
        expected = tensor_exponent(features, learning_rate, 4)
        for same, scale in ((features[::-1], 1), (-2 * features, 4), (rotated, 1)):
            result = tensor_exponent(same, learning_rate / scale, 4)
            assert abs(result.exponent - expected.exponent) <= result.error + expected.error


@pytest.mark.parametrize("order", [2, 4, 6])
def test_one_dimension(order):
    features = np.array([[1.0], [2.0], [0.5]])
    for learning_rate in (0.1, 0.25, 1.0, 1e3):
        expected = np.log(np.mean((1 - learning_rate * features**2) ** order))
        result = tensor_exponent(features, learning_rate, order)
        assert result.exponent == pytest.approx(expected, rel=1e-13)
        assert (result.n_applications, result.converged) == (0, True)
    assert tensor_exponent(features, 1e-12, order).exponent == pytest.approx(-order * 1.75e-12, rel=1e-10)
    annihilated = tensor_exponent(np.full((3, 2), 1.0), 0.5, order)
    assert annihilated.exponent < -30 * order
    assert tensor_exponent([[2.0]], 0.25, order).exponent == -math.inf
    assert tensor_exponent(np.zeros((2, 3)), 0.5, order).exponent == 0


def test_what_is_not_converged_says_so(monkeypatch):
    features = factor_of(REAL_GRAMS["digits_trained_128"][:10, :10])
    exact = tensor_exponent(features, 1.1, 4)
    for most in (2, 4, 8):
        monkeypatch.setattr(symmetric_tensors, "_MOST_APPLICATIONS", most)
        result = tensor_exponent(features, 1.1, 4)
        assert (result.converged, result.n_applications) == (False, most)
        assert result.residual > 1e-10
        assert result.exponent < exact.exponent < result.exponent + result.error


def test_sizes_and_what_does_not_fit(rng):
    assert tensor_dimension(16, 4) == 3876
    assert tensor_dimension(3, 2) == 6
    assert tensor_dimension(1, 6) == 1
    assert tensor_dimension(45, 4) <= LARGEST_TENSOR < tensor_dimension(46, 4)
    assert tensors_fit(45, 45, 4)
    assert not tensors_fit(10**6, 45, 4)
    with pytest.raises(ValueError, match="too many"):
        tensor_exponent(rng.standard_normal((46, 46)), 0.1, 4)
    with pytest.raises(ValueError, match="even"):
        tensor_exponent(np.eye(2), 0.1, 3)
    with pytest.raises(ValueError, match="order"):
        tensor_exponent(np.eye(2), 0.1, 18)
    with pytest.raises(ValueError, match="learning_rate"):
        tensor_exponent(np.eye(2), -0.1, 2)
