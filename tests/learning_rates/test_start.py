"""Almost-sure rates that start from those of a K much like it."""

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4

N = 24


def with_slow_directions(seed, change=0.0):
    """K of 24 examples with eigenvalues down to 1e-6 of the largest, and one that differs a little."""
    generator = np.random.default_rng(seed)
    vectors = np.linalg.qr(generator.standard_normal((N, N)))[0]
    factor = vectors * np.sqrt(np.geomspace(1, 1e-6, N))
    factor = factor * (1 + change * generator.standard_normal((N, 1)))
    return factor @ factor.T * N


@pytest.mark.parametrize("batch_size", [1, pytest.param(4, marks=pytest.mark.calibrate)])
def test_it_is_that_of_a_cold_search_within_errors(batch_size):
    """|z| < 4 in each of 6 pairs."""
    before = sf.critical_learning_rate(with_slow_directions(0), batch_size=batch_size, rtol=1e-2, rng=0)
    for seed, change in enumerate((0.0, 0.01, 0.03)):
        gram = with_slow_directions(0, change)
        warm = sf.critical_learning_rate(gram, batch_size=batch_size, rtol=1e-2, rng=0, start=before)
        cold = sf.critical_learning_rate(gram, batch_size=batch_size, rtol=3e-3, rng=10 + seed)
        assert abs(warm.value - cold.value) < 4 * np.hypot(warm.standard_error, cold.standard_error)
        assert warm.provenance["start"] == before.provenance["system"]
        assert warm.n_steps < cold.n_steps


@pytest.mark.parametrize("seed", range(3))
def test_what_few_steps_tell_is_not_more_than_they_know(seed):
    """Without a sign that is known, the error is that of the bracket."""
    x = np.random.default_rng(0).standard_normal((8, 16))
    with pytest.warns(sf.AccuracyWarning, match="max_steps"):
        found = sf.critical_learning_rate(x @ x.T / 8, batch_size=4, rtol=1e-2, rng=seed, max_steps=32768)
    assert abs(found.value - 3.13) < 3 * found.standard_error


@pytest.mark.parametrize("there_and_back", [False, True])
def test_a_k_that_changes_all_at_once(there_and_back):
    x = np.random.default_rng(0).standard_normal((12, 40))
    alike, one = x @ x.T, np.diag([1.0] * 11 + [30.0]) + 0.3
    first, second = (one, alike) if there_and_back else (alike, one)
    before = sf.critical_learning_rate(first, batch_size=4, rtol=1e-2, rng=0)
    warm = sf.critical_learning_rate(second, batch_size=4, rtol=1e-2, rng=0, start=before)
    cold = sf.critical_learning_rate(second, batch_size=4, rtol=1e-2, rng=7)
    assert abs(warm.value - cold.value) < 4 * np.hypot(warm.standard_error, cold.standard_error)
    assert warm.converged


def test_of_batches_without_slow_directions_too():
    before = sf.critical_learning_rate(K4, batch_size=2, rtol=3e-3, rng=0)
    for factor in (1.0, 1.3, 0.5):
        warm = sf.critical_learning_rate(factor * K4, batch_size=2, rtol=3e-3, rng=0, start=before)
        cold = sf.critical_learning_rate(factor * K4, batch_size=2, rtol=1e-3, rng=5)
        assert abs(warm.value - cold.value) < 4 * np.hypot(warm.standard_error, cold.standard_error)
        assert warm.converged


@pytest.mark.parametrize("away", [0.5, 0.8, 1.25, 3.0])
def test_a_start_that_is_far_off_costs_time_alone(away):
    import dataclasses

    before = sf.critical_learning_rate(K4, batch_size=2, rtol=3e-3, rng=0)
    wrong = dataclasses.replace(before, value=away * before.value)
    warm = sf.critical_learning_rate(K4, batch_size=2, rtol=3e-3, rng=1, start=wrong)
    assert abs(warm.value - before.value) < 4 * np.hypot(warm.standard_error, before.standard_error)
    assert warm.converged


def test_what_was_taken_over_says_so_and_costs_error():
    before = sf.critical_learning_rate(with_slow_directions(0), batch_size=4, rtol=1e-2, rng=0)
    near = sf.critical_learning_rate(with_slow_directions(0, 0.01), batch_size=4, rtol=1e-2, rng=0, start=before)
    went_down_again = not near.reason.endswith("as for an earlier K")
    assert (near.slow_directions.share != before.slow_directions.share) == went_down_again
    if not went_down_again:
        assert near.slow_directions.share_error > before.slow_directions.share_error
    assert near.standard_error <= 1e-2 * near.value


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"start": 0.5}, TypeError, "start must be an almost-sure CriticalLearningRate, not 0.5"),
        ({"start": sf.critical_learning_rate(K4, "gd")}, TypeError, "start must be an almost-sure"),
        ({"start": sf.critical_learning_rate(K4, rtol=0.1, rng=0), "batch_size": 2}, ValueError, "same batches"),
    ],
)
def test_bad_starts(options, error, words):
    with pytest.raises(error, match=words):
        sf.critical_learning_rate(K4, **options)
