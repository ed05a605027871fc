"""Bounds for the first zero of lambda(eta), which need no simulation.

    max(eta_ms, 2 / max_i K_ii)  <=  eta_as  <=  the first eta with (1/N) sum_i log abs(1 - eta K_ii) = 0,

since lambda <= Lambda(2) / 2, since no step grows while eta K_ii <= 2, and since lambda is at least the mean of all
exponents. Where all K_ii are equal both are 2 / K_ii: steps there are reflections, and lambda is 0. In one dimension
lambda is the mean, and its first zero is known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.zeros import bisected, first_change, rising, root
from sgdstab_fast.exact.exponents import known_exponents
from sgdstab_fast.exact.full_batches import gd_threshold
from sgdstab_fast.exact.mean_square import mean_square_exponent
from sgdstab_fast.exact.mean_square_family import MeanSquareFamily
from sgdstab_fast.systems.sgd import LinearizedSGD

LARGEST_RANK = 1024  # of a K whose mean-square threshold costs little next to a search
_LARGEST = 1e300  # learning rate
_SCAN_OF_MEANS = 1.01  # ratio of learning rates tried for the upper bound
_EPS = float(np.finfo(float).eps)
_FEW_DETERMINANTS = 512
_NO_FEEDBACK = 1e-12


def bounds_of_zero(system: LinearizedSGD, family: MeanSquareFamily | None = None) -> tuple[float, float]:
    """Return learning rates between which lambda has its first zero, (0, infinity) where nothing is known.

    `family` knows the mean square of steps on single examples, of a K that does not fall into blocks.
    """
    if not system.is_plain:
        return _bounds_of_any(system)
    diagonal = system.diagonal
    low = 2 / float(diagonal.max())
    if diagonal.max() == diagonal.min():
        return low, low  # reflections
    if family is not None:
        threshold, error = family.threshold()
        low = max(low, threshold - 2 * error)

    def mean_of_exponents(learning_rate: float) -> float:
        return float(np.log(np.maximum(np.abs(1 - learning_rate * diagonal), np.finfo(float).tiny)).mean())

    tried = _tried(low, diagonal[diagonal > 0], every_maximum=system.dimension == 1)
    high = bisected(mean_of_exponents, *first_change(mean_of_exponents, tried))
    return (high, high) if system.dimension == 1 else (min(low, high), high)


def _tried(low: float, diagonal: FloatArray, *, every_maximum: bool) -> list[float]:
    """Return increasing learning rates from low on, at the last of which the mean of all exponents is surely positive.

    Between its singularities 1 / K_ii it is concave: with `every_maximum`, the maxima of all intervals are among them.
    """
    high = min(2 / float(diagonal.min()) * _SCAN_OF_MEANS, _LARGEST)  # beyond which no step shrinks
    n_tried = math.ceil((math.log(high) - math.log(low)) / math.log(_SCAN_OF_MEANS)) + 1
    tried = np.geomspace(low, high, max(n_tried, 2)).tolist()
    if every_maximum:
        singular = np.unique(np.concatenate([[low], 1 / diagonal[1 / diagonal > low]]))

        def falling(learning_rate: float) -> float:
            with np.errstate(divide="ignore"):
                return float((diagonal / (1 - learning_rate * diagonal)).sum())

        tried += [bisected(falling, left, right) for left, right in pairwise(singular.tolist())]
    return sorted(tried)


def exact_zero(system: LinearizedSGD) -> float | None:
    """Return the first zero of lambda where lambda is known without simulation at every learning rate, else None."""
    if system.is_full:
        return gd_threshold(system)
    if _exponent(system) is None:
        return None

    def exponent(learning_rate: float) -> float:
        value = _exponent(system.with_learning_rate(learning_rate))
        return -math.inf if value is None else value

    return root(exponent, *first_change(exponent, rising(_start(system))))


def mean_square_zero(system: LinearizedSGD) -> tuple[float, float] | None:
    """Return the first zero of Lambda(2) and its numerical error; None where it takes simulation."""
    if system.is_deterministic:
        zero = exact_zero(system)
        return None if zero is None else (zero, 16 * _EPS * zero)
    if system.is_independent:
        return min(part.system.threshold() for part in system.parts())
    if not system.has_mean_square:
        return None

    def exponent(learning_rate: float) -> float:
        return mean_square_exponent(system.with_learning_rate(learning_rate)).exponent

    zero = root(exponent, *first_change(exponent, rising(_start(system))))
    return zero, 64 * _EPS * zero


def _exponent(system: LinearizedSGD) -> float | None:
    """Return lambda where it is known, else None."""
    found = [known_exponents(part.system) for part in system.parts()]
    known = [float(each.exponents[0]) for each in found if each is not None]
    return max(known) if len(known) == len(found) else None


def _start(system: LinearizedSGD) -> float:
    """Return a learning rate that is surely stable: without memory, one up to which no step grows."""
    safe = system.safe_learning_rate
    return safe if safe > 0 else min(2 / system.largest_unit, gd_threshold(system)) / 256


def _bounds_of_any(system: LinearizedSGD) -> tuple[float, float]:
    """Return them where steps are on batches, or have a memory: the mean square and the sum of all exponents."""
    least = system.safe_learning_rate
    if system.rank <= LARGEST_RANK and (zero := mean_square_zero(system)) is not None:
        least = max(least, zero[0] - 2 * zero[1])
    return least, max(least, _sum_zero(system, least)) if least > 0 else math.inf


def _sum_zero(system: LinearizedSGD, least: float) -> float:
    """Return the first learning rate from which the sum of all exponents is positive; infinite if it is not known."""
    law = system.law if system.is_independent else replace(system.law, sampling="iid")
    if abs(system.recurrence.feedback) < _NO_FEEDBACK or law.n_batches > _FEW_DETERMINANTS:
        return math.inf

    def mean(learning_rate: float) -> float:
        return system.with_learning_rate(learning_rate).sum_of_exponents / system.dimension

    return bisected(mean, *first_change(mean, rising(least)))
