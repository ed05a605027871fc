"""Random products of any matrices: published constants, closed forms, and plain SGD as one of them."""

import math

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, T1, T1_EXPONENT, T1_SECOND_EXPONENT
from reference.laws import Law, law, log_radius
from reference.statistics import assert_within, budget

# log 1.1319882487943 (OEIS A078416)
FIBONACCI = [[[0, 1], [1, 1]], [[0, 1], [1, -1]]]
FIBONACCI_EXPONENT = 0.1239755988033
# M. Pollicott, Inventiones mathematicae 181, 2010
POLLICOTT = [[[2, 1], [1, 1]], [[3, 1], [2, 1]]]
POLLICOTT_EXPONENT = 1.1433110351029492
PROJECTION = [[1.0, 0.0], [0.0, 0.0]]
QUARTER_TURN = [[0.0, -1.0], [1.0, 0.0]]
SHORT = pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")  # of runs too short to mix


def turn(angle):
    return [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]


def random_law(seed, n_matrices, dimension):
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((n_matrices, dimension, dimension)) / math.sqrt(dimension)
    return Law(matrices, rng.dirichlet(np.full(n_matrices, 3.0)))


def ensemble(of):
    return sf.MatrixEnsemble(of.matrices, of.probabilities)


def assert_solves_its_equations(found, of):
    transposed = of.matrices.transpose(0, 2, 1)
    for form, left, right in (
        (found.metric, transposed, of.matrices),
        (found.covariance, of.matrices, transposed),
    ):
        image = np.tensordot(of.probabilities, left @ form @ right, 1)
        np.testing.assert_allclose(image, math.exp(found.exponent) * form, atol=1e-8 * np.abs(form).max())
        assert np.linalg.eigvalsh(form)[0] > -1e-10
        assert form.diagonal().max() == pytest.approx(1, abs=1e-14)


# Known constants


def test_random_fibonacci_numbers():
    system = sf.MatrixEnsemble(FIBONACCI)
    result = sf.lyapunov_exponent(system, rtol=0, max_steps=20_000_000, rng=1)
    assert abs(result.exponent - FIBONACCI_EXPONENT) < 1e-5
    assert_within(result.exponent, result.standard_error + 1e-12, FIBONACCI_EXPONENT)
    assert system.sum_of_exponents == pytest.approx(0, abs=1e-15)  # determinants are +-1


def test_pollicotts_pair():
    system = sf.MatrixEnsemble(POLLICOTT, [0.5, 0.5])
    result = sf.lyapunov_exponent(system, rtol=0, atol=2e-7, rng=1)
    assert abs(result.exponent - POLLICOTT_EXPONENT) < 1e-6
    assert_within(result.exponent, result.standard_error + 1e-12, POLLICOTT_EXPONENT)
    moments = sf.moment_exponent(system, [1, 2])
    np.testing.assert_allclose(moments.exponents, [1.15881036042994681, 2.34729475540106], atol=1e-10)
    assert sf.mean_square_exponent(system).exponent == pytest.approx(2.34729475540106, abs=1e-10)


def test_t1_as_two_matrices():
    system = ensemble(law(T1, 0.5))
    result = budget(system, 1e6)
    assert_within(result.exponent, result.standard_error, T1_EXPONENT)
    spectrum = sf.lyapunov_spectrum(system, rtol=0, max_steps=4e5, rng=1)
    for j, expected in enumerate((T1_EXPONENT, T1_SECOND_EXPONENT)):
        assert_within(spectrum.exponents[j], spectrum.standard_errors[j], expected)
    orders = [-2, -1, 0.5, 1, 2, 3, 4]
    expected = [0.2816289648804516847556, 0.1388564891406052209223, -0.06754519737207070508495, math.log(7 / 8),
                -0.2595539679913346780622, -0.374693449441410693607, -0.4741392294187319871817]  # fmt: skip
    found = sf.moment_exponent(system, orders, max_steps=1e6, rng=1)
    for value, error, exact in zip(found.exponents, found.standard_errors, expected, strict=True):
        assert_within(value, error + 1e-9, exact)


@pytest.mark.parametrize(("sampling", "expected"), [("epoch", -0.1651314194146025), ("cyclic", -0.17070489525834237)])
def test_epochs_as_matrices(sampling, expected):
    result = budget(ensemble(law(T1, 0.5, sampling=sampling)), 1e6)
    assert_within(result.exponent, result.standard_error + 1e-10, 2 * expected)


# Closed forms


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.7]],
        [[-3.0]],
        [[2.0, 1.0], [1.0, 1.0]],
        [[0.5, 100.0], [0.0, 0.4]],  # far from normal
        [[0.9, -0.5], [0.5, 0.9]],  # complex
        [[0.0, 1.0], [0.0, 0.0]],  # nilpotent
        K4.tolist(),
    ],
)
def test_one_matrix_has_the_logarithm_of_its_spectral_radius(matrix):
    result = sf.lyapunov_exponent(sf.MatrixEnsemble([matrix]), rtol=1e-6, rng=1)
    expected = log_radius(np.array(matrix))
    assert result.exponent == pytest.approx(expected, rel=1e-10, abs=1e-12)
    found = sf.mean_square_exponent(sf.MatrixEnsemble([matrix]))
    assert found.exponent == pytest.approx(2 * expected, rel=1e-9, abs=1e-11)


def test_numbers_have_the_mean_of_their_logarithms():
    system = sf.MatrixEnsemble([[[1 / 3]], [[2.0]]])
    assert system.dimension == 1
    assert sf.lyapunov_exponent(system).exponent == pytest.approx(math.log(2 / 3) / 2, abs=1e-14)
    assert sf.mean_square_exponent(system).exponent == pytest.approx(math.log(37 / 18), abs=1e-14)
    for p in (-1.0, 0.5, 3.0):
        expected = math.log((3.0**-p + 2.0**p) / 2)
        assert sf.moment_exponent(system, p).exponent == pytest.approx(expected, abs=1e-13)


@SHORT
def test_diagonal_matrices_have_the_means_of_their_logarithms():
    diagonals, weights = np.array([[2.0, 0.1, -0.5], [0.5, 3.0, 0.3], [1.5, 0.2, -0.2]]), np.array([0.5, 0.2, 0.3])
    system = sf.MatrixEnsemble([np.diag(each) for each in diagonals], weights)
    expected = np.sort(weights @ np.log(np.abs(diagonals)))[::-1]
    spectrum = sf.lyapunov_spectrum(system, rtol=0, max_steps=4e5, rng=1)
    for j in range(3):
        assert_within(spectrum.exponents[j], spectrum.standard_errors[j] + 1e-12, expected[j])
    assert system.sum_of_exponents == pytest.approx(expected.sum(), abs=1e-14)
    mean_square = math.log((weights @ diagonals**2).max())
    assert sf.mean_square_exponent(system).exponent == pytest.approx(mean_square, rel=1e-12)


def test_rotations_have_no_growth():
    system = sf.MatrixEnsemble([turn(1.0), turn(0.3), QUARTER_TURN])
    assert sf.mean_square_exponent(system).exponent == pytest.approx(0, abs=1e-13)
    result = sf.lyapunov_exponent(system, rtol=0, atol=1e-6, max_steps=2e5, rng=1)
    assert abs(result.exponent) < 1e-10


@SHORT
def test_a_projection_among_rotations():
    # Between projections, k rotations with probability 2^-(k + 1): growth |cos k| of e_1, every other step on average
    k = np.arange(60)
    expected = 0.5 * (0.5 ** (k + 1) @ np.log(np.abs(np.cos(k))))
    system = sf.MatrixEnsemble([PROJECTION, turn(1.0)])
    result = budget(system, 2e6)
    assert_within(result.exponent, result.standard_error, expected)
    assert system.sum_of_exponents == -math.inf
    spectrum = sf.lyapunov_spectrum(system, rtol=0, max_steps=1e5, rng=1)
    assert_within(spectrum.exponents[0], spectrum.standard_errors[0], expected)
    assert spectrum.exponents[1] == -math.inf
    assert sf.mean_square_exponent(system).exponent == pytest.approx(
        Law(np.array([PROJECTION, turn(1.0)]), np.full(2, 0.5)).moment_exponent(2), rel=1e-11
    )


@pytest.mark.parametrize(
    ("matrices", "mean_square"),
    [
        ([np.zeros((2, 2))], -math.inf),
        ([[[0.0]]], -math.inf),
        ([np.zeros((2, 2)), np.eye(2)], math.log(1 / 2)),
        ([np.zeros((2, 2)), QUARTER_TURN, 3 * np.array(QUARTER_TURN)], math.log(10 / 3)),
        ([PROJECTION, [[0.0, 0.0], [0.0, 1.0]]], math.log(1 / 2)),
        ([PROJECTION, QUARTER_TURN], None),  # annihilated by P R P only
        ([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]], -math.inf),
    ],
)
def test_what_annihilates_every_displacement_has_the_exponent_minus_infinity(matrices, mean_square):
    system = sf.MatrixEnsemble(matrices)
    result = sf.lyapunov_exponent(system, rtol=0, max_steps=1e5, rng=1)
    assert (result.exponent, result.standard_error) == (-math.inf, 0)
    expected = mean_square
    if mean_square is None:
        expected = Law(np.array(matrices), np.full(2, 0.5)).moment_exponent(2)
    assert sf.mean_square_exponent(system).exponent == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-50, 1e50])
def test_scale_of_matrices_only_adds_its_logarithm(scale):
    system = sf.MatrixEnsemble(scale * np.array(POLLICOTT))
    result = sf.lyapunov_exponent(system, rtol=1e-6, rng=1)
    assert result.exponent - math.log(scale) == pytest.approx(POLLICOTT_EXPONENT, abs=1e-4)
    found = sf.mean_square_exponent(system).exponent
    assert found - 2 * math.log(scale) == pytest.approx(2.34729475540106, abs=1e-9)


# Against enumeration and plain simulation


@SHORT
@pytest.mark.parametrize(("seed", "n_matrices", "dimension"), [(1, 3, 2), (2, 4, 3), (3, 7, 5)])
def test_random_ensembles_are_those_of_plain_simulation(seed, n_matrices, dimension):
    of = random_law(seed, n_matrices, dimension)
    system = ensemble(of)
    assert system.dimension == dimension
    np.testing.assert_allclose(system.probabilities, of.probabilities, rtol=1e-14)
    np.testing.assert_array_equal(system.matrices, of.matrices)
    assert system.sum_of_exponents == pytest.approx(of.sum_of_exponents, abs=1e-12)
    found = sf.mean_square_exponent(system)
    assert found.exponent == pytest.approx(of.moment_exponent(2), abs=1e-11)
    assert_solves_its_equations(found, of)
    fourth = sf.moment_exponent(system, 4)
    assert_within(fourth.exponent, fourth.standard_error + 1e-10, of.moment_exponent(4))
    values, errors = of.lyapunov(dimension)
    result = sf.lyapunov_exponent(system, rtol=5e-3, atol=5e-4, rng=1)
    assert_within(result.exponent, result.standard_error, values[0], errors[0])
    spectrum = sf.lyapunov_spectrum(system, rtol=0, max_steps=2e5, rng=1)
    assert spectrum.sum_rule_error < 1e-10
    for j in range(dimension):
        assert_within(spectrum.exponents[j], spectrum.standard_errors[j], values[j], errors[j])


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"momentum": 0.5}, {"groups": [0, 1, 1, 1]}])
def test_sgd_as_an_ensemble(options):
    alone = sf.LinearizedSGD(K4, 0.3, **options)
    matrices, probabilities, steps = alone.matrices()
    assert steps == 1
    system = sf.MatrixEnsemble(matrices, probabilities)
    assert system.sum_of_exponents == pytest.approx(alone.sum_of_exponents, rel=1e-12)
    one, other = sf.mean_square_exponent(system), sf.mean_square_exponent(alone)
    assert one.exponent == pytest.approx(other.exponent, rel=1e-10)
    np.testing.assert_allclose(one.metric, other.metric, atol=1e-6)
    one, other = budget(system, 5e5), budget(alone, 5e5, rng=2)
    assert_within(one.exponent, one.standard_error, other.exponent, other.standard_error)


def test_projective_chains_of_ensembles():
    chain = sf.projective_chain(sf.MatrixEnsemble(POLLICOTT), rng=1)
    assert_within(chain.exponent, chain.standard_error, POLLICOTT_EXPONENT)
    # lambda_1 + lambda_2 = 0
    assert_within(chain.contraction_rate, chain.contraction_rate_standard_error, -2 * POLLICOTT_EXPONENT)


def test_verdicts_of_ensembles():
    assert sf.stability(sf.MatrixEnsemble(POLLICOTT), rng=1).verdict == "unstable"
    assert sf.stability(sf.MatrixEnsemble(0.2 * np.array(POLLICOTT)), rng=1).verdict == "stable"


def test_seeds_and_threads():
    system = ensemble(random_law(2, 4, 3))
    one, two, other = (budget(system, 2e5, rng=seed, n_threads=n) for seed, n in ((1, 1), (1, 2), (2, 1)))
    assert (one.exponent, one.standard_error) == (two.exponent, two.standard_error)
    assert one.exponent != other.exponent


# What may not be passed


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ([np.eye(2), np.eye(3)], r"matrices.*\(3, 3\)"),
        ([np.ones((2, 3))], r"matrices.*2, 3"),
        (np.eye(2), r"matrices\[0\].*\(2,\)"),
        ([[[1.0, np.nan], [0.0, 1.0]]], "matrices.* nan"),
        ([[[1.0, np.inf], [0.0, 1.0]]], "matrices.* inf"),
        ([], "matrices .*empty"),
        (np.empty((0, 2, 2)), "matrices .*empty"),
        (np.empty((2, 0, 0)), "matrices.* empty"),
    ],
)
def test_bad_matrices_are_named_with_what_is_wrong(matrices, message):
    with pytest.raises(ValueError, match=message):
        sf.MatrixEnsemble(matrices)


@pytest.mark.parametrize("matrices", [[np.eye(2) + 0j], [[["a", "b"], ["c", "d"]]], None])
def test_matrices_of_other_things_than_numbers_are_a_type_error(matrices):
    with pytest.raises(TypeError, match=r"matrices(\[0\])? must be"):
        sf.MatrixEnsemble(matrices)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([1.2, -0.2], "probabilities.* -0.2"),
        ([0.5, 0.4], "probabilities.* 0.9"),
        ([0.5, 0.25, 0.25], r"probabilities.*\b3\b"),
        ([0.5, np.nan], "probabilities.* nan"),
        ([[0.5, 0.5]], r"probabilities.*\(1, 2\)"),
    ],
)
def test_bad_probabilities_are_named_with_their_values(probabilities, message):
    with pytest.raises(ValueError, match=message):
        sf.MatrixEnsemble(POLLICOTT, probabilities)


@pytest.mark.parametrize("never", [np.zeros((2, 2)), [[1, 0], [0, 0]], [[1e50, 0], [0, 1e-50]]])
def test_what_is_never_drawn_changes_no_answer(never):
    matrices = [[[2, 1], [1, 1]], [[3, 1], [2, 1]]]
    without, system = sf.MatrixEnsemble(matrices, [0.4, 0.6]), sf.MatrixEnsemble([*matrices, never], [0.4, 0.6, 0])
    np.testing.assert_array_equal(system.matrices[2], never)
    options = {"rng": 1, "n_threads": 1, "max_steps": 1e5}
    for estimator in (sf.lyapunov_exponent, sf.projective_chain):
        result, expected = estimator(system, rtol=0.1, **options), estimator(without, rtol=0.1, **options)
        assert_within(result.exponent, result.standard_error, expected.exponent, expected.standard_error)
    assert result.exponent_by_example[2] == 0
    assert np.isfinite(result.exponent_by_example).all()
    assert sf.mean_square_exponent(system).exponent == pytest.approx(
        sf.mean_square_exponent(without).exponent, abs=1e-13
    )
    assert sf.stability(system, **options).verdict == "unstable"
    spectra = [sf.lyapunov_spectrum(each, rtol=0.1, **options) for each in (system, without)]
    assert_within(*(x for each in spectra for x in (each.exponents[0], each.standard_errors[0])))
    moments = [sf.moment_exponent(each, 1.0, **options).exponent for each in (system, without)]
    assert moments[0] == pytest.approx(moments[1], abs=1e-9)


def test_one_matrix_that_is_drawn_is_all_there_is():
    chain = sf.projective_chain(sf.MatrixEnsemble([[[2, 1], [1, 1]], np.zeros((2, 2))], [1, 0]), rng=1)
    np.testing.assert_allclose(chain.exponent, 2 * math.log((1 + math.sqrt(5)) / 2), rtol=1e-12)
    np.testing.assert_allclose(chain.exponent_by_example, [chain.exponent, 0], rtol=1e-12)


def test_second_moments_of_an_eigenvalue_that_is_not_simple():
    """E[A (x) A] has a Jordan block to its largest eigenvalue, where shifts may meet it."""
    ensemble = sf.MatrixEnsemble([[[0, 1], [-1, 2]], [[-1, 1], [-1, 1]]])
    assert sf.mean_square_exponent(ensemble).exponent == pytest.approx(-math.log(2), abs=1e-9)
    whole = ensemble.moments.second_moments  # which parts are not taken from
    assert abs(whole.exponent + math.log(2)) <= min(whole.error, 1e-3)
    assert sf.moment_exponent(ensemble, 2).exponent == pytest.approx(-math.log(2), abs=1e-6)
