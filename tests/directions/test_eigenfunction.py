"""Eigenfunctions against collocation, quadratic forms and the steps themselves; Lyapunov functions everywhere."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, T1, T1_EXPONENT
from reference.systems import random_gram
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.directions.eigenfunction import eigenfunction, fit_eigenfunction, stationary_directions
from sgdstab_fast.directions.lyapunov_function import lyapunov_function
from sgdstab_fast.directions.norm_products import norms_of
from sgdstab_fast.exact.mean_square import mean_square_exponent
from sgdstab_fast.exact.moments import ExactMoments
from sgdstab_fast.results.warnings import AccuracyWarning

# T1 at learning rate 1/2: Lambda(-p)
T1_VALUES = {-1.0: math.log(7 / 8), 1.0: 0.1388564891406052}
UNSTABLE = np.array([[3.0, 1.0], [1.0, 2.0]])
# At learning rate 1.1: Lambda(1), from the projective line
UNSTABLE_FIRST_MOMENT = 0.4365536


def steps(system):
    """A_i in gram coordinates."""
    n = system.n_examples
    return [np.eye(n) - system.learning_rate * np.outer(e, row) for e, row in zip(np.eye(n), system.rows, strict=True)]


def parameter_norms(system, vectors):
    return np.sqrt(np.einsum("ni,ij,nj->n", vectors, system.rows, vectors))


def stationary(system, n, seed):
    """In gram coordinates."""
    return np.linalg.solve(system.gradients().T, stationary_directions(system, n, seed_from(seed)).T).T


def everywhere(system, n, rng):
    """Stationary directions, normal ones in both coordinates, eigenvectors of K, in gram coordinates."""
    to_gram = np.linalg.inv(system.gradients())
    return {
        "stationary": stationary(system, n, 77),
        "normal": rng.standard_normal((n, system.dimension)),
        "isometric": rng.standard_normal((n, system.dimension)) @ to_gram,
        "eigenvectors": np.linalg.eigh(system.rows)[1].T,
    }


def collocation(system, p, n_nodes=40):
    """P_p on functions of z = x/y in the cone [1/2, 2] of T1, by Chebyshev interpolation."""
    nodes = np.cos(np.pi * (np.arange(n_nodes) + 0.5) / n_nodes)
    z = 1.25 + 0.75 * nodes
    vectors = np.column_stack([z, np.ones(n_nodes)])
    to_coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, n_nodes - 1))
    operator = np.zeros((n_nodes, n_nodes))
    for a in steps(system):
        images = vectors @ a.T
        where = (images[:, 0] / images[:, 1] - 1.25) / 0.75
        weights = (parameter_norms(system, images) / parameter_norms(system, vectors)) ** -p / 2
        operator += weights[:, None] * (np.polynomial.chebyshev.chebvander(where, n_nodes - 1) @ to_coefficients)
    values, functions = np.linalg.eig(operator)
    top = values.real.argmax()
    return values[top].real, vectors, functions[:, top].real


@pytest.mark.parametrize("p", [-1.0, 0.5, 1.0])
def test_agrees_with_collocation_on_a_cone(p):
    system = sf.LinearizedSGD(T1, 0.5)
    value, vectors, expected = collocation(system, p)
    expected_log = T1_VALUES[p] if p in T1_VALUES else ExactMoments(system).at(-p).exponent
    assert math.log(value) == pytest.approx(expected_log, abs=1e-12)
    psi = eigenfunction(system, p, n_directions=1024, rng=1)
    assert psi.value == pytest.approx(value, abs=1e-6)
    assert psi.residual < 1e-5
    found = psi(vectors)
    scale = (found @ expected) / (expected @ expected)
    np.testing.assert_allclose(found, scale * expected, rtol=1e-4)


@pytest.mark.parametrize(("gram", "learning_rate"), [(T1, 0.5), (K4, 0.3), (K4, 0.5), (UNSTABLE, 1.1)])
def test_second_moments_have_a_quadratic_form(gram, learning_rate):
    system = sf.LinearizedSGD(gram, learning_rate)
    exact = mean_square_exponent(system)
    psi = eigenfunction(system, -2, n_directions=1024, rng=2)
    assert psi.log_value == pytest.approx(exact.exponent, abs=1e-4)
    assert psi.residual < 1e-3
    vectors = stationary(system, 100, 5)
    expected = np.einsum("ni,ij,nj->n", vectors, exact.metric, vectors) / parameter_norms(system, vectors) ** 2
    found = psi(vectors)
    np.testing.assert_allclose(found / found.mean(), expected / expected.mean(), rtol=2e-2)


def test_known_eigenfunctions(rng):
    for system in (sf.LinearizedSGD(K4, 0.3), sf.LinearizedSGD([[2, 1], [1, 2]], 1.0)):
        for p in (0,) if system.dimension == 4 else (0, -1, 0.5):  # reflections: lengths do not change
            psi = eigenfunction(system, p, rng=1)
            assert psi.value == 1
            assert psi.residual == psi.value_standard_error == 0
            np.testing.assert_allclose(psi(rng.standard_normal((5, system.dimension))), np.ones(5), rtol=1e-15)
    line = eigenfunction(sf.LinearizedSGD.from_factor([[1.0], [2.0]], 0.7), 0.5)
    assert line.value == pytest.approx((0.3**-0.5 + 1.8**-0.5) / 2, rel=1e-14)
    assert line([3.0]) == 1


@pytest.mark.parametrize(("gram", "learning_rate", "p"), [(K4, 0.5, -1), (K4, 0.3, 0.2), (UNSTABLE, 1.1, 0.5)])
def test_residual_is_that_of_the_steps_themselves(gram, learning_rate, p):
    system = sf.LinearizedSGD(gram, learning_rate)
    psi = eigenfunction(system, p, rng=3)
    vectors = stationary(system, 4096, 9)
    image = np.zeros(len(vectors))
    for a in steps(system):
        after = vectors @ a.T
        growth = parameter_norms(system, after) / parameter_norms(system, vectors)
        image += growth**-p * psi(after) / system.n_examples
    values = psi(vectors)
    np.testing.assert_allclose(image / (psi.value * values) - 1, psi.residual_on(vectors), atol=1e-10)
    measured = np.linalg.norm(image - psi.value * values) / np.linalg.norm(values)
    # Rare directions carry both.
    assert psi.residual / 4 < measured < 4 * psi.residual < 0.02
    assert values.mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("p", [-3.0, -1.0])
def test_the_residual_is_that_in_mean_square_over_directions_it_was_not_fitted_to(p):
    system = sf.LinearizedSGD(UNSTABLE, 1.1)
    directions = stationary_directions(system, 320, seed_from(5))
    psi = fit_eigenfunction(system, p, directions, 256, norms_of(system.in_own_units()), seed_from(5))
    fresh = np.linalg.solve(system.gradients().T, directions[256:].T).T
    off, size = psi.value * psi.residual_on(fresh) * psi(fresh), psi(fresh)
    assert size.std() > 0.1
    assert psi.residual == pytest.approx(np.linalg.norm(off) / np.linalg.norm(size), rel=1e-6)


def test_values_of_other_methods():
    psi = eigenfunction(sf.LinearizedSGD(UNSTABLE, 1.1), -1, rng=4)
    assert psi.log_value == pytest.approx(UNSTABLE_FIRST_MOMENT, abs=1e-4)
    # The 40 irises: a population of 3e6 steps
    psi = eigenfunction(sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473), 0.5, n_directions=1024, rng=4)
    assert abs(psi.log_value + 0.0114735) < 4 * math.hypot(1.9e-5, psi.value_standard_error / psi.value)
    assert psi.residual < 1e-3


def test_coordinates_and_lengths_do_not_matter(rng):
    gram = sf.LinearizedSGD(random_gram(rng, 5) * 3, 1.0)
    features = gram.gradients()
    factor = sf.LinearizedSGD.from_factor(features, 1.0)
    vectors = rng.standard_normal((6, 5))
    found = [eigenfunction(system, -0.5, n_directions=1024, rng=6) for system in (gram, factor)]
    assert found[0].value == pytest.approx(found[1].value, abs=1e-3)
    np.testing.assert_allclose(found[0](vectors), found[1](vectors @ features), rtol=0.1)
    for psi in found:
        np.testing.assert_allclose(psi(-1e150 * vectors), psi(vectors), rtol=1e-12)
        assert psi(vectors[2]) == pytest.approx(psi(vectors)[2], rel=1e-12)


def test_refuses_what_it_cannot_do():
    system = sf.LinearizedSGD(T1, 0.5)
    psi = eigenfunction(system, 0)
    for wrong in ([0.0, 0.0], [1.0, 2.0, 3.0], [[1.0, math.nan]]):
        with pytest.raises(ValueError, match="vectors"):
            psi(wrong)
    with pytest.raises(ValueError, match="p must be finite"):
        eigenfunction(system, math.inf)
    with pytest.raises(ValueError, match="lambda"):
        lyapunov_function(system)
    with pytest.raises(ValueError, match="p must be positive"):
        lyapunov_function(system, p=-1)
    with pytest.warns(AccuracyWarning, match="closer to p = 0"):
        eigenfunction(sf.LinearizedSGD(T1, 1.2), 1.5, rng=1)


@pytest.mark.parametrize(
    ("gram", "learning_rate", "p"),
    [(UNSTABLE, 1.1, None), (UNSTABLE, 1.1, 0.1), (REAL_GRAMS["iris_trained_40"], 1.473, None)],
)
def test_lyapunov_functions_fall_everywhere(rng, gram, learning_rate, p):
    system = sf.LinearizedSGD(gram, learning_rate)
    v = lyapunov_function(system, p=p, rng=1)
    assert v.p == p or p is None
    assert 0 < v.rate < v.largest_stationary_ratio <= v.largest_ratio < 1
    for name, vectors in everywhere(system, 1000, rng).items():
        assert v.ratio(vectors).max() < 1, name
    vectors = rng.standard_normal((5, system.dimension))
    after = np.mean([v(vectors @ a.T) for a in steps(system)], axis=0)
    np.testing.assert_allclose(after / v(vectors), v.ratio(vectors), rtol=1e-9)
    np.testing.assert_allclose(v(-3 * vectors), 3**-v.p * v(vectors), rtol=1e-12)


def test_lyapunov_functions_of_one_dimension_and_of_singular_steps():
    v = lyapunov_function(sf.LinearizedSGD([[3.0]], 1.0), p=0.5, rng=1)
    assert v.rate == pytest.approx(2**-0.5, rel=1e-12)
    assert v([2.0]) / v([1.0]) == pytest.approx(2**-0.5, rel=1e-12)
    # An example of K4 is forgotten in one step: nothing falls there, but almost everywhere else
    with pytest.warns(AccuracyWarning, match="example 2 annihilates"):
        v = lyapunov_function(sf.LinearizedSGD(K4, 0.5), rng=1)
    assert v.largest_stationary_ratio < 1 < v.ratio([0, 0, 1, 0]) < math.inf


def test_exponent_of_t1_is_the_slope_of_log_values():
    psi = eigenfunction(sf.LinearizedSGD(T1, 0.5), 1e-4, n_directions=512, rng=1)
    assert -psi.log_value / psi.p == pytest.approx(T1_EXPONENT, abs=1e-6)


def test_functions_of_the_block_that_grows_fastest(rng):
    gram = np.zeros((6, 6))
    gram[:4, :4], gram[4:, 4:] = K4, 0.2 * UNSTABLE
    system, alone = sf.LinearizedSGD(gram, 0.5), sf.LinearizedSGD(K4, 0.5)
    with pytest.warns(sf.AccuracyWarning, match="2 components"):
        psi = eigenfunction(system, -1, rng=3)
    part = eigenfunction(alone, -1, rng=3)
    assert psi.value == pytest.approx(1 / 3 + 2 / 3 * part.value, rel=1e-14)
    assert psi.residual == pytest.approx(2 / 3 * part.residual)
    vectors = rng.standard_normal((20, 6))
    # V(y) = |y| psi(y) is that of the part.
    np.testing.assert_allclose(
        psi(vectors) * parameter_norms(system, vectors), part(vectors[:, :4]) * parameter_norms(alone, vectors[:, :4])
    )
    with pytest.warns(sf.AccuracyWarning):
        V = lyapunov_function(system, rng=1)
    image = np.mean([V(vectors @ a.T) for a in steps(system)], axis=0)
    np.testing.assert_allclose(V.ratio(vectors), image / V(vectors))
    assert V([0, 0, 0, 0, 1, 1]) == math.inf
    assert V.ratio([0, 0, 0, 0, 1, 1]) == 1


def test_lyapunov_functions_fall_on_normal_directions(rng):
    # Next to f_2, which a step shrinks to a tenth, V falls only because such directions are looked for.
    V = lyapunov_function(sf.LinearizedSGD(K4, 0.45), rng=0)
    assert V.ratio(rng.standard_normal((100_000, 4))).max() < 1
    assert V.largest_ratio < 1


def test_max_steps_bounds_the_steps_between_directions():
    """Directions that hardly turn would be millions of steps apart."""
    system = sf.LinearizedSGD([[2, 1, 0], [1, 2, 1], [0, 1, 2]], 1e-5)
    with pytest.warns(sf.AccuracyWarning, match="raise max_steps, which is 20000|chains are too slow to mix"):
        found = sf.eigenfunction(system, 0.5, n_directions=1024, max_steps=20_000, rng=1)
    assert found.value == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="max_steps must be at least 20000, not 10"):
        sf.eigenfunction(system, 0.5, max_steps=10)
    with pytest.raises(ValueError, match="max_steps must be at least 20000, not 10"):
        sf.lyapunov_function(system, max_steps=10)
