"""Runs: where they stop, and that nothing but the seed decides what they find."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS, T1
from reference.statistics import budget
from scipy import stats
from sgdstab_fast.curves.zeros import bisected
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.looks import grid
from sgdstab_fast.simulation.run import Run, known_sign
from sgdstab_fast.statistics.estimates import unknown


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
def test_budget_bounds_the_steps_of_all_chains_together():
    for max_steps in (64, 1000, 123_456):
        for method in ("anchored", "average"):
            assert max_steps / 2 < budget(sf.LinearizedSGD(K4, 0.3), max_steps, method=method).n_steps <= max_steps


def test_steps_of_pilots_and_companions_count():
    def chains(n, **others):
        records = VectorRecords(*(np.zeros((n, 5, width)) for width in (1, 0, 0)))
        return Chains(key=(0, 0), states=np.zeros((n, 1, 2)), steps_per_batch=4, records=records, **others)

    assert chains(3).n_steps == 60
    assert chains(3, pilot_steps=7, companions=chains(2)).n_steps == 60 + 7 + 40


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


def test_errors_of_a_sign_add_up_to_what_is_stated_over_all_looks():
    """Look l of the grid errs with (1 - confidence) / (2 l (l + 1)): half of it in all; one beside it after n of n."""

    def rate(n_batches, confidence=0.9):
        """The probability that Student's t of 63 degrees is beyond the least mean, in errors, whose sign is known."""
        records = VectorRecords(*(np.zeros((64, n_batches, width)) for width in (1, 0, 0)))
        chains = Chains(key=(0, 0), states=np.zeros((64, 1, 1)), steps_per_batch=1, records=records)

        def sign(mean):
            found = replace(unknown(1), mean=np.array([mean]), standard_error=np.ones(1), bias_allowance=0.0)
            return known_sign(Run(chains, replace(found, degrees_of_freedom=63), "max_steps"), confidence)

        least = bisected(lambda mean: abs(sign(mean)) - 0.5, 0.0, 100.0)
        assert (sign(1.001 * least), sign(-1.001 * least)) == (1, -1)
        return 2 * stats.t.sf(least, 63)

    looks = list(grid(2048, 2048))
    on_grid = [rate(n) for n in looks]
    assert len(looks) > 10
    assert sum(on_grid) == pytest.approx(0.05 * (1 - 1 / (len(looks) + 1)), rel=1e-3)
    beside = [n for n in range(1, 60) if n not in looks]
    assert sum(map(rate, beside)) == pytest.approx(sum(0.05 / (n * (n + 1)) for n in beside), rel=1e-3)


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
