"""Intervals: quantiles of Student's t."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from sgdstab_fast import validation

ERRORS_IN_HALF = 2.0  # standard errors in half an interval: what bounds of 95% are divided by to count as errors


def student_quantile(level: float, degrees_of_freedom: int) -> float:
    """Return t with P(abs(T) <= t) = level for Student's T.

    Closed forms for one and two degrees of freedom, then the expansion of Abramowitz & Stegun 26.7.5 in 1/dof, good to
    2% at 3 and to 1e-4 from 10 on, up to level 0.99.
    """
    if degrees_of_freedom == 1:
        return math.tan(math.pi / 2 * level)
    if degrees_of_freedom == 2:
        return level * math.sqrt(2 / (1 - level**2))
    above = (1 + level) / 2
    x = NormalDist().inv_cdf(above) if above < 1 else -NormalDist().inv_cdf((1 - level) / 2)
    n = degrees_of_freedom
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return float(sum(term / n**power for power, term in enumerate(terms)))


def interval(value: Any, standard_error: Any, degrees_of_freedom: Any, level: float) -> tuple[Any, Any]:
    """Return the (low, high) that hold a value with probability `level`, by Student's t; of arrays, arrays.

    What has no error is its own interval, infinite or not.
    """
    level = validation.probability(level, "level")
    each = np.asarray(degrees_of_freedom)
    quantiles = np.reshape([student_quantile(level, n) for n in each.ravel().tolist()], each.shape)
    values, errors = np.asarray(value), np.asarray(standard_error)
    half_width = np.zeros(np.broadcast_shapes(values.shape, errors.shape, quantiles.shape))
    np.multiply(quantiles, errors, out=half_width, where=(errors > 0) & np.isfinite(errors))
    unknown = np.isposinf(errors) & ~np.isnan(values)  # at whatever level
    low, high = np.where(unknown, -math.inf, values - half_width), np.where(unknown, math.inf, values + half_width)
    return low[()], high[()]
