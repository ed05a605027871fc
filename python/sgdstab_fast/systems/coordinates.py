"""Coordinates: whether displacements are described by rows of K or of a factor of it.

The gram form costs one dot product a step. The factor form is for a K with a kernel: kernel directions never move, and
would hide the decay of everything else. What counts as a kernel is decided on K scaled to unit diagonal, D^-1 K D^-1
with D^2 = diag K: that scaling only rescales the coordinates, so a K whose examples differ by orders of magnitude is
not mistaken for a singular one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.functions import FloatArray, core
from sgdstab_fast.systems.decomposition import (
    SpectralDecomposition,
    decomposition_of_factor,
    decomposition_of_gram,
    smallest_eigenvalue,
)
from sgdstab_fast.systems.rows import LARGEST_EIGENDECOMPOSITION, IntArray, Rows

# An abs(K_ij) below this times sqrt(K_ii K_jj), and times the length of the dot product it comes from, is rounding.
_ROUNDING = 4 * np.finfo(float).eps


class GramRows(Rows):
    """Rows of K itself, of full rank."""

    coordinates = "gram"
    products_per_step = 1

    @property
    def gram(self) -> FloatArray:
        """K."""
        return self.array

    @cached_property
    def gradients(self) -> FloatArray:
        """The Cholesky factor."""
        return np.asarray(np.linalg.cholesky(self.array))

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
        return np.asarray(np.maximum(np.linalg.eigvalsh(self.array), 0.0))

    @cached_property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Of K."""
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
    def isometric_rows(self) -> FactorRows:
        """Those of the Cholesky factor."""
        gradients = np.ascontiguousarray(self.gradients)
        return FactorRows(gradients, self.diagonal, self.slowest @ gradients)

    def scaled(self, roots: FloatArray) -> GramRows:
        """Return those of K_ij r_i r_j."""
        rows = roots[:, None] * self.array
        return GramRows(rows * roots, roots**2 * self.diagonal, self._slowest)

    def restricted(self, rows: NDArray[np.intp]) -> GramRows:
        """Return those of a part of K."""
        gram = np.ascontiguousarray(self.array[np.ix_(rows, rows)])
        diagonal = gram.diagonal().copy()
        scale = np.sqrt(diagonal)
        # What K itself has been found to be, symmetric and definite, its parts are.
        _, slowest = core.smallest_eigenvalue(matrix=gram / scale / scale[:, None], scale=scale)
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

    def extreme_eigenvalues(self) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue of K, by Lanczos' iteration if it is large."""
        if self.rank <= LARGEST_EIGENDECOMPOSITION:
            return super().extreme_eigenvalues()
        return self._extremes

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        from scipy.sparse.linalg import eigsh  # type: ignore[import-untyped]

        start = np.ones(self.rank)
        largest = float(eigsh(self.array, k=1, which="LA", v0=start, return_eigenvectors=False)[0])
        return smallest_eigenvalue(self.array), largest

    def _linked(self, norms: FloatArray, rows: IntArray, columns: IntArray) -> NDArray[np.bool_]:
        entries = self.array[rows] if columns.size == norms.size else self.array[np.ix_(rows, columns)]
        return np.asarray((np.abs(entries) > _ROUNDING * norms[rows, None] * norms[columns]).any(axis=0))


class FactorRows(Rows):
    """Rows of F with K = F F^T, of full column rank."""

    coordinates = "factor"
    products_per_step = 2

    @cached_property
    def gram(self) -> FloatArray:
        """F F^T."""
        return np.asarray(self.array @ self.array.T)

    @property
    def gradients(self) -> FloatArray:
        """F."""
        return self.array

    @property
    def traces(self) -> FloatArray:
        """f_i . f_i."""
        return np.asarray(np.einsum("ij,ij->i", self.array, self.array))

    @cached_property
    def eigenvalues(self) -> FloatArray:
        """Of F^T F, ascending."""
        return np.asarray(np.linalg.svd(self.array, compute_uv=False)[::-1] ** 2)

    @cached_property
    def _singular(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        vectors, values, directions = np.linalg.svd(self.array, full_matrices=False)
        return vectors, values, directions

    @property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Of F^T F."""
        _, values, directions = self._singular
        return values**2, directions.T

    @property
    def slowest(self) -> FloatArray:
        """The bottom eigenvector of F^T F."""
        return self._singular[2][-1] if self._slowest is None else self._slowest

    def squared_norms(self, metric: FloatArray) -> FloatArray:
        """f_i . M f_i."""
        return np.asarray(np.einsum("ij,ij->i", self.array @ metric, self.array))

    def couplings(self, metric: FloatArray) -> FloatArray:
        """F M F^T."""
        return np.asarray(self.array @ metric @ self.array.T)

    def couplings_of(self, rows: IntArray, metric: FloatArray) -> FloatArray:
        """f_i . M f_j."""
        return np.asarray(self.array[rows] @ metric @ self.array[rows].T)

    def moved_by(self, rows: IntArray, amounts: FloatArray) -> FloatArray:
        """Return the sum of f_i."""
        return np.asarray(amounts @ self.array[rows])

    def along(self, images: FloatArray) -> FloatArray:
        """f_i . v."""
        return np.asarray(images @ self.array.T)

    def squared_lengths(self, vectors: FloatArray) -> FloatArray:
        """V . v."""
        return np.asarray(np.einsum("nj,nj->n", vectors, vectors))

    def moved(self, rows: IntArray) -> FloatArray:
        """f_i."""
        return np.asarray(self.array[rows])

    def moved_images(self, rows: IntArray, metric: FloatArray | None) -> FloatArray:
        """M f_i, or f_i."""
        return self.moved(rows) if metric is None else np.asarray(self.moved(rows) @ metric)

    def moved_times(self, matrix: FloatArray) -> FloatArray:
        """Return F times the matrix."""
        return np.asarray(self.array @ matrix)

    def add_norm(self, metric: FloatArray, amount: float) -> None:
        """Add to the diagonal."""
        metric[np.diag_indices_from(metric)] += amount

    def move(self, state: FloatArray, rows: IntArray, amounts: FloatArray) -> None:
        """Take sums of f_i."""
        state -= self.array[rows].T @ amounts

    def scaled(self, roots: FloatArray) -> FactorRows:
        """Return those of r_i f_i."""
        return FactorRows(roots[:, None] * self.array, roots**2 * self.diagonal, self.slowest)

    def restricted(self, rows: NDArray[np.intp]) -> FactorRows:
        """Return some, in coordinates of their span."""
        return rows_of_factor(self.array[rows], float(np.finfo(float).eps))

    def embedding(self, rows: NDArray[np.intp]) -> FloatArray:
        """Return what turns the rows of the part into those of the whole."""
        return np.asarray(np.linalg.lstsq(self.restricted(rows).array, self.array[rows], rcond=None)[0])

    def _decomposed(self, rows: NDArray[np.intp], weights: FloatArray | None) -> SpectralDecomposition:
        matrix, rank, singular = self.array, self.rank, None
        if rows.size < len(self):
            matrix = matrix[rows]
            rank = 1 if rows.size == 1 else self.restricted(rows).rank
        elif weights is None:
            singular = self._singular
        if weights is not None:
            matrix = matrix * np.sqrt(weights)[:, None]
        return decomposition_of_factor(matrix, rank, singular)

    def _linked(self, norms: FloatArray, rows: IntArray, columns: IntArray) -> NDArray[np.bool_]:
        entries = self.array[rows] @ self.array[columns].T
        return np.asarray((np.abs(entries) > _ROUNDING * self.rank * norms[rows, None] * norms[columns]).any(axis=0))


def rows_of_factor(matrix: FloatArray, precision: float) -> FactorRows:
    """Return the rows of K = F F^T in as many columns as it has rank; refuse an F that is zero."""
    if matrix.shape[1] > matrix.shape[0]:
        # F = R^T Q^T with Q orthonormal: R^T has the same Gram matrix in N columns.
        matrix = np.ascontiguousarray(np.transpose(np.linalg.qr(matrix.T, mode="r")))
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    if not norms.any():
        raise ValueError("features must not be zero: no direction feels the loss")
    # The row space of F is that of F with rows scaled to unit length, where the rank is decided.
    scaled = matrix[norms > 0] / norms[norms > 0, None]
    _, singular_values, directions = np.linalg.svd(scaled, full_matrices=False)
    rank = int((singular_values > max(matrix.shape) * precision * singular_values[0]).sum())
    if rank < matrix.shape[1]:
        matrix = matrix @ directions[:rank].T
    return FactorRows(np.ascontiguousarray(matrix), norms**2)


def rows_of_gram(gram: FloatArray, precision: float) -> Rows:
    """Return the rows of a K of full rank, else those of a factor; refuse one that is zero or indefinite."""
    n, diagonal = gram.shape[0], gram.diagonal().copy()
    scale = np.sqrt(gram.diagonal())
    active = np.flatnonzero(scale)  # examples with a gradient
    if not active.size:
        raise ValueError("gram must not be zero: no direction feels the loss")
    noise = n * precision  # what rounding can do to eigenvalues of a matrix with unit diagonal
    if active.size == n:
        scaled = np.divide(gram, scale)
        scaled /= scale[:, None]
        smallest, slowest = core.smallest_eigenvalue(matrix=scaled, scale=scale)
        if smallest > 10 * noise:
            return GramRows(gram, diagonal, slowest)
        del scaled
    elif np.abs(gram[scale == 0]).max() > 0:
        i, j = np.argwhere((scale == 0)[:, None] & (gram != 0))[0]
        raise ValueError(
            f"gram must be positive semidefinite, but gram[{i}, {i}] is 0 and gram[{i}, {j}] is {gram[i, j]}"
        )
    scaled = gram[np.ix_(active, active)] / scale[active] / scale[active, None]
    eigenvalues, vectors = np.linalg.eigh(scaled)
    if eigenvalues[0] < -10 * noise:
        raise ValueError(
            f"gram must be positive semidefinite, but has the eigenvalue {np.linalg.eigvalsh(gram)[0]}; scaled to "
            f"unit diagonal it has {eigenvalues[0]}, beyond rounding ({noise:.1e})"
        )
    # Examples that are nearly copies of each other have eigenvalues up to n, and rounding goes with the largest.
    kept = eigenvalues > max(noise, 4 * precision * eigenvalues[-1])
    if kept.sum() == n:
        return GramRows(gram, diagonal, np.linalg.eigh(gram)[1][:, 0].copy())
    features = np.zeros((n, int(kept.sum())))
    features[active] = scale[active, None] * vectors[:, kept] * np.sqrt(eigenvalues[kept])
    return FactorRows(features, diagonal)
