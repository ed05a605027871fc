"""Any K that a user has: kernels, several outputs in any order of axes, and the precision that values came in."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sgdstab_fast as sf
import torch
from jax import numpy as jnp
from reference.known import K4, REAL_GRAMS
from sgdstab_fast.gram.given import given, is_of_float32
from sgdstab_fast.validation import FLOAT32

J = np.random.default_rng(1).normal(size=(4, 3, 30))
FOUR_AXES = np.einsum("iap,jbp->iajb", J, J)
K = FOUR_AXES.reshape(12, 12)
GROUPS = np.repeat(np.arange(4), 3)


class OnlyDlpack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize(
    "gram",
    [
        torch.tensor(K),
        torch.tensor(K).requires_grad_(),
        OnlyDlpack(K),
        pd.DataFrame(K),
        pl.DataFrame(K),
        K.tolist(),
    ],
    ids=lambda gram: type(gram).__name__,
)
def test_arrays_of_other_libraries(gram):
    np.testing.assert_array_equal(sf.LinearizedSGD(gram, 0.01).rows, K)


@pytest.mark.parametrize(
    "narrow",
    [
        torch.tensor(K).float(),
        jnp.asarray(K),
        pd.DataFrame(K.astype(np.float32)),
        pl.DataFrame(K.astype(np.float32)),
        K.astype(np.float32),
    ],
    ids=lambda gram: type(gram).__name__,
)
def test_arrays_of_float32(narrow):
    assert given(narrow).precision == FLOAT32
    np.testing.assert_allclose(given(narrow).matrix, K, rtol=1e-6)


@pytest.mark.parametrize("gram", [torch.tensor(K).bfloat16(), jnp.asarray(K).astype(jnp.bfloat16)])
def test_bfloat16_is_taken_with_a_warning(gram):
    with pytest.warns(sf.AccuracyWarning, match="gram has numbers of 8 bits"):
        assert given(gram).precision == 2.0**-7


@pytest.mark.parametrize(
    "gram",
    [
        FOUR_AXES,
        FOUR_AXES.transpose(0, 2, 1, 3),
        FOUR_AXES.tolist(),
        torch.tensor(FOUR_AXES),
        sf.gram.from_jacobian(J),
    ],
)
def test_several_outputs_bring_their_groups(gram):
    expected = sf.LinearizedSGD(K, 0.01, 2, groups=GROUPS)
    found = sf.LinearizedSGD(gram, 0.01, 2)
    np.testing.assert_allclose(found.rows, expected.rows, rtol=1e-12, atol=1e-12)
    assert found.n_examples == 4
    assert sf.critical_learning_rate(gram, "mean-square").value == pytest.approx(
        sf.critical_learning_rate(K, "mean-square", groups=GROUPS).value, rel=1e-10
    )
    assert sf.gd_exponent(gram, 0.01) == pytest.approx(sf.gd_exponent(sf.LinearizedSGD(K, 0.01, groups=GROUPS)))


def test_as_many_outputs_as_examples_are_told_apart_by_symmetry():
    square = J[:3]
    rows = np.einsum("iap,jbp->iajb", square, square)
    for four_axes in (rows, rows.transpose(0, 2, 1, 3)):
        np.testing.assert_array_equal(given(four_axes).matrix, rows.reshape(9, 9))


@pytest.mark.parametrize(
    ("gram", "groups", "message"),
    [
        (FOUR_AXES.transpose(1, 0, 3, 2), None, r"if outputs come first, pass gram.transpose\(1, 0, 3, 2\)"),
        (np.zeros((2, 3, 4, 5)), None, r"gram must be a matrix, or of shape \(N, N, m, m\) or \(N, m, N, m\), not"),
        (np.ones((2, 2, 2, 2)), None, r"may be \(N, N, m, m\) or \(N, m, N, m\): pass it as"),
        (FOUR_AXES, GROUPS, "groups must be left out with a gram of four axes"),
        (sf.gram.from_jacobian(J), GROUPS, "groups must be left out with a gram that has its own"),
    ],
)
def test_what_is_refused(gram, groups, message):
    with pytest.raises(ValueError, match=message):
        sf.LinearizedSGD(gram, 0.01, groups=groups)


def test_the_curvature_of_the_loss_is_in_a_kernel():
    kernel = sf.gram.from_jacobian(J, loss="mean squared")
    found = sf.LinearizedSGD(kernel, 0.01)
    expected = sf.LinearizedSGD(K, 0.01, groups=GROUPS, scale=2 / 3)
    assert found.sum_of_exponents == pytest.approx(expected.sum_of_exponents)


@pytest.mark.parametrize("name", REAL_GRAMS)
def test_float32_in_any_type_is_float32(name):
    narrow = REAL_GRAMS[name].astype(np.float32)
    assert is_of_float32(narrow.astype(float))
    with pytest.warns(sf.AccuracyWarning, match="gram is of float64, but all of its values are of float32"):
        upcast = given(narrow.astype(float))
    assert upcast.precision == given(narrow).precision == FLOAT32


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 576))


@pytest.mark.parametrize(
    "gram",
    [
        K4,
        np.eye(3),
        np.diag([1.0, 0.5, 2.0**-30]),
        K,
        REAL_GRAMS["iris_trained_40"],
        (PIXELS @ PIXELS.T).astype(float),
        (PIXELS @ PIXELS.T) / 2.0**16,
        np.array([[float(np.float32(0.1))]]),
    ],
)
def test_short_numbers_are_no_sign_of_float32(gram):
    assert not is_of_float32(np.asarray(gram))


def slow_kernel(n=60, ratio=1e-9):
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    gram = basis * np.geomspace(1, ratio, n) @ basis.T
    return (gram + gram.T) / 2


def test_directions_below_float32_are_counted_and_taken_for_the_kernel():
    gram = slow_kernel()
    with pytest.warns(sf.AccuracyWarning, match=r"\d+ of 60 directions are below what the precision of gram"):
        system = sf.LinearizedSGD(gram.astype(np.float32), 0.1)
    assert 30 < system.rank < 60
    eigenvalues = system.gram_eigenvalues()
    np.testing.assert_allclose(eigenvalues[:20], np.geomspace(1, 1e-9, 60)[:20], rtol=1e-3)
    assert eigenvalues[-1] > 1e-7
    assert sf.LinearizedSGD(gram, 0.1).rank == 60


@pytest.mark.parametrize("criterion", ["gd", "mean-square"])
def test_critical_rates_of_float32_are_those_of_float64(criterion):
    gram = slow_kernel()
    with pytest.warns(sf.AccuracyWarning, match="taken for its kernel"):
        found = sf.critical_learning_rate(gram.astype(np.float32), criterion)
    assert found.value == pytest.approx(sf.critical_learning_rate(gram, criterion).value, rel=1e-4)


def test_duplicates_in_float32():
    gram = REAL_GRAMS["iris_trained_40"][:20, :20].astype(np.float32)
    twice = np.tile(np.diag(np.diag(gram)), (2, 2))
    with pytest.warns(sf.AccuracyWarning, match="20 of 40 directions"):
        assert sf.LinearizedSGD(twice, 0.1).rank == 20


def test_indefinite_in_float32():
    with pytest.raises(ValueError, match=r"gram must be positive semidefinite, but has the eigenvalue -1"):
        sf.LinearizedSGD(np.array([[1.0, 2.0], [2.0, 1.0]], np.float32), 0.1)
    gram = slow_kernel()
    values, vectors = np.linalg.eigh(gram)
    values[0] = -1e-3
    with pytest.raises(ValueError, match="gram must be positive semidefinite"):
        sf.LinearizedSGD((vectors * values @ vectors.T).astype(np.float32), 0.1)


def test_one_row_and_rows_without_gradients_in_float32():
    assert sf.LinearizedSGD(np.array([[0.1]], np.float32), 0.1).rank == 1
    gram = np.zeros((3, 3), np.float32)
    gram[0, 0], gram[2, 2] = 0.1, 0.2
    assert sf.LinearizedSGD(gram, 0.1).rank == 2


def test_a_network_in_place_of_its_matrix_is_told_what_makes_one():
    with pytest.raises(TypeError, match=r"not the network Linear: gram.from_torch\(model, inputs\) computes that"):
        sf.critical_learning_rate(torch.nn.Linear(3, 1), "gd")
