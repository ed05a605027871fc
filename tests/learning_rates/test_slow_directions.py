"""Almost-sure critical rates of K with slow directions, against long runs, and the option that leaves them out."""

import pickle

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, SLOW_KERNELS
from reference.systems import random_gram
from scipy.linalg import block_diag

IRIS = REAL_GRAMS["iris_trained_40"]


@pytest.mark.parametrize(
    ("name", "rtol"),
    [("ratio 1e-5", 1e-2), ("ratio 1e-5", 3e-3), ("heavy rows", 1e-2), ("heavy rows", 3e-3), ("ratio 7e-8", 1e-2)],
)
def test_critical_rates_lie_between_the_mean_square_rate_and_what_long_runs_find(name, rtol):
    gram, ratio, error = SLOW_KERNELS[name]
    mean_square = sf.critical_learning_rate(gram, "mean-square").value
    found = sf.critical_learning_rate(gram, rtol=rtol, max_steps=10**9, rng=3)
    low, high = found.confidence_interval(0.9999)
    assert found.converged
    assert found.standard_error <= rtol * found.value
    assert mean_square * (1 - 1e-9) <= low
    assert low - 4 * error * mean_square <= ratio * mean_square <= high + 4 * error * mean_square


def test_lambda_changes_its_sign_at_the_critical_rate_of_a_real_matrix():
    found = sf.critical_learning_rate(IRIS, max_steps=10**9, rtol=5e-3, rng=2)
    assert found.converged
    for factor, sign in ((0.97, -1), (1.03, 1)):
        beside = sf.LinearizedSGD(IRIS, factor * found.value)
        result = sf.lyapunov_exponent(beside, method="average", rtol=0, max_steps=30_000_000, rng=5)
        assert sign * result.exponent > 4 * result.standard_error


@pytest.mark.parametrize("name", SLOW_KERNELS)
@pytest.mark.parametrize(("max_steps", "known_to"), [(300_000, 0.5), (1_000_000, 0.4), (10_000_000, 0.3)])
def test_budgets_that_are_too_small_are_kept_to_and_tell_what_they_can(name, max_steps, known_to):
    gram, ratio, _ = SLOW_KERNELS[name]
    with pytest.warns(sf.AccuracyWarning, match="ended the search"):
        found = sf.critical_learning_rate(gram, rtol=1e-4, max_steps=max_steps, rng=1)
    assert not found.converged
    assert found.n_steps <= max_steps
    assert found.standard_error <= known_to * found.value
    low, high = found.confidence_interval(0.99)
    assert low <= ratio * sf.critical_learning_rate(gram, "mean-square").value <= high


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"momentum": 0.5}, {"sampling": "epoch"}], ids=str)
def test_batches_momentum_and_epochs_have_slow_directions_as_well(options):
    gram = SLOW_KERNELS["ratio 1e-5"][0]
    found = sf.critical_learning_rate(gram, rtol=1e-2, max_steps=10**9, rng=1, **options)
    assert found.converged
    low, high = found.confidence_interval(0.9999)
    for rate, sign in ((0.97 * low, -1), (1.03 * high, 1)):
        system = sf.LinearizedSGD(gram, rate, **options)
        beside = sf.lyapunov_exponent(system, method="average", rtol=0, max_steps=10_000_000, rng=1)
        assert sign * beside.exponent > 4 * beside.standard_error


@pytest.mark.parametrize("kind", ["gram", "factor"])
def test_slow_cutoff_leaves_slow_directions_out(rng, kind):
    features = random_gram(rng, 6)
    gram = features @ features.T
    values, vectors = np.linalg.eigh(gram)
    cutoff = float(np.sqrt(values[2] * values[3]) / values[-1])
    make = sf.LinearizedSGD if kind == "gram" else sf.LinearizedSGD.from_factor
    data = gram if kind == "gram" else features
    system = make(data, 0.1, slow_cutoff=cutoff)
    assert (system.dimension, system.slow_cutoff) == (3, cutoff)
    np.testing.assert_allclose(system.gram_eigenvalues(), values[:2:-1])
    fast = vectors[:, 3:] * values[3:] @ vectors[:, 3:].T
    np.testing.assert_allclose(system.rows_of_k.gram, fast, atol=1e-12 * values[-1])
    assert f"slow_cutoff={cutoff:g}" in repr(system)
    assert system.fingerprint != make(data, 0.1).fingerprint
    assert pickle.loads(pickle.dumps(system)).fingerprint == system.fingerprint
    others = (system.with_learning_rate(0.2), system.with_batches(2), system.without_slow_directions(cutoff / 2))
    assert all(other.slow_cutoff == cutoff for other in others)
    assert make(data, 0.1).without_slow_directions(cutoff).fingerprint == system.fingerprint


def of_ratio(ratio):
    """Return K whose smallest eigenvalue is that much of the largest."""
    values, vectors = np.linalg.eigh(SLOW_KERNELS["ratio 1e-5"][0])
    return vectors * np.geomspace(ratio, 1, len(values)) * values[-1] @ vectors.T


@pytest.mark.parametrize("ratio", [1e-3 * (1 - 1e-14), 1e-3 * (1 - 1e-15), 1e-3, 1e-3 * (1 + 1e-14), 10**-3.5])
def test_a_cutoff_at_the_slowest_direction_raises_nothing(ratio):
    found = sf.critical_learning_rate(of_ratio(ratio), rtol=3e-3, rng=1)
    assert found.converged
    assert found.reason == "first zero of lambda"


def test_derivative_of_a_block_is_in_steps_of_the_whole():
    gram = of_ratio(1e-3)
    alone = sf.critical_learning_rate(gram, rtol=3e-3, rng=1)
    beside = sf.critical_learning_rate(block_diag(gram, 0 * gram), rtol=3e-3, rng=1)  # as many without a gradient
    assert alone.slow_directions is not None
    assert beside.derivative == pytest.approx(alone.derivative / 2, rel=1e-6)
    assert beside.derivative_standard_error == pytest.approx(alone.derivative_standard_error / 2, rel=1e-6)
    assert beside.value == pytest.approx(alone.value, rel=1e-9)


def test_critical_rates_of_fast_directions_are_higher():
    gram = SLOW_KERNELS["ratio 1e-5"][0]
    fast = [sf.critical_learning_rate(gram, rtol=3e-3, slow_cutoff=cutoff, rng=1).value for cutoff in (0.1, 1e-2, 1e-3)]
    assert fast[0] > fast[1] > fast[2]
    system = sf.LinearizedSGD(gram, 1.0, slow_cutoff=0.1)
    assert sf.critical_learning_rate(system, rtol=3e-3, rng=1).value == pytest.approx(fast[0], rel=1e-12)


@pytest.mark.parametrize(("cutoff", "message"), [(1.0, "below 1"), (-1e-3, "not negative"), ("a", "slow_cutoff")])
def test_slow_cutoff_is_checked(cutoff, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sf.LinearizedSGD(K4, 0.3, slow_cutoff=cutoff)
