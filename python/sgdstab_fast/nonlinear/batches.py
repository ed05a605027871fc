r"""Whether every batch is stable by itself: then SGD is stable in expectation, nonlinear terms included.

Near an interpolating minimum the loss of a batch S has the Hessian (1/|S|) sum_{i in S} g_i g_i^T, whose largest
eigenvalue is that of K_SS / |S|. If eta lambda_max(K_SS) / |S| < 2 for every batch that can be drawn, no step lengthens
anything, and SGD is stable in expectation. Where one batch has more, its own nonlinear terms decide what follows, and
the mean may diverge although Lambda(2) < 0 (R. Mulayoff and S. U. Stich, COLT 2026, arXiv 2602.14789, theorems 2, 3).

So what is looked for is the largest lambda_max(K_SS) over the S of one size B, which is sparse principal component
analysis. Few batches are gone through. Else, from below, by power iterations that keep the B largest components, from
every example, and swaps of one example for another. From above, with A_uv = |K_uv| (spectral norms of blocks where
examples have several rows) and any x > 0,

    lambda_max(K_SS) <= lambda_max(A_SS) <= max_{u in S} sum_{v in S} A_uv x_v / x_u <= max_u T(x)_u / x_u,

with T(x)_u the largest sum of B terms A_uv x_v, that of u itself among them (Collatz and Wielandt; T is monotone and
homogeneous, and x <- T(x) goes to the x with the least bound). Branching on whether an example is in S, with the same
bound for what is left, closes the gap while that is cheap.

The largest lambda_max(K_SS) / |S| does not increase with |S|. Of epochs the last, smaller batch decides; of draws with
replacement a batch of one example, B times.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.gram.given import given
from sgdstab_fast.results.interruption import interruptible
from sgdstab_fast.results.printed import as_text
from sgdstab_fast.results.progress import ProgressOption, tell_of, tells
from sgdstab_fast.results.provenance import origin, versions
from sgdstab_fast.results.result import Result
from sgdstab_fast.systems.sampling import Law
from sgdstab_fast.systems.sgd import LinearizedSGD

IntArray = NDArray[np.int64]

_FEW = 20_000  # batches that are gone through
_EIGENPROBLEMS = 1e9  # multiplications that these, or swaps, may take
_TOGETHER = 2**21  # entries of K_SS, of many S
_ROUNDING = 1e-10
_POWER_STEPS, _STARTS, _SWAPS = 12, 32, 50
_OUT, _IN = 6, 16  # units of a batch that may go, and those that may come instead
_BOUND_STEPS, _BRANCH_STEPS = 30, 4
_WORK, _OVERHEAD = 1.5e8, 5e4  # entries of A gone through in branching, and what a step costs beside them


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchStability(Result):
    """Whether every batch is stable by itself, as `batch_stability` returns it."""

    learning_rate: float
    """eta."""
    batch_size: int
    """B."""
    stable: bool | None
    """Whether eta lambda_max(K_SS) / |S| < 2 for every batch S; None where the bounds do not tell."""
    largest: float
    """The largest lambda_max(K_SS) / |S| that was found, that of `worst_batch`: 2 / learning rate is its edge."""
    lower: float
    """The largest lambda_max(K_SS) / |S| of all batches is at least that: `largest`."""
    upper: float
    """And at most that."""
    exact: bool
    """Whether `lower` and `upper` are the same."""
    worst_batch: IntArray
    """The examples (with groups, their numbers in the order in which they first appear) of the batch with `largest`,
    ascending, shape (|S|,); of draws with replacement one, B times."""

    @property
    def critical_learning_rate(self) -> float | tuple[float, float]:
        """2 / `largest`, up to which every batch is stable; (low, high) that it lies between where it is not exact."""
        low, high = self.critical_learning_rate_bounds
        return high if self.exact else (low, high)

    @property
    def critical_learning_rate_bounds(self) -> tuple[float, float]:
        """(low, high): every batch is stable below the first, and one is not above the second."""
        return 2 / self.upper, 2 / self.lower

    def __repr__(self) -> str:
        known = f"largest={as_text(self.largest)}"
        known = known if self.exact else f"lower={as_text(self.lower)}, upper={as_text(self.upper)}"
        low, high = self.critical_learning_rate_bounds
        rate = as_text(low) if self.exact else f"({as_text(low)}, {as_text(high)})"
        return (
            f"BatchStability(stable={self.stable}, {known}, critical_learning_rate={rate}, "
            f"worst_batch={self.worst_batch.tolist()})"
        )


@interruptible
@tells("batch stability")
def batch_stability(
    gram: Any,
    learning_rate: float,
    batch_size: int = 1,
    *,
    sampling: str = "iid",
    groups: Any = None,
    progress: ProgressOption = None,
) -> BatchStability:
    """Say whether gradient descent on every single batch is stable, so that SGD is stable in expectation.

    Parameters
    ----------
    gram : array_like, shape (N, N), or gram.Kernel
        Neural-tangent Gram matrix K.
    learning_rate : float
        eta.
    batch_size : int, optional
        Examples B in a batch.
    sampling : {"iid", "with_replacement", "epoch", "cyclic"}, optional
        How batches are drawn, as for `LinearizedSGD`. Of epochs the last batch may be smaller, and then it decides; of
        draws with replacement one example may come B times.
    groups : array_like, shape (N rows,), optional
        For several outputs: which rows belong to the same example.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

    Returns
    -------
    BatchStability
        The largest curvature of a batch, exactly where batches are few or branching ends soon, else between bounds
        that are proven.

    Raises
    ------
    ValueError, TypeError
        As `LinearizedSGD` does.

    References
    ----------
    R. Mulayoff and S. U. Stich, COLT 2026, arXiv 2602.14789, theorem 3.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    >>> found = sf.nonlinear.batch_stability(gram, 0.5, 2)
    >>> found.stable, round(found.critical_learning_rate, 9), found.worst_batch.tolist()
    (True, 0.711992844, [0, 3])
    """
    return stability_of_batches(
        LinearizedSGD(given(gram, groups), learning_rate, batch_size, sampling=sampling),
    )


def stability_of_batches(system: LinearizedSGD) -> BatchStability:
    """Return `batch_stability` of the batches of a system; its momentum is not looked at."""
    found = _largest(_Curvatures(system.rows_of_k.gram, system.law), system.law)
    size = len(found.batch)
    lower, upper = found.lower / size, found.upper / size
    exact = upper <= lower * (1 + _ROUNDING)
    steps = system.learning_rate * lower, system.learning_rate * upper
    stable = True if steps[1] < 2 * (1 - _ROUNDING) else False if steps[0] > 2 * (1 + _ROUNDING) else None
    return BatchStability(
        learning_rate=system.learning_rate,
        batch_size=system.batch_size,
        stable=stable,
        largest=lower,
        lower=lower,
        upper=lower if exact else upper,
        exact=exact,
        worst_batch=found.batch,
        provenance={"method": "batch stability", **origin(system), **versions()},
    )


class _Found(NamedTuple):
    """Between what the largest lambda_max(K_SS) lies, and the S that has the lower one."""

    lower: float
    upper: float
    batch: IntArray


def _largest(curvatures: _Curvatures, law: Law) -> _Found:
    """Return the largest lambda_max(K_SS), of the batches with the largest lambda_max(K_SS) / |S|."""
    n, size = law.n_units, law.batch_size
    if law.is_deterministic:
        batches = [np.arange(first, min(first + size, n)) for first in range(0, n, size)]
        values = [float(curvatures.of(batch[None])[0]) for batch in batches]
        worst = int(np.argmax([value / len(batch) for value, batch in zip(values, batches, strict=True)]))
        return _Found(values[worst], values[worst], batches[worst])
    if law.sampling == "with_replacement":
        one = curvatures.best(iter([np.arange(n)[:, None]]))
        return _Found(size * one.lower, size * one.lower, np.repeat(one.batch, size))
    size = n % size or size if law.sampling == "epoch" else size
    rows = size * curvatures.rows.shape[1]
    if math.comb(n, size) <= min(_FEW, _EIGENPROBLEMS / rows**3):
        return curvatures.best(_in_parts(combinations(range(n), size), max(1, _TOGETHER // size**2)))
    return _Search(curvatures, n, size).ended()


def _in_parts(batches: Iterator[tuple[int, ...]], together: int) -> Iterator[IntArray]:
    while part := list(islice(batches, together)):
        yield np.array(part)


class _Curvatures:
    """lambda_max(K_SS) of batches of units, each with some rows of K."""

    def __init__(self, matrix: FloatArray, law: Law) -> None:
        n = len(matrix)
        members = [law.rows(unit) for unit in range(law.n_units)]
        self.rows = np.full((law.n_units, max(map(len, members))), n)
        for own, rows in zip(self.rows, members, strict=True):
            own[: len(rows)] = rows
        self.matrix = np.zeros((n + 1, n + 1))  # with a row of zeros, for units that have fewer
        self.matrix[:n, :n] = matrix

    def of(self, batches: IntArray) -> FloatArray:
        """Return lambda_max(K_SS) of batches (k, B), shape (k,)."""
        rows = self.rows[batches].reshape(len(batches), -1)
        if rows.shape[1] == 1:
            return np.asarray(self.matrix[rows[:, 0], rows[:, 0]])
        return np.asarray(np.linalg.eigvalsh(self.matrix[rows[:, :, None], rows[:, None, :]])[:, -1])

    def best(self, parts: Iterator[IntArray]) -> _Found:
        """Return the largest of all batches that come."""
        found = _Found(-math.inf, -math.inf, np.empty(0, dtype=np.int64))
        for batches in parts:
            values = self.of(batches)
            if (largest := float(values.max())) > found.lower:
                found = _Found(largest, largest, batches[values.argmax()])
        return found

    def shares(self, batch: IntArray) -> FloatArray:
        """Return |K_uS v|^2 of all units, v the leading eigenvector of K_SS."""
        rows = self.rows[batch].reshape(-1)
        leading = np.linalg.eigh(self.matrix[np.ix_(rows, rows)])[1][:, -1]
        return np.asarray(np.square(self.matrix[:, rows] @ leading)[self.rows].sum(axis=1))

    def norms(self) -> FloatArray:
        """Return A_uv, the spectral norms of K_uv, shape (n_units, n_units)."""
        n, m = self.rows.shape
        if m == 1:
            return np.asarray(np.abs(self.matrix[self.rows, self.rows.T]))
        norms = np.empty((n, n))
        for unit, rows in enumerate(self.rows):
            blocks = self.matrix[rows[:, None], self.rows.reshape(1, -1)].reshape(m, n, m).transpose(1, 0, 2)
            norms[unit] = np.linalg.norm(blocks, 2, axis=(1, 2))
        return norms

    def kept(self, images: FloatArray, size: int) -> tuple[FloatArray, IntArray]:
        """Return vectors of rows (k, n_rows) without all but their largest units, and these, sorted."""
        squares = np.square(np.append(images, np.zeros((len(images), 1)), axis=1))[:, self.rows].sum(axis=2)
        units = np.sort(np.argpartition(-squares, size - 1, axis=1)[:, :size], axis=1)
        rows = self.rows[units].reshape(len(units), -1)
        vectors = np.zeros((len(images), len(self.matrix)))
        np.put_along_axis(vectors, rows, np.take_along_axis(np.append(images, vectors[:, :1], axis=1), rows, 1), 1)
        return vectors[:, :-1], units


class _Node(NamedTuple):
    """Batches that have some units, and others out of those that are allowed."""

    below: float
    """Minus an upper bound."""
    number: int
    """Which tells nodes with the same bound apart."""
    chosen: tuple[int, ...]
    allowed: IntArray
    weights: FloatArray
    """x, of those allowed."""


class _Search:
    """The largest lambda_max(K_SS) over all S of a size."""

    def __init__(self, curvatures: _Curvatures, n: int, size: int) -> None:
        self.curvatures, self.n, self.size = curvatures, n, size
        self.norms = curvatures.norms()
        self._n_nodes, self._work = 0, 0.0

    def ended(self) -> _Found:
        """Search until the bounds meet, or branching has taken what it may."""
        tell_of("the worst batch, from every example")
        found = self._swapped(self._from_every_unit())
        everything = np.arange(self.n)
        start = np.sqrt(np.maximum(self.norms.diagonal(), np.finfo(float).tiny))
        nodes = [self._node((), everything, start, _BOUND_STEPS)]
        whole = float(np.linalg.eigvalsh(self.curvatures.matrix)[-1])
        while nodes and -nodes[0].below > found.lower * (1 + _ROUNDING) and self._work < _WORK:
            node = heapq.heappop(nodes)
            apart = -node.below / found.lower - 1 if found.lower > 0 else math.inf
            tell_of("the worst batch, by branching", self._n_nodes, apart, _ROUNDING)
            free = np.flatnonzero(~np.isin(node.allowed, node.chosen))
            at = free[node.weights[free].argmax()]
            branches = (
                ((*node.chosen, int(node.allowed[at])), node.allowed, node.weights),
                (node.chosen, np.delete(node.allowed, at), np.delete(node.weights, at)),
            )
            for chosen, allowed, weights in branches:
                if self.size in (len(chosen), len(allowed)):
                    batch = np.sort(chosen if len(chosen) == self.size else allowed)
                    value = float(self.curvatures.of(batch[None])[0])
                    found = _Found(value, value, batch) if value > found.lower else found
                else:
                    heapq.heappush(nodes, self._node(chosen, allowed, weights, _BRANCH_STEPS))
        upper = max(found.lower, -nodes[0].below if nodes else 0.0)
        return found._replace(upper=min(upper, max(whole, found.lower)))

    def _node(self, chosen: tuple[int, ...], allowed: IntArray, weights: FloatArray, n_steps: int) -> _Node:
        """Bound the batches of a node: the least max_u T(x)_u / x_u on the way of x <- T(x)."""
        norms = self.norms[np.ix_(allowed, allowed)]
        is_chosen = np.isin(allowed, chosen)
        certain = np.eye(len(allowed), dtype=bool) | is_chosen  # in S, if the unit of the row is
        n_free = self.size - len(chosen)  # of rows that are in S; one less of others, which have their own place
        x, bound = weights, math.inf
        for _ in range(n_steps):
            terms = norms * x
            sums = np.where(certain, terms, 0.0).sum(axis=1)
            terms[certain] = 0.0
            terms.partition(len(allowed) - n_free, axis=1)
            sums += terms[:, len(allowed) - n_free + 1 :].sum(axis=1) + np.where(
                is_chosen, terms[:, len(allowed) - n_free], 0.0
            )
            bound = min(bound, float((sums / x).max()))
            x = np.maximum(sums / sums.max(), np.finfo(float).tiny)
        self._work += n_steps * (norms.size + _OVERHEAD)
        self._n_nodes += 1
        return _Node(-bound, self._n_nodes, chosen, allowed, x)

    def _from_every_unit(self) -> _Found:
        """Return the best of power iterations v <- K v that keep the largest units, from every unit."""
        matrix = self.curvatures.matrix[:-1, :-1]
        traces = np.append(matrix.diagonal(), 0.0)[self.curvatures.rows]
        vectors = np.zeros((self.n, len(matrix) + 1))
        np.put_along_axis(vectors, self.curvatures.rows, np.sqrt(np.maximum(traces, 0.0)), axis=1)
        vectors = vectors[:, :-1]
        for _ in range(_POWER_STEPS):
            vectors, units = self.curvatures.kept(vectors @ matrix, self.size)
            lengths = np.linalg.norm(vectors, axis=1)
            vectors /= np.where(lengths > 0, lengths, 1.0)[:, None]
        quotients = np.einsum("kj,kj->k", vectors @ matrix, vectors)
        most = units[np.argsort(-quotients, kind="stable")[:_STARTS]]
        return self.curvatures.best(batch[None] for batch in np.unique(most, axis=0))

    def _swapped(self, found: _Found) -> _Found:
        """Swap a unit that adds little for one outside that feels much, while that helps."""
        rows = self.size * self.curvatures.rows.shape[1]
        for _ in range(int(min(_SWAPS, _EIGENPROBLEMS / (_OUT * _IN * rows**3)))):
            shares = self.curvatures.shares(found.batch)
            inside = found.batch[np.argsort(shares[found.batch], kind="stable")[:_OUT]]
            shares[found.batch] = -1.0
            outside = np.argsort(-shares, kind="stable")[: min(_IN, self.n - self.size)]
            swaps = np.array(
                [np.append(found.batch[found.batch != out], other) for out in inside for other in outside],
                dtype=np.int64,
            )
            better = self.curvatures.best(iter([np.sort(swaps, axis=1)]))
            if better.lower <= found.lower * (1 + _ROUNDING):
                break
            found = better
        return found
