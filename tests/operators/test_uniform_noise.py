"""Second moments of noise that is alike on all examples: the equation that they solve, and the bound that they give."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from sgdstab_fast.operators.uniform_noise import uniform_noise


def gram_of(n, condition, spread=0.0, seed=0):
    """Return a K of a condition, with examples whose lengths differ."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((n, n)))[0]
    gram = (axes * np.geomspace(1, condition, n) / condition) @ axes.T
    lengths = np.exp(spread * rng.standard_normal(n))
    gram = lengths[:, None] * gram * lengths
    return (gram + gram.T) / 2


def solved(gram, learning_rate):
    eigenvalues, vectors = np.linalg.eigh(gram)
    start = vectors[:, 0] + 0.02 * vectors[:, 1]
    return uniform_noise(gram, start, learning_rate, gram.trace(), len(gram)), eigenvalues


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e8])
@pytest.mark.parametrize("relative_rate", [1e-3, 1.0, 1.99, 2.5, 30.0])
def test_inverse_solves_the_equation_at_the_rate_of_the_mean(condition, relative_rate):
    gram = gram_of(60, condition, 0.3)
    rate = relative_rate / gram.diagonal().mean()
    noise, eigenvalues = solved(gram, rate)
    d, inverse, shift = 60, noise.inverse, noise.shift
    assert (inverse == inverse.T).all()
    scale = max(1.0, abs(shift) / (eigenvalues[0] - shift))
    np.testing.assert_allclose((gram - shift * np.eye(d)) @ inverse, np.eye(d), atol=1e-12 * condition)
    # S = 1 + sigma (H - sigma)^-1 solves (H - sigma) S + S (H - sigma) = 2 H.
    moment, shifted = np.eye(d) + shift * inverse, gram - shift * np.eye(d)
    np.testing.assert_allclose(shifted @ moment + moment @ shifted, 2 * gram, atol=1e-13 * condition * scale)
    mean = rate / 2 * np.mean((gram + shift * np.eye(d) + shift**2 * inverse).diagonal())
    close = shift / eigenvalues[0] > 1 - 2e-3  # and what is left of noise is little
    assert (mean <= 1 and close) or mean == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("relative_rate", [1e-3, 0.3, 1.0, 1.6, 1.9, 1.99])
@pytest.mark.parametrize("condition", [3.0, 1e3, 1e6])
def test_bound_is_one_of_the_mean_square_exponent(condition, relative_rate, spread):
    gram = gram_of(64, condition, spread, seed=int(10 * relative_rate))
    rate = relative_rate / gram.diagonal().max()
    system = sf.LinearizedSGD(gram, rate)
    exact = sf.mean_square_exponent(system).exponent / 2
    bound = system.growth_of_uniform_noise.upper_bound
    assert exact - 1e-15 <= bound < 0
    # No worse than what the lengths of steps say: E |A s|^2 <= (1 - (eta/N) (2 - eta K_max) w) |s|^2.
    smallest = np.linalg.eigvalsh(gram)[0]
    assert bound <= 0.499 * np.log1p(-rate / 64 * (2 - relative_rate) * smallest)
    if relative_rate == 1e-3:
        assert bound == pytest.approx(exact, rel=5e-3)


def test_no_bound_where_a_step_overshoots():
    gram = gram_of(64, 1e3, 0.5)
    system = sf.LinearizedSGD(gram, 2.01 / gram.diagonal().max())
    assert system.growth_of_uniform_noise.upper_bound == math.inf


def test_coordinates_do_not_matter():
    gram = gram_of(48, 100.0, 0.3)
    factor = np.linalg.cholesky(gram)
    by_rows = sf.LinearizedSGD(gram, 1.0 / gram.diagonal().max())
    by_factor = sf.LinearizedSGD.from_factor(factor, by_rows.learning_rate)
    ours, theirs = by_rows.growth_of_uniform_noise, by_factor.growth_of_uniform_noise
    assert (by_rows.coordinates, by_factor.coordinates) == ("gram", "factor")
    assert ours.upper_bound == pytest.approx(theirs.upper_bound, rel=1e-9)
    # M = F S F^T up to a factor, and so are squared norms.
    np.testing.assert_allclose(ours.metrics.diagonals[1], theirs.metrics.diagonals[1], rtol=1e-8)
    moved = factor @ theirs.matrices[0] @ factor.T
    np.testing.assert_allclose(ours.matrices[0], moved, atol=1e-8 * np.abs(moved).max())
    covariance = np.linalg.solve(factor.T, np.linalg.solve(factor.T, theirs.covariance).T)
    np.testing.assert_allclose(ours.covariance / ours.covariance.trace(), covariance / covariance.trace(), atol=1e-8)


def test_directions_that_drown_in_rounding_leave_the_norm_alone():
    gram = gram_of(40, 1e15)
    with pytest.raises(np.linalg.LinAlgError, match="rounding"):
        solved(gram, 1.0)


def test_low_rank_and_more_examples_than_dimensions():
    features = np.random.default_rng(3).standard_normal((200, 12))
    system = sf.LinearizedSGD.from_factor(features, 0.05)
    exact = sf.mean_square_exponent(system).exponent / 2
    assert exact - 1e-15 <= system.growth_of_uniform_noise.upper_bound < 0
