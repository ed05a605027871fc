"""Bounds for the first zero of lambda(eta), which need no simulation.

    max(eta_ms, 2 / max_i K_ii)  <=  eta_as  <=  the first eta with (1/N) sum_i log abs(1 - eta K_ii) = 0,

since lambda <= Lambda(2) / 2, since no step grows while eta K_ii <= 2, and since lambda is at least the mean of all
exponents. Where all K_ii are equal both are 2 / K_ii: steps there are reflections, and lambda is 0. In one dimension
lambda is the mean, and its first zero is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.exact.mean_square import MeanSquareFamily
from sgdstab_fast.systems.sgd import LinearizedSGD

_SCAN = 1.01  # ratio of learning rates tried for the upper bound


def bounds_of_zero(system: LinearizedSGD, family: MeanSquareFamily | None) -> tuple[float, float]:
    """Return learning rates between which lambda has its first zero."""
    diagonal = system.diagonal
    low = 2 / float(diagonal.max())
    if diagonal.max() == diagonal.min():
        return low, low  # reflections
    if family is not None:
        threshold, error = family.threshold()
        low = max(low, threshold - 2 * error)

    def mean_of_exponents(learning_rate: float) -> float:
        return float(np.log(np.maximum(np.abs(1 - learning_rate * diagonal), np.finfo(float).tiny)).mean())

    before, after = low, low
    for after in _tried(low, diagonal[diagonal > 0], every_maximum=system.dimension == 1):
        if mean_of_exponents(after) > 0:
            break
        before = after
    high = _bisected(mean_of_exponents, before, after)
    return (high, high) if system.dimension == 1 else (min(low, high), high)


def _tried(low: float, diagonal: FloatArray, *, every_maximum: bool) -> list[float]:
    """Return increasing learning rates from low on, at the last of which the mean of all exponents is surely positive.

    Between its singularities 1 / K_ii it is concave: with `every_maximum`, the maxima of all intervals are among them.
    """
    high = 2 / float(diagonal.min()) * _SCAN  # beyond which no step shrinks
    n_tried = math.ceil((math.log(high) - math.log(low)) / math.log(_SCAN)) + 1
    tried = np.geomspace(low, high, max(n_tried, 2)).tolist()
    if every_maximum:
        singular = np.unique(np.concatenate([[low], 1 / diagonal[1 / diagonal > low]]))

        def falling(learning_rate: float) -> float:
            with np.errstate(divide="ignore"):
                return float((diagonal / (1 - learning_rate * diagonal)).sum())

        tried += [_bisected(falling, left, right) for left, right in pairwise(singular.tolist())]
    return sorted(tried)


def _bisected(function: Callable[[float], float], before: float, after: float) -> float:
    """Return the first float found beyond a change of sign from negative to positive."""
    while before < (middle := before + (after - before) / 2) < after:
        before, after = (before, middle) if function(middle) > 0 else (middle, after)
    return after
