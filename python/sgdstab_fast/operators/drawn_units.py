"""Units of rows that are drawn together, in the eigenbasis of K: V = Pi^(-1/4) U, and the products with it.

In the notation of `operators.second_moments`, Pi^(1/2) K Pi^(1/2) = U diag(w) U^T with row weights pi_i = N p_u.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import Coordinates, FloatArray
from sgdstab_fast.operators.strips import strips

IntArray = NDArray[np.intp]
_Strip: TypeAlias = tuple[slice, slice, FloatArray]

_EPS = float(np.finfo(float).eps)
_COINCIDING = 1e-6  # of eigenvalues of size 1
_APART = 1e-6  # sizes of X_u, one beside another
_ADMIXTURE = 0.1  # of all units to the start


class Decomposition(NamedTuple):
    """K = U diag(w) U^T."""

    vectors: FloatArray
    """U, shape (n, r)."""
    eigenvalues: FloatArray
    """w > 0, ascending, shape (r,)."""
    directions: FloatArray | None
    """V with F = U diag(sqrt w) V^T in factor coordinates, shape (r, r), else None."""


class Draws(NamedTuple):
    """Rows of K, and how batches of them are drawn."""

    rows: FloatArray
    """K in gram coordinates, shape (n, n); a factor of full column rank in factor coordinates, shape (n, r)."""
    coordinates: Coordinates
    """Of states, level by level: a with s = K^(1/2) a, or s."""
    noise: float
    """p."""
    n_units: int
    """N."""
    members: IntArray
    """Unit u owns the rows members[offsets[u]:offsets[u + 1]], shape (n,)."""
    offsets: IntArray
    """Shape (N + 1,)."""
    probabilities: FloatArray | None = None
    """p_u, shape (N,); None if uniform."""
    decomposition: Decomposition | None = None
    """Of K, if it is known and rows have equal weights."""


class DrawnUnits:
    """V = Pi^(-1/4) U, its rows unit by unit, and the products with it."""

    def __init__(self, draws: Draws) -> None:
        rows, coordinates, _, n_units, members, offsets, probabilities, _ = draws
        sizes = np.diff(offsets)
        weights = np.ones(len(members))
        if probabilities is not None:
            weights[members] = np.repeat(n_units * np.asarray(probabilities), sizes)
        self._roots, self.total_weight = np.sqrt(weights), float(weights.sum())
        self._vectors, self.eigenvalues, self._directions = draws.decomposition or _decomposed(
            self._roots[:, None] * rows * (self._roots if coordinates == "gram" else 1.0), coordinates
        )
        order = np.argsort(sizes, kind="stable")
        sorted_members = np.concatenate([members[offsets[u] : offsets[u + 1]] for u in order])
        self._rows = self._vectors[sorted_members] / np.sqrt(self._roots[sorted_members])[:, None]
        self._scratch = np.empty_like(self._rows)
        # Units of one size are rows of one stack: (first row, first entry of X, their number, their size).
        self._stacks: list[tuple[int, int, int, int]] = []
        row = entry = 0
        for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
            self._stacks.append((row, entry, int(count), int(size)))
            row, entry = row + int(count * size), entry + int(count * size**2)
        self._n_entries = entry

    def _stacked(self, matrix: FloatArray) -> list[tuple[FloatArray, slice]]:
        """Return rows of the units of every size, shape (number, size, r), and where their X is."""
        return [
            (matrix[row : row + count * size].reshape(count, size, -1), slice(entry, entry + count * size**2))
            for row, entry, count, size in self._stacks
        ]

    def moments(self, vector: FloatArray) -> FloatArray:
        """Z = V^T X V."""
        moments = np.empty((self._rows.shape[1],) * 2)
        for rows, columns, strip in self._moments(vector):
            moments[rows, columns], moments[columns, rows] = strip, strip.T
        return moments

    def blocks(self, form: FloatArray) -> FloatArray:
        """BlockDiag_u(V form V^T), of a form that is symmetric."""
        return self._blocks((rows, columns, form[rows, columns].copy()) for rows, columns in strips(len(form)))

    def product(self, vector: FloatArray, values: FloatArray) -> FloatArray:
        """BlockDiag_u(V (Z o values) V^T), of values that are symmetric."""
        return self._blocks(
            (rows, columns, strip * values[rows, columns]) for rows, columns, strip in self._moments(vector)
        )

    def _moments(self, vector: FloatArray) -> Iterator[_Strip]:
        """Yield Z by strips."""
        for (own, entries), (out, _) in zip(self._stacked(self._rows), self._stacked(self._scratch), strict=True):
            count, size, _ = own.shape
            np.matmul(vector[entries].reshape(count, size, size), own, out=out)
        for rows, columns in strips(self._rows.shape[1]):
            yield rows, columns, self._rows[:, rows].T @ self._scratch[:, columns]

    @np.errstate(over="ignore", invalid="ignore")  # forms near a pole, and while they come
    def _blocks(self, form: Iterable[_Strip]) -> FloatArray:
        """BlockDiag_u(V form V^T) of a form that comes by strips: of half of it, and then its transpose is added."""
        vector = np.zeros(self._n_entries)
        for rows, columns, strip in form:
            strip[:, : len(strip)] /= 2
            image = self._rows[:, columns] @ strip.T
            for (own, entries), (its, _) in zip(self._stacked(self._rows), self._stacked(image), strict=True):
                vector[entries] += _with_each_other(its, own[:, :, rows]).ravel()
        for own, entries in self._stacked(self._rows):
            halves = vector[entries].reshape(len(own), own.shape[1], own.shape[1])
            vector[entries] = (halves + halves.transpose(0, 2, 1)).ravel()
        return vector

    def start(self, corner: int, *, everywhere: bool) -> FloatArray:
        """Return X of one direction of the mean step and a share of all, or of all and a share of one."""
        form = np.zeros((self._rows.shape[1],) * 2)
        form[corner, corner] = 1
        parts = [each / np.linalg.norm(each) for each in (self.blocks(form), self.blocks(np.eye(len(form))))]
        most, rest = parts[::-1] if everywhere else parts
        mixed = most + _ADMIXTURE * rest
        return np.asarray(mixed / np.linalg.norm(mixed))

    def hardly_feed(self, vector: FloatArray) -> bool:
        """Whether some X_u are next to nothing beside others: that may be because units hardly feed each other."""
        parts = [vector[entries].reshape(len(own), -1) for own, entries in self._stacked(self._rows)]
        sizes = np.concatenate([np.linalg.norm(part, axis=1) for part in parts])
        return bool(sizes.min() < _APART * sizes.max())

    def are_positive(self, vector: FloatArray, error: float = _COINCIDING) -> bool:
        """Whether all X_u are positive semidefinite, up to an error, by default that of a small gap."""
        return all(
            np.linalg.eigvalsh(vector[entries].reshape(len(own), own.shape[1], -1)).min() >= -error
            for own, entries in self._stacked(self._rows)
        )

    def positive(self, vector: FloatArray) -> FloatArray:
        """Return an X near one of unit length, all X_u positive definite."""
        found = np.empty_like(vector)
        for own, entries in self._stacked(self._rows):
            values, axes = np.linalg.eigh(vector[entries].reshape(len(own), own.shape[1], -1))
            values = np.abs(values) + _ADMIXTURE / math.sqrt(len(self._rows))
            found[entries] = ((axes * values[:, None, :]) @ axes.transpose(0, 2, 1)).ravel()
        return found

    def in_coordinates(self, metric: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the forms, both divided by sqrt(w_a w_b), in the system's coordinates."""
        rates = self.eigenvalues / self.eigenvalues[-1]
        roots = np.sqrt(rates)
        if self._directions is not None:
            weights = roots * roots[:, None]
            return _assembled(self._directions, metric * weights), _assembled(self._directions, covariance * weights)
        outer, inner = self._vectors / self._roots[:, None], self._vectors * self._roots[:, None]
        return _assembled(outer, metric * rates * rates[:, None]), _assembled(inner, covariance)


def _with_each_other(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return A_u B_u^T for every unit u, shape (number, size, size)."""
    if left.shape[1] == 1:  # a call of BLAS for each would take longer than the product
        return np.asarray(np.einsum("uir,ujr->uij", left, right))
    return np.asarray(np.matmul(left, right.transpose(0, 2, 1)))


def _decomposed(rows: FloatArray, coordinates: Coordinates) -> Decomposition:
    if coordinates == "gram":
        eigenvalues, vectors = np.linalg.eigh(rows)
        return Decomposition(vectors, np.maximum(eigenvalues, _EPS * eigenvalues[-1]), None)
    vectors, values, directions = np.linalg.svd(rows, full_matrices=False)
    return Decomposition(
        np.ascontiguousarray(vectors[:, ::-1]), values[::-1] ** 2, np.ascontiguousarray(directions[::-1].T)
    )


def _assembled(frame: FloatArray, blocks: FloatArray) -> FloatArray:
    """Return frame blocks_ij frame^T for every pair of levels, symmetric, with largest diagonal entry 1."""
    size = len(blocks) * len(frame)
    form = ((frame @ blocks) @ frame.T).transpose(0, 2, 1, 3).reshape(size, size)
    form = form + form.T
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # NaN where all of it is below floating point
        return np.asarray(form / form.diagonal().max())
