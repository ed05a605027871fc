"""Whatever a user gives for K, as a matrix with what goes with it.

A `Kernel` brings its groups and its precision. Arrays of four axes, as tools for several outputs return them, are put
into the order of rows that everything here has: row i m + o is output o of example i. Values of float32 are those of
float32 in whatever type they come, and are treated so: below its resolution K is rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import AnyFloatArray, FloatArray
from sgdstab_fast.gram.kernel import Kernel
from sgdstab_fast.results.warnings import warn

_BITS = 24  # of float32
_SHORT = 20  # bits of numbers that are no sign of float32, as of small integers
_MANY = 0.5  # of entries that are not short
_NO_EXPONENT = 10**6
_ASYMMETRY = 1e-4  # relative to the largest entry, by rounding


class Gram(NamedTuple):
    """K, checked but for being positive semidefinite, which takes a factorisation."""

    matrix: AnyFloatArray
    """Shape (n_rows, n_rows), of float32 or float64, C-contiguous."""
    precision: float
    """Machine epsilon of the numbers in it."""
    groups: Any
    """The example of every row; None where every row is one."""


def given(gram: Any, groups: Any = None) -> Gram:
    """Return K and its groups from a matrix, an array of four axes, a `Kernel`, or what this returned before."""
    if isinstance(gram, (Kernel, Gram)):
        if groups is not None and gram.groups is not None:
            raise ValueError(f"groups must be left out with a gram that has its own, not {validation.shown(groups)}")
        own = gram.groups if groups is None else groups
        if isinstance(gram, Gram):
            return gram._replace(groups=own)
        matrix, precision = validation.gram_matrix(gram.matrix)
        return Gram(matrix, max(precision, gram.precision), own)
    if callable(getattr(gram, "parameters", None)):
        name = type(gram).__name__
        raise TypeError(f"gram must be a matrix, not the network {name}: gram.from_torch(model, inputs) computes that")
    if _n_axes(gram) == 4:
        if groups is not None:
            raise ValueError("groups must be left out with a gram of four axes, whose shape says them")
        array, groups = _in_rows(validation.numeric(gram, "gram"))
        matrix, precision = validation.gram_matrix(array)
    else:
        matrix, precision = validation.gram_matrix(gram)
    if precision > validation.FLOAT32:
        warn(
            f"gram has numbers of {round(1 - np.log2(precision))} bits: of its exponents only those of the fastest "
            "directions mean anything; compute it in float64"
        )
    elif precision < validation.FLOAT32 and is_of_float32(matrix):
        precision = validation.FLOAT32
        warn(
            "gram is of float64, but all of its values are of float32: it is treated as float32. Compute it in float64 "
            "from the start, as sgdstab_fast.gram.from_torch does"
        )
    return Gram(matrix, precision, groups)


def residuals_of(gram: Any) -> FloatArray | None:
    """Return the gradients of the loss in the outputs that a kernel has; None of any other K."""
    return gram.loss_gradients if isinstance(gram, Kernel) else None


def _n_axes(value: Any) -> int:
    depth = 0
    while isinstance(value, (list, tuple)) and value:
        value, depth = value[0], depth + 1
    return depth + len(getattr(value, "shape", ()))


def is_of_float32(matrix: AnyFloatArray) -> bool:
    """Say whether all values were rounded to float32 before they became float64.

    They have 24 significant bits, whatever their size. Counts, and multiples of one unit, have a last place that does
    not go with their size: in those the largest entries and the others share it.
    """
    n_long = n_all = 0
    largest, last_of_largest, last = -_NO_EXPONENT, _NO_EXPONENT, _NO_EXPONENT
    with np.errstate(over="ignore"):
        for rows in validation.row_blocks(matrix):
            block = matrix[rows]
            if (block.astype(np.float32) != block).any():
                return False
            mantissas, exponents = np.frexp(block[block != 0])
            if not mantissas.size:
                continue
            digits = np.abs(mantissas * 2.0**_BITS).astype(np.int64)
            places = exponents - _BITS + np.log2(digits & -digits).astype(int)  # of the last digits
            n_long += int(np.count_nonzero(exponents - places > _SHORT))
            n_all += mantissas.size
            last = min(last, int(places.min()))
            if exponents.max() > largest:
                largest, last_of_largest = int(exponents.max()), _NO_EXPONENT
            if exponents.max() == largest:
                last_of_largest = min(last_of_largest, int(places[exponents == largest].min()))
    return n_long > _MANY * n_all and last < last_of_largest


def _in_rows(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return (N, N, m, m) or (N, m, N, m) as (N m, N m), and the groups of its rows."""
    a, b, c, d = array.shape
    pairs_first = a == b and c == d
    examples_first = a == c and b == d
    if pairs_first and examples_first:  # N = m: the one that is symmetric
        allowed = _ASYMMETRY * float(np.abs(array).max())
        pairs_first = float(np.abs(array - array.transpose(1, 0, 3, 2)).max()) <= allowed
        examples_first = float(np.abs(array - array.transpose(2, 3, 0, 1)).max()) <= allowed
        if pairs_first == examples_first and a > 1:
            raise ValueError(
                f"gram of shape {array.shape} may be (N, N, m, m) or (N, m, N, m): pass it as (N m, N m), row i m + o "
                "for output o of example i, with groups=numpy.repeat(numpy.arange(N), m)"
            )
    if pairs_first:
        n, m = a, c
        array = array.transpose(0, 2, 1, 3)
    elif examples_first and a >= b:
        n, m = a, b
    elif examples_first:
        raise ValueError(
            f"gram of shape {array.shape} has fewer examples than outputs if it is (N, m, N, m): if outputs come "
            "first, pass gram.transpose(1, 0, 3, 2), else gram.reshape(N m, N m) with "
            "groups=numpy.repeat(numpy.arange(N), m)"
        )
    else:
        raise ValueError(f"gram must be a matrix, or of shape (N, N, m, m) or (N, m, N, m), not {array.shape}")
    return array.reshape(n * m, n * m), np.repeat(np.arange(n), m)
