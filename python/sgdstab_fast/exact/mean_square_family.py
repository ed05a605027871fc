"""Mean-square exponents of steps on single examples of one K, at many learning rates."""

from __future__ import annotations

import copy
import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.operators.mean_square import MeanSquareOperator, MeanSquareSolution
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.rows import Rows
from sgdstab_fast.systems.single_steps import MOST_APPLICATIONS, covariance_of, metric_of, operator_of
from sgdstab_fast.systems.system import MEAN_SQUARE_TOLERANCE

_FAMILY_TOLERANCE = 1e-6  # where exponents alone are asked for: their errors go with its square
_INTERPOLATED, _APART = 4, 1e-3  # neighbours, and how far apart they are, relative
_LOG_LARGEST = 700.0


class MeanSquareFamily:
    """The mean-square exponents and forms of one K, which does not fall into blocks, at many learning rates.

    K is decomposed once, and what is known at some learning rates starts the iteration at others: the Perron vector is
    a smooth function of the learning rate, interpolated in its logarithm.
    """

    def __init__(self, rows: Rows, learning_rate: float) -> None:
        self._parts, self._learning_rate = rows.decompose(), learning_rate
        self._solved: dict[float, _Solved] = {}

    def branch(self) -> MeanSquareFamily:
        """Return what knows the same, and keeps what it learns to itself."""
        other = copy.copy(self)
        other._solved = dict(self._solved)
        return other

    def exponents(self, learning_rates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return Lambda(2) at every learning rate and its numerical error, coarse grids before finer ones."""
        exponents, errors = np.empty(learning_rates.shape), np.empty(learning_rates.shape)
        for index in _coarse_to_fine(learning_rates.size):
            solution = self.solve(float(learning_rates[index]), _FAMILY_TOLERANCE)
            exponents[index], errors[index] = solution.exponent, solution.error
        return exponents, errors

    def metric(self, learning_rate: float, tolerance: float) -> FloatArray:
        """Return the metric of constant mean squared growth at a learning rate."""
        return metric_of(self._parts, self._moment(learning_rate, tolerance))

    def covariance(self, learning_rate: float, tolerance: float) -> FloatArray:
        """Return the dominant second moment at a learning rate."""
        return covariance_of(self._parts, self._moment(learning_rate, tolerance))

    def _moment(self, learning_rate: float, tolerance: float) -> FloatArray:
        known = self._solved.get(learning_rate)
        if known is None or known.tolerance > tolerance:
            return self.solve(learning_rate, tolerance).moment
        return self._operator(learning_rate).moment(known.vector, known.delta)

    @property
    def extreme_eigenvalues(self) -> tuple[float, float]:
        """The smallest and the largest non-zero eigenvalue of K."""
        return float(self._parts.eigenvalues[0]), float(self._parts.eigenvalues[-1])

    def threshold(self) -> tuple[float, float]:
        """Return the learning rate at which Lambda(2) = 0, and its numerical error."""
        return self._threshold

    @cached_property
    def _threshold(self) -> tuple[float, float]:
        value, error, converged = self._operator(self._learning_rate).threshold(
            MEAN_SQUARE_TOLERANCE, MOST_APPLICATIONS
        )
        if not converged:
            warn(
                f"the mean-square threshold {value:.6g} may be off by {error:.1g}: the iteration did not converge in "
                f"{MOST_APPLICATIONS} products"
            )
        return value, error

    def solve(self, learning_rate: float, tolerance: float) -> MeanSquareSolution:
        """Solve at a learning rate, from what is known at its neighbours."""
        nearest = self._nearest(learning_rate)
        operator = self._operator(learning_rate)
        if nearest:
            start, delta = self._guess(learning_rate, nearest)
            gap = min(self._solved[known].gap for known in nearest)
            solution = operator.solve(tolerance, MOST_APPLICATIONS, start, delta=delta, gap=gap)
        else:
            solution = operator.solve(tolerance, MOST_APPLICATIONS)
        if solution.stopped_by == "residual":
            self._solved[learning_rate] = _Solved(solution.vector, solution.delta, solution.gap, tolerance)
        return solution

    def _operator(self, learning_rate: float) -> MeanSquareOperator:
        return operator_of(self._parts, learning_rate, len(self._parts.vectors))

    def _nearest(self, learning_rate: float) -> list[float]:
        """Return the nearest learning rates that have been solved at."""
        nearest: list[float] = []
        for known in sorted(self._solved, key=lambda known: abs(math.log(known / learning_rate))):
            if len(nearest) < _INTERPOLATED and all(abs(known / other - 1) > _APART for other in nearest):
                nearest.append(known)
        return nearest

    def _guess(self, learning_rate: float, nearest: list[float]) -> tuple[FloatArray, float]:
        """Return Lagrange's interpolation of the Perron vectors there, and of the logarithms of delta."""
        x = np.log(np.array(nearest) / learning_rate)
        known = [self._solved[each] for each in nearest]
        if abs(x[0]) < _APART:
            return known[0].vector, known[0].delta
        weights = [np.prod(np.delete(x, j) / (np.delete(x, j) - x[j])) for j in range(len(x))]
        vector = np.asarray(sum(w * each.vector for w, each in zip(weights, known, strict=True)))
        log_delta = sum(w * math.log(each.delta) for w, each in zip(weights, known, strict=True))
        return vector, math.exp(min(log_delta, _LOG_LARGEST))


class _Solved(NamedTuple):
    """What is kept of a solution, and the tolerance that it meets."""

    vector: FloatArray
    delta: float
    gap: float
    tolerance: float


def _coarse_to_fine(n: int) -> list[int]:
    """Return 0..n-1, the ends first, then the middles of what lies between."""
    order, stride = [0, n - 1] if n > 1 else [0], 1 << max(n - 1, 1).bit_length()
    while stride > 1:
        stride //= 2
        order += [index for index in range(0, n, stride) if index not in order]
    return order
