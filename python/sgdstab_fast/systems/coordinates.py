"""Coordinates: whether displacements are described by rows of K or of a factor of it.

The gram form costs one dot product a step. The factor form is for a K with a kernel: kernel directions never move, and
would hide the decay of everything else. What counts as a kernel is decided on K scaled to unit diagonal, D^-1 K D^-1
with D^2 = diag K: that scaling only rescales the coordinates, so a K whose examples differ by orders of magnitude is
not mistaken for a singular one.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.functions import core
from sgdstab_fast.results.progress import tell_of
from sgdstab_fast.systems.decomposition import (
    Product,
    SpectralDecomposition,
    decomposition_of_gram,
    largest_axes,
    smallest_eigenvalue,
)
from sgdstab_fast.systems.rows import LARGEST_EIGENDECOMPOSITION, ROUNDING, IntArray, Rows
from sgdstab_fast.validation import row_blocks

_SMALL = 256  # rows of a matrix of which all eigenvalues are quickly there


class GramRows(Rows):
    """Rows of K itself, of full rank."""

    coordinates = "gram"
    products_per_step = 1

    @property
    def gram(self) -> FloatArray:
        """K."""
        return self.array

    def gram_of(self, rows: IntArray) -> FloatArray:
        """Return that part."""
        return np.asarray(self.array[rows[..., :, None], rows[..., None, :]])

    @cached_property
    def gradients(self) -> FloatArray:
        """The Cholesky factor."""
        try:
            return np.asarray(np.linalg.cholesky(self.array))
        except np.linalg.LinAlgError:  # of examples so different that products of their entries are 0
            scale = np.sqrt(self.diagonal)
            jitter = len(self) * float(np.finfo(float).eps) * np.eye(len(self))
            return np.asarray(scale[:, None] * np.linalg.cholesky(_scaled(self.array, scale) + jitter))

    @property
    def norm(self) -> FloatArray:
        """K."""
        return self.array

    @property
    def traces(self) -> FloatArray:
        """The diagonal."""
        return self.array.diagonal()

    @cached_property
    def eigenvalues(self) -> FloatArray:
        """Of K, ascending."""
        tell_of(f"eigenvalues of K, {len(self)} rows")
        return np.asarray(np.maximum(np.linalg.eigvalsh(self.array), 0.0))

    @cached_property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Of K."""
        tell_of(f"eigenvectors of K, {len(self)} rows")
        eigenvalues, vectors = np.linalg.eigh(self.array)
        return eigenvalues, vectors

    @property
    def slowest(self) -> FloatArray:
        """The bottom eigenvector of K."""
        assert self._slowest is not None  # comes with the test of definiteness
        return self._slowest

    def squared_norms(self, metric: FloatArray) -> FloatArray:
        """M_ii."""
        return metric.diagonal().copy()

    def couplings(self, metric: FloatArray) -> FloatArray:
        """M."""
        return metric

    def couplings_of(self, rows: IntArray, metric: FloatArray) -> FloatArray:
        """M_ij."""
        return metric[np.ix_(rows, rows)]

    def moved_by(self, rows: IntArray, amounts: FloatArray) -> FloatArray:
        """Return the amounts, in their places."""
        move = np.zeros(self.rank)
        move[rows] = amounts
        return move

    def coefficients(self, vectors: FloatArray) -> FloatArray:
        """Return the vectors."""
        return vectors

    def displacements(self, amounts: FloatArray) -> FloatArray:
        """Return the amounts."""
        return amounts

    def along(self, images: FloatArray) -> FloatArray:
        """Return the components."""
        return images

    def images(self, vectors: FloatArray, products: FloatArray) -> FloatArray:
        """K v."""
        return products

    def squared_lengths(self, vectors: FloatArray) -> FloatArray:
        """V . K v."""
        return np.asarray(np.einsum("nj,nj->n", vectors, vectors @ self.array))

    def moved(self, rows: IntArray) -> FloatArray:
        """e_i."""
        return np.asarray(np.eye(self.rank)[rows])

    def moved_images(self, rows: IntArray, metric: FloatArray | None) -> FloatArray:
        """M e_i, or K e_i."""
        return np.asarray((self.array if metric is None else metric)[rows])

    def moved_times(self, matrix: FloatArray) -> FloatArray:
        """Return the matrix."""
        return matrix

    def add_norm(self, metric: FloatArray, amount: float) -> None:
        """Add K."""
        metric += amount * self.array

    def move(self, state: FloatArray, rows: IntArray, amounts: FloatArray) -> None:
        """Take amounts from components."""
        np.subtract.at(state, rows, amounts)

    def isometric(self, vectors: FloatArray) -> FloatArray:
        """F^T a."""
        return np.asarray(vectors @ self.gradients)

    def from_isometric(self, vectors: FloatArray) -> FloatArray:
        """F^-T s."""
        from scipy.linalg import solve_triangular  # type: ignore[import-untyped]

        flat = vectors.reshape(-1, self.rank)
        return np.asarray(solve_triangular(self.gradients, flat.T, trans="T", lower=True).T.reshape(vectors.shape))

    def isometric_form(self, form: FloatArray) -> FloatArray:
        """F^-1 M F^-T."""
        return np.asarray(np.linalg.solve(self.gradients, np.linalg.solve(self.gradients, form).T))

    @cached_property
    def isometric_rows(self) -> Rows:
        """Those of the Cholesky factor."""
        gradients = np.ascontiguousarray(self.gradients)
        return Rows(gradients, self.diagonal, self.slowest @ gradients)

    def _in_units(self, n: int) -> Rows:
        return GramRows(np.ldexp(self.array, -n), np.ldexp(self.diagonal, -n), self._slowest, self.slow_cutoff)

    def scaled(self, roots: FloatArray) -> GramRows:
        """Return those of K_ij r_i r_j."""
        rows = roots[:, None] * self.array
        return GramRows(rows * roots, roots**2 * self.diagonal, self._slowest)

    def with_slow_eigenvalues_raised(self, cutoff: float) -> GramRows:
        """Return those of K and what is missing."""
        vectors, eigenvalues, _ = self.decompose()
        missing = np.maximum(cutoff * eigenvalues[-1] - eigenvalues, 0.0)
        gram = self.array + vectors * missing @ vectors.T
        gram = (gram + gram.T) / 2
        return GramRows(gram, gram.diagonal().copy(), vectors[:, 0].copy())

    def restricted(self, rows: NDArray[np.intp]) -> GramRows:
        """Return those of a part of K."""
        gram = np.ascontiguousarray(self.array[np.ix_(rows, rows)])
        diagonal = gram.diagonal().copy()
        scale = np.sqrt(diagonal)
        # What K itself has been found to be, symmetric and definite, its parts are.
        _, slowest = core.smallest_eigenvalue(matrix=gram / scale / scale[:, None], scale=_about_one(scale))
        return GramRows(gram, diagonal, slowest)

    def embedding(self, rows: NDArray[np.intp]) -> FloatArray:
        """Return e_i for every row."""
        return np.asarray(np.eye(self.rank)[rows])

    def _decomposed(self, rows: NDArray[np.intp], weights: FloatArray | None) -> SpectralDecomposition:
        matrix, axes = self.array, None
        if rows.size < len(self):
            matrix = matrix[np.ix_(rows, rows)]
        elif weights is None:
            axes = self.axes
        if weights is not None:
            matrix = matrix * np.sqrt(weights)
            matrix *= np.sqrt(weights)[:, None]
        return decomposition_of_gram(matrix, axes)

    def _product(self, vector: FloatArray) -> FloatArray:
        return np.asarray(self.array @ vector)

    def _solver(self) -> Product:
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(self.array, lower=True, check_finite=False)
        return lambda x: cho_solve(factor, x, check_finite=False)

    def extreme_eigenvalues(self) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue of K, by Lanczos' iteration if it is large."""
        if self.rank <= LARGEST_EIGENDECOMPOSITION:
            return super().extreme_eigenvalues()
        return self._extremes

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        return smallest_eigenvalue(self.array), float(largest_axes(self._product, self.rank, 1)[0][-1])

    def _linked(self, norms: FloatArray, rows: IntArray, columns: IntArray) -> NDArray[np.bool_]:
        entries = self.array[rows] if columns.size == norms.size else self.array[np.ix_(rows, columns)]
        return np.asarray((np.abs(entries) > ROUNDING * norms[rows, None] * norms[columns]).any(axis=0))


def rows_of_gram(gram: FloatArray, precision: float) -> Rows:
    """Return the rows of a K of full rank, else those of a factor; refuse one that is zero or indefinite."""
    n, diagonal = gram.shape[0], gram.diagonal().copy()
    tell_of(f"rank of K, {n} rows")
    scale = np.sqrt(gram.diagonal())
    active = np.flatnonzero(scale)  # examples with a gradient
    if not active.size:
        raise ValueError("gram must not be zero: no direction feels the loss")
    for i in np.flatnonzero(scale == 0)[:1]:
        for j in np.flatnonzero(gram[i])[:1]:
            raise ValueError(
                f"gram must be positive semidefinite, but gram[{i}, {i}] is 0 and gram[{i}, {j}] is {gram[i, j]}"
            )
    with np.errstate(over="ignore"):  # of entries that no semidefinite matrix has
        scaled = np.divide(gram, np.where(scale > 0, scale, 1.0))
    if not np.isfinite(scaled).all():
        i, j = np.argwhere(~np.isfinite(scaled))[0].tolist()
        raise ValueError(
            f"gram must be positive semidefinite, but gram[{i}, {j}] is {gram[i, j]}, beside {diagonal[i]} and "
            f"{diagonal[j]} on the diagonal"
        )
    noise = n * precision  # what rounding can do to eigenvalues of a matrix with unit diagonal
    is_double = precision <= validation.DOUBLE
    if is_double and active.size == n:
        smallest, slowest = core.smallest_eigenvalue(matrix=_scaled(gram, scale), scale=_about_one(scale))
        if smallest > 10 * noise:
            return GramRows(gram, diagonal, slowest)
    part, own = (gram, scale) if active.size == n else (gram[np.ix_(active, active)], scale[active])
    factor, order = (_eigenvectors if is_double else _pivoted)(part, own, noise, precision)
    if factor.shape[1] == n:
        if not is_double:
            _, slowest = core.smallest_eigenvalue(matrix=_scaled(gram, scale), scale=_about_one(scale))
            return GramRows(gram, diagonal, slowest)
        return GramRows(gram, diagonal, np.linalg.eigh(gram)[1][:, 0].copy())
    features = np.zeros((n, factor.shape[1]))
    features[active[order]] = factor
    return Rows(features, diagonal)


def _about_one(scale: FloatArray) -> FloatArray:
    """Return square roots of K_ii in units of about the largest, so that products of two are within floating point."""
    return np.asarray(np.ldexp(scale, -math.frexp(float(scale.max()))[1]))


def _scaled(gram: FloatArray, scale: FloatArray) -> FloatArray:
    """Return D^-1 K D^-1."""
    scaled = np.divide(gram, scale)
    scaled /= scale[:, None]
    return scaled


def _rounding(noise: float, n: int, precision: float, largest: float) -> float:
    """Return the eigenvalues of a matrix with unit diagonal that are rounding.

    Examples that are nearly copies of each other have eigenvalues up to n. Rounding goes with the largest and with n:
    of matrices of rank one some builds of LAPACK leave eigenvalues between -n/15 and n/24 units of precision.
    """
    return max(noise, max(4, n / 16) * precision * largest)


def _indefinite(gram: FloatArray, scale: FloatArray, rounding: float) -> ValueError:
    own, scaled = (np.linalg.eigvalsh(matrix)[0] for matrix in (gram, _scaled(gram, scale)))
    return ValueError(
        f"gram must be positive semidefinite, but has the eigenvalue {own}; scaled to unit diagonal it has {scaled}, "
        f"beyond rounding ({rounding:.1e})"
    )


def _eigenvectors(
    gram: FloatArray, scale: FloatArray, noise: float, precision: float
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Return F with F F^T = K but for eigenvalues of the scaled matrix that are rounding, and the order of its rows."""
    eigenvalues, vectors = np.linalg.eigh(_scaled(gram, scale))
    rounding = _rounding(noise, len(gram), precision, eigenvalues[-1])
    if eigenvalues[0] < -max(10 * noise, 2 * rounding):
        raise _indefinite(gram, scale, rounding)
    kept = eigenvalues > rounding
    return np.asarray(scale[:, None] * vectors[:, kept] * np.sqrt(eigenvalues[kept])), np.arange(len(gram))


def _pivoted(
    gram: FloatArray, scale: FloatArray, noise: float, precision: float
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Return the same by Cholesky's factorisation with pivots, as far as these are no rounding.

    What it leaves has a diagonal below rounding; directions of F may be a few times slower than that, which is far
    above what rounding to the precision does. In float64 there is no such room, but float32 is a hundred million times
    coarser than the arithmetic here. It is all matrix products, and takes a tenth of an eigendecomposition's time.
    """
    from scipy.linalg import lapack

    scaled, n = _scaled(gram, scale), len(gram)
    if n <= _SMALL:
        largest = float(np.linalg.eigvalsh(scaled)[-1])
    else:
        largest = float(largest_axes(scaled.__matmul__, n, 1)[0][-1])
    rounding = _rounding(noise, n, precision, largest)
    # Symmetric, so that its transpose is in LAPACK's order, and overwritten.
    lower, pivots, rank, _ = lapack.dpstrf(scaled.T, tol=rounding, lower=1, overwrite_a=1)
    order, factor = pivots - 1, lower[:, :rank]
    for first in range(0, rank, _SMALL):  # what is above the diagonal is not set
        columns = slice(first, first + _SMALL)
        factor[:first, columns] = 0
        factor[columns, columns] = np.tril(factor[columns, columns])
    rest = order[rank:]
    if rest.size:
        left = gram[np.ix_(rest, rest)]
        left /= scale[rest]
        left /= scale[rest, None]
        for rows in row_blocks(left):
            left[rows] -= factor[rank:][rows] @ factor[rank:].T
        left[np.diag_indices_from(left)] += max(10 * noise, 2 * rounding)
        if lapack.dpotrf(left.T, lower=1, overwrite_a=1)[1] != 0:
            raise _indefinite(gram, scale, rounding)
    factor *= scale[order, None]
    return factor, order
