"""Numbers and arrays of other libraries, by stand-ins that behave as theirs: taken or refused in one clear line."""

import decimal
import fractions

import numpy as np
import pytest
import scipy.sparse
import sgdstab_fast as sf
from reference.known import K4
from scipy.sparse.linalg import aslinearoperator
from sgdstab_fast import validation


class Tensor:
    """A torch.Tensor: numpy may not take what is on another device or has gradients."""

    def __init__(self, data, *, grad=False, device="cpu"):
        self.data, self.grad, self.device = np.asarray(data), grad, device
        self.shape, self.ndim, self.dtype = self.data.shape, self.data.ndim, self.data.dtype

    def detach(self):
        return Tensor(self.data, device=self.device)

    def cpu(self):
        return Tensor(self.data, grad=self.grad)

    def item(self):
        return self.data.item()

    def __array__(self, dtype=None, copy=None):
        if self.grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if self.device != "cpu":
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        return self.data if dtype is None else self.data.astype(dtype)

    def __float__(self):
        return float(self.data)

    def __index__(self):
        if self.data.dtype.kind not in "iu":
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.data)

    def __len__(self):
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return len(self.data)

    def __repr__(self):
        return f"tensor({self.data.tolist()})"


class JaxNumber:
    """A jax.Array without dimensions, which is registered as nothing."""

    shape, ndim = (), 0

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"Array({self.value})"

    def item(self):
        return self.value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


class Missing:
    """pandas.NA."""

    def __eq__(self, other):
        return self

    def __ne__(self, other):
        return self

    __hash__ = object.__hash__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __repr__(self):
        return "<NA>"


NA = Missing()


class Nullable:
    """A pandas dtype of nullable or pyarrow columns."""

    def __init__(self, numpy_dtype):
        self.numpy_dtype = np.dtype(numpy_dtype)


class Table:
    """A pandas.DataFrame of such columns, which numpy takes as objects."""

    def __init__(self, rows, kind="float64"):
        self.rows, self.dtypes = rows, [Nullable(kind) for _ in rows[0]]

    def __array__(self, dtype=None, copy=None):
        array = np.empty((len(self.rows), len(self.rows[0])), dtype=object)
        for index, _ in np.ndenumerate(array):
            array[index] = self.rows[index[0]][index[1]]
        return array


WITH_NA = [[4.0, NA], [NA, 3.0]]


@pytest.mark.parametrize(
    "gram",
    [
        Tensor(K4),
        Tensor(K4, grad=True),
        Tensor(K4, grad=True, device="cuda"),
        Table(K4.tolist()),
        np.array(K4.tolist(), dtype=object),
        [[fractions.Fraction(x) for x in row] for row in K4.astype(int).tolist()],
        [[decimal.Decimal(x) for x in row] for row in K4.astype(int).tolist()],
        scipy.sparse.csr_array(K4),
        scipy.sparse.csc_matrix(K4),
        np.ma.masked_array(K4),
        np.matrix(K4),
    ],
    ids=lambda gram: type(gram).__name__,
)
def test_these_are_matrices(gram):
    system = sf.LinearizedSGD(gram, 0.3)
    np.testing.assert_array_equal(system.rows, K4)
    np.testing.assert_array_equal(sf.MatrixEnsemble([gram]).matrices[0], K4)
    assert sf.LinearizedSGD.from_factor(gram, 0.03).n_examples == 4


@pytest.mark.parametrize(
    ("gram", "error", "message"),
    [
        (np.ma.masked_greater(K4, 4), ValueError, "gram must not be masked, but 1 of its entries are"),
        (list(np.ma.masked_greater(K4, 4)), ValueError, "gram must not be masked, but 1 of its entries are"),
        ([[1, np.ma.masked], [0.5, 1]], ValueError, "gram must not be masked, but 1 of its entries are"),
        ([[10**400, 0], [0, 1]], TypeError, r"gram must be a matrix of real numbers, but gram\[0, 0\] is 10+\.\.\.$"),
        (aslinearoperator(K4), TypeError, r"gram must be a matrix, not an operator \(\w+\)"),
        (Table(WITH_NA), TypeError, r"gram must be a matrix of real numbers, but gram\[0, 1\] is <NA>"),
        (Table([[4.0, np.nan], [np.nan, 3.0]]), ValueError, r"gram must be finite, but gram\[0, 1\] is nan"),
        (Table([["4", "1"], ["1", "3"]]), TypeError, r"gram must be a matrix of real numbers, but gram\[0, 0\] is '4'"),
        ([[4, "x"], ["x", 3]], TypeError, "gram must be a matrix of real numbers, not of dtype <U"),
        ([Tensor([4.0, 1], grad=True), [1, 3]], ValueError, "gram must be a matrix of real numbers: "),
        ("gram.npy", TypeError, "gram must be a matrix of real numbers, not 'gram.npy'"),
        (iter([[1.0]]), TypeError, "gram must be a matrix of real numbers, not <list_iterator"),
        (None, TypeError, "gram must be a matrix of real numbers, not None"),
    ],
)
def test_these_are_none(gram, error, message):
    with pytest.raises(error, match=message) as refused:
        sf.LinearizedSGD(gram, 0.3)
    assert "\n" not in str(refused.value)


def test_tables_of_single_precision_are_of_single_precision():
    single = (K4 / 3).astype(np.float32)
    assert validation.matrix(Table(single.tolist(), "float32"), "gram")[1] == np.finfo(np.float32).eps
    assert validation.matrix(Table(single.tolist(), "float64"), "gram")[1] == np.finfo(float).eps


NUMBERS = [0.25, np.float32(0.25), np.array(0.25), Tensor(0.25, grad=True), JaxNumber(0.25), fractions.Fraction(1, 4)]


@pytest.mark.parametrize("rate", [*NUMBERS, decimal.Decimal("0.25")], ids=repr)
def test_these_are_numbers(rate):
    assert sf.LinearizedSGD(K4, rate).learning_rate == 0.25
    assert sf.LinearizedSGD(K4, 0.1, momentum=rate).fingerprint == sf.LinearizedSGD(K4, 0.1, momentum=0.25).fingerprint
    np.testing.assert_array_equal(validation.increasing([rate, 0.5], "learning_rates"), [0.25, 0.5])
    np.testing.assert_array_equal(validation.orders(rate, "p"), [0.25])


@pytest.mark.parametrize(
    "size", [2, 2.0, np.int8(2), np.float32(2), np.array(2), Tensor(2), Tensor(2.0, grad=True), JaxNumber(2)], ids=repr
)
def test_these_are_integers(size):
    assert sf.LinearizedSGD(K4, 0.1, size).batch_size == 2
    np.testing.assert_array_equal(validation.increasing([1, size], "batch_sizes"), [1, 2])


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (Tensor([0.25]), TypeError, r"learning_rate must be a real number, not tensor\(\[0.25\]\)"),
        (Tensor(True), TypeError, r"learning_rate must be a real number, not tensor\(True\)"),
        (Tensor(-0.5), ValueError, r"learning_rate must be positive and finite, not tensor\(-0.5\)"),
        (Tensor(np.nan), ValueError, r"learning_rate must be a number, not tensor\(nan\)"),
        (np.array([0.25]), TypeError, "learning_rate must be a real number, not array"),
        (np.full((2, 60), 0.25), TypeError, r"learning_rate must be a real number, not array\(.{154}\.\.\.$"),
        (np.ma.masked, TypeError, "learning_rate must be a real number, not masked"),
        (NA, TypeError, "learning_rate must be a real number, not <NA>"),
        (0.25j, TypeError, "learning_rate must be a real number, not 0.25j"),
        (np.complex128(0.25), TypeError, "learning_rate must be a real number"),
        (b"0.25", TypeError, "learning_rate must be a real number, not b'0.25'"),
        (10**400, ValueError, "learning_rate must be within floating point, not 1000"),
    ],
)
def test_these_are_no_numbers(rate, error, message):
    with pytest.raises(error, match=message):
        sf.LinearizedSGD(K4, rate)


@pytest.mark.parametrize("size", [Tensor(1.5), Tensor(True), Tensor([1]), np.array([2]), NA, "2", np.inf])
def test_these_are_no_integers(size):
    with pytest.raises(TypeError, match="batch_size must be an integer"):
        sf.LinearizedSGD(K4, 0.1, size)


def softmax(n, dtype, seed=0):
    weights = np.exp(np.random.default_rng(seed).standard_normal(n).astype(dtype))
    return weights / weights.sum(dtype=dtype)


@pytest.mark.parametrize("n", [3, 50, 5000])
@pytest.mark.parametrize("seed", range(5))
def test_probabilities_of_less_than_double_precision_have_sum_one(n, seed):
    given = softmax(n, np.float32, seed)
    half = given[:50].astype(np.float16) * np.float16(1 / given[:50].sum())
    assert abs(validation.distribution(half, "probabilities", min(n, 50), "").sum() - 1) < 1e-12
    for found in (given, given.tolist(), Tensor(given, grad=True)):
        exact = validation.distribution(found, "probabilities", n, "one for each example")
        np.testing.assert_allclose(exact, given, rtol=1e-3)
        assert abs(exact.sum() - 1) < 1e-15 * n


@pytest.mark.parametrize(
    ("probabilities", "error", "message"),
    [
        ([0.25, 0.25, 0.25, 0.2500001], ValueError, "probabilities must sum to 1, not to 1.0000001"),
        (np.float32([0.25, 0.25, 0.25, 0.2501]), ValueError, "probabilities must sum to 1, not to 1.00009998"),
        (
            np.ma.masked_less([0.1, 0.3, 0.3, 0.3], 0.2),
            ValueError,
            "probabilities must not be masked, but 1 of its entries",
        ),
        (["0.25"] * 4, TypeError, "probabilities must be an array of real numbers, not of dtype <U4"),
        ([0.5, 0.5, NA, 0.0], TypeError, r"probabilities must be an array of real numbers, but probabilities\[2\] is"),
    ],
)
def test_these_are_no_probabilities(probabilities, error, message):
    with pytest.raises(error, match=message):
        sf.LinearizedSGD(K4, 0.1, probabilities=probabilities)


@pytest.mark.parametrize(
    "groups", [[7, 7, 3, 3], ["a", "a", "b", "b"], Tensor([1, 1, 0, 0]), [Tensor(x) for x in (1, 1, 0, 0)]]
)
def test_these_are_labels(groups):
    assert sf.LinearizedSGD(K4, 0.1, groups=groups).n_examples == 2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 0, np.nan, np.nan], r"groups must be labels, one for each row, but groups\[2\] is nan"),
        (np.array([0, np.nan, 1, 1]), r"groups\[1\] is nan"),
        (["a", "a", "b", np.nan], r"groups\[3\] is nan"),
        ([0, 0, 1, None], r"groups\[3\] is None"),
        ([0, 0, 1, NA], r"groups\[3\] is <NA>"),
        (np.array(["2020", "2020", "2021", "NaT"], dtype="datetime64[Y]"), r"groups\[3\] is None"),
        (np.ma.masked_greater([0, 0, 1, 9], 5), "groups must not be masked, but 1 of its entries are"),
    ],
)
def test_missing_labels_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        sf.LinearizedSGD(K4, 0.1, groups=groups)


def test_numbers_in_text_are_no_numbers():
    exponent = sf.lyapunov_exponent(sf.LinearizedSGD([[2.0]], 0.3))
    with pytest.raises(TypeError, match=r"level must be a real number, not '0.9'"):
        exponent.confidence_interval("0.9")
    moments = sf.moment_exponent(sf.MatrixEnsemble([[[2.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.3, 0.4]]]), [0, 1, 2, 3])
    for method in (moments.rate_function, moments.rate_function_standard_error):
        with pytest.raises(TypeError, match=r"x must be an array of real numbers, not .0.1."):
            method("0.1")
