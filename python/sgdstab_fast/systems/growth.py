"""Anchored growth: the mean log growth of the next step in some metrics, as the core evaluates it.

In a metric M with E[A^T M A] = rho M the mean squared growth of the next step is the constant rho, whatever the vector,
and the mean log growth g_M is nearly constant. Where single steps grow a lot, beyond the edge of stability, that mean
is carried by rare steps; the same equation with examples weighted by max(1, (1 - eta K_ii)^2)^-theta holds them down.
Systems choose several metrics, the norm of K among them, which are used together (`statistics.control_variates`).

Vectors with the dominant second moment C, E[A C A^T] = rho C, start nearly stationary. At small learning rates C is
almost of rank one, and the direction of a normal vector with covariance C then depends on how large its main component
happens to be. So that component q . v is set to its root mean square, and the rest of the vector with it,

    v <- v + C q (s - q . v) / s^2,    s^2 = q . C q,    q the dominant eigenvector of C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sgdstab_fast._core.arguments import FloatArray

# Beyond this dimension the decompositions cost more than a run with the norm of K alone.
LARGEST_DIMENSION = 2048
UNIFORM_NOISE = "uniform noise"  # the metric that is dominant if noise is alike on all examples
MEAN_SQUARE = "mean square"  # the metric of constant mean squared growth, and others of the kind
_ROUNDING = 1e-14
_OF_BOUNDS, _LARGEST_BOUNDED = 1e-8, 256  # tolerance, and dimension
TOLERANCE = 1e-4  # of metrics: they may be far off, and then leave more variance


class CloserBound(NamedTuple):
    """What an exponent is no larger than, to be computed, and what that costs."""

    value: Callable[[], float]
    seconds: float
    """Time that it takes, by a model."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Growth:
    """The metrics that growth is evaluated in, what the core is told, and the covariance to start from."""

    matrices: FloatArray
    """All metrics but the first, shape (n_metrics - 1, dimension, dimension)."""
    metrics: Any
    """What the core is told of them, a tuple of `_core.arguments`."""
    size: int
    """Results of an evaluation, which all have the exponent as their mean; 0 if growth is not evaluated."""
    seconds_per_evaluation: float
    """Time of one evaluation of one vector, measured on one thread."""
    n_steps: int = 0
    """Steps that an evaluation is a mean over, as far as some may cancel; 0 if growth is not evaluated."""
    cancellation: float = math.inf
    """The mean of 1 / f over these steps at the most, f what a step leaves of a squared norm; infinite if not known."""
    first: FloatArray | None = None
    """The first metric; None if it is the norm of K, which the core knows."""
    covariance: FloatArray | None = None
    """Dominant second moment, shape (dimension, dimension); None where it is not computed."""
    upper_bound: float = math.inf
    """What the exponent is no larger than, such as Lambda(2) / 2 and its error; infinite where it is not known."""
    closer_bound: CloserBound | None = None
    """A bound that is closer, where it takes long to compute."""

    def seconds_per_step(self, spacing: int) -> float:
        """Return what evaluations every so many steps take of a step, of one vector on one thread."""
        return self.seconds_per_evaluation / spacing if self.size > 0 else 0.0


class GrowthChoice(NamedTuple):
    """Growth that may be made, and what that costs."""

    metric: str
    """Its name."""
    make: Callable[[], Growth]
    seconds: float = 0.0
    """Time that making it takes, by a model."""


def tolerance_of(dimension: int) -> float:
    """Return the tolerance for metrics: one that makes Lambda(2) a bound where that costs little."""
    return _OF_BOUNDS if dimension <= _LARGEST_BOUNDED else TOLERANCE


def half_at_most(exponent: float, error: float) -> float:
    """Return what half of Lambda(2) is at most, which lambda is no larger than; rounding included."""
    most = (exponent + 2 * error + _ROUNDING * (1 + abs(exponent))) / 2
    return math.inf if math.isnan(most) else most
