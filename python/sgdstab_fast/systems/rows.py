"""Rows of K, or of a factor F with K = F F^T: the coordinates of displacements, and what is known of K in them.

    a, w = G a              gram coordinates, rows K_i; a step on row i moves e_i; |w|^2 = a . K a
    s = F^T a               factor coordinates, rows f_i; a step on row i moves f_i; |w|^2 = s . s

`systems.coordinates` chooses between them. Nothing here depends on a learning rate or on how examples are drawn:
systems of one K share its rows, and what has been computed of them.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import AnyFloatArray, Coordinates, FloatArray
from sgdstab_fast.operators.connected_components import connected_components
from sgdstab_fast.operators.krylov import Product
from sgdstab_fast.operators.uniform_noise import UniformNoise
from sgdstab_fast.results.progress import tell_of
from sgdstab_fast.results.storage import store_as
from sgdstab_fast.systems.decomposition import (
    SpectralDecomposition,
    decomposition_of_factor,
    largest_axes,
    smallest_axes,
)
from sgdstab_fast.validation import frozen, row_blocks

IntArray = NDArray[np.intp]

_SMALLEST_DIAGONAL = 1e-290
_SMALLEST_STEP, _LARGEST_STEP = 1e-290, 1e100  # eta K_ii, so that no product of a few steps overflows
LARGEST_EIGENDECOMPOSITION = 1024  # rank of a K of which all eigenvalues cost less than a second
_CACHE_LINE = 64  # bytes
# An abs(K_ij) below this times sqrt(K_ii K_jj), and times the length of the dot product it comes from, is rounding.
ROUNDING = 4 * float(np.finfo(float).eps)
_LARGEST_FEATURE = 1e150  # and the smallest over one, so that squares are numbers
_FAR = 100  # powers of two, of units in which products of a few entries are within floating point


class Rows:
    """Rows f_i of a factor F, K = F F^T, and what is known of K; `coordinates.GramRows` are those of K itself."""

    coordinates: ClassVar[Coordinates] = "factor"
    products_per_step: ClassVar[int] = 2
    """Products of a row with a vector, or sums, that a step takes."""

    def __init__(
        self, array: AnyFloatArray, diagonal: FloatArray, slowest: FloatArray | None = None, slow_cutoff: float = 0.0
    ) -> None:
        # What a user is shown of a system is not to change it.
        self.stored: AnyFloatArray = array
        """The rows as they are kept, shape (n_rows, rank): in float32 where K was."""
        self.stored.flags.writeable = False
        self.diagonal: FloatArray = frozen(diagonal)
        self.slow_cutoff: float = slow_cutoff
        self._slowest = slowest
        self._decompositions: dict[bytes, SpectralDecomposition] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        store_as(cls.__name__, cls.fields, cls, cls)

    def fields(self) -> dict[str, Any]:
        """Return what it is made of, without what has been computed."""
        return {
            "array": self.stored,
            "diagonal": self.diagonal,
            "slowest": self._slowest,
            "slow_cutoff": self.slow_cutoff,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave what has been computed behind."""
        return type(self), tuple(self.fields().values())

    def __len__(self) -> int:
        return len(self.stored)

    def checked_rate(self, learning_rate: Any) -> float:
        """Return a learning rate, unless steps with it are beyond floating point."""
        rate, diagonal = validation.positive_number(learning_rate, "learning_rate"), self.diagonal
        if not _SMALLEST_DIAGONAL <= diagonal.max() <= 1 / _SMALLEST_DIAGONAL:
            size, up, down = ("small", "up", "down") if diagonal.max() < 1 else ("large", "down", "up")
            raise ValueError(
                f"gram is too {size} to compute with: its diagonal reaches {diagonal.max()}; scale it {up}, and the "
                f"learning rate {down}"
            )
        step = rate * float(diagonal.max())
        if not _SMALLEST_STEP < step < _LARGEST_STEP:
            size, limit = ("large", f"passes {_LARGEST_STEP}") if step > 1 else ("small", f"is below {_SMALLEST_STEP}")
            raise ValueError(
                f"learning_rate {validation.shown(learning_rate)} is too {size}: times gram's diagonal, up to "
                f"{diagonal.max()}, it {limit}"
            )
        return rate

    @property
    def rank(self) -> int:
        """The rank of K, of all directions that move."""
        return int(self.stored.shape[1])

    @cached_property
    def array(self) -> FloatArray:
        """The rows in float64, shape (n_rows, rank): a copy of those of float32, for whatever takes more than steps."""
        return frozen(self.stored.astype(np.float64, copy=False))

    @property
    def for_core(self) -> arguments.Rows:
        """What the core is told."""
        return arguments.Rows(self.array, self.coordinates)

    @property
    def for_vectors(self) -> arguments.Rows:
        """What the core is told for steps of vectors, which take rows as they are kept."""
        return arguments.Rows(self.stored, self.coordinates)

    @cached_property
    def gram(self) -> FloatArray:
        """K, shape (n_rows, n_rows)."""
        return np.asarray(self.array @ self.array.T)

    def gram_of(self, rows: IntArray) -> FloatArray:
        """Return the part of K that belongs to some rows, shape (.., m, m) for those of shape (.., m)."""
        return np.asarray(self.array[rows] @ self.array[rows].swapaxes(-1, -2))

    @property
    def gradients(self) -> FloatArray:
        """F with K = F F^T, shape (n_rows, rank)."""
        return self.array

    @property
    def norm(self) -> FloatArray:
        """The form of lengths in parameter space, shape (rank, rank): K, or the identity."""
        return np.eye(self.rank)

    @property
    def traces(self) -> FloatArray:
        """K_ii from the rows as they are, shape (n_rows,)."""
        return np.asarray(np.einsum("ij,ij->i", self.array, self.array))

    @cached_property
    def eigenvalues(self) -> FloatArray:
        """Of K, ascending: those that are not 0, shape (rank,)."""
        tell_of(f"eigenvalues of K, {len(self)} rows")
        return np.asarray(np.linalg.svd(self.array, compute_uv=False)[::-1] ** 2)

    @property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues (rank,) of the mean step times N / eta, and its eigenvectors, (rank, rank)."""
        _, values, directions = self._singular
        return values**2, directions.T

    @property
    def slowest(self) -> FloatArray:
        """The direction that the mean step shrinks least at small learning rates, shape (rank,)."""
        return self._singular[2][-1] if self._slowest is None else self._slowest

    def squared_norms(self, metric: FloatArray) -> FloatArray:
        """Return the squared norms of what rows move, in a metric (rank, rank); shape (n_rows,)."""
        return np.asarray(np.einsum("ij,ij->i", self.array @ metric, self.array))

    def couplings(self, metric: FloatArray) -> FloatArray:
        """Return the inner products of what rows move, in a metric (rank, rank); shape (n_rows, n_rows)."""
        return np.asarray(self.array @ metric @ self.array.T)

    def couplings_of(self, rows: IntArray, metric: FloatArray) -> FloatArray:
        """Return those of some rows."""
        return np.asarray(self.array[rows] @ metric @ self.array[rows].T)

    def moved_by(self, rows: IntArray, amounts: FloatArray) -> FloatArray:
        """Return the sum of what rows move, times amounts, shape (rank,)."""
        return np.asarray(amounts @ self.array[rows])

    def coefficients(self, vectors: FloatArray) -> FloatArray:
        """Return the shortest a with s = F^T a for vectors s (n, rank), in some rotation; shape (n, rank)."""
        _, eigenvalues, directions = self.decompose()
        assert directions is not None
        return np.asarray(vectors @ directions / np.sqrt(eigenvalues))

    def displacements(self, amounts: FloatArray) -> FloatArray:
        """Return the sums of what all rows move, times amounts (n, n_rows); shape (n, rank)."""
        return times_rows(amounts, self.stored)

    def along(self, images: FloatArray) -> FloatArray:
        """Return the inner products of vectors (.., rank) with what rows move, shape (.., n_rows)."""
        return np.asarray(images @ self.array.T)

    def images(self, vectors: FloatArray, products: FloatArray) -> FloatArray:
        """Return vectors (n, rank) times the form of `norm`, given their products with rows."""
        return vectors

    def squared_lengths(self, vectors: FloatArray) -> FloatArray:
        """Return squared lengths in parameter space of vectors (n, rank), shape (n,)."""
        return np.asarray(np.einsum("nj,nj->n", vectors, vectors))

    def moved(self, rows: IntArray) -> FloatArray:
        """Return what rows move, shape (len(rows), rank)."""
        return np.asarray(self.array[rows])

    def moved_images(self, rows: IntArray, metric: FloatArray | None) -> FloatArray:
        """Return what rows move times a metric, or times the form of `norm`; shape (len(rows), rank)."""
        return self.moved(rows) if metric is None else np.asarray(self.moved(rows) @ metric)

    def moved_times(self, matrix: FloatArray) -> FloatArray:
        """Return the products of what rows move with a matrix (rank, k), shape (n_rows, k)."""
        return np.asarray(self.array @ matrix)

    def add_norm(self, metric: FloatArray, amount: float) -> None:
        """Add an amount of the form of `norm` to a metric, in place."""
        metric[np.diag_indices_from(metric)] += amount

    @property
    def form(self) -> FloatArray:
        """The symmetric matrix (rank, rank) whose eigenvalues are those of K: F^T F, or K itself."""
        return np.asarray(self.array.T @ self.array)

    def forms_of_uniform_noise(self, noise: UniformNoise) -> tuple[FloatArray, FloatArray]:
        """Return the metric and the covariance that go with (H - sigma)^-1, H the `form`."""
        form = noise.shift * noise.inverse
        self.add_norm(form, 1.0)
        return form, form

    def move(self, state: FloatArray, rows: IntArray, amounts: FloatArray) -> None:
        """Take from vectors (rank, ..) what rows move, by amounts (len(rows), ..)."""
        state -= self.array[rows].T @ amounts

    def isometric(self, vectors: FloatArray) -> FloatArray:
        """Return vectors (.., rank) in coordinates in which lengths are those of parameter space."""
        return vectors

    def from_isometric(self, vectors: FloatArray) -> FloatArray:
        """Return vectors (.., rank) in the coordinates of the rows, from isometric ones."""
        return vectors

    def isometric_form(self, form: FloatArray) -> FloatArray:
        """Return a metric (rank, rank) in isometric coordinates."""
        return form

    @property
    def isometric_rows(self) -> Rows:
        """The rows of the same K in isometric coordinates."""
        return self

    @cached_property
    def in_own_units(self) -> tuple[Rows, int]:
        """The rows of K / 2^n, and n: those of K itself, and 0, unless its entries are far from 1."""
        n = 2 * (math.frexp(float(self.diagonal.max()))[1] // 2)
        return (self, 0) if abs(n) <= _FAR else (self._in_units(n), n)

    def _in_units(self, n: int) -> Rows:
        array, slowest = np.ldexp(self.array, -n // 2), self._slowest
        return Rows(array, np.ldexp(self.diagonal, -n), slowest, self.slow_cutoff)

    def scaled(self, roots: FloatArray) -> Rows:
        """Return the rows of K_ij r_i r_j for weights r, shape (n_rows,)."""
        return Rows(roots[:, None] * self.array, roots**2 * self.diagonal, self.slowest)

    def restricted(self, rows: NDArray[np.intp]) -> Rows:
        """Return some of the rows, as those of a K of their own."""
        return rows_of_factor(self.array[rows], float(np.finfo(float).eps))

    def without_slow(self, slow_cutoff: float) -> Rows:
        """Return the rows of what is left of K without eigenvalues below slow_cutoff times the largest."""
        vectors, eigenvalues, _ = self.decompose()
        kept = eigenvalues >= slow_cutoff * eigenvalues[-1]
        if kept.all():
            return type(self)(self.stored, self.diagonal, self._slowest, slow_cutoff)
        features = np.ascontiguousarray(vectors[:, kept] * np.sqrt(eigenvalues[kept]))
        slowest = np.eye(1, features.shape[1])[0]
        return Rows(features, np.asarray(np.einsum("ij,ij->i", features, features)), slowest, slow_cutoff)

    def with_slow_eigenvalues_raised(self, cutoff: float) -> Rows:
        """Return the rows of K with eigenvalues below cutoff times the largest raised to that."""
        vectors, eigenvalues, directions = self.decompose()
        assert directions is not None
        features = vectors * np.sqrt(np.maximum(eigenvalues, cutoff * eigenvalues[-1])) @ directions.T
        return Rows(features, np.asarray(np.einsum("ij,ij->i", features, features)), directions[:, 0].copy())

    def embedding(self, rows: NDArray[np.intp]) -> FloatArray:
        """Return P with P P^T = 1, shape (rank of `restricted`, rank): v P is a vector of the whole."""
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
        own, allowed = self.stored[rows].astype(float), ROUNDING * self.rank * norms[rows, None]
        linked = np.empty(columns.size, dtype=bool)
        for part in row_blocks(self.stored, columns.size):
            entries = own @ self.stored[columns[part]].astype(float).T
            linked[part] = (np.abs(entries) > allowed * norms[columns[part]]).any(axis=0)
        return linked

    @cached_property
    def _singular(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        tell_of(f"eigenvectors of K, {len(self)} rows")
        vectors, values, directions = np.linalg.svd(self.array, full_matrices=False)
        return vectors, values, directions

    def decompose(
        self, rows: NDArray[np.intp] | None = None, weights: FloatArray | None = None
    ) -> SpectralDecomposition:
        """Decompose K, or Omega^(1/2) K Omega^(1/2) with weights of rows, or what belongs to some rows.

        In factor coordinates F, or Omega^(1/2) F, with it, in the coordinates of the whole.
        """
        rows = np.arange(len(self)) if rows is None else rows
        if weights is not None:
            return self._decomposed(rows, weights)
        if (key := rows.tobytes()) not in self._decompositions:
            self._decompositions[key] = self._decomposed(rows, None)
        return self._decompositions[key]

    @cached_property
    def components(self) -> tuple[IntArray, ...]:
        """The rows of each block of K that feels no other, ascending, blocks in the order of their first rows.

        A step on example i moves the outputs of the examples j with K_ij != 0 and of no others. Where K falls into
        blocks, so does the product of steps (Chemnitz & Engel 2025, definition 2.2 (ii)). An example without a
        gradient, K_ii = 0, belongs to none.
        """
        norms = np.sqrt(self.diagonal)
        return tuple(connected_components(norms > 0, lambda rows, columns: self._linked(norms, rows, columns)))

    @property
    def is_connected(self) -> bool:
        """Whether K does not fall into blocks, and all rows have a gradient."""
        return len(self.components) == 1 and self.components[0].size == len(self)

    @cached_property
    def blocks(self) -> tuple[Rows, ...]:
        """The rows of each component, as those of a K of its own."""
        return (self,) if self.is_connected else tuple(self.restricted(rows) for rows in self.components)

    def extreme_eigenvalues(self) -> tuple[float, float]:
        """Return the smallest and the largest non-zero eigenvalue of K."""
        return float(self.decompose().eigenvalues[0]), float(self.decompose().eigenvalues[-1])

    def slow_directions(self, k: int, rate: float) -> FloatArray:
        """Return the directions that I - rate K shrinks least, slowest first, shape (rank, at most k).

        The slowest alone costs nothing, and a few of many are found without the others.
        """
        if k == 1:
            return self.slowest[:, None]
        if self.rank <= LARGEST_EIGENDECOMPOSITION or 4 * k > self.rank:
            parts = self.decompose()
            eigenvalues, vectors = parts.eigenvalues, parts.vectors if parts.directions is None else parts.directions
        else:
            eigenvalues, vectors = self._few_axes(k, rate)
        shrinkage = np.abs(1 - rate * eigenvalues)
        return np.asarray(vectors[:, np.argsort(-shrinkage, kind="stable")[:k]])

    def fast_directions(self, k: int) -> FloatArray:
        """Return the directions of the k largest eigenvalues, largest first, shape (rank, k)."""
        if k == 0:
            return np.empty((self.rank, 0))
        if self.rank <= LARGEST_EIGENDECOMPOSITION:
            eigenvalues, vectors = self.axes
            return np.asarray(vectors[:, np.argsort(-eigenvalues, kind="stable")[:k]])
        return np.asarray(largest_axes(self._product, self.rank, k)[1][:, ::-1])

    def _few_axes(self, k: int, rate: float) -> tuple[FloatArray, FloatArray]:
        """Return the smallest k eigenvalues and, if steps overshoot there, the largest k, with their vectors."""
        found = [smallest_axes(self._solver(), self.rank, k)]
        largest = largest_axes(self._product, self.rank, 1)
        if rate * largest[0][-1] > 1:
            found.append(largest_axes(self._product, self.rank, k))
        return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found], axis=1)

    def _product(self, vector: FloatArray) -> FloatArray:
        """Return F^T F v."""
        return np.asarray(self.array.T @ (self.array @ vector))

    def _solver(self) -> Product:
        """Return what multiplies with the inverse of F^T F."""
        from scipy.linalg import cho_solve  # type: ignore[import-untyped]

        triangle = np.linalg.qr(self.array, mode="r")
        return lambda x: cho_solve((triangle, False), x, check_finite=False)

    @cached_property
    def shares_root(self) -> FloatArray:
        """R, shape (rank, n_rows): the squares of R^T v are each row's share of the squared length of v.

        The gradients g_i of the examples are not orthogonal; the nearest orthonormal vectors to them are the columns of
        G K^(-1/2) (P.-O. Lowdin, "On the non-orthogonality problem", J. Chem. Phys. 18, 1950), in which the
        displacement w = G a has the components K^(1/2) a. Their squares are not negative and sum to the squared length.
        """
        vectors, eigenvalues, directions = self.decompose()
        if directions is None:
            return np.asarray(vectors * np.sqrt(eigenvalues) @ vectors.T)
        return np.asarray(directions @ vectors.T)

    @cached_property
    def aligned(self) -> AnyFloatArray:
        """The rows, from an address that is a multiple of a cache line.

        Loads that cross lines cost as much as two. Bits do not depend on addresses.
        """
        array: AnyFloatArray = self.stored
        return array if array.ctypes.data % _CACHE_LINE == 0 else aligned(array)

    @cached_property
    def digest(self) -> bytes:
        """What tells one K from another: a digest of coordinates, shape and all entries."""
        cutoff = f"-{self.slow_cutoff}" if self.slow_cutoff > 0 else ""
        digest = hashlib.sha256(f"{self.coordinates}-{self.stored.shape}{cutoff}".encode())
        for rows in row_blocks(self.stored):  # of the same numbers in float32 it is the same
            digest.update(self.stored[rows].astype(float).tobytes())
        return digest.digest()


def rows_of_factor(matrix: FloatArray, precision: float) -> Rows:
    """Return the rows of K = F F^T in as many columns as it has rank; refuse an F that is zero."""
    largest = float(np.abs(matrix).max())
    if largest > _LARGEST_FEATURE or 0 < largest < 1 / _LARGEST_FEATURE:
        raise ValueError(
            f"features are beyond computing with, the largest {largest:.3g}: scale them to about 1, and the learning "
            "rate by the square of that"
        )
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
    return Rows(np.ascontiguousarray(matrix), norms**2)


def times_rows(vectors: FloatArray, stored: AnyFloatArray) -> FloatArray:
    """Return vectors (.., n_rows) times rows (n_rows, rank), which are never all in float64 if they are of float32."""
    if stored.dtype == np.float64:
        return np.asarray(vectors @ stored)
    product = np.zeros((*vectors.shape[:-1], stored.shape[1]))
    for rows in row_blocks(stored):
        product += vectors[..., rows] @ stored[rows].astype(float)
    return product


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins at a cache line."""
    memory = np.empty(array.nbytes + _CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


store_as("Rows", Rows.fields, Rows, Rows)
