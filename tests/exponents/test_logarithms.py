"""Chains of logarithms: what is left of coordinates between rare outcomes decides, however small it is."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.statistics import assert_within
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.exponents.logarithms import IN_LOGARITHMS, chains_and_task, diagonal_runs, runs_of
from sgdstab_fast.exponents.volumes import compound
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.run import run
from sgdstab_fast.simulation.vectors import estimate

SWAP_AND_MIX = [[0.0, 1.0], [1.0, 0.5]]
CYCLE = [[0.0, 0.0, 1.0], [1.0, 0.2, 0.0], [0.0, 1.0, 0.5]]


def rare(probability, diagonal=(2.0, 0.5), other=SWAP_AND_MIX):
    return sf.MatrixEnsemble([np.diag(diagonal), other], [1 - probability, probability])


@pytest.mark.parametrize("system", [rare(0.1), rare(0.2, (2.0, 1.0, 0.5), CYCLE)], ids=repr)
def test_logarithms_agree_with_numbers_where_these_suffice(system):
    options = Options(Budget(3e-3, 0.0, 10**7), 64, seed_from(1))
    chains, task = chains_and_task(runs_of(system.outcomes()), options, 0)
    result = run(chains, task, estimate, options, companion_task=task)
    numbers = sf.lyapunov_exponent(system, rtol=3e-3, rng=2, n_threads=1)
    assert result.stopped_by == "rtol"
    assert numbers.provenance["method"] == "anchored"
    assert_within(result.estimate.mean[0], result.error, numbers.exponent, numbers.standard_error)


@pytest.mark.parametrize("probability", [1e-2, 1e-3, 1e-4, 1e-6, 1e-9])
def test_the_limit_of_rare_outcomes(probability):
    """Lengths of runs are exponential: axes x and y lead for two thirds and one third of the time."""
    result = sf.lyapunov_exponent(rare(probability), rng=1, n_threads=1)
    assert result.converged
    assert result.provenance["method"] == IN_LOGARITHMS
    assert_within(result.exponent, result.standard_error, math.log(2) / 3, probability / 5)


def test_three_dimensions_and_several_diagonal_matrices_of_either_sign():
    diagonals = [[3.0, 1.0, -0.5], [-4 / 3, 1.0, 0.5]]  # of the same means as diag(2, 1, 1/2)
    several = sf.MatrixEnsemble([*map(np.diag, diagonals), CYCLE], [0.4995, 0.4995, 1e-3])
    result = sf.lyapunov_exponent(several, rtol=4e-3, rng=1, n_threads=1)
    one = sf.lyapunov_exponent(rare(1e-3, (2.0, 1.0, 0.5), CYCLE), rtol=4e-3, rng=2, n_threads=1)
    assert result.converged
    assert one.converged
    assert abs(result.exponent - one.exponent) < 4 * math.hypot(result.standard_error, one.standard_error) + 2e-3


def test_annihilation_is_minus_infinity():
    first, second = np.zeros((2, 3, 3))
    first[0, 1] = first[1, 2] = second[0, 1] = second[1, 2] = 1.0
    second[2, 0] = 1e-3
    system = sf.MatrixEnsemble([np.diag([2, 0.5, 1]), first, second], [0.999, 5e-4, 5e-4])
    assert sf.lyapunov_exponent(system, rng=1, n_threads=1).exponent == -math.inf


def test_short_runs_say_that_they_are_short():
    for max_steps in (64, 1000, 10_000):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = sf.lyapunov_exponent(rare(1e-3), max_steps=max_steps, rng=1, n_threads=1)
        assert caught
        assert not result.converged
        assert_within(result.exponent, result.standard_error, math.log(2) / 3, 1e-4)


def test_bits_depend_neither_on_where_runs_are_cut_nor_on_who_makes_them():
    system = rare(1e-3)
    whole = sf.lyapunov_exponent(system, rtol=4e-3, rng=1, n_threads=1)
    part = sf.lyapunov_exponent(system, rtol=1e-2, rng=1, n_threads=1)
    with ThreadPoolExecutor(2) as executor:
        cut = sf.lyapunov_exponent(system, rtol=4e-3, rng=1, executor=executor)
    resumed = sf.lyapunov_exponent(system, rtol=4e-3, resume=part, n_threads=1)
    assert whole.exponent == cut.exponent == resumed.exponent
    assert part.n_steps < whole.n_steps == resumed.n_steps


def test_only_what_takes_logarithms_is_done_in_logarithms():
    assert diagonal_runs(rare(1e-3)) is not None
    assert diagonal_runs(rare(0.1)) is None  # numbers suffice
    assert diagonal_runs(rare(1e-6, other=[[0.5, -1.0], [1.0, 0.5]])) is None  # the first axis stays
    assert diagonal_runs(rare(1e-6, diagonal=(0.5, 2.0), other=SWAP_AND_MIX)) is None
    assert diagonal_runs(sf.MatrixEnsemble([np.diag([2.0, 0.5]), np.eye(2)])) is None
    assert diagonal_runs(sf.LinearizedSGD(np.eye(3) + 0.1, 0.5)) is None


@pytest.mark.parametrize("order", [1, 2, 3])
def test_compound_matrices_multiply_as_matrices_do(order):
    first, second = np.random.default_rng(0).standard_normal((2, 3, 3))
    of_both, *each = compound(np.array([first @ second, first, second]), order)
    np.testing.assert_allclose(of_both, each[0] @ each[1], atol=1e-13)
    assert (compound(np.array([np.outer([0.1, 0.2, 0.3], [0.7, 0.3, 0.1])]), 2) == 0).all()


def test_spectra_of_two_dimensions_are_lambda_and_what_is_left():
    result = sf.lyapunov_spectrum(rare(1e-4), rng=1, n_threads=1)
    assert result.converged
    assert_within(result.exponents[0], result.standard_errors[0], math.log(2) / 3, 3e-5)
    assert result.exponents.sum() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spectra_of_three_dimensions(seed):
    """Known from 4e6 runs of a program of its own; all add up to E log abs det."""
    result = sf.lyapunov_spectrum(rare(1e-3, (2.0, 1.0, 0.5), CYCLE), rng=seed, n_threads=1)
    assert result.converged
    for index, expected in enumerate([0.25610, 0.04405, -0.30015]):
        assert_within(result.exponents[index], result.standard_errors[index], expected, 2.3e-4)
    assert result.exponents.sum() == pytest.approx(result.sum_of_exponents, abs=1e-14)
    assert result.provenance["method"] == IN_LOGARITHMS
    leading = sf.lyapunov_spectrum(rare(1e-3, (2.0, 1.0, 0.5), CYCLE), 1, rng=seed, n_threads=1)
    assert_within(leading.exponents[0], leading.standard_errors[0], 0.25610, 1.5e-4)
    assert leading.sum_of_exponents is None


def test_spectra_fall_short_of_tolerances_with_a_warning_and_go_on_from_their_seed():
    system = rare(1e-3, (2.0, 1.0, 0.5), CYCLE)
    with pytest.warns(sf.AccuracyWarning, match="short of rtol"):
        result = sf.lyapunov_spectrum(system, rtol=1e-3, max_steps=2e5, rng=1, n_threads=1)
    assert not result.converged
    further = sf.lyapunov_spectrum(system, rtol=1e-2, resume=result, n_threads=1)
    whole = sf.lyapunov_spectrum(system, rtol=1e-2, rng=1, n_threads=1)
    np.testing.assert_array_equal(further.exponents, whole.exponents)
