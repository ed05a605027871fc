"""Rows of K, or of a factor F with K = F F^T: the coordinates of displacements, and what is known of K in them.

    a, w = G a              gram coordinates, rows K_i; a step on row i moves e_i; |w|^2 = a . K a
    s = F^T a               factor coordinates, rows f_i; a step on row i moves f_i; |w|^2 = s . s

`systems.coordinates` chooses between them. Nothing here depends on a learning rate or on how examples are drawn:
systems of one K share its rows, and what has been computed of them.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.functions import Coordinates, FloatArray
from sgdstab_fast.systems.decomposition import SpectralDecomposition
from sgdstab_fast.validation import row_blocks

IntArray = NDArray[np.intp]

LARGEST_EIGENDECOMPOSITION = 1024  # rank of a K of which all eigenvalues cost less than a second
_CACHE_LINE = 64  # bytes
_FRONTIER = 128  # rows of K looked at together


class Rows(ABC):
    """Rows of K, or of F, and what is known of K; where it makes no difference, as if coordinates were isometric."""

    coordinates: ClassVar[Coordinates]
    products_per_step: ClassVar[int]
    """Products of a row with a vector, or sums, that a step takes."""

    def __init__(self, array: FloatArray, diagonal: FloatArray, slowest: FloatArray | None = None) -> None:
        self.array, self.diagonal, self._slowest = array, diagonal, slowest
        self._decompositions: dict[bytes, SpectralDecomposition] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave what has been computed behind."""
        return type(self), (self.array, self.diagonal, self._slowest)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def rank(self) -> int:
        """The rank of K, of all directions that move."""
        return int(self.array.shape[1])

    @property
    @abstractmethod
    def gram(self) -> FloatArray:
        """K, shape (n_rows, n_rows)."""

    @property
    @abstractmethod
    def gradients(self) -> FloatArray:
        """F with K = F F^T, shape (n_rows, rank)."""

    @property
    def norm(self) -> FloatArray:
        """The form of lengths in parameter space, shape (rank, rank): K, or the identity."""
        return np.eye(self.rank)

    @property
    @abstractmethod
    def traces(self) -> FloatArray:
        """K_ii from the rows as they are, shape (n_rows,)."""

    @property
    @abstractmethod
    def eigenvalues(self) -> FloatArray:
        """Of K, ascending: those that are not 0, shape (rank,)."""

    @property
    @abstractmethod
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues (rank,) of the mean step times N / eta, and its eigenvectors, (rank, rank)."""

    @property
    @abstractmethod
    def slowest(self) -> FloatArray:
        """The direction that the mean step shrinks least at small learning rates, shape (rank,)."""

    @abstractmethod
    def squared_norms(self, metric: FloatArray) -> FloatArray:
        """Return the squared norms of what rows move, in a metric (rank, rank); shape (n_rows,)."""

    @abstractmethod
    def couplings(self, metric: FloatArray) -> FloatArray:
        """Return the inner products of what rows move, in a metric (rank, rank); shape (n_rows, n_rows)."""

    @abstractmethod
    def couplings_of(self, rows: IntArray, metric: FloatArray) -> FloatArray:
        """Return those of some rows."""

    @abstractmethod
    def moved_by(self, rows: IntArray, amounts: FloatArray) -> FloatArray:
        """Return the sum of what rows move, times amounts, shape (rank,)."""

    @abstractmethod
    def along(self, images: FloatArray) -> FloatArray:
        """Return the inner products of vectors (.., rank) with what rows move, shape (.., n_rows)."""

    def images(self, vectors: FloatArray, products: FloatArray) -> FloatArray:
        """Return vectors (n, rank) times the form of `norm`, given their products with rows."""
        return vectors

    @abstractmethod
    def squared_lengths(self, vectors: FloatArray) -> FloatArray:
        """Return squared lengths in parameter space of vectors (n, rank), shape (n,)."""

    @abstractmethod
    def moved(self, rows: IntArray) -> FloatArray:
        """Return what rows move, shape (len(rows), rank)."""

    @abstractmethod
    def moved_images(self, rows: IntArray, metric: FloatArray | None) -> FloatArray:
        """Return what rows move times a metric, or times the form of `norm`; shape (len(rows), rank)."""

    @abstractmethod
    def moved_times(self, matrix: FloatArray) -> FloatArray:
        """Return the products of what rows move with a matrix (rank, k), shape (n_rows, k)."""

    @abstractmethod
    def add_norm(self, metric: FloatArray, amount: float) -> None:
        """Add an amount of the form of `norm` to a metric, in place."""

    @abstractmethod
    def move(self, state: FloatArray, rows: IntArray, amounts: FloatArray) -> None:
        """Take from vectors (rank, ..) what rows move, by amounts (len(rows), ..)."""

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

    @abstractmethod
    def scaled(self, roots: FloatArray) -> Rows:
        """Return the rows of K_ij r_i r_j for weights r, shape (n_rows,)."""

    @abstractmethod
    def restricted(self, rows: NDArray[np.intp]) -> Rows:
        """Return some of the rows, as those of a K of their own."""

    @abstractmethod
    def embedding(self, rows: NDArray[np.intp]) -> FloatArray:
        """Return P with P P^T = 1, shape (rank of `restricted`, rank): v P is a vector of the whole."""

    @abstractmethod
    def _decomposed(self, rows: NDArray[np.intp], weights: FloatArray | None) -> SpectralDecomposition:
        """Return what `decompose` does."""

    @abstractmethod
    def _linked(self, norms: FloatArray, rows: IntArray, columns: IntArray) -> NDArray[np.bool_]:
        """Return which of the columns any of the rows of K links to."""

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
        return tuple(connected(norms > 0, lambda rows, columns: self._linked(norms, rows, columns)))

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

        The slowest alone costs nothing; more take an eigendecomposition, which is only made up to a rank of 1024.
        """
        if k == 1 or self.rank > LARGEST_EIGENDECOMPOSITION:
            return self.slowest[:, None]
        eigenvalues, vectors = self.axes
        shrinkage = np.abs(1 - rate * eigenvalues)
        return np.asarray(vectors[:, np.argsort(-shrinkage, kind="stable")[:k]])

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
    def aligned(self) -> FloatArray:
        """The rows, from an address that is a multiple of a cache line.

        Loads that cross lines cost as much as two. Bits do not depend on addresses.
        """
        return self.array if self.array.ctypes.data % _CACHE_LINE == 0 else aligned(self.array)

    @cached_property
    def digest(self) -> bytes:
        """What tells one K from another: a digest of coordinates, shape and all entries."""
        digest = hashlib.sha256(f"{self.coordinates}-{self.array.shape}".encode())
        for rows in row_blocks(self.array):
            digest.update(self.array[rows].tobytes())
        return digest.digest()


def aligned(array: FloatArray) -> FloatArray:
    """Return a copy that begins at a cache line."""
    memory = np.empty(array.nbytes + _CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    copy: FloatArray = memory[start : start + array.nbytes].view(np.float64).reshape(array.shape)
    copy[...] = array
    return copy


def connected(
    waiting: NDArray[np.bool_], linked: Callable[[IntArray, IntArray], NDArray[np.bool_]]
) -> Iterator[IntArray]:
    """Yield the connected components of a graph, ascending; in the order of their first members.

    `waiting` says who is to be in one; `linked` which of some columns any of some rows links to.
    """
    waiting = waiting.copy()  # those that no component has reached
    for seed in range(waiting.size):
        if not waiting[seed]:
            continue
        waiting[seed] = False
        members = [np.array([seed])]
        frontier = members[0]
        # Breadth first: a row of K is looked at once, and none after the last example has been reached.
        while frontier.size and waiting.any():
            rows, frontier = frontier[:_FRONTIER], frontier[_FRONTIER:]
            reached = np.flatnonzero(waiting)
            reached = reached[linked(rows, reached)]
            waiting[reached] = False
            members.append(reached)
            frontier = np.concatenate([frontier, reached])
        yield np.sort(np.concatenate(members))
