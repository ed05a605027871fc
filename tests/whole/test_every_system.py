"""What every system obeys, over the table of `reference.systems`: enumeration, plain simulation, and laws of both."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.laws import gd_exponent, law, log_radius
from reference.statistics import assert_within, budget
from reference.systems import INDEPENDENT, SYSTEMS, sgd, system_of
from sgdstab_fast.exact.bounds import bounds_of

SHORT = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of runs too short to mix


@pytest.mark.parametrize("name", SYSTEMS)
def test_mean_square_and_sums_are_those_of_all_steps(name):
    expected, system = law(**SYSTEMS[name]), system_of(name)
    assert system.dimension == expected.matrices.shape[1]
    found = sf.mean_square_exponent(system)
    assert found.exponent == pytest.approx(expected.moment_exponent(2), rel=1e-10, abs=1e-11)
    assert found.converged
    assert system.sum_of_exponents == pytest.approx(expected.sum_of_exponents, abs=1e-11)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "equal steps" not in name])
def test_gradient_descent_is_that_of_full_batches(name):
    for learning_rate in (0.2, 1.1):
        expected = gd_exponent(**{**SYSTEMS[name], "learning_rate": learning_rate})
        assert sf.gd_exponent(system_of(name).with_learning_rate(learning_rate)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SYSTEMS)
def test_matrices_are_all_steps_in_some_basis(name):
    expected, (matrices, probabilities, steps) = law(**SYSTEMS[name]), system_of(name).matrices()
    assert steps == expected.steps
    assert probabilities.sum() == pytest.approx(1, abs=1e-14)
    invariants = []
    for m, q in ((matrices, probabilities), (expected.matrices, expected.probabilities)):
        traces = np.trace(m, axis1=1, axis2=2), np.trace(m @ m, axis1=1, axis2=2)
        moments = [q @ trace**power for trace in traces for power in (1, 2, 3)]
        invariants.append(np.r_[moments, np.poly(np.tensordot(q, m, 1))])
    np.testing.assert_allclose(*invariants, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_metric_and_covariance_solve_their_equations(name):
    found, (matrices, probabilities, _) = sf.mean_square_exponent(system_of(name)), system_of(name).matrices()
    transposed = matrices.transpose(0, 2, 1)
    for form, left, right in ((found.metric, transposed, matrices), (found.covariance, matrices, transposed)):
        image = np.tensordot(probabilities, left @ form @ right, 1)
        np.testing.assert_allclose(image, math.exp(found.exponent) * form, atol=1e-8 * np.abs(form).max())
        assert np.linalg.eigvalsh(form)[0] > -1e-10
        assert form.diagonal().max() == pytest.approx(1, abs=1e-14)


@SHORT
@pytest.mark.parametrize("name", ["two of four", "uneven epochs", "groups", "importance", "heavy ball", "Nesterov"])
def test_fourth_moments_are_those_of_all_steps(name):
    found = sf.moment_exponent(system_of(name), 4, max_steps=2e6, rtol=1e-2, rng=1)
    expected = law(**SYSTEMS[name]).moment_exponent(4) if system_of(name).dimension < 6 else None
    if expected is not None:
        assert_within(found.exponent, found.standard_error + 1e-9, expected)
    assert found.exponent >= 2 * sf.mean_square_exponent(system_of(name)).exponent - 4 * found.standard_error  # convex


@pytest.mark.parametrize("name", SYSTEMS)
def test_another_learning_rate_keeps_everything_else(name):
    one = system_of(name).with_learning_rate(0.17)
    other = sgd(**{**SYSTEMS[name], "learning_rate": 0.17})
    assert one.learning_rate == 0.17
    assert one.fingerprint == other.fingerprint != system_of(name).fingerprint
    assert sf.mean_square_exponent(one).exponent == sf.mean_square_exponent(other).exponent


@pytest.mark.parametrize("name", SYSTEMS)
def test_exponents_are_those_of_plain_simulation(name):
    expected = law(**SYSTEMS[name])
    result = sf.lyapunov_exponent(system_of(name), rtol=5e-3, rng=1)
    if SYSTEMS[name].get("sampling") == "cyclic":
        exact = log_radius(expected.matrices[0]) / expected.steps
        assert result.exponent == pytest.approx(exact, rel=1e-4)
        assert_within(result.exponent, result.standard_error + 1e-9, exact)
        return
    value, error = expected.lyapunov()
    assert_within(result.exponent, result.standard_error, value[0], error[0])
    low, high = bounds_of(system_of(name), sf.mean_square_exponent(system_of(name)))
    assert low - 4 * error[0] <= value[0] <= high + 4 * error[0]
    assert 2 * result.exponent <= expected.moment_exponent(2) + 8 * result.standard_error


@SHORT
@pytest.mark.parametrize("name", ["groups in batches", "Nesterov", "epochs of pairs"])
def test_spectra_are_those_of_plain_simulation(name):
    values, errors = law(**SYSTEMS[name]).lyapunov(system_of(name).dimension)
    result = sf.lyapunov_spectrum(system_of(name), rtol=0, max_steps=4e5, rng=1)
    for j in range(len(values)):
        assert_within(result.exponents[j], result.standard_errors[j], values[j], errors[j])


@SHORT
@pytest.mark.parametrize("name", SYSTEMS)
def test_sum_rule(name):
    expected, system = law(**SYSTEMS[name]), system_of(name)
    result = sf.lyapunov_spectrum(system, rtol=0, max_steps=40_000, rng=1)
    assert result.sum_rule_error < 1e-10  # along the path
    spread = expected.sum_spread / math.sqrt(max(result.n_steps, 2) / 2)
    if expected.steps > 1:  # parts of epochs at the ends
        spread += np.abs(expected.log_determinants).max() * result.n_chains / max(result.n_steps, 1)
    assert_within(result.exponents.sum(), spread + 1e-9, system.sum_of_exponents)


@pytest.mark.parametrize(
    "name", ["two of four", "three of four", "two with replacement", "groups", "heavy ball", "heavy ball in batches"]
)
def test_anchored_growth_has_the_mean_of_growth_along_the_chains(name):
    anchored = budget(system_of(name), 2e6)
    average = budget(system_of(name), 2e6, method="average", rng=2)
    assert_within(anchored.exponent, anchored.standard_error, average.exponent, average.standard_error)
    assert anchored.standard_error < average.standard_error


@pytest.mark.parametrize("name", ["two of four", "epochs of pairs", "groups", "heavy ball"])
def test_projective_chains_have_the_exponent(name):
    chain = sf.projective_chain(system_of(name), rtol=0.02, rng=1)
    alone = budget(system_of(name), 1e6, rng=2)
    assert_within(chain.exponent, chain.standard_error, alone.exponent, alone.standard_error)


@SHORT
@pytest.mark.parametrize("name", ["two of four", "uneven epochs", "importance in batches", "heavy ball in epochs"])
def test_threads_change_no_bit(name):
    one, two = (budget(system_of(name), 2e5, n_threads=n) for n in (1, 2))
    assert (one.exponent, one.standard_error) == (two.exponent, two.standard_error)
