"""F with K = F F^T for a K of low precision: Cholesky's factorisation with pivots, as far as these are no rounding.

    C = D^-1 K D^-1,  D^2 = diag K        F <- [F, (C - F F^T)_:P L^-T],   (C - F F^T)_PP = L L^T

P are the examples of which most is left, a block of them at a time, until nothing that is left is above rounding. So
K is read by rows, most of them never, and may be a file; beside it there is F alone, in float32: what float32 rounds
off K is as much as what it rounds off F. Rank decides the cost, N r^2 multiplications, all of them matrix products.

What it leaves has a diagonal below rounding; directions of F may be a few times slower than that, which is far above
what rounding to the precision does. In float64 there is no such room, but float32 is a hundred million times coarser
than the arithmetic here.

With pivots in blocks: H. Harbrecht, M. Peters and R. Schneider, "On the low-rank approximation by the pivoted Cholesky
decomposition", Applied Numerical Mathematics 62, 2012.
"""

from __future__ import annotations

import math
import mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import AnyFloatArray, FloatArray
from sgdstab_fast.operators.krylov import Product, ritz_pairs
from sgdstab_fast.validation import let_go, row_blocks

_BLOCK = 256  # pivots taken together
_SHARE = 0.1  # of what is left of the examples of a block: an example of which less is left waits for another block
_SMALL = 256  # rows of a matrix of which all eigenvalues are quickly there
_PRODUCTS = 32  # with a larger one, for its extreme eigenvalues
_INVERSE_ITERATIONS, _LOWERINGS = 8, 32


class _Columns(NamedTuple):
    """Columns of F, which are zero in the rows of pivots of columns before."""

    pivots: NDArray[np.intp]
    """Examples, shape (p,)."""
    rows: NDArray[np.intp]
    """The other rows and the pivots', ascending, shape (m,)."""
    values: NDArray[np.float32]
    """Shape (p, m)."""

    def of(self, rows: NDArray[np.intp]) -> FloatArray:
        """Return those of some rows, shape (p, len(rows))."""
        return self.values[:, np.searchsorted(self.rows, rows)].astype(float)

    @property
    def triangle(self) -> FloatArray:
        """L, shape (p, p)."""
        return self.of(self.pivots).T


class PartialCholesky:
    """F of C = D^-1 K D^-1; D is `scale`, shape (n,)."""

    def __init__(self, gram: AnyFloatArray, scale: FloatArray, rounding: float) -> None:
        self._gram, self._scale, self.rank = gram, scale, 0
        self._columns: list[_Columns] = []
        left = np.ones(len(gram))
        while float(left.max()) > rounding:
            self._take_block(left, rounding)

    def _take_block(self, left: FloatArray, rounding: float) -> None:
        """Take the examples of which most is left as pivots; `left` is diag(C - F F^T), or -inf of a pivot."""
        from scipy.linalg import lapack, solve_triangular  # type: ignore[import-untyped]

        examples = np.argsort(-left, kind="stable")[:_BLOCK]
        examples = np.sort(examples[left[examples] > rounding])
        least = max(rounding, _SHARE * float(left[examples].min()))
        lower, order, rank, _ = lapack.dpstrf(self._left(examples, examples), tol=least, lower=1)
        if not rank:  # to rounding there was less of them than it seemed
            left[examples] = 0.0
            return
        pivots, rows = examples[order[:rank] - 1], np.flatnonzero(left > -np.inf)
        values = _given_back_when_done((rank, rows.size))
        values[...] = solve_triangular(lower[:rank, :rank], self._left(pivots, rows), lower=True)
        self._columns.append(_Columns(pivots, rows, values))
        self.rank += rank
        left[rows] -= np.einsum("pn,pn->n", values, values)
        left[pivots] = -np.inf

    def _left(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> FloatArray:
        """Return a part of C - F F^T, of examples that are no pivots yet."""
        part = self._gram[np.ix_(rows, columns)].astype(float)
        let_go(self._gram)
        part /= self._scale[columns]
        part /= self._scale[rows, None]
        for known in self._columns:
            part -= known.of(rows).T @ known.of(columns)
        return part

    def smallest_left(self) -> float:
        """Return the smallest eigenvalue of C - F F^T, which is below 0 by more than rounding if K is indefinite."""

        def times(vectors: FloatArray) -> FloatArray:
            images = scaled_product(self._gram, self._scale)(vectors)
            for columns in self._columns:
                values = columns.values.astype(float)
                images[columns.rows] -= values.T @ (values @ vectors[columns.rows])
            return images

        return extreme_eigenvalues(times, len(self._scale))[0]

    def features(self) -> NDArray[np.float32]:
        """Return D F, shape (n, rank), and forget F."""
        found = np.zeros((len(self._scale), self.rank), dtype=np.float32)
        done = 0
        while self._columns:  # what has been copied leaves the memory, of which zeros take none
            _, rows, values = self._columns.pop(0)
            found[rows, done : done + len(values)] = (values * self._scale[rows]).T
            done += len(values)
        return found

    def slowest(self) -> FloatArray:
        """Return about the bottom eigenvector of F^T D^2 F, shape (rank,).

        Rayleigh quotients are lowered in the span of the vector, what L^T D^2 L says of the way to go, and the way
        before: A. V. Knyazev, "Toward the optimal preconditioned eigensolver", SIAM J. Sci. Comput. 23, 2001.
        """
        squares = self._scale**2
        basis = self._inverse_iteration(self._solved_by_pivots)[:, None]  # the vector, and the way before
        images = self._times(basis[:, 0], squares)[:, None]
        for _ in range(_LOWERINGS):
            way = self._solved_by_pivots(images[:, 0] - (basis[:, 0] @ images[:, 0]) * basis[:, 0])
            basis, triangle = np.linalg.qr(np.column_stack([basis, way]))
            images = np.linalg.solve(triangle.T, np.column_stack([images, self._times(way, squares)]).T).T
            _, axes = np.linalg.eigh((basis.T @ images + images.T @ basis) / 2)
            lowest = axes[:, :1].copy()
            further = np.concatenate([[[0.0]], lowest[1:]])
            basis, images = (np.concatenate([each @ lowest, each @ further], axis=1) for each in (basis, images))
        return np.asarray(basis[:, 0])

    def _times(self, vector: FloatArray, squares: FloatArray) -> FloatArray:
        """Return F^T D^2 F v."""
        along, start = np.zeros(len(self._scale)), 0
        for columns in self._columns:
            along[columns.rows] += vector[start : (start := start + len(columns.values))] @ columns.values
        along *= squares
        return np.concatenate([columns.values @ along[columns.rows] for columns in self._columns])

    def _solved_by_pivots(self, vector: FloatArray) -> FloatArray:
        """Return (L^T D^2 L)^-1 x, of the pivots' rows alone."""
        return self._solved(self._solved_transposed(vector) / self._scale[self._pivots] ** 2)

    def slowest_of_gram(self) -> FloatArray:
        """Return the bottom eigenvector of a K of full rank, shape (n,), by inverse iteration."""
        scale, found = self._scale[self._pivots], np.empty(self.rank)
        found[self._pivots] = self._inverse_iteration(
            lambda x: self._solved_transposed(self._solved(x / scale)) / scale
        )
        return found

    def _inverse_iteration(self, solve: Product) -> FloatArray:
        vector = np.asarray(np.arange(1, self.rank + 1) * 0.6180339887498949 % 1.0 - 0.4)  # components everywhere
        for _ in range(_INVERSE_ITERATIONS):
            vector = solve(vector)
            vector = np.asarray(vector / np.linalg.norm(vector))
        return vector

    @property
    def _pivots(self) -> NDArray[np.intp]:
        """In their order, which is that of the columns of F; with it F is L in their rows, lower triangular."""
        return np.concatenate([columns.pivots for columns in self._columns])

    def _solved(self, vector: FloatArray) -> FloatArray:
        """Return L^-1 x."""
        from scipy.linalg import solve_triangular

        found, rest, end, pivots = np.empty(self.rank), vector.copy(), 0, self._pivots
        for columns in self._columns:
            own = slice(end, end := end + len(columns.values))
            found[own] = solve_triangular(columns.triangle, rest[own], lower=True)
            rest[end:] -= found[own] @ columns.of(pivots[end:])
        return found

    def _solved_transposed(self, vector: FloatArray) -> FloatArray:
        """Return L^-T x."""
        from scipy.linalg import solve_triangular

        found, start, pivots = np.empty(self.rank), self.rank, self._pivots
        for columns in reversed(self._columns):
            own = slice(start - len(columns.values), start)
            rest = vector[own] - columns.of(pivots[own.stop :]) @ found[own.stop :]
            found[own] = solve_triangular(columns.triangle.T, rest)
            start = own.start
        return found


def _given_back_when_done(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return an array whose memory goes back to the system with it, as that of many small ones does not always."""
    memory = mmap.mmap(-1, math.prod(shape) * np.dtype(np.float32).itemsize)
    return np.frombuffer(memory, dtype=np.float32).reshape(shape)


def scaled_product(gram: AnyFloatArray, scale: FloatArray) -> Product:
    """Return what multiplies vectors (n,) or (n, k) with D^-1 K D^-1."""

    def times(vectors: FloatArray) -> FloatArray:
        d = scale if vectors.ndim == 1 else scale[:, None]
        right, images = vectors / d, np.empty_like(vectors)
        for rows in row_blocks(gram):
            images[rows] = gram[rows] @ right
        return np.asarray(images / d)

    return times


def extreme_eigenvalues(times: Product, n: int) -> tuple[float, float]:
    """Return the smallest and the largest eigenvalue, of a large matrix to a few per cent: those of Lanczos."""
    if n <= _SMALL:
        values = np.linalg.eigvalsh(times(np.eye(n)))
    else:
        # Not a start that symmetries of examples may be orthogonal to.
        start = np.random.default_rng(n).normal(size=n)
        values, _ = ritz_pairs(times, start, _PRODUCTS, lambda *_: False)
    return float(values[0]), float(values[-1])
