"""Curves: lambda over the learning rate, known at some of them, its sizes and its first zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sgdstab_fast._native import FloatArray


def scales(exponents: FloatArray) -> FloatArray:
    """Return the magnitudes of a curve: of each point, and of neighbours of the other sign, between which it is 0."""
    sizes = np.abs(exponents)
    for here, beside in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        crosses = exponents[here] * exponents[beside] < 0
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


def first_zero(
    learning_rates: FloatArray, exponents: FloatArray, standard_errors: FloatArray, *, extrapolate: bool = False
) -> Zero:
    """Interpolate the first zero of lambda.

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
    low, high, before, after = float(x[right - 1]), float(x[right]), float(y[right - 1]), float(y[right])
    if before == -math.inf and after > 0:
        return Zero(scale * (low + high) / 2, scale * (high - low) / 2, 0.0)
    slope = (after - before) / (high - low)
    if not 0 < slope < math.inf:
        return Zero(math.nan, math.nan, math.nan)
    value = low - before / slope
    error = float(np.interp(value, [low, high], standard_errors[right - 1 : right + 1])) / slope
    if not low <= value <= high:  # nothing is known of the bend out there
        return Zero(scale * value, scale * error, math.inf)
    # y(x) = line(x) + bend (x - low) (x - high), with a third point on either side
    moved, bends = [0.0], []
    for third, end in ((right - 2, right - 1), (right + 1, right)):
        if 0 <= third < y.size and np.isfinite(y[third]):
            bends.append((y[third] - before - slope * (x[third] - low)) / ((x[third] - low) * (x[third] - high)))
            slope_beside = float((y[third] - y[end]) / (x[third] - x[end]))
            if slope_beside > 0:
                moved.append(float(np.clip(x[end] - y[end] / slope_beside, low, high)) - value)
    bend = float(np.mean(bends)) if bends else 0.0
    at_value, slope_there = bend * (value - low) * (value - high), slope + bend * (2 * value - low - high)
    if slope_there > slope / 4:
        moved[0] = float(np.clip(value - at_value / slope_there, low, high)) - value
    return Zero(scale * (value + moved[0]), scale * error, scale * max(map(abs, moved)))
