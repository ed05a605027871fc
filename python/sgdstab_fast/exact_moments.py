"""Exact moments: Lambda(p) of a K that does not fall into blocks, where it needs no simulation.

    p = 0           Lambda(0) = 0
    dimension 1     Lambda(p) = log((1/N) sum_i |1 - eta K_ii|^p)
    all eta K_ii = 2 (or 0): steps are reflections, Lambda(p) = 0
    p = 2           the mean-square exponent
    dimension 2     transfer operator on the projective line (`sgdstab_fast.projective_line`)
    p = 4, 6, ..    symmetric tensors, where they are not too large (`sgdstab_fast.symmetric_tensors`)

(Chemnitz & Engel 2025, definition A.2 and equation 3.43.)
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from sgdstab_fast._native import FloatArray
from sgdstab_fast.matrix_moments import ExactMoment
from sgdstab_fast.mean_square import mean_square_exponent
from sgdstab_fast.metrics import LARGEST_DIMENSION
from sgdstab_fast.projective_line import ProjectiveLine
from sgdstab_fast.results import MeanSquareExponent
from sgdstab_fast.symmetric_tensors import LARGEST_ORDER, tensor_exponent, tensors_fit
from sgdstab_fast.systems import LinearizedSGD

_REFLECTION = 1e-14  # of abs(1 - eta K_ii) from 1
_EPS = float(np.finfo(float).eps)


class ExactMoments:
    """Moments of one system at any order; what takes long is kept from order to order."""

    def __init__(self, system: LinearizedSGD) -> None:
        self._system = system

    @property
    def everywhere(self) -> bool:
        """Whether all orders are cheap, so that the whole curve is known."""
        return self._system.dimension == 1 or self._reflects or (self._plane is not None and self._plane.has_cone)

    def at(self, order: float) -> ExactMoment | None:
        """Return Lambda(p); None if it takes simulation."""
        system = self._system
        if order == 0:
            return ExactMoment(0.0, 0.0, "closed form")
        if system.dimension == 1:
            return ExactMoment(*mean_of_powers(system.log_determinants, order), "closed form")
        if self._reflects:
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
        if self._reflects or self._plane is None:
            return 0.0, 0.0
        found = self._plane.exponent(order)
        return found.exponent, found.derivative

    @cached_property
    def mean_square(self) -> MeanSquareExponent:
        """Lambda(2)."""
        return mean_square_exponent(self._system)

    @cached_property
    def _reflects(self) -> bool:
        return bool((np.abs(self._system.log_determinants) < _REFLECTION).all())

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


def mean_of_powers(logs: FloatArray, order: float) -> tuple[float, float]:
    """Return log((1/N) sum_i exp(p logs_i)) and its numerical error; p is not 0."""
    powers = order * logs  # one of them infinite: a step annihilates
    largest = float(powers.max())
    if math.isinf(largest):
        return largest, 0.0
    if np.abs(powers).max() < 0.5:
        return math.log1p(float(np.expm1(powers).mean())), 2 * _EPS * float(np.abs(powers).mean())
    return largest + math.log(float(np.exp(powers - largest).mean())), 2 * _EPS * max(1.0, abs(largest))
