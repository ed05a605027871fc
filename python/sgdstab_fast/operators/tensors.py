"""Moment Lyapunov exponents of even order p, from symmetric tensors.

With f_i the rows of F, shape (N, d), A_i = I - eta f_i f_i^T, and i uniform on 1..N,

    exp Lambda(p) = spectral radius of  M T = (1/N) sum_i A_i^(x)p T

on symmetric tensors of order p, of which there are C(d+p-1, p) dimensions. M maps the cone of the moments E[s^(x)p] to
itself: its spectral radius is its largest eigenvalue, and has a moment for an eigenvector.

In the orthonormal basis |n> of occupation numbers, n_1 + ... + n_d = p, and with a_j |n> = sqrt(n_j) |n - e_j>,
contraction with f is a = sum_j f_j a_j up to a factor, the symmetrised product with f its transpose, and

    A^(x)p - 1 = sum_{k=1}^p ((-eta)^k / k!) (a^T)^k a^k,

nested as in Horner's scheme. Order p is reached from order p - 1 by d sparse matrices for all i, and one matrix product
with F; the orders below belong to one i each, and are small. The identity is never added and subtracted.

In the eigenbasis of F^T F = V diag(w) V^T the term k = 1 is diagonal, -(eta/N) sum_j n_j w_j, and all there is at
small learning rates. Davidson's iteration divides residuals by its distance from the eigenvalue. Lanczos does not, and
fails where F^T F is ill conditioned. The start, the sum of |n> over all even n, has a positive product with every
moment: it misses no dominant eigenvector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.validation import integer, nonnegative_number

LARGEST_TENSOR = 200_000
"""Dimension of the largest space of tensors taken, such as order 4 in R^45 or order 6 in R^20: 3 seconds, 200 MB."""
LARGEST_ORDER = 16  # terms of either sign, 3^p times their sum, cancel
_LARGEST_CONTRACTIONS = 6_400_000  # numbers that come from order p - 1 when it is contracted with every example
_TOLERANCE = 1e-10  # of the residual, whose square the error has
_ROUGHEST = 1e-6  # where rounding does not allow that
_MOST_APPLICATIONS = 300
_LARGEST_BASIS, _KEPT = 12, 3  # Davidson vectors, and those that a restart keeps
_LEAST_DISTANCE = 1e-2  # of the diagonal from the eigenvalue, relative to the scale of residuals
_DEPENDENT = 1e-10  # part of a vector that is new to the basis
_UNSURE = 10.0  # times the residual that an estimate may be below the eigenvalue if it did not converge
_OVERFLOW = 600.0  # logarithm
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class TensorExponent:
    """Lambda(p), and how well it is known."""

    exponent: float
    """log of the spectral radius; if not converged, an estimate from below."""
    error: float
    """Estimated numerical error of the exponent, rounding included."""
    residual: float
    """|M T - rho T| of the unit eigentensor T, relative to |rho - 1| or to the term k = 1, whichever is larger.

    Stiff directions, which the term k = 1 holds far from rho, count less.
    """
    n_applications: int
    """Products M T; 0 in one dimension, where the exponent has a closed form."""
    converged: bool
    """Whether the residual is at most 1e-10, or at most 1e-6 where rounding does not allow less."""


def tensor_dimension(dimension: int, order: int) -> int:
    """Return the dimension C(d+p-1, p) of symmetric tensors of order p in R^d."""
    return math.comb(dimension + order - 1, order)


def tensors_fit(n_examples: int, dimension: int, order: int) -> bool:
    """Return whether `tensor_exponent` takes N gradients of rank d: a bound on its time and memory."""
    contractions = n_examples * dimension * tensor_dimension(dimension, order - 2)
    return tensor_dimension(dimension, order) <= LARGEST_TENSOR and contractions <= _LARGEST_CONTRACTIONS


def tensor_exponent(gradients: FloatArray, learning_rate: float, order: int) -> TensorExponent:
    """Compute Lambda(p) for an even order p.

    Parameters
    ----------
    gradients : array, shape (N, d)
        F. Directions that no gradient has, to rounding, are left out.
    learning_rate : float
        eta.
    order : int
        p, even, at most 16.

    Returns
    -------
    TensorExponent

    Raises
    ------
    ValueError
        For an odd or larger order, and where tensors do not fit.
    """
    order = integer(order, "order", low=2, high=LARGEST_ORDER)
    learning_rate = nonnegative_number(learning_rate, "learning_rate")
    if order % 2:
        raise ValueError(f"order must be even, not {order}")
    left, sizes, _ = np.linalg.svd(np.asarray(gradients, dtype=float), full_matrices=False)
    kept = sizes > max(np.shape(gradients)) * _EPS * sizes[0]
    n_examples, rank = len(left), int(kept.sum())
    if rank == 0 or learning_rate == 0:
        return TensorExponent(0.0, 0.0, 0.0, 0, converged=True)
    if not tensors_fit(n_examples, rank, order):
        raise ValueError(f"{n_examples} gradients of rank {rank} are too many for tensors of order {order}")
    rows = left[:, kept] * sizes[kept]
    if rank == 1:
        return _one_direction(learning_rate * rows[:, 0] ** 2, order)
    operator = _TensorOperator(rows, learning_rate, order)
    vector, residual, error, n_applications, converged = _dominant(operator.product, operator.diagonal, operator.start)
    growth, size = operator.quotient(vector)
    # Rows are known to rounding of the largest singular value, which small ones feel.
    error += 8 * _EPS * (size + math.sqrt(size * -float(operator.diagonal.min())))
    exponent = operator.exponent(growth)
    return TensorExponent(
        exponent=exponent,
        error=error * math.exp(operator.log_unit - exponent) + 8 * _EPS * abs(exponent),
        residual=residual,
        n_applications=n_applications,
        converged=converged,
    )


def _one_direction(steps: FloatArray, order: int) -> TensorExponent:
    """Logarithm of the mean of (1 - eta f_i^2)^p, without overflow and relatively accurate."""
    from scipy.special import logsumexp  # type: ignore[import-untyped]

    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = order * np.where(steps < 0.5, np.log1p(-np.minimum(steps, 0.5)), np.log(np.abs(1 - steps)))
        growth = float(np.expm1(np.minimum(logarithms, _OVERFLOW)).mean())
        exponent = math.log1p(growth) if abs(growth) < 0.5 else float(logsumexp(logarithms)) - math.log(len(steps))
        # d log(1 - x)^p = p dx / (1 - x), with the weights of the mean
        moved = float((np.exp(logarithms - exponent) * order * steps / np.abs(1 - steps)).mean())
    error = 8 * _EPS * (abs(exponent) + moved) if exponent > -math.inf else 0.0
    return TensorExponent(exponent, error, residual=0.0, n_applications=0, converged=True)


class _TensorOperator:
    """(M - 1) / unit in occupation numbers, with unit = max(step, step^p) for the largest step eta |f_i|^2."""

    def __init__(self, rows: FloatArray, learning_rate: float, order: int) -> None:
        largest = math.sqrt(float((rows**2).sum(axis=1).max()))
        log_step = math.log(learning_rate) + 2 * math.log(largest)
        self._rows, self._order = rows / largest, order
        self.log_unit = max(log_step, order * log_step)
        self._coefficients = [
            (-1) ** k * math.exp(k * log_step - self.log_unit) / (math.factorial(k) * len(rows))
            for k in range(order + 1)
        ]
        self._lower, self._raise, indices = occupation_ladder(rows.shape[1], order)
        squares = (self._rows**2).sum(axis=0)
        self.diagonal: FloatArray = self._coefficients[1] * sum(squares[index] for index in indices)
        """The term k = 1."""
        self.start: FloatArray = (indices[::2] == indices[1::2]).all(axis=0).astype(float)
        """The sum of |n> over all even n."""

    def product(self, tensor: FloatArray) -> FloatArray:
        """Return (M - 1) T / unit."""
        dimension, contractions = self._rows.shape[1], self._contractions(tensor)
        image: Any = self._coefficients[-1] * contractions.pop()
        for order in range(1, self._order):
            image = self._raise[order] @ (self._rows.T[:, None, :] * image).reshape(-1, len(self._rows))
            image += self._coefficients[self._order - order] * contractions.pop()
        return np.asarray(self._raise[self._order] @ (self._rows.T @ image.T).reshape(dimension, -1).ravel())

    def quotient(self, tensor: FloatArray) -> tuple[float, float]:
        """Return T^T (M - 1) T / unit / |T|^2, and the same with all terms taken as positive.

        A sum of squares is accurate to rounding of T where M is large, though T is small there.
        """
        norms = [np.vdot(contraction, contraction) for contraction in self._contractions(tensor)]
        terms = np.array(self._coefficients[1:]) * norms / (tensor @ tensor)
        return float(terms.sum()), float(np.abs(terms).sum())

    def exponent(self, growth: float) -> float:
        """Return log(1 + unit growth)."""
        if self.log_unit < _OVERFLOW:
            return math.log1p(math.exp(self.log_unit) * growth)
        return self.log_unit + math.log(growth + math.exp(-self.log_unit))

    def _contractions(self, tensor: FloatArray) -> list[FloatArray]:
        """Return a^k T for all i and k = 1..p, each of shape (C(d+p-k-1, p-k), N)."""
        n_examples, dimension = self._rows.shape
        first = self._rows @ (self._lower[self._order] @ tensor).reshape(dimension, -1)
        contractions = [np.ascontiguousarray(first.T)]
        for order in range(self._order - 1, 0, -1):
            lowered = (self._lower[order] @ contractions[-1]).reshape(dimension, -1, n_examples)
            contractions.append(np.einsum("ij,jmi->mi", self._rows, lowered))
        return contractions


def occupation_ladder(dimension: int, order: int) -> tuple[list[Any], list[Any], NDArray[np.int64]]:
    """Return a_1..a_d, one below the other, from every order up to p; their transposes; and the basis of order p.

    A basis vector is the sorted tuple of its p indices 0 <= j_1 <= ... <= j_p; its number is sum_t C(j_t + t - 1, t).
    """
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    choose = np.array([[math.comb(j + t, t + 1) for j in range(dimension)] for t in range(order)])
    below, lower, above = np.empty((0, 1), dtype=np.int64), [None], [None]
    for n_indices in range(1, order + 1):
        # All pairs of an index j and a tuple of one order less, of which j makes one of this order.
        tuples = np.empty((n_indices, dimension, below.shape[1]), dtype=np.int64)
        tuples[0], tuples[1:] = np.arange(dimension)[:, None], below[:, None]
        factors = np.sqrt((tuples == tuples[0]).sum(axis=0)).ravel()
        sorted_tuples = np.sort(tuples, axis=0).reshape(n_indices, -1)
        numbers = sum(choose[t, index] for t, index in enumerate(sorted_tuples))
        size = tensor_dimension(dimension, n_indices)
        matrix = csr_array((factors, numbers, np.arange(factors.size + 1)), shape=(factors.size, size))
        lower.append(matrix)
        above.append(matrix.T.tocsr())
        below = np.empty((n_indices, size), dtype=np.int64)
        below[:, numbers] = sorted_tuples
    return lower, above, below


def _dominant(
    product: Callable[[FloatArray], FloatArray], diagonal: FloatArray, start: FloatArray
) -> tuple[FloatArray, float, float, int, bool]:
    """Return the dominant eigenvector, its relative residual, its eigenvalue's error, products made, and convergence.

    Davidson's iteration: the basis grows by the residual, divided by the eigenvalue minus the diagonal. Restarts keep
    the largest Ritz vectors and the one before the last. Where the diagonal is far from the eigenvalue, residuals move
    it less, and are counted less: in proportion to the square root of the distance.
    """
    basis, images = (np.empty((_LARGEST_BASIS, start.size)) for _ in range(2))
    matrix, before = np.zeros((_LARGEST_BASIS, _LARGEST_BASIS)), np.zeros(_LARGEST_BASIS)
    vector, n_basis, n_applications = start / np.linalg.norm(start), 0, 0
    while True:
        basis[n_basis], images[n_basis] = vector, product(vector)
        n_basis, n_applications = n_basis + 1, n_applications + 1
        matrix[n_basis - 1, :n_basis] = matrix[:n_basis, n_basis - 1] = basis[:n_basis] @ images[n_basis - 1]
        values, vectors = np.linalg.eigh(matrix[:n_basis, :n_basis])
        weights = vectors[:, -1]
        ritz, rest = weights @ basis[:n_basis], weights @ images[:n_basis]
        value = float(ritz @ rest)
        rest -= value * ritz
        scale = max(abs(value), -float(ritz**2 @ diagonal))
        distances = np.maximum(value - diagonal, _LEAST_DISTANCE * scale)
        residual = math.sqrt(float(rest**2 @ np.minimum(scale / distances, 1)))
        rounding = 16 * _EPS * max(value, -float(diagonal.min()))
        converged = residual <= max(_TOLERANCE * scale, min(rounding, _ROUGHEST * scale))
        if converged or n_applications >= _MOST_APPLICATIONS:
            break
        if n_basis == _LARGEST_BASIS:
            turn, _ = np.linalg.qr(np.column_stack([vectors[:, -_KEPT:], before]))
            n_basis = _KEPT + 1
            basis[:n_basis], images[:n_basis] = turn.T @ basis, turn.T @ images
            matrix[:n_basis, :n_basis] = turn.T @ matrix @ turn
            weights = weights @ turn
        before[:] = 0
        before[: weights.size] = weights
        vector = rest / distances
        vector /= np.linalg.norm(vector)
        for _ in range(2):  # orthogonal to all, to rounding
            vector -= (basis[:n_basis] @ vector) @ basis[:n_basis]
        size = float(np.linalg.norm(vector))
        if size < _DEPENDENT:
            break
        vector /= size
    error = residual if converged else _UNSURE * residual
    if converged and len(values) > 1 and values[-1] > values[-2]:
        error = min(error, 4 * residual**2 / min(scale, float(values[-1] - values[-2])))
    return ritz, residual / scale, error, n_applications, converged
