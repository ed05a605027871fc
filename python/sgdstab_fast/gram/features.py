r"""Features: what is kept of every example of a layer, and K from them.

The gradient of output o of example i in the weight of a linear layer that is used at positions t (of a sequence, an
image, of several calls) is sum_t g_iot x_it^T, with x_it the layer's inputs, shape (d_in,), and g_iot the derivatives
of the output in what the layer returns, shape (d_out,). What the layer adds to K is

    sum_ts (x_it . x_js) (g_iot . g_jps)          from the factors, `Factors`: no gradient is formed
    sum_c  F_ioc F_jpc                            from gradients F, the columns of the Jacobian, `Columns`

with K's row i m + o for output o of example i. A bias adds 1 to x_it . x_js.

Arrays are numpy's or torch's: what is used here both understand. Sums are in float64, whatever features came in, so
that K is positive semidefinite to rounding of float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

LARGEST_TILE = 2**20  # numbers in a temporary array
LARGEST_PANEL = LARGEST_TILE // 4  # numbers of features that are in float64 at a time
MOST_ROWS = 256  # of a tile


class Features(Protocol):
    """What is kept of all examples."""

    @property
    def rows_per_example(self) -> int:
        """Rows of temporary arrays for an example."""

    def tile(self, rows: slice, columns: slice) -> FloatArray:
        """Return what is added to K for examples of rows and of columns, shape (n_rows m, n_columns m)."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """What differs between numpy and torch."""

    double: Callable[[Any], Any]
    host: Callable[[Any], FloatArray]


NUMPY = Arrays(lambda array: array.astype(np.float64, copy=False), lambda array: array)


@dataclass(eq=False)
class Columns:
    """Columns of the Jacobian, shape (N, m, number of columns)."""

    gradients: Any
    arrays: Arrays

    @property
    def rows_per_example(self) -> int:
        """The outputs."""
        return int(self.gradients.shape[1])

    def tile(self, rows: slice, columns: slice) -> FloatArray:
        """Return sum_c F_ioc F_jpc."""
        width = self.gradients.shape[2]
        left, right = (self.gradients[which].reshape(-1, width) for which in (rows, columns))
        return self.arrays.host(_products(left, right, self.arrays))


@dataclass(eq=False)
class Factors:
    """Inputs x, shape (N, T, d_in), or (N, T) where they are indices, and derivatives g, shape (N, m, T, d_out)."""

    inputs: Any
    derivatives: Any
    bias: bool
    """Whether K has the gradients of a bias too."""
    arrays: Arrays

    @property
    def rows_per_example(self) -> int:
        """Outputs times positions."""
        return int(self.derivatives.shape[1] * self.derivatives.shape[2])

    def tile(self, rows: slice, columns: slice) -> FloatArray:
        """Return sum_ts (x_it . x_js + 1) (g_iot . g_jps)."""
        _, m, t, d = self.derivatives.shape
        left, right = (self.derivatives[which].reshape(-1, d) for which in (rows, columns))
        found = _products(left, right, self.arrays)
        inner = self._inner(rows, columns)
        if self.bias:
            inner += 1
        if m == 1:
            found *= inner
        else:
            shape = (len(left) // (m * t), m, t, len(right) // (m * t), m, t)
            found = found.reshape(shape)
            found *= inner.reshape(shape[0], 1, t, shape[3], 1, t)
        if t > 1:
            found = found.reshape(len(left) // t, t, len(right) // t, t).sum(3).sum(1)
        return self.arrays.host(found.reshape(len(left) // t, len(right) // t))

    def _inner(self, rows: slice, columns: slice) -> Any:
        """Return x_it . x_js, shape (n_rows T, n_columns T)."""
        if len(self.inputs.shape) == 2:  # indices, of one-hot inputs; those below 0 have no gradient
            left, right = self.inputs[rows].reshape(-1), self.inputs[columns].reshape(-1)
            return self.arrays.double((left[:, None] == right[None, :]) & (left >= 0)[:, None])
        d = self.inputs.shape[2]
        left, right = (self.inputs[which].reshape(-1, d) for which in (rows, columns))
        return _products(left, right, self.arrays)


def _products(left: Any, right: Any, arrays: Arrays) -> Any:
    """Return the inner products of rows in float64, without a copy of all of them in that."""
    width = left.shape[1]
    step = max(1, LARGEST_PANEL // max(len(left), len(right), 1))
    found = arrays.double(left[:, :step]) @ arrays.double(right[:, :step]).T
    for first in range(step, width, step):
        part = slice(first, first + step)
        found += arrays.double(left[:, part]) @ arrays.double(right[:, part]).T
    return found


def add_to(matrix: FloatArray, features: Features, n_outputs: int, release: Callable[[], None]) -> Iterator[float]:
    """Add what features say to the lower triangle of K, by tiles; yield the share of it that is done.

    `release` is called after every row of tiles.
    """
    tiles = [*_tiles(len(matrix) // n_outputs, max(1, MOST_ROWS // features.rows_per_example))]
    last = 0
    for index, (rows, columns) in enumerate(tiles, start=1):
        if rows.start != last:
            release()
            last = rows.start
        matrix[
            rows.start * n_outputs : rows.stop * n_outputs, columns.start * n_outputs : columns.stop * n_outputs
        ] += features.tile(rows, columns)
        yield index / len(tiles)
    release()


def _tiles(n: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Yield tiles of the lower triangle, those on the diagonal in halves so that little is done twice."""
    for first in range(0, n, most):
        last = min(first + most, n)
        for other in range(0, first, most):
            yield slice(first, last), slice(other, other + most)
        middle = (first + last + 1) // 2
        yield slice(first, middle), slice(first, middle)
        if middle < last:
            yield slice(middle, last), slice(first, middle)
            yield slice(middle, last), slice(middle, last)


def mirror(matrix: FloatArray, release: Callable[[], None]) -> bool:
    """Copy the lower triangle to the upper one, by tiles: K is symmetric to the bit. Return whether it is finite."""
    is_finite = True
    for first in range(0, len(matrix), MOST_ROWS):
        rows = slice(first, first + MOST_ROWS)
        for other in range(0, first, MOST_ROWS):
            columns = slice(other, other + MOST_ROWS)
            matrix[columns, rows] = matrix[rows, columns].T
            release()
        block = matrix[rows, rows]
        upper = np.triu_indices(len(block), 1)
        block[upper] = block.T[upper]
        is_finite &= bool(np.isfinite(block.diagonal()).all())
        release()
    return is_finite
