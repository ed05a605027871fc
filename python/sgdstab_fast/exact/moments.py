"""Exact moments: Lambda(p) of a K that does not fall into blocks, where it needs no simulation.

Of plain SGD:

    p = 0           Lambda(0) = 0
    dimension 1     Lambda(p) = log((1/N) sum_i |1 - eta K_ii|^p)
    all eta K_ii = 2 (or 0): steps are reflections, Lambda(p) = 0
    p = 2           the mean-square exponent
    dimension 2     transfer operator on the projective line (`operators.projective_line`)
    p = 4, 6, ..    symmetric tensors, where they are not too large (`operators.tensors`)

(Chemnitz & Engel 2025, definition A.2 and equation 3.43.)

Of all other systems, and of epochs of n steps, n Lambda(p) being that of their products:

    all steps, or all epochs, are the same: Lambda(p) = p lambda
    p = 2           second moments (`operators.second_moments`)
    few matrices    those of dense matrices (`operators.matrices`)
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
from sgdstab_fast.operators.matrices import ExactMoment, MatrixMoments
from sgdstab_fast.operators.projective_line import ProjectiveLine
from sgdstab_fast.operators.tensors import LARGEST_ORDER, tensor_exponent, tensors_fit
from sgdstab_fast.systems.growth import LARGEST_DIMENSION
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import QuadraticForms, System

_FEW, _FEW_IN_THE_PLANE = 2**18, 2**13  # numbers in all matrices: transfer operators take longer
_FEW_BOUNDED = 2**16  # the same, of which singular values are taken
_TOLERANCE = 1e-11  # of second moments
_NODES = 41  # of the whole curve, where that is cheap
_HIGHEST = 64.0  # to which the curve is followed for the tail index
_EPS = float(np.finfo(float).eps)


class Exact(Protocol):
    """What knows exact moments of a system."""

    @property
    def everywhere(self) -> bool:
        """Whether all orders are cheap, so that the whole curve is known."""

    def at(self, order: float) -> ExactMoment | None:
        """Return Lambda(p); None if it takes simulation."""


class ExactMoments:
    """Moments of plain SGD at any order; what takes long is kept from order to order."""

    def __init__(self, system: LinearizedSGD) -> None:
        self._system = system

    @property
    def everywhere(self) -> bool:
        """Whether all orders are cheap, so that the whole curve is known."""
        return (
            self._system.dimension == 1 or self._system.reflects or (self._plane is not None and self._plane.has_cone)
        )

    def at(self, order: float) -> ExactMoment | None:
        """Return Lambda(p); None if it takes simulation."""
        system = self._system
        if order == 0:
            return ExactMoment(0.0, 0.0, "closed form")
        if system.dimension == 1:
            return ExactMoment(*mean_of_powers(system.log_determinants, order), "closed form")
        if system.reflects:
            return ExactMoment(0.0, _EPS, "closed form")
        if order == 2 and system.dimension <= LARGEST_DIMENSION and self.mean_square.converged:
            return ExactMoment(self.mean_square.exponent, self.mean_square.error, "mean square")
        if self._plane is not None:
            found = self._plane.exponent(order)
            if found.converged:
                return ExactMoment(found.exponent, found.error, "transfer operator")
        if order in range(4, LARGEST_ORDER + 1, 2) and tensors_fit(system.n_examples, system.dimension, int(order)):
            tensors = tensor_exponent(self._gradients, system.learning_rate, int(order))
            if tensors.converged:
                return ExactMoment(tensors.exponent, tensors.error, "symmetric tensors")
        return None

    def with_slope(self, order: float) -> tuple[float, float]:
        """Return Lambda(p) and Lambda'(p), where all orders are known `everywhere`."""
        if self._system.dimension == 1:
            logs = self._system.log_determinants
            powers = np.exp(order * logs - float((order * logs).max()))
            value = mean_of_powers(logs, order)[0] if order else 0.0
            return value, float((powers * logs).sum() / powers.sum())
        if self._system.reflects or self._plane is None:
            return 0.0, 0.0
        found = self._plane.exponent(order)
        return found.exponent, found.derivative

    @cached_property
    def mean_square(self) -> MeanSquareExponent:
        """Lambda(2)."""
        return mean_square_exponent(self._system)

    @cached_property
    def _gradients(self) -> FloatArray:
        return self._system.gradients()

    @cached_property
    def _plane(self) -> ProjectiveLine | None:
        system = self._system
        if system.dimension != 2:
            return None
        f = self._gradients
        matrices = np.eye(2) - system.learning_rate * f[:, :, None] * f[:, None, :]
        return ProjectiveLine(matrices, np.full(len(f), 1 / len(f)))


class ExactMomentsOfSteps:
    """Moments of a system of any kind at any order, per step; what takes long is kept from order to order."""

    def __init__(self, system: System) -> None:
        self._system = system

    @property
    def everywhere(self) -> bool:
        """Whether all orders are cheap, so that the whole curve is known."""
        return self.exponent is not None or (self._matrices is not None and self._matrices.everywhere)

    def at(self, order: float) -> ExactMoment | None:
        """Return Lambda(p); None if it takes simulation."""
        if order == 0:
            return ExactMoment(0.0, 0.0, "closed form")
        if self.exponent is not None:
            value, error = self.exponent
            return ExactMoment(order * value + 0.0, abs(order) * error, "closed form")
        if order == 2 and self.forms is not None:
            return ExactMoment(self.forms.exponent, self.forms.error, "mean square")
        found = None if self._matrices is None else self._matrices.at(order)
        if found is None:
            return None
        return replace(found, exponent=found.exponent / self._n_steps, error=found.error / self._n_steps)

    @cached_property
    def exponent(self) -> tuple[float, float] | None:
        """Lambda(p) / p and its error, where all steps, or all epochs, are the same, or reflections."""
        system = self._system
        if system.reflects:
            return 0.0, _EPS
        if not system.is_deterministic:
            return None
        exact = system.exact_exponents()
        if exact is None:
            return None
        value, error = float(exact.exponents[0]), 0.0
        if math.isfinite(value):
            error = _EPS * system.dimension * max(1.0, abs(value))
            if self._matrices is not None and not system.is_full:
                _, error = self._matrices.radius
                error /= self._n_steps
        return value, error

    @cached_property
    def forms(self) -> QuadraticForms | None:
        """Lambda(2), per step, with metric and covariance; None where it is not computed."""
        system = self._system
        if system.dimension > LARGEST_DIMENSION:
            return None
        if not system.is_independent:
            if self._matrices is None:
                return None
            second = self._matrices.second_moments
            found: QuadraticForms | None = replace(
                second, exponent=second.exponent / self._n_steps, error=second.error / self._n_steps
            )
        else:
            found = system.second_moments(_TOLERANCE)
        return found if found is not None and found.converged and np.isfinite(found.metric).all() else None

    def bounds(self, order: float) -> tuple[float, float]:
        """Return what Lambda(p) lies between by the least and the most that steps multiply lengths by.

        Of products of independent steps, and p > 0 (with least and most exchanged at negative orders)

            log E[sigma_min(A)^p]  <=  Lambda(p)  <=  log E[sigma_max(A)^p],

        in the norm of coordinates and in that of constant mean squared growth; (-inf, inf) of more than a few matrices.
        """
        low, high = -math.inf, math.inf
        for logs, probabilities, n_steps in self._stretches:
            least, most = np.logaddexp.reduce(order * logs + np.log(probabilities), axis=1) / n_steps
            if order < 0:
                least, most = most, least
            low, high = max(low, float(least)), min(high, float(most))
        return low, high

    @cached_property
    def _stretches(self) -> list[tuple[FloatArray, FloatArray, int]]:
        """Logarithms of the least and most that matrices multiply lengths by, (2, n), probabilities, steps of each."""
        found = self._system.outcomes(_FEW_BOUNDED)
        if found is None:
            return []
        possible = found.probabilities > 0
        changes: list[FloatArray] = [np.eye(self._system.dimension)]
        if self.forms is not None:
            with contextlib.suppress(np.linalg.LinAlgError):
                changes.append(np.asarray(np.linalg.cholesky(self.forms.metric).T))
        result = []
        for change in changes:
            inverse = np.linalg.inv(change)
            rounding = 8 * len(change) ** 2 * _EPS * np.linalg.cond(change)
            sizes = np.linalg.svd(change @ found.matrices[possible] @ inverse, compute_uv=False)
            allowed = rounding * sizes[:, 0]
            with np.errstate(divide="ignore"):
                logs = np.log(np.array([np.maximum(sizes[:, -1] - allowed, 0.0), sizes[:, 0] + allowed]))
            result.append((logs, found.probabilities[possible], found.n_steps))
        return result

    @cached_property
    def _few(self) -> tuple[MatrixMoments, int] | None:
        return self._system.matrix_moments(_FEW if self._system.dimension > 2 else _FEW_IN_THE_PLANE)

    @property
    def _matrices(self) -> MatrixMoments | None:
        return None if self._few is None else self._few[0]

    @property
    def _n_steps(self) -> int:
        return 1 if self._few is None else self._few[1]


def with_nodes(values: dict[float, tuple[float, float]], exact: Exact, *, grows: bool) -> None:
    """Add nodes of the whole curve to orders with their exponents and errors, as far as a zero if there may be one."""
    low, high = min(-1.0, *values), max(2.0, *values)
    while grows and high < _HIGHEST and value_at(exact, high) < 0:
        high *= 2
    low = low if math.isfinite(value_at(exact, low)) else 0.0
    for node in ((low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, _NODES))).tolist():
        at_node = exact.at(node)
        if at_node is not None and math.isfinite(at_node.exponent):
            values.setdefault(node, (at_node.exponent, at_node.error))


def value_at(exact: Exact, order: float) -> float:
    """Return Lambda(p), inf where it takes simulation."""
    found = exact.at(order)
    return math.inf if found is None else found.exponent


def mean_of_powers(logs: FloatArray, order: float) -> tuple[float, float]:
    """Return log((1/N) sum_i exp(p logs_i)) and its numerical error; p is not 0."""
    powers = order * logs  # one of them infinite: a step annihilates
    largest = float(powers.max())
    if math.isinf(largest):
        return largest, 0.0
    if np.abs(powers).max() < 0.5:
        return math.log1p(float(np.expm1(powers).mean())), 2 * _EPS * float(np.abs(powers).mean())
    return largest + math.log(float(np.exp(powers - largest).mean())), 2 * _EPS * max(1.0, abs(largest))
