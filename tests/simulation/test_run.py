"""Runs: where they stop, and that nothing but the seed decides what they find."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, T1
from reference.statistics import budget


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_budget_bounds_the_steps_of_all_chains_together():
    for max_steps in (64, 1000, 123_456):
        for method in ("anchored", "average"):
            assert max_steps / 2 < budget(sf.LinearizedSGD(K4, 0.3), max_steps, method=method).n_steps <= max_steps


def test_tolerances_stop_the_run_and_are_kept():
    system = sf.LinearizedSGD(K4, 0.3)
    relative = sf.lyapunov_exponent(system, rtol=3e-3, rng=1)
    assert relative.converged
    assert relative.stopped_by == "rtol"
    assert relative.standard_error <= 3e-3 * abs(relative.exponent)
    absolute = sf.lyapunov_exponent(system, rtol=0, atol=1e-3, rng=1)
    assert absolute.stopped_by == "atol"
    assert absolute.standard_error <= 1e-3
    with pytest.warns(sf.AccuracyWarning, match="max_steps=100000 ended the run"):
        short = sf.lyapunov_exponent(system, rtol=1e-9, max_steps=100_000, rng=1)
    assert (short.stopped_by, short.converged) == ("max_steps", False)


def test_a_known_sign_stops_the_run():
    system = sf.LinearizedSGD(K4, 0.425)  # lambda is -0.0020: its sign is known long before its value is
    result = sf.lyapunov_exponent(system, rtol=1e-6, sign_confidence=0.99, rng=1)
    assert (result.stopped_by, result.sign, result.converged) == ("sign", -1, True)
    assert result.exponent + 2.5 * result.standard_error < 0
    assert sf.lyapunov_exponent(system, rtol=0.1, rng=1).sign == 0  # not asked for


def test_progress_is_reported():
    seen = []
    budget(sf.LinearizedSGD(REAL_GRAMS["digits_trained_128"], 1.0), 3e7, progress=seen.append)
    steps = [state.n_steps for state in seen]
    assert steps == sorted(steps)
    assert len(steps) > 1
    assert np.isfinite(seen[-1].exponent)


def test_same_bits_whatever_the_threads_rounds_and_executor():
    system = sf.LinearizedSGD(REAL_GRAMS["iris_trained_40"], 1.473)
    reference = budget(system, 2_000_000, n_threads=1)
    assert reference.chains.companions.n_batches > 0
    with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2) as processes:
        others = [
            budget(system, 2_000_000, n_threads=2),
            budget(system, 2_000_000, executor=threads),
            budget(system, 2_000_000, executor=processes),
            budget(system, 2_000_000, resume=budget(system, 700_000)),
        ]
    for other in others:
        assert other.exponent == reference.exponent
        assert other.standard_error == reference.standard_error
        np.testing.assert_array_equal(other.chains.states, reference.chains.states)
    assert budget(system, 2_000_000, rng=2).exponent != reference.exponent


def test_resuming_leaves_the_earlier_result_alone():
    system = sf.LinearizedSGD(K4, 0.3)
    first = budget(system, 100_000)
    states = first.chains.states.copy()
    budget(system, 300_000, resume=first)
    np.testing.assert_array_equal(first.chains.states, states)
    with pytest.raises(ValueError, match="resume must come from this system"):
        budget(sf.LinearizedSGD(T1, 0.3), 300_000, resume=first)
    with pytest.raises(ValueError, match="resume must come from this system"):
        budget(sf.LinearizedSGD(K4, 0.31), 300_000, resume=first)
    with pytest.raises(TypeError, match="resume must be a LyapunovExponent"):
        budget(system, 300_000, resume=3.5)


def test_a_closed_form_does_not_go_on_from_another_system_either():
    full, other = (sf.LinearizedSGD(gram, 0.3, len(gram)) for gram in (K4, K4 + np.eye(4)))
    for estimate in (sf.lyapunov_exponent, sf.lyapunov_spectrum):
        known = estimate(full)
        assert known.stopped_by == "closed form"
        assert estimate(full, resume=known).exponent == known.exponent  # there is nothing to add
        with pytest.raises(ValueError, match="resume must come from this system"):
            estimate(other, resume=known)
    number, another = sf.LinearizedSGD([[2.0]], 0.3), sf.LinearizedSGD([[2.5]], 0.3)
    with pytest.raises(ValueError, match="resume must come from this system"):
        sf.lyapunov_exponent(another, resume=sf.lyapunov_exponent(number))


def test_what_does_not_fit_is_told_apart():
    system = sf.LinearizedSGD(K4, 0.3)
    two = sf.lyapunov_spectrum(system, 2, rtol=0, max_steps=4000, rng=1)
    with pytest.raises(ValueError, match="resume must have 3 exponents, not 2"):
        sf.lyapunov_spectrum(system, 3, resume=two, max_steps=8000)
