import math
import warnings

import numpy as np
import pytest
import sgdstab_fast as sf
from reference.known import K4, REAL_GRAMS
from reference.systems import random_gram


@pytest.mark.parametrize("learning_rate", [1e-12, 1e-3, 0.3, 2.0, 1e6, 1e12])
def test_determinants_are_those_of_the_steps(learning_rate):
    system = sf.LinearizedSGD(K4, learning_rate)
    for i in range(4):
        step = np.eye(4) - learning_rate * np.outer(np.eye(4)[i], K4[i])
        # det of a unit matrix but for one row is that row's diagonal entry
        np.testing.assert_allclose(system.log_determinants[i], np.log(abs(step[i, i])), rtol=1e-3, atol=1e-14)
    exact = np.mean(
        [
            float(np.log1p(-learning_rate * k)) if learning_rate * k < 1 else np.log(learning_rate * k - 1)
            for k in K4.diagonal()
        ]
    )
    np.testing.assert_allclose(system.sum_of_exponents, exact, rtol=1e-13)


def test_sums_of_exponents_of_k4():
    assert abs(sf.LinearizedSGD(K4, 0.3).sum_of_exponents - -1.38036522946556) < 1e-13
    assert abs(sf.LinearizedSGD(K4, 1.5).sum_of_exponents - 1.35678755959775) < 1e-13
    assert sf.LinearizedSGD(K4, 0.5).sum_of_exponents == -np.inf


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_cannot_be_written_is_used_in_place_whatever_its_order(rng, order):
    gram = random_gram(rng, 30)
    gram = np.array((gram + gram.T) / 2, order=order)
    gram.flags.writeable = False
    assert np.shares_memory(sf.LinearizedSGD(gram, 0.3).rows, gram)


@pytest.mark.parametrize("build", [sf.LinearizedSGD, sf.LinearizedSGD.from_factor])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_becomes_of_an_array_does_not_change_the_system(rng, build, order):
    given = np.array(random_gram(rng, 8) + np.eye(8), order=order)
    given = np.array((given + given.T) / 2, order=order)
    view = given[:]
    view.flags.writeable = False
    for array in (given, view):
        system = build(array, 0.1)
        before, rows = system.fingerprint, system.rows.copy()
        given *= 2
        assert system.fingerprint == before == build(rows, 0.1).fingerprint
        np.testing.assert_array_equal(system.rows, rows)


class Exported:
    """What hands over its memory by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def read_only_view(array):
    return np.frombuffer(memoryview(array).cast("B").toreadonly()).reshape(array.shape)


@pytest.mark.parametrize("given", [Exported, read_only_view, memoryview, list])
@pytest.mark.parametrize("build", [sf.LinearizedSGD, sf.LinearizedSGD.from_factor])
def test_a_system_is_not_changed_through_memory_that_it_was_made_of(build, given):
    array = K4.copy()
    system, other = build(given(array), 0.1), build(K4, 0.1)
    array /= 2
    np.testing.assert_array_equal(system.rows, other.rows)
    assert system.fingerprint == other.fingerprint


def test_nor_through_what_it_shows_of_itself():
    grouped = sf.LinearizedSGD(K4, 0.1, groups=[0, 0, 1, 1], momentum=0.5)
    weighted = sf.LinearizedSGD(K4, 0.1, probabilities=[0.1, 0.2, 0.3, 0.4])
    ensemble = sf.MatrixEnsemble([K4, 2 * K4], [0.25, 0.75])
    for array in (
        grouped.rows,
        grouped.diagonal,
        grouped.recurrence.free,
        grouped.recurrence.readout,
        grouped.law.members,
        weighted.rows,
        weighted.law.probabilities,
        sf.LinearizedSGD.from_factor(K4[:, :2], 0.1).rows,
        ensemble.matrices,
        ensemble.probabilities,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_memory_map_of_a_file_is_not_copied(tmp_path):
    np.save(tmp_path / "gram.npy", K4)
    mapped = np.load(tmp_path / "gram.npy", mmap_mode="r")
    assert np.shares_memory(sf.LinearizedSGD(mapped, 0.1).rows, mapped)


def test_memory_mapped_and_float32_and_nested_lists(tmp_path):
    np.save(tmp_path / "gram.npy", K4)
    mapped = np.load(tmp_path / "gram.npy", mmap_mode="r")
    for gram in (mapped, K4.astype(np.float32), K4.astype(int), K4.tolist()):
        system = sf.LinearizedSGD(gram, 0.3)
        assert system.coordinates == "gram"
        np.testing.assert_array_equal(system.rows, K4)


@pytest.mark.parametrize("name", REAL_GRAMS)
def test_float32_rounding_is_neither_asymmetry_nor_a_negative_eigenvalue(name):
    gram = REAL_GRAMS[name].astype(np.float32)
    gram[0, 1] = np.nextafter(gram[0, 1], np.float32(9))
    assert sf.LinearizedSGD(gram, 0.3).n_examples == len(gram)


def test_kernel_goes_to_factor_coordinates(rng):
    features = rng.standard_normal((12, 5))
    system = sf.LinearizedSGD(features @ features.T, 0.1)
    assert (system.coordinates, system.dimension) == ("factor", 5)
    np.testing.assert_allclose(system.rows @ system.rows.T, features @ features.T, atol=1e-12)
    np.testing.assert_allclose(system.gram_eigenvalues(), np.linalg.svd(features)[1] ** 2, rtol=1e-11)


def test_duplicates_zero_rows_and_all_equal():
    duplicated = K4[np.ix_([0, 1, 1, 2, 1, 3], [0, 1, 1, 2, 1, 3])]
    assert sf.LinearizedSGD(duplicated, 0.3).dimension == 4
    with_zero = np.zeros((5, 5))
    with_zero[1:, 1:] = K4
    assert sf.LinearizedSGD(with_zero, 0.3).dimension == 4
    assert sf.LinearizedSGD(np.ones((4, 4)), 0.3).dimension == 1


def test_rank_does_not_depend_on_the_examples_scales():
    scale = 10.0 ** np.array([-7, 0, 3, 8])
    system = sf.LinearizedSGD(K4 * scale * scale[:, None], 1e-3)
    assert (system.coordinates, system.dimension) == ("gram", 4)
    assert sf.LinearizedSGD(np.diag([1.0, 1e-15]), 0.5).dimension == 2


@pytest.mark.parametrize("shape", [(7, 3), (7, 7), (7, 20)])
def test_from_factor_has_the_gram_of_its_features(rng, shape):
    features = rng.standard_normal(shape)
    system = sf.LinearizedSGD.from_factor(features, 0.2)
    assert system.dimension == min(shape)
    np.testing.assert_allclose(system.rows @ system.rows.T, features @ features.T, atol=1e-12)
    np.testing.assert_allclose(system.diagonal, (features**2).sum(axis=1))
    deficient = np.hstack([features, features[:, :2]])
    assert sf.LinearizedSGD.from_factor(deficient, 0.2).dimension == min(shape)


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (np.ones((2, 3)), r"gram must be square, not of shape \(2, 3\)"),
        (np.ones(3), r"gram must be a matrix, not of shape \(3,\)"),
        (np.empty((0, 0)), r"gram must not be empty"),
        ([[1, 2], [0, 1]], r"gram must be symmetric, but gram\[0, 1\] is 2.0 and gram\[1, 0\] is 0.0"),
        (np.array([[1, 2], [0, 1]], order="F"), r"gram\[1, 0\] is 0.0 and gram\[0, 1\] is 2.0"),
        (np.ones((2, 3), order="F"), r"gram must be square, not of shape \(2, 3\)"),
        ([[1, 2], [2, 1]], r"gram must be positive semidefinite, but has the eigenvalue -1"),
        ([[0, 1], [1, 1]], r"gram must be positive semidefinite, but gram\[0, 0\] is 0"),
        (
            [[1e-300, 1e200], [1e200, 1]],
            r"gram must be positive semidefinite, but gram\[1, 0\] is 1e\+200, beside 1.0 and 1e-300",
        ),
        ([[1, 0], [0, -2]], r"gram must be positive semidefinite, but gram\[1, 1\] is -2"),
        ([[1, np.nan], [np.nan, 1]], r"gram must be finite, but gram\[0, 1\] is nan"),
        ([[np.inf]], r"gram must be finite, but gram\[0, 0\] is inf"),
        (np.zeros((3, 3)), r"gram must not be zero"),
        ([[1, 2], [3]], r"gram must be a matrix"),
    ],
)
def test_bad_gram_is_a_value_error(gram, message):
    with pytest.raises(ValueError, match=message):
        sf.LinearizedSGD(gram, 0.1)


@pytest.mark.parametrize("gram", [K4 + 0j, K4.astype(str), [[None]], [[object()]], K4 > 1])
def test_wrong_dtype_is_a_type_error(gram):
    with pytest.raises(TypeError, match="gram must be"):
        sf.LinearizedSGD(gram, 0.1)


def test_slightly_indefinite_gram_is_refused(rng):
    vectors = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    gram = (vectors * np.r_[-1e-9, np.linspace(0.1, 2, 39)]) @ vectors.T
    with pytest.raises(ValueError, match="positive semidefinite"):
        sf.LinearizedSGD((gram + gram.T) / 2, 0.1)


@pytest.mark.parametrize("learning_rate", [0, -1, 0.0, np.nan, np.inf])
def test_bad_learning_rate_is_a_value_error(learning_rate):
    with pytest.raises(ValueError, match="learning_rate must be"):
        sf.LinearizedSGD(K4, learning_rate)
    with pytest.raises(ValueError, match="learning_rate must be"):
        sf.gd_exponent(K4, learning_rate)


def test_other_bad_arguments():
    for bad in ("0.1", None, 1j, True, [0.1]):
        with pytest.raises(TypeError, match="learning_rate must be a real number"):
            sf.LinearizedSGD(K4, bad)
    with pytest.raises(ValueError, match="learning_rate 1e\\+300 is too large"):
        sf.LinearizedSGD(K4 * 1e10, 1e300)
    with pytest.raises(ValueError, match=r"batch_size must be in 1..4, not 5"):
        sf.LinearizedSGD(K4, 0.1, 5)
    with pytest.raises(ValueError, match="features must not be zero"):
        sf.LinearizedSGD.from_factor(np.zeros((3, 2)), 0.1)


def test_a_gram_too_small_to_compute_with_is_refused():
    with pytest.raises(ValueError, match="gram is too small to compute with: its diagonal reaches 5e-310"):
        sf.LinearizedSGD(K4 * 1e-310, 0.3)
    with pytest.raises(ValueError, match="gram is too large to compute with: its diagonal reaches 5e"):
        sf.LinearizedSGD(K4 * 1e300, 1e-300)
    with pytest.raises(ValueError, match="learning_rate 1e-320 is too small: times gram's diagonal"):
        sf.LinearizedSGD(K4, 1e-320)
    with pytest.raises(ValueError, match="features are beyond computing with, the largest 1e"):
        sf.LinearizedSGD.from_factor(np.eye(3) * 1e155, 1e-300)
    with pytest.raises(ValueError, match="scale, over probabilities, is too large"):
        sf.LinearizedSGD(K4, 0.1, scale=1e308)


@pytest.mark.parametrize("n", [100, 400])
def test_rounding_of_a_matrix_of_low_rank_is_neither_rank_nor_indefinite(n):
    """Eigenvalues of a matrix of rank one are off by some n/20 units of the precision of the largest, more or less."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        root = np.exp(rng.normal(0, 0.25, n))
        assert sf.LinearizedSGD(np.outer(root, root), 0.1).dimension == 1
        features = rng.standard_normal((n, 3))
        assert sf.LinearizedSGD(features @ features.T + 5, 0.1).dimension == 4


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], r"examples must be one or several different integers, not \[\]"),
        ([0, 0], r"examples must be one or several different integers, not \[0, 0\]"),
        ([0, 4], r"examples\[1\] must be in 0..3, not 4"),
        ([0.5], r"examples\[0\] must be an integer, not 0.5"),
    ],
)
def test_parts_are_of_examples_that_there_are(examples, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sf.LinearizedSGD(K4, 0.3).part(examples)


@pytest.mark.parametrize("cutoff", [-1, 10**400, np.nan])
def test_raised_eigenvalues_are_relative_to_a_number(cutoff):
    with pytest.raises(ValueError, match="cutoff must be"):
        sf.LinearizedSGD(K4, 0.3).with_slow_eigenvalues_raised(cutoff)


def test_a_setting_says_what_a_step_is_in_the_units_of_the_user():
    plain = {"n_examples": 4, "batch_size": 1, "learning_rate": 0.3}
    assert sf.LinearizedSGD(K4, 0.3).setting == plain
    small = sf.LinearizedSGD(np.ldexp(K4, -200), math.ldexp(0.3, 200))
    assert small.in_own_units().setting == small.setting == plain | {"learning_rate": math.ldexp(0.3, 200)}
    others = {"batch_size": 2, "momentum": 0.5, "nesterov": True, "sampling": "epoch"}
    found = sf.LinearizedSGD(K4, 0.3, 2, momentum=0.5, nesterov=True, sampling="epoch").setting
    assert found == plain | others
    weighted = sf.LinearizedSGD(K4, 0.3, probabilities=[0.1, 0.2, 0.3, 0.4])
    assert weighted.setting == plain | {"importance_sampling": True}
    decay = sf.Recurrence(free=np.array([[0.99]]), readout=np.array([1.0]))
    assert sf.LinearizedSGD(K4, 0.3).with_recurrence(decay).setting == plain | {"levels": 1}


@pytest.mark.parametrize("gram", [K4, np.kron(np.eye(2), K4)], ids=["whole", "blocks"])
def test_results_say_the_setting_of_their_system(gram):
    system = sf.LinearizedSGD(gram, 0.3)
    how = {"rtol": 0, "max_steps": 1e4, "rng": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for result in (
            sf.lyapunov_exponent(system, **how),
            sf.lyapunov_spectrum(system, **how),
            sf.moment_exponent(system, 2),
            sf.mean_square_exponent(system),
        ):
            assert result.setting == system.setting
        swept = sf.sweep(gram, [0.1, 0.2], batch_sizes=[1, 2], **how)
    assert swept.setting == {"n_examples": len(gram)}
    assert sf.critical_learning_rate(gram, "mean-square").setting == {"n_examples": len(gram), "batch_size": 1}
