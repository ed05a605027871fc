"""Outcomes that a run has hardly met: what they may do is allowed for, and found where that is affordable."""

import math
import warnings

import numpy as np
import pytest
import sgdstab_fast as sf
from matplotlib.figure import Figure
from reference.statistics import assert_within
from sgdstab_fast._core.seeds import seed_from
from sgdstab_fast.exponents.rare import RareOutcomes
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.vectors import estimate

POLLICOTT = np.array([[[2.0, 1.0], [1.0, 1.0]], [[3.0, 1.0], [2.0, 1.0]]])
POLLICOTT_EXPONENT = 1.1433110351029492
STRETCH, QUARTER_TURN = np.diag([2.0, 0.5]), np.array([[0.0, -1.0], [1.0, 0.0]])


def turn(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def turned(angle):
    """A turn of all three coordinates into each other."""
    first, second = np.eye(3), np.eye(3)
    first[:2, :2] = second[1:, 1:] = turn(angle)
    return first @ second


def interrupted(probability, stretch=STRETCH, turn=QUARTER_TURN):
    """Products of Pollicott's pair, times what stretches one way until a rare quarter turn makes it the other."""
    matrices = [*(np.kron(stretch, each) for each in POLLICOTT), np.kron(turn, np.eye(2))]
    return sf.MatrixEnsemble(matrices, [(1 - probability) / 2] * 2 + [probability])


def test_directions_that_only_rare_steps_change_are_not_taken_for_all():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = sf.lyapunov_exponent(interrupted(1e-7), max_steps=1e6, rng=1, n_threads=1)
    assert any("probability 1e-07 have hardly come up" in str(warning.message) for warning in caught)
    assert not result.converged
    assert_within(result.exponent, result.standard_error, POLLICOTT_EXPONENT)


def test_and_all_are_seen_in_time():
    result = sf.lyapunov_exponent(interrupted(1e-3), rtol=0.05, max_steps=1e7, rng=1, n_threads=1)
    assert result.converged
    assert_within(result.exponent, result.standard_error, (1 - 1e-3) * POLLICOTT_EXPONENT)


@pytest.mark.parametrize("probability", [0.01, 0.03, 0.1, 0.4])
@pytest.mark.parametrize(
    ("stretch", "turn"),
    [(STRETCH, QUARTER_TURN), (np.diag([3.0, 1.0, 1 / 3]), np.roll(np.eye(3), 1, axis=0)),
     (STRETCH, [[0, 1e-3], [-1e3, 0]])],
)  # fmt: skip
def test_planes_that_are_permuted_are_no_race_of_random_walks(probability, stretch, turn):
    result = sf.lyapunov_exponent(interrupted(probability, stretch, turn), rng=1, n_threads=1)
    assert result.converged
    assert_within(result.exponent, result.standard_error, (1 - probability) * POLLICOTT_EXPONENT)


def test_planes_of_different_dimensions_that_are_permuted():
    """Coordinates 0 and 1 lead to 2 and back: what is in one class then is in the other."""
    turns = [[[0, 0, 2.0], [0, 0, 1.0], [3.0, 1.0, 0]], [[0, 0, -1.0], [0, 0, 2.0], [1.0, 1.0, 0]]]
    result = sf.lyapunov_exponent(sf.MatrixEnsemble(turns), rng=1, n_threads=1)
    # Of two steps: (3, 1) or (1, 1) times (2, 1) or (-1, 2).
    assert_within(result.exponent, result.standard_error, np.log([7, 1, 3, 1]).mean() / 2)


@pytest.mark.parametrize("angle", [math.pi / 4, math.pi / 2 - 1e-3, math.pi / 2 - 1e-6])
@pytest.mark.parametrize("method", ["anchored", "average"])
def test_a_rare_step_that_is_forgotten_is_allowed_for_to_first_order(angle, method):
    probability = 1e-7
    system = sf.MatrixEnsemble([STRETCH, turn(angle)], [1 - probability, probability])
    result = sf.lyapunov_exponent(system, method=method, rng=1, n_threads=1)
    expected = (1 - probability) * math.log(2) + probability * math.log(math.cos(angle))
    assert result.converged
    assert abs(result.exponent - expected) < 2 * result.standard_error
    assert result.standard_error < 50 * probability


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spectra_allow_for_rare_steps_too(seed):
    probability = 1e-6
    system = sf.MatrixEnsemble([np.diag([2.0, 1.0, 0.5]), turned(0.4)], [1 - probability, probability])
    result = sf.lyapunov_spectrum(system, rng=seed, n_threads=1)
    # To first order, from minors of the turn: sums of exponents have logarithms of the leading ones.
    minors = [0.0, *(math.log(abs(np.linalg.det(turned(0.4)[:j, :j]))) for j in (1, 2, 3))]
    expected = (1 - probability) * np.log([2, 1, 0.5]) + probability * np.diff(minors)
    assert (np.abs(result.exponents - expected) <= 2.5 * result.standard_errors + 1e-11).all()
    assert result.standard_errors.max() < 20 * probability


def test_many_matrices_that_are_alike_are_no_rare_ones():
    matrices = np.eye(2) + 0.5 * np.random.default_rng(0).standard_normal((3000, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = sf.lyapunov_exponent(sf.MatrixEnsemble(matrices), rtol=2e-3, rng=1, n_threads=1)
    assert result.bias_allowance < result.standard_error / 2


def test_examples_that_are_rarely_drawn():
    gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    system = sf.LinearizedSGD(gram, 0.3, probabilities=[1e-6, *np.full(3, (1 - 1e-6) / 3)])
    result = sf.lyapunov_exponent(system, rtol=0.1, max_steps=1e7, rng=1, n_threads=1)
    average = sf.lyapunov_exponent(system, method="average", rtol=0, max_steps=2e7, rng=2, n_threads=1)
    assert_within(result.exponent, result.standard_error, average.exponent, average.standard_error)


def test_estimates_are_of_chains_alone_whatever_was_looked_at_before():
    some = np.eye(2) + 0.01 * np.random.default_rng(0).standard_normal((4, 2, 2))
    system = sf.MatrixEnsemble([*some, 10 * turn(1.0)], [0.25 - 2.5e-6] * 4 + [1e-5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        chains = sf.lyapunov_exponent(system, rtol=0, max_steps=1e5, rng=3, n_threads=1).chains
    options, early = Options(Budget(1e-2, 0.0, 100_000), 64, seed_from(3)), chains.until(chains.n_batches // 4)
    seasoned, fresh = (RareOutcomes(system, options, estimate, 0) for _ in range(2))
    seasoned(chains)
    found = seasoned(early)
    assert found.bias_allowance > 0
    np.testing.assert_array_equal(found.standard_error, fresh(early).standard_error)


def test_what_numbers_do_not_hold_is_held_back():
    """The first axis becomes the second one, in blocks or in coordinates in which rounding stands in place of 0."""
    other, probability = np.array([[0.0, 1.0], [1.0, 0.5]]), 1e-3
    blocks = [*(np.kron(STRETCH, each) for each in POLLICOTT), np.kron(other, np.eye(2))]
    basis = turn(0.7)
    systems = [
        sf.MatrixEnsemble(blocks, [(1 - probability) / 2] * 2 + [probability]),
        sf.MatrixEnsemble(basis @ [STRETCH, other] @ basis.T, [1 - probability, probability]),
        sf.MatrixEnsemble([[[2, 0], [1, 0.5]], [[2, -3], [1, 1]]], [1 - probability, probability]),
    ]
    for system in systems:
        for estimator in (sf.lyapunov_exponent, sf.lyapunov_spectrum):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = estimator(system, rtol=0.1, max_steps=1e6, rng=1, n_threads=1)
            assert caught
            assert not result.converged


def test_pictures_show_what_is_allowed_for():
    axes = Figure().subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sf.AccuracyWarning)
        result = sf.lyapunov_exponent(interrupted(1e-7), max_steps=1e6, rng=1, n_threads=1)
    result.plot(axes)
    assert result.rare_allowance > result.standard_error / 2
    low, high = axes.collections[0].get_datalim(axes.transData).get_points()[:, 1]
    assert high - low > 3 * result.rare_allowance
