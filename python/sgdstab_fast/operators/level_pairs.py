"""Pairs of eigendirections of K: how their second moments advance by themselves, level by level of a recurrence.

In the notation of `operators.second_moments`, M_a = F - u_a e_1 h^T is the mean step along an eigendirection a, and

    L_ab = M_a (x) M_b - p u_a u_b (e_1 (x) e_1) (h (x) h)^T.

Levels are replaced by the first one and the differences between neighbours, so that 1 - L_ab, and z - 1 in place of z,
keep their relative accuracy at small steps.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray

IntArray = NDArray[np.intp]

_EPS = float(np.finfo(float).eps)
_COINCIDING = 1e-6  # rates of stability, relative to those of order 1


def gd_exponent_of(
    eigenvalues: FloatArray, learning_rate: float, n_units: int, free: FloatArray, readout: FloatArray
) -> float:
    """Return mu = max_a log rho(M_a), the exponent of full batches, for the eigenvalues w of K."""
    pairs = LevelPairs(np.asarray(eigenvalues, dtype=np.float64) / n_units, 0.0, n_units, free, readout)
    growths, radii = pairs.of_means(learning_rate)
    return log_radius(float(growths.max()), float(radii.max()))


def gd_threshold_of(eigenvalues: FloatArray, n_units: int, free: FloatArray, readout: FloatArray) -> float:
    """Return the smallest learning rate at which full batches are unstable: rho(M_a) = 1 for the largest w.

    There M_a (x) M_a has the eigenvalue 1: a quadratic eigenvalue problem in u.
    """
    from scipy.linalg import eigvals  # type: ignore[import-untyped]

    constant, linear, square = LevelPairs(np.ones(1), 0.0, 1, free, readout).of_full_batches
    one, zero = np.eye(len(square)), np.zeros_like(square)
    with np.errstate(divide="ignore", invalid="ignore"):
        roots = eigvals(np.block([[zero, one], [-constant, -linear]]), np.block([[one, zero], [zero, square]]))
    real = np.isfinite(roots) & (np.abs(roots.imag) <= _COINCIDING * np.abs(roots)) & (roots.real > _COINCIDING)
    u = float(roots.real[real].min(initial=math.inf))
    # Where M_a itself has the eigenvalue -1, 1 = u h^T (1 + F)^-1 e_1.
    response = float(readout @ np.linalg.solve(np.eye(len(readout)) + free, np.eye(len(readout))[0]))
    u = 1 / response if abs(u * response - 1) < _COINCIDING or (math.isinf(u) and response > 0) else u
    return u * n_units / float(np.max(eigenvalues))


def log_radius(growth: float, radius: float) -> float:
    """Return log |lambda|, given |lambda|^2 - 1 and |lambda|."""
    if radius <= 8 * _EPS:
        return -math.inf
    return 0.5 * math.log1p(growth) if growth > -0.5 else math.log(radius)


class LevelPairs:
    """1 - L_ab for all a <= b, a sum of parts times 1, u_a, u_b and u_a u_b."""

    _degrees = np.array([0.0, 1.0, 1.0, 2.0])

    def __init__(self, rates: FloatArray, noise: float, n_units: int, free: FloatArray, readout: FloatArray) -> None:
        free, readout = np.atleast_2d(np.asarray(free, dtype=np.float64)), np.atleast_1d(readout)
        self.rates, self.noise, self._n_units = rates, noise, n_units
        levels = len(free)
        # y_0 = z_0, y_l = z_(l - 1) - z_l
        self._differences = np.eye(levels, k=-1) - np.eye(levels)
        self._differences[0, 0] = 1
        self._back = np.linalg.inv(self._differences)
        self._free = _rounded(self._differences @ free @ self._back)
        self._readout = _rounded(readout @ self._back)
        self._kick = self._differences[:, 0]
        step = np.outer(self._kick, self._readout)
        one, free = np.eye(levels**2), self._free
        with np.errstate(over="ignore"):  # of momentum that nothing converges with
            parts = [
                one - np.kron(free, free),
                np.kron(step, free),
                np.kron(free, step),
                (noise - 1) * np.kron(step, step),
            ]
        self._parts = np.array(parts).reshape(4, -1)
        swapped = one.reshape(levels, levels, -1).swapaxes(0, 1).reshape(one.shape)
        self._antisymmetric = (one - swapped).ravel() / 2
        self._kicks, self._readouts = np.kron(self._kick, self._kick), np.kron(self._readout, self._readout)

    @cached_property
    def _first_and_second(self) -> tuple[IntArray, IntArray]:
        """The eigendirections a and b of all pairs with a <= b, shape (n_pairs,) each."""
        first, second = np.triu_indices(len(self.rates))
        return first, second

    @cached_property
    def _pairs(self) -> IntArray:
        """The place of (a, b) in the list of pairs with a <= b, shape (r, r)."""
        (first, second), n = self._first_and_second, len(self.rates)
        pairs = np.empty((n, n), dtype=np.intp)
        pairs[first, second] = pairs[second, first] = np.arange(len(first))
        return pairs

    @property
    def of_full_batches(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The coefficients of 1 - L_aa in u_a."""
        constant, left, right, square = self._parts.reshape(4, len(self._kicks), len(self._kicks))
        return constant, left + right, square

    def of_means(self, learning_rate: float) -> tuple[FloatArray, FloatArray]:
        """Return |lambda|^2 - 1 and |lambda| of the eigenvalues lambda of M_a of largest modulus."""
        away = np.linalg.eigvals(np.eye(len(self._free)) - self._means(learning_rate))  # 1 - lambda
        growths = away.real * (away.real - 2) + away.imag**2
        return growths.max(axis=1), np.abs(1 - away).max(axis=1)

    def _means(self, learning_rate: float) -> FloatArray:
        steps = learning_rate * self.rates[:, None, None]
        return np.asarray(self._free - steps * np.outer(self._kick, self._readout))

    def one_direction(self, learning_rate: float, a: int) -> tuple[float, tuple[FloatArray, FloatArray]]:
        """Return the error of log rho, and metric and covariance, without noise: those of M_a alone."""
        left, right, radius, change = self._leading(learning_rate, a)
        blocks = np.zeros((2, *self._free.shape, len(self.rates), len(self.rates)))
        for form, vector in zip(blocks, (left, right), strict=True):
            form[..., a, a] = np.outer(vector, vector.conj()).real
        return 2 * change / radius if radius > change else 0.0, self._in_levels(*blocks)

    def uncertainty(self, learning_rate: float, a: int) -> float:
        """Return the error of rho(M_a)^2."""
        *_, radius, change = self._leading(learning_rate, a)
        return (2 * radius + change) * change if len(self._free) > 1 else 0.0

    def _leading(self, learning_rate: float, a: int) -> tuple[FloatArray, FloatArray, float, float]:
        """Return left and right eigenvectors of M_a for its lambda of largest modulus, |lambda| and its error."""
        from scipy.linalg import eig

        values, left, right = eig(self._means(learning_rate)[a], left=True)
        k = int(np.abs(values).argmax())
        # Near a double eigenvalue the change is a square root.
        change = 8 * _EPS / max(float(abs(left[:, k].conj() @ right[:, k])), math.sqrt(_EPS))
        return left[:, k], right[:, k], float(abs(values[k])), change

    @np.errstate(over="ignore", divide="ignore", invalid="ignore")  # near a pole, from which the search turns back
    def weights(self, growth: float, learning_rate: float, *, by_growth: bool, diagonal: bool = False) -> FloatArray:
        """Return p N u_a u_b g_ab, its derivative in z or in 1 / eta, and its rounding, shape (3, r, r) or (3, r)."""
        first, second = (np.arange(len(self.rates)),) * 2 if diagonal else self._first_and_second
        powers, matrices, metrics, covariances = self._resolvents(growth, learning_rate, first, second)
        entries = np.empty((3, len(first)))
        values, slopes, rounding = entries
        values[:] = self._readouts @ covariances
        outer = (metrics[:, None] * covariances).reshape(matrices.shape)
        if by_growth:
            slopes[:] = -np.einsum("ik,ik->k", metrics, covariances)
        else:
            slopes[:] = np.einsum("i,ik,ik->k", self._degrees, powers, self._parts @ outer)
            slopes -= 2 * values
            slopes *= learning_rate
        rounding[:] = np.einsum("ik,ik->k", np.abs(outer, out=outer), np.abs(matrices, out=matrices))
        rounding *= 16 * _EPS
        entries *= self.noise * self._n_units * powers[3]
        return entries if diagonal else entries.take(self._pairs, axis=1)

    def _resolvents(
        self, growth: float, learning_rate: float, first: IntArray, second: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return 1, u_a, u_b and u_a u_b, z - L_ab, (z - L_ab)^-T (h (x) h) and (z - L_ab)^-1 (e_1 (x) e_1).

        Pairs are the last axis of all.
        """
        u, size = learning_rate * self.rates, len(self._kicks)
        left, right = u[first], u[second]
        powers = np.array([np.ones(len(first)), left, right, left * right])
        matrices = self._parts.T @ powers
        matrices[:: size + 1] += growth
        if size > 1:
            # L_aa has eigenvalues near rho(M)^2 on antisymmetric blocks, which second moments have not.
            same = np.flatnonzero(np.abs(left - right) <= 8 * _EPS * u[-1])
            matrices[:, same] += (1 + abs(growth)) * self._antisymmetric[:, None]
        inverses = _inverses(matrices.reshape(size, size, -1))
        metrics = np.einsum("i,ijk->jk", self._readouts, inverses)
        return powers, matrices, metrics, np.einsum("ijk,j->ik", inverses, self._kicks)

    def forms(self, growth: float, learning_rate: float, moments: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return metric and covariance divided by sqrt(w_a w_b), shape (levels, levels, r, r), given Z."""
        (first, second), levels, n = self._first_and_second, len(self._free), len(self.rates)
        vectors = self._resolvents(growth, learning_rate, first, second)[2:]
        blocks = np.empty((2, levels, levels, n, n))
        for form, each in zip(blocks, vectors, strict=True):
            squares = each.reshape(levels, levels, -1)
            form[..., first, second] = squares
            form[..., second, first] = squares.swapaxes(0, 1)
        return self._in_levels(*(blocks * moments))

    def _in_levels(self, metric: FloatArray, covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return forms of the levels, given those of their differences."""
        forward, back = self._differences, self._back
        return (
            np.einsum("ji,jkab,kl->ilab", forward, metric, forward),
            np.einsum("ij,jkab,lk->ilab", back, covariance, back),
        )


def _inverses(matrices: FloatArray) -> FloatArray:
    """Return the inverses of matrices, shape (n, n, their number)."""
    least = 4 * _EPS * np.abs(matrices).max()  # at an eigenvalue of L_ab, to the last digit
    if len(matrices) == 1:
        return np.asarray(1 / np.where(matrices == 0, least, matrices))
    stack: FloatArray = np.moveaxis(matrices, 2, 0)
    try:
        found = np.asarray(np.linalg.inv(stack))
    except np.linalg.LinAlgError:
        found = np.asarray(np.linalg.inv(stack + least * np.eye(len(matrices))))
    return np.moveaxis(found, 0, 2)


def _rounded(coefficients: FloatArray) -> FloatArray:
    """Return whole numbers for what differs from them by rounding alone, such as (1 + b) - b."""
    whole = np.rint(coefficients)
    return np.where(np.abs(coefficients - whole) <= 4 * _EPS, whole, coefficients)
