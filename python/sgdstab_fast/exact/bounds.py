"""What is known of lambda without simulation: between which numbers it lies.

    (1/d) sum of all d exponents <= lambda    the largest of them
    lambda <= 0                               if eta lambda_max(K_uu) <= 2 for all examples u: no step lengthens
    lambda <= Lambda(2) / 2                   Jensen (Chemnitz & Engel 2025, proposition A.4)

All three hold for every law of batches; the second for optimisers without memory.
"""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast.exact.mean_square import MeanSquareExponent
from sgdstab_fast.systems.system import System

# 2 - eta K_ii, and the mean of log abs(1 - eta K_ii), must differ from 0 by more than rounding to decide anything.
ROUNDING = 16 * float(np.finfo(float).eps)


def bounds_of(system: System, mean_square: MeanSquareExponent | None = None) -> tuple[float, float]:
    """Return (low, high) with low <= lambda <= high from what costs next to nothing, and Lambda(2) if it is known."""
    overshoot = largest_overshoot(system)
    high = 0.0 if overshoot <= 2 else math.inf
    # Elsewhere the sum of all exponents takes going through batches or matrices.
    low = lower_bound(system) if system.batch_size == 1 and math.isfinite(overshoot) else -math.inf
    return low, high if mean_square is None else min(high, mean_square.upper_bound / 2)


def lower_bound(system: System) -> float:
    """Return the mean of all exponents, less its rounding; -inf where it is not known."""
    mean, sizes = system.sum_of_exponents / system.dimension, np.abs(system.step_sizes)
    if math.isnan(mean):
        return -math.inf
    return mean - ROUNDING * (1 + float(sizes[np.isfinite(sizes)].max(initial=0.0)))


def largest_overshoot(system: System) -> float:
    """Return max_u eta lambda_max(K_uu): up to 2 no step lengthens anything, nor do means of steps; inf with memory."""
    curvatures = system.unit_curvatures()
    return math.inf if curvatures is None else float(curvatures.max())
