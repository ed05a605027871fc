"""The mean-square exponent against dense eigenvalues of E[A (x) A], exact values, and the equations it solves."""

import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, K4_MEAN_SQUARES, K4_THRESHOLD, REAL_GRAMS, T1, T1_EXPONENT
from reference.laws import factor_of
from reference.systems import random_gram
from scipy.sparse.linalg import LinearOperator, eigsh
from sgdstab_fast.exact.mean_square import mean_square_exponent
from sgdstab_fast.operators.mean_square import MeanSquareOperator
from sgdstab_fast.systems import single_steps

# Computed apart by dense methods in double precision: their rounding is 1e-14 absolutely.
REAL_EXPONENTS = [
    ("digits_trained_128", 0.496, -0.00015075263530663308),
    ("digits_trained_128", 1.063, 0.009119560113911658),
    ("digits_trained_128", 1.558, 0.04598739002770418),
    ("iris_trained_40", 0.469, -6.424855045386104e-06),
    ("iris_trained_40", 1.004, -1.3753328701038886e-05),
    ("iris_trained_40", 1.473, 0.06309524445168889),
]


def exponent(gram, learning_rate):
    return mean_square_exponent(sf.LinearizedSGD(gram, learning_rate)).exponent


def brute_force(features, learning_rate, batch_size=1, weights=None):
    """rho of E[w A (x) A] over all batches, A = I - (eta/B) sum f_i f_i^T: symmetric, so its largest eigenvalue."""
    n, rank = features.shape
    weights = np.ones(n) if weights is None else weights
    mean, batches = 0, list(itertools.combinations(range(n), batch_size))
    for batch in map(list, batches):
        step = np.eye(rank) - learning_rate / batch_size * features[batch].T @ features[batch]
        mean = mean + weights[batch].prod() * np.kron(step, step) / len(batches)
    return np.linalg.eigvalsh((mean + mean.T) / 2)[-1]


def steps(system):
    """A_i in the system's own coordinates."""
    for row, unit in zip(system.rows, np.eye(system.n_examples), strict=True):
        left = unit if system.coordinates == "gram" else row
        yield np.eye(system.dimension) - system.learning_rate * np.outer(left, row)


def assert_solves_its_equations(system, result):
    assert_is_dominant(system, result.exponent, result.metric)
    assert_is_dominant(system, result.exponent, result.covariance, transposed=True)


def assert_is_dominant(system, exponent, form, weights=None, *, transposed=False):
    """rho M is the mean of A_i^T M A_i, or with A_i^T in place of A_i, with weights of examples."""
    weights = np.ones(system.n_examples) if weights is None else weights
    rho = math.exp(exponent)
    matrices = [a.T if transposed else a for a in steps(system)]
    image = sum(w * a.T @ form @ a for w, a in zip(weights, matrices, strict=True)) / system.n_examples
    np.testing.assert_array_equal(form, form.T)
    # The residual is at most 1e-11 in isometric coordinates.
    np.testing.assert_allclose(image, rho * form, rtol=0, atol=1e-10 * rho * np.abs(form).max())
    assert np.linalg.eigvalsh(form)[0] > -1e-12
    assert form.diagonal().max() == 1


@pytest.mark.parametrize("learning_rate", [1e-3, 0.1, 0.3, 0.5, 0.7, 2.0, 30.0])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_agrees_with_the_dense_eigenvalue(rng, n, learning_rate):
    for gram in (random_gram(rng, n) * 3, random_gram(rng, n) + 2, REAL_GRAMS["digits_trained_128"][:n, :n]):
        expected = np.log(brute_force(factor_of(gram), learning_rate))
        result = mean_square_exponent(sf.LinearizedSGD(gram, learning_rate))
        # The dense eigenvalue has the rounding of matrices of norm rho and size 64.
        np.testing.assert_allclose(result.exponent, expected, rtol=1e-12, atol=1e-13)
        assert result.converged
        assert result.stopped_by == "residual"
        assert result.residual <= 1e-11


@pytest.mark.parametrize("learning_rate", [0.1, 0.3, 0.5, 1.2, 7.0])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_noise_of_batches_without_replacement(rng, batch_size, learning_rate):
    for gram in (K4, random_gram(rng, 4), random_gram(rng, 6)):
        found = mean_square_exponent(sf.LinearizedSGD(gram, learning_rate, batch_size))
        expected = brute_force(factor_of(gram), learning_rate, batch_size)
        np.testing.assert_allclose(found.exponent, np.log(expected), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("batch_size", "values"), K4_MEAN_SQUARES.items())
def test_values_of_k4(batch_size, values):
    for learning_rate, expected in zip((0.1, 0.3, 0.5), values, strict=True):
        found = mean_square_exponent(sf.LinearizedSGD(K4, learning_rate, batch_size))
        assert abs(found.exponent - expected) < 2e-15  # their last digit
        if batch_size == 1:
            assert exponent(K4, learning_rate) == pytest.approx(expected, abs=2e-15)


def test_noise_of_batches_with_replacement_is_that_of_their_inverse_size():
    features, steps_of_two = factor_of(K4), 0
    for i, j in itertools.product(range(4), repeat=2):
        step = np.eye(4) - 0.35 * (np.outer(features[i], features[i]) + np.outer(features[j], features[j])) / 2
        steps_of_two = steps_of_two + np.kron(step, step) / 16
    found = mean_square_exponent(sf.LinearizedSGD(K4, 0.35, 2, sampling="with_replacement"))
    assert abs(found.exponent - np.log(np.linalg.eigvalsh(steps_of_two)[-1])) < 1e-13


def test_full_batches_have_the_exponent_of_gradient_descent():
    for learning_rate in (0.1, 0.5, 1.5):
        found = mean_square_exponent(sf.LinearizedSGD(K4, learning_rate, 4))
        assert abs(found.exponent - 2 * sf.gd_exponent(K4, learning_rate)) < 1e-14
        assert found.n_applications == 0


@pytest.mark.parametrize("learning_rate", [1e-3, 0.3, 0.5, 3.0])
def test_example_weights(rng, learning_rate):
    gram, weights = random_gram(rng, 6) * 2, rng.uniform(0.1, 4, 6)
    features = factor_of(gram)
    expected = brute_force(features, learning_rate, weights=weights)
    for system in (sf.LinearizedSGD(gram, learning_rate), sf.LinearizedSGD.from_factor(features, learning_rate)):
        vectors, values, _ = system.rows_of_k.decompose(weights=weights)
        operator = MeanSquareOperator(vectors, values, learning_rate, 6, example_weights=weights)
        solution = operator.solve(1e-12, 100)
        np.testing.assert_allclose(solution.growth, expected - 1, rtol=1e-12, atol=1e-13)
        assert_is_dominant(system, solution.exponent, system.mean_square_metric(weights, 1e-12), weights)


@pytest.mark.parametrize("learning_rate", [1e-3, 0.5, 1.5, 10.0])
def test_a_rough_metric_is_a_metric(rng, learning_rate):
    gram, weights = random_gram(rng, 20) * 2, rng.uniform(0.1, 4, 20)
    for system in (sf.LinearizedSGD(gram, learning_rate), sf.LinearizedSGD.from_factor(factor_of(gram), learning_rate)):
        metric = system.mean_square_metric(weights, 0.5)
        np.testing.assert_array_equal(metric, metric.T)
        assert np.linalg.eigvalsh(metric)[0] > 0
        precise, rough = (system.mean_square_metric(None, tolerance) for tolerance in (1e-10, 1e-3))
        np.testing.assert_allclose(rough, precise, atol=0.02)


def test_known_exponents():
    # Both steps of T1 are orthogonal projections at angle pi/3 in the plane: rho = 0.771395...
    assert abs(exponent(T1, 0.5) - -0.2595539679913346780622) < 1e-14
    assert exponent(T1, 0.5) > 2 * T1_EXPONENT
    assert abs(exponent(np.diag([1.0, 3, 5]), 0.5) - 0.348306694268216) < 1e-14
    assert abs(exponent(K4, 0.425) - 0.0114403482071) < 1e-13


@pytest.mark.parametrize(("name", "learning_rate", "expected"), REAL_EXPONENTS)
def test_exponents_of_real_matrices(name, learning_rate, expected):
    assert exponent(REAL_GRAMS[name], learning_rate) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize(
    ("learning_rate", "expected"), [(0.469, -6.424855037860868e-06), (1.004, -1.375332870417693e-05)]
)
def test_small_exponents_are_relatively_accurate(learning_rate, expected):
    # Expected: inverse iteration with Q - 1 on all 820 second moments, in 64-bit mantissas.
    assert exponent(REAL_GRAMS["iris_trained_40"], learning_rate) == pytest.approx(expected, rel=1e-13, abs=0)


@pytest.mark.parametrize("learning_rate", [0.2, 1.9, 6.0])
def test_agrees_with_lanczos_on_all_second_moments(rng, learning_rate):
    n = 64
    gram = random_gram(rng, n)
    features = factor_of(gram)

    def advanced(moments):
        s = moments.reshape(n, n)
        pulled = features @ s
        noise = learning_rate**2 * features.T @ ((pulled * features).sum(axis=1)[:, None] * features)
        drift = learning_rate * features.T @ pulled
        return (s + (noise - drift - (learning_rate * (s @ features.T) @ features)) / n).ravel()

    operator = LinearOperator((n * n, n * n), matvec=advanced, dtype=float)
    rho = eigsh(operator, 1, which="LA", v0=np.eye(n).ravel(), tol=1e-13, ncv=40, return_eigenvectors=False)[0]
    # eigsh resolves rho to 1e-13 or so.
    assert abs(exponent(gram, learning_rate) - np.log(rho)) < 1e-12


@pytest.mark.parametrize("gram", [K4, REAL_GRAMS["iris_trained_40"]], ids=["K4", "iris"])
def test_changes_sign_at_the_threshold(gram):
    values, vectors = np.linalg.eigh(gram)
    weights = values * values[:, None] / (values + values[:, None])
    products = np.einsum("ia,ja->ija", vectors, vectors)
    matrix = 2 * np.einsum("ija,ijb,ab->ij", products, products, weights, optimize=True)
    threshold = 2 / np.linalg.eigvalsh(matrix)[-1]
    if gram is K4:
        assert abs(threshold - K4_THRESHOLD) < 1e-14
    below, above = (mean_square_exponent(sf.LinearizedSGD(gram, threshold * (1 + e))) for e in (-1e-9, 1e-9))
    assert below.exponent < 0 < above.exponent
    assert (below.stable, above.stable) == (True, False)
    assert max(below.error, above.error) < 1e-2 * above.exponent


def n_eigenvalues_above(gram, learning_rate, growth):
    """How many eigenvalues of Q - 1 are above a number: exact, in rational arithmetic.

    With k_i = K e_i, (K (x) K) (Q - 1 - growth) on covariances in gram coordinates is symmetric, and has as many
    positive pivots as there are such eigenvalues.
    """
    n, k = len(gram), np.array([[Fraction(x) for x in row] for row in gram.tolist()], dtype=object)
    eta, growth, square = Fraction(learning_rate), Fraction(growth), k.dot(k)
    form = -eta / n * (np.kron(square, k) + np.kron(k, square)) - growth * np.kron(k, k)
    for row in k:
        form = form + eta**2 / n * np.outer(np.kron(row, row), np.kron(row, row))
    positive = 0
    while len(form):
        pivot = form[0, 0]
        assert pivot != 0
        positive += pivot > 0
        form = form[1:, 1:] - np.outer(form[1:, 0], form[0, 1:]) / pivot
    return positive


def assert_encloses(gram, learning_rate, rtol):
    """Lambda(2) is right to rtol, by a proof."""
    result = mean_square_exponent(sf.LinearizedSGD(gram, learning_rate))
    growth = math.expm1(result.exponent)
    width = rtol * abs(growth)
    assert n_eigenvalues_above(gram, learning_rate, growth - width) > 0
    assert n_eigenvalues_above(gram, learning_rate, growth + width) == 0
    assert result.error < rtol * abs(growth)
    return growth


@pytest.mark.parametrize("learning_rate", [1e-12, 1e-6, 1e-3, 0.3, 0.6, 1e3, 1e12])
def test_relative_accuracy_at_every_learning_rate(rng, learning_rate):
    for gram in (K4, random_gram(rng, 4)):
        assert_encloses((gram + gram.T) / 2, learning_rate, 1e-13)


@pytest.mark.parametrize("smallest", [1e-2, 1e-5])
def test_relative_accuracy_near_the_pole(rng, smallest):
    # rho - 1 is near -2 eta w_min / N; eigh alone would leave an error of 1e-16 / w_min.
    vectors = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    gram = vectors * np.array([smallest, 0.3, 1, 2, 4]) @ vectors.T
    gram = (gram + gram.T) / 2
    growth = assert_encloses(gram, 1e-6 * 5 / 2 / smallest if smallest > 1e-4 else 0.2, 1e-12)
    assert -3e-6 < growth < -5e-7


@pytest.mark.parametrize("learning_rate", [0.01, 1.0, 3.0])
def test_condition_of_1e12(rng, learning_rate):
    vectors = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    dense = vectors * np.array([1e-12, 1e-6, 0.3, 1]) @ vectors.T
    orders = 10.0 ** np.array([0, -6, -3, -1])
    graded = random_gram(rng, 4) * orders * orders[:, None]
    # The sums behind the smallest eigenvalue of the dense one cancel from 1 to 1e-12 in extended precision; the
    # Cholesky factor of the other has no cancellation.
    for gram, rtol in ((dense, 1e-6), (graded, 1e-12)):
        assert_encloses((gram + gram.T) / 2, learning_rate, rtol)


def test_steps_of_1e99_and_of_1e_290_are_in_range():
    tiny = exponent(K4 * 1e-280, 1e-10)
    assert tiny == pytest.approx(1e-279 * exponent(K4, 1e-11), rel=1e-10)
    leading = np.log(np.linalg.eigvalsh(K4**2)[-1] / 4)
    assert abs(exponent(K4, 1e99) - (2 * np.log(1e99) + leading)) < 1e-12
    assert exponent(K4 * 1e99, 1.0) == pytest.approx(exponent(K4, 1e99), abs=1e-12)


def test_asymptotics_of_small_and_large_learning_rates(rng):
    gram = random_gram(rng, 12)
    smallest = np.linalg.eigvalsh(gram)[0]
    # Lambda(2) = -2 eta w_min / N (1 + O(eta)), and log(eta^2 / N) + log of the spectral radius of K_ij^2
    assert exponent(gram, 1e-10) == pytest.approx(-2e-10 * smallest / 12, rel=1e-8)
    leading = np.log(np.linalg.eigvalsh(gram**2)[-1] / 12)
    assert exponent(gram, 1e12) == pytest.approx(2 * np.log(1e12) + leading, rel=1e-9)


def test_rank_deficient_and_duplicated_examples(rng):
    features = rng.standard_normal((7, 3))
    features[3] = features[0]
    features[4] = -2 * features[1]
    for system in (sf.LinearizedSGD(features @ features.T, 0.2), sf.LinearizedSGD.from_factor(features, 0.2)):
        assert system.coordinates == "factor"
        result = mean_square_exponent(system)
        assert abs(result.exponent - np.log(brute_force(features, 0.2))) < 1e-12
        assert_solves_its_equations(system, result)


@pytest.mark.parametrize("learning_rate", [0.1, 0.4, 1.1])
def test_gram_and_factor_coordinates_agree(rng, learning_rate):
    features = rng.standard_normal((9, 9)) / 2
    results = []
    for system in (
        sf.LinearizedSGD(features @ features.T, learning_rate),
        sf.LinearizedSGD.from_factor(features, learning_rate),
    ):
        results.append(mean_square_exponent(system))
        assert_solves_its_equations(system, results[-1])
    assert abs(results[0].exponent - results[1].exponent) < 1e-12


@pytest.mark.parametrize("learning_rate", [0.05, 0.3, 0.45, 2.0])
def test_blocks_have_the_largest_exponent_of_their_own(rng, learning_rate):
    gram = np.zeros((8, 8))
    gram[np.ix_([0, 2, 4, 7], [0, 2, 4, 7])] = K4
    gram[np.ix_([1, 6], [1, 6])] = [[1, 0.5], [0.5, 3]]
    gram[3, 3] = 2.0  # the sixth has no gradient
    features = np.zeros((8, 7))
    features[[0, 1, 2, 3, 4, 6, 7]] = np.linalg.cholesky(gram[np.ix_(*[[0, 1, 2, 3, 4, 6, 7]] * 2)])
    expected = np.log(brute_force(features, learning_rate))
    for system in (sf.LinearizedSGD(gram, learning_rate), sf.LinearizedSGD.from_factor(features, learning_rate)):
        assert [c.tolist() for c in system.rows_of_k.components] == [[0, 2, 4, 7], [1, 6], [3]]
        result = mean_square_exponent(system)
        assert abs(result.exponent - expected) < 1e-13
        assert_solves_its_equations(system, result)
    full = np.ix_(*[[0, 1, 2, 3, 4, 6, 7]] * 2)
    system = sf.LinearizedSGD(gram[full], learning_rate)
    assert system.coordinates == "gram"
    assert [c.tolist() for c in system.rows_of_k.components] == [[0, 2, 4, 6], [1, 5], [3]]
    assert_solves_its_equations(system, mean_square_exponent(system))


@pytest.mark.parametrize("coupling", [1e-2, 1e-5, 1e-9, 1e-14])
@pytest.mark.parametrize("learning_rate", [0.05, 0.45, 2.0])
def test_nearly_uncoupled_blocks(rng, learning_rate, coupling):
    # One block converges slowly, the other one may be unstable: the start must not miss it.
    gram = np.zeros((7, 7))
    gram[:4, :4] = K4
    gram[4:, 4:] = 1e-3 * random_gram(rng, 3)
    gram[:4, 4:] = coupling * 0.03 * rng.standard_normal((4, 3))
    gram[4:, :4] = gram[:4, 4:].T
    assert abs(exponent(gram, learning_rate) - np.log(brute_force(factor_of(gram), learning_rate))) < 1e-13
    unstable = np.kron([[1, coupling], [coupling, 1]], K4)
    expected = np.log(brute_force(factor_of(unstable), learning_rate))
    assert abs(exponent(unstable, learning_rate) - expected) < 1e-13


@pytest.mark.parametrize("learning_rate", [1e-3, 0.5, 1.9, 2.2, 5.0])
def test_no_direction_of_an_example_grows_faster(rng, learning_rate):
    # <v, A v>^2 is at most |A v|^2, and Q is symmetric: rho >= E <v, A v>^2 for unit vectors v = f_j / |f_j|.
    orders = 10.0 ** rng.uniform(-8, 0, 60)
    graded = random_gram(rng, 60) * orders * orders[:, None]
    for gram in (graded, random_gram(rng, 30), *REAL_GRAMS.values()):
        eta = learning_rate / gram.diagonal().max()
        moves = eta * gram**2 / gram.diagonal()
        bound = (moves * (moves - 2)).mean(axis=0).max()
        assert np.expm1(exponent((gram + gram.T) / 2, eta)) >= bound * (1 - 1e-12 * np.sign(bound))


def test_components_and_their_systems(rng):
    features = np.zeros((300, 12))
    features[:200, :8] = rng.standard_normal((200, 8))
    features[200:290, 8:] = rng.standard_normal((90, 4))
    order = rng.permutation(300)
    system = sf.LinearizedSGD((features @ features.T)[np.ix_(order, order)], 0.1)
    found = system.rows_of_k.components
    expected = [np.flatnonzero(order < 200), np.flatnonzero((order >= 200) & (order < 290))]
    assert sorted(c.tolist() for c in found) == sorted(e.tolist() for e in expected)
    assert sorted(system.part(c).dimension for c in found) == [4, 8]
    # A chain: every example is linked to the next alone.
    chain = 2 * np.eye(400) + 0.5 * np.eye(400, k=1) + 0.5 * np.eye(400, k=-1)
    assert len(sf.LinearizedSGD(chain, 0.1).rows_of_k.components) == 1
    chain[200, 201] = chain[201, 200] = 0
    system = sf.LinearizedSGD(chain, 0.1)
    assert [c.size for c in system.rows_of_k.components] == [201, 199]
    np.testing.assert_array_equal(system.part(system.rows_of_k.components[1]).rows, chain[201:, 201:])


def test_uncoupled_examples_have_closed_forms():
    system = sf.LinearizedSGD(np.eye(1024), 0.3)
    result = mean_square_exponent(system)
    assert result.exponent == pytest.approx(np.log1p((0.7**2 - 1) / 1024), rel=1e-14)
    assert (result.stopped_by, result.n_applications, result.residual) == ("closed form", 0, 0.0)
    assert result.metric.sum() == result.covariance.sum() == 1


def test_one_example():
    assert exponent([[2.0]], 0.3) == pytest.approx(2 * np.log(0.4), rel=1e-14)
    result = mean_square_exponent(sf.LinearizedSGD([[2.0]], 0.5))
    assert result.exponent == -np.inf
    assert result.stable
    assert result.error == 0
    np.testing.assert_array_equal(result.metric, [[1]])


@pytest.mark.parametrize("learning_rate", [1e-9, 0.1, 0.4 * (1 + 1e-9), 3.0])
def test_equal_examples_are_one(learning_rate):
    expected = 2 * (np.log1p(-2.5 * learning_rate) if learning_rate < 0.1 else np.log(abs(1 - 2.5 * learning_rate)))
    result = mean_square_exponent(sf.LinearizedSGD(np.full((5, 5), 2.5), learning_rate))
    # Where 1 - 2.5 eta is 1e-9, rounding of 1e-15 is a relative 1e-6 of it.
    assert result.error < (1e-5 if expected < -9 else 1e-14 * max(1, abs(expected)))
    assert abs(result.exponent - expected) < 2 * result.error
    assert exponent(np.full((5, 5), 2.5), 0.4) == -np.inf


def test_steps_that_annihilate_a_direction(rng):
    # eta K_ii = 1: projections, which never let a vector grow.
    gram = random_gram(rng, 6)
    gram /= np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
    result = mean_square_exponent(sf.LinearizedSGD(gram, 1.0))
    assert abs(result.exponent - np.log(brute_force(factor_of(gram), 1.0))) < 1e-13
    assert result.exponent < 0


@pytest.mark.parametrize("n", [2, 3, 20, 100])
def test_reflections_have_exponent_zero(rng, n):
    gram = random_gram(rng, n)
    gram /= np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
    result = mean_square_exponent(sf.LinearizedSGD((gram + gram.T) / 2, 2.0))
    assert abs(result.exponent) < 1e-13
    assert result.converged


@pytest.mark.parametrize("learning_rate", [1e-3, 0.3, 0.45, 1.0, 50.0])
def test_metric_and_covariance_solve_their_equations(rng, learning_rate):
    for gram in (K4, random_gram(rng, 12), REAL_GRAMS["iris_trained_40"]):
        system = sf.LinearizedSGD(gram, learning_rate)
        assert_solves_its_equations(system, mean_square_exponent(system))


def test_a_decomposition_is_used(rng, monkeypatch):
    system = sf.LinearizedSGD(random_gram(rng, 9), 0.7)
    exact, metric = mean_square_exponent(system), system.mean_square_metric(None, 1e-3)
    decomposition = system.rows_of_k.decompose()
    with monkeypatch.context() as patch:
        patch.setattr(type(system.rows_of_k), "decompose", None)
        assert mean_square_exponent(system, decomposition=decomposition).exponent == exact.exponent
    assert system.with_learning_rate(0.2).rows_of_k.decompose() is decomposition
    np.testing.assert_array_equal(system.mean_square_metric(None, 1e-3), metric)


def test_what_is_not_converged_says_so(rng, monkeypatch):
    system = sf.LinearizedSGD(random_gram(rng, 30), 2.5)
    exact = mean_square_exponent(system)
    for most in (1, 3, 6):
        monkeypatch.setattr(single_steps, "MOST_APPLICATIONS", most)
        with pytest.warns(sf.AccuracyWarning, match="may be off"):
            result = mean_square_exponent(system)
        assert (result.converged, result.stopped_by) == (False, "max_applications")
        assert result.n_applications <= most + 1
        assert result.residual > 1e-11
        assert abs(result.exponent - exact.exponent) < result.error
        # An estimate from below: the equation's left side is a maximum over all vectors.
        assert result.exponent < exact.exponent


def test_a_certificate_needs_no_converged_eigenvector(rng, monkeypatch):
    system = sf.LinearizedSGD(random_gram(rng, 30) + np.eye(30), 1.0)
    system = system.with_learning_rate(1.5 / system.diagonal.max())
    monkeypatch.setattr(single_steps, "MOST_APPLICATIONS", 1)
    with pytest.warns(sf.AccuracyWarning, match="may be off"):
        result = mean_square_exponent(system)
    assert not result.converged
    assert result.upper_bound < 0
    assert result.stable


def test_thresholds_that_did_not_converge_say_how_far_off_they_may_be(rng):
    vectors, values = (part := sf.LinearizedSGD(random_gram(rng, 30), 1.0).rows_of_k.decompose())[:2]
    operator = MeanSquareOperator(vectors, values, 1.0, len(part.vectors))
    exact, *_ = operator.threshold(1e-12, 1000)
    for most in (1, 2, 4):
        value, error, converged = operator.threshold(1e-12, most)
        assert not converged
        assert value - error <= exact <= value


def test_a_block_that_is_not_converged_is_not_ruled_out(monkeypatch):
    gram = np.zeros((5, 5))
    gram[:4, :4], gram[4, 4] = K4, 4.75  # the dominant block, by little
    exact = exponent(gram, 0.5)
    monkeypatch.setattr(single_steps, "MOST_APPLICATIONS", 1)
    with pytest.warns(sf.AccuracyWarning, match="did not converge"):
        result = mean_square_exponent(sf.LinearizedSGD(gram, 0.5))
    assert not result.converged
    assert result.exponent <= exact < result.exponent + result.error


def test_the_result_looks_like_every_estimate():
    result = mean_square_exponent(sf.LinearizedSGD(K4, 0.3))
    assert result.per_epoch == 4 * result.exponent
    assert result.confidence_interval(0.9) == (result.exponent, result.exponent)
    with pytest.raises(ValueError, match="level"):
        result.confidence_interval(2)
    assert (result.standard_error, result.n_steps, result.n_chains) == (0, 0, 0)
    assert result.effective_sample_size == np.inf
    assert 0 < result.error < 1e-14
    assert "metric" not in repr(result)
    assert result.provenance["method"] == "mean-square"
    assert pickle.loads(pickle.dumps(result)).exponent == result.exponent


def test_only_systems_are_taken():
    with pytest.raises(TypeError, match="system must be a LinearizedSGD or a MatrixEnsemble, not ndarray"):
        mean_square_exponent(K4)


def test_only_decompositions_are_taken():
    with pytest.raises(TypeError, match="decomposition must be a SpectralDecomposition, not 'x'"):
        mean_square_exponent(sf.LinearizedSGD(K4, 0.3), decomposition="x")
