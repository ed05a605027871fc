"""Curves over the learning rate: their sizes, and first zeros of those known everywhere, or at some points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

AGREEING = 1e-12  # relative distance of learning rates that are the same
FARTHEST = 2.0**20  # times the first
_SCAN = 1.02  # ratio of learning rates at which a function is looked at for a change of sign
_REST = 1e-12  # of an exponent that is 0
_EPS = float(np.finfo(float).eps)


def scales(exponents: FloatArray) -> FloatArray:
    """Return the magnitudes of a curve: of each point, and of neighbours of the other sign, between which it is 0."""
    sizes = np.abs(exponents)
    for here, beside in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        crosses = np.sign(exponents[here]) * np.sign(exponents[beside]) < 0
        reach = np.where(crosses & np.isfinite(exponents[beside]), np.abs(exponents[beside]), 0.0)
        sizes[here] = np.where(np.isnan(sizes[here]), np.nan, np.maximum(sizes[here], reach))
    return np.asarray(sizes)


@dataclass(frozen=True)
class Zero:
    """The first zero of lambda between learning rates, interpolated; NaN if there is none."""

    value: float
    standard_error: float
    """What that of lambda makes of it; neighbours share their streams, so that their errors are nearly the same."""
    bend: float
    """How far parabolas and lines through a third neighbour move it from where the line through two has it."""

    @property
    def error(self) -> float:
        """Of both; infinite if there is none."""
        return math.inf if math.isnan(self.value) else math.hypot(self.standard_error, self.bend)


def first_zero(
    learning_rates: FloatArray,
    exponents: FloatArray,
    standard_errors: FloatArray,
    *,
    bounds: tuple[float, float] = (0.0, math.inf),
    extrapolate: bool = False,
) -> Zero:
    """Interpolate the first zero of lambda, which is known to lie between bounds.

    Where lambda has one sign throughout, the line through the two outermost may be followed.
    """
    above = np.flatnonzero(exponents > 0)
    right = int(above[0]) if above.size else exponents.size
    if extrapolate:
        right = min(max(right, 1), exponents.size - 1)
    if not 0 < right < exponents.size:
        return Zero(math.nan, math.nan, math.nan)
    scale = float(learning_rates[right])
    x, y = learning_rates / scale, exponents
    left, low, high = right - 1, float(x[right - 1]), float(x[right])
    least, most = max(low, bounds[0] / scale), min(high, bounds[1] / scale)
    half = scale * (most - least) / 2
    somewhere = Zero(scale * (least + most) / 2, half, half)
    slope = float(y[right] - y[left]) / (high - low)
    if not slope > 0:
        return Zero(math.nan, math.nan, math.nan)
    if slope == math.inf:
        return somewhere
    value = low - float(y[left]) / slope
    error = float(np.interp(value, [low, high], standard_errors[left : right + 1])) / slope
    if extrapolate and not low <= value <= high:  # nothing is known of the bend out there
        return Zero(scale * value, scale * error, math.inf)
    # y(x) = line(x) + bend (x - low) (x - high), with a third point on either side; and the lines from there
    bends, zeros = [], []
    for third, end in ((left - 1, left), (right + 1, right)):
        if 0 <= third < y.size and np.isfinite(y[third]):
            bends.append((y[third] - y[left] - slope * (x[third] - low)) / ((x[third] - low) * (x[third] - high)))
            slope_beside = float((y[third] - y[end]) / (x[third] - x[end]))
            if slope_beside > 0:
                zeros.append(float(np.clip(x[end] - y[end] / slope_beside, least, most)))
    bend = float(np.mean(bends)) if bends else 0.0
    slope_there = slope + bend * (2 * value - low - high)
    moved = value - bend * (value - low) * (value - high) / slope_there if slope_there > slope / 4 else value
    if not zeros or not least <= moved <= most:
        return somewhere
    return Zero(scale * moved, scale * error, scale * max(abs(other - value) for other in (moved, *zeros)))


def bisected(function: Callable[[float], float], before: float, after: float) -> float:
    """Return the first float found beyond a change of sign from negative to positive."""
    while before < (middle := before + (after - before) / 2) < after:
        before, after = (before, middle) if function(middle) > 0 else (middle, after)
    return after


def rising(start: float) -> Iterator[float]:
    """Yield learning rates from a first one on, up to those that are absurd."""
    rate = start
    while rate <= FARTHEST * start:
        yield rate
        rate *= _SCAN


def first_change(function: Callable[[float], float], learning_rates: Iterable[float]) -> tuple[float, float]:
    """Return rising learning rates between which a function turns positive; infinity where it does not, or is NaN."""
    before = math.inf
    for rate in learning_rates:
        value = function(rate)
        if math.isnan(value):
            break
        if value > _REST:
            return min(before, rate), rate
        before = rate
    return math.inf, math.inf


def root(function: Callable[[float], float], before: float, after: float) -> float:
    """Return where a function that is negative before and positive after is 0; the end where it is 0 already."""
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    if not before < after:
        return after
    low, high = function(before), function(after)
    if low >= 0 or high <= 0:
        return before if low >= 0 else after
    if not (math.isfinite(low) and math.isfinite(high)):
        return bisected(function, before, after)
    return float(brentq(function, before, after, xtol=4 * _EPS * before, rtol=4 * _EPS))
