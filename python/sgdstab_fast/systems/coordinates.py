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

from sgdstab_fast import memory, validation
from sgdstab_fast._core.arguments import AnyFloatArray, FloatArray
from sgdstab_fast._core.blas import held_by_size
from sgdstab_fast._core.functions import core
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.operators.krylov import Product
from sgdstab_fast.operators.partial_cholesky import PartialCholesky, extreme_eigenvalues, scaled_product
from sgdstab_fast.operators.uniform_noise import UniformNoise
from sgdstab_fast.results.progress import tell_of
from sgdstab_fast.systems.decomposition import (
    SpectralDecomposition,
    decomposition_of_gram,
    largest_axes,
    smallest_eigenvalue,
)
from sgdstab_fast.systems.rows import LARGEST_EIGENDECOMPOSITION, ROUNDING, IntArray, Rows, times_rows
from sgdstab_fast.validation import let_go, row_blocks

_OF_DECOMPOSITION = 6  # matrices


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
        return self.diagonal

    @cached_property
    def eigenvalues(self) -> FloatArray:
        """Of K, ascending."""
        tell_of(f"eigenvalues of K, {len(self)} rows")
        return np.asarray(np.maximum(np.linalg.eigvalsh(self.array), 0.0))

    @cached_property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Of K."""
        memory.require("an exact answer", {"all eigenvectors of gram": _OF_DECOMPOSITION * self.array.nbytes})
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
        return np.asarray(np.einsum("nj,nj->n", vectors, times_rows(vectors, self.stored)))

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

    @property
    def form(self) -> FloatArray:
        """K."""
        return self.array

    def forms_of_uniform_noise(self, noise: UniformNoise) -> tuple[FloatArray, FloatArray]:
        """Return K + sigma + sigma^2 (K - sigma)^-1, and (K - sigma)^-1."""
        metric = noise.shift**2 * noise.inverse
        metric[np.diag_indices_from(metric)] += noise.shift
        self.add_norm(metric, 1.0)
        return metric, noise.inverse

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
        entries = self.stored[rows] if columns.size == norms.size else self.stored[np.ix_(rows, columns)]
        return np.asarray((np.abs(entries) > ROUNDING * norms[rows, None] * norms[columns]).any(axis=0))


@held_by_size
def rows_of_gram(gram: AnyFloatArray, precision: float) -> Rows:
    """Return the rows of a K of full rank, else those of a factor; refuse one that is zero or indefinite."""
    n, diagonal = gram.shape[0], gram.diagonal().astype(float)
    let_go(gram)
    tell_of(f"rank of K, {n} rows")
    scale = np.sqrt(diagonal)
    active = np.flatnonzero(scale)  # examples with a gradient
    if not active.size:
        raise ValueError("gram must not be zero: no direction feels the loss")
    for i in np.flatnonzero(scale == 0)[:1]:
        for j in np.flatnonzero(gram[i])[:1]:
            raise ValueError(
                f"gram must be positive semidefinite, but gram[{i}, {i}] is 0 and gram[{i}, {j}] is {gram[i, j]}"
            )
    for some in row_blocks(gram):
        with np.errstate(over="ignore"):  # of entries that no semidefinite matrix has
            scaled = np.divide(gram[some], np.where(scale > 0, scale, 1.0))
        if not np.isfinite(scaled).all():
            i, j = np.argwhere(~np.isfinite(scaled))[0].tolist()
            raise ValueError(
                f"gram must be positive semidefinite, but gram[{i + some.start}, {j}] is {gram[i + some.start, j]}, "
                f"beside {diagonal[i + some.start]} and {diagonal[j]} on the diagonal"
            )
    noise = n * precision  # what rounding can do to eigenvalues of a matrix with unit diagonal
    if precision > validation.DOUBLE:
        return _rows_of_low_precision(gram, diagonal, noise, precision)
    memory.require("a system", {"whether gram is positive semidefinite": n * n * BYTES_OF_DOUBLE})
    if active.size == n:
        smallest, slowest = core.smallest_eigenvalue(matrix=_scaled(gram, scale), scale=_about_one(scale))
        if smallest > 10 * noise:
            return GramRows(gram, diagonal, slowest)
    part, own = (gram, scale) if active.size == n else (gram[np.ix_(active, active)], scale[active])
    factor = _eigenvectors(part, own, noise)
    if factor.shape[1] == n:
        return GramRows(gram, diagonal, np.asarray(np.linalg.eigh(gram)[1][:, 0], dtype=float).copy())
    features = np.zeros((n, factor.shape[1]))
    features[active] = factor
    return Rows(features, diagonal)


def _about_one(scale: FloatArray) -> FloatArray:
    """Return square roots of K_ii in units of about the largest, so that products of two are within floating point."""
    return np.asarray(np.ldexp(scale, -math.frexp(float(scale.max()))[1]))


def _scaled(gram: AnyFloatArray, scale: FloatArray) -> FloatArray:
    """Return D^-1 K D^-1."""
    scaled: FloatArray = np.divide(gram, scale)
    scaled /= scale[:, None]
    return scaled


def _rounding(noise: float, n: int, precision: float, largest: float) -> float:
    """Return the eigenvalues of a matrix with unit diagonal that are rounding.

    Examples that are nearly copies of each other have eigenvalues up to n. Rounding goes with the largest: of one
    operation an entry that is at most 1/2 unit of precision times the largest. That of the arithmetic here, in float64,
    goes with n too: of matrices of rank one some builds of LAPACK leave eigenvalues between -n/15 and n/24 units.
    """
    return max(noise, 4 * precision * largest, n / 16 * validation.DOUBLE * largest)


def _indefinite(gram: AnyFloatArray, scale: FloatArray, rounding: float) -> ValueError:
    own, scaled = (_smallest_eigenvalue(gram, by) for by in (np.ones(len(gram)), scale))
    return ValueError(
        f"gram must be positive semidefinite, but has the eigenvalue {own}; scaled to unit diagonal it has {scaled}, "
        f"beyond rounding ({rounding:.1e})"
    )


def _smallest_eigenvalue(gram: AnyFloatArray, scale: FloatArray) -> float:
    if len(gram) > LARGEST_EIGENDECOMPOSITION:
        return extreme_eigenvalues(scaled_product(gram, scale), len(gram))[0]
    return float(np.linalg.eigvalsh(_scaled(gram, scale))[0])


def _eigenvectors(gram: AnyFloatArray, scale: FloatArray, noise: float) -> FloatArray:
    """Return F with F F^T = K but for eigenvalues of the scaled matrix that are rounding."""
    eigenvalues, vectors = np.linalg.eigh(_scaled(gram, scale))
    rounding = _rounding(noise, len(gram), validation.DOUBLE, eigenvalues[-1])
    if eigenvalues[0] < -max(10 * noise, 2 * rounding):
        raise _indefinite(gram, scale, rounding)
    kept = eigenvalues > rounding
    return np.asarray(scale[:, None] * vectors[:, kept] * np.sqrt(eigenvalues[kept]))


def _rows_of_low_precision(gram: AnyFloatArray, diagonal: FloatArray, noise: float, precision: float) -> Rows:
    """Return the same of a K of less than float64, in float32, in which it is read and never copied."""
    scale = np.sqrt(diagonal)
    active = np.flatnonzero(scale)
    n_rows, whole = len(gram), active.size == len(gram)
    part, own = (gram, scale) if whole else (gram[np.ix_(active, active)], scale[active])
    largest = extreme_eigenvalues(scaled_product(part, own), active.size)[1]
    rounding = _rounding(noise, active.size, precision, largest)
    factor = PartialCholesky(part, own, rounding)
    if factor.rank < active.size and factor.smallest_left() < -max(10 * noise, 2 * rounding):
        raise _indefinite(part, own, rounding)
    if factor.rank == n_rows:
        return GramRows(gram, diagonal, factor.slowest_of_gram())
    slowest = factor.slowest() if factor.rank > LARGEST_EIGENDECOMPOSITION else None
    features = factor.features()
    if not whole:
        features, of_active = np.zeros((n_rows, features.shape[1]), dtype=np.float32), features
        features[active] = of_active
    return Rows(features, np.einsum("ij,ij->i", features, features, dtype=float), slowest)
