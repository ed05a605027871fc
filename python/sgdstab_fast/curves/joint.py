"""Negative moments where K falls into blocks: Lambda(p) of the whole from the curves of the blocks.

Every step moves one block b, with probability s_b, and the norm of the product goes with the largest of the blocks'
norms N_b. For p < 0 its moment counts paths on which all of them are small: by large deviations, and since a maximum is
the largest of all weighted means,

    Lambda(p) = min_theta lim (1/n) log E prod_b N_b^(p theta_b) = min_theta log sum_b s_b exp Lambda_b(p theta_b)

over theta_b >= 0 of sum 1. Where all blocks move at once, and are numbers, that is the minimum of the convex function

    f(theta) = log E exp(p sum_b theta_b log |a_b|),

and blocks above the diagonal do not matter: paths along which logarithms grow evenly carry the moment, and on these the
norm goes with the largest of the numbers' products. Where blocks move in turn the terms are convex in theta_b. So at
the minimum the slopes of all with theta_b > 0 are the same mu, and those of the others are at least mu: theta_b(mu)
increases, and their sum is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

Curve: TypeAlias = Callable[[float], tuple[float, float]]
"""Lambda_b and its slope, at an order."""
_TOLERANCE, _SMALL = 1e-14, 1e-12


def joint_exponent(
    order: float, curves: Sequence[Curve], shares: Sequence[float]
) -> tuple[float, FloatArray, FloatArray]:
    """Return Lambda(p) at a negative order, theta, and the weight that each block's error at p theta_b has in it.

    Where shares do not add up to 1 the rest of the steps moves nothing.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    def slope(b: int, theta: float) -> float:
        """d/d theta_b of s_b exp Lambda_b(p theta_b)."""
        value, derivative = curves[b](order * theta)
        return shares[b] * order * derivative * math.exp(value)

    at_zero, at_one = ([slope(b, theta) for b in range(len(curves))] for theta in (0.0, 1.0))

    def theta(b: int, mu: float) -> float:
        if at_zero[b] >= mu:
            return 0.0
        return 1.0 if at_one[b] <= mu else float(brentq(lambda part: slope(b, part) - mu, 0.0, 1.0, xtol=_TOLERANCE))

    def left_over(mu: float) -> float:
        return sum(theta(b, mu) for b in range(len(curves))) - 1

    least, most = min(at_zero), max(at_one)
    mu = most
    if left_over(most) > 0:
        # Slopes are exponentials: mu to a relative accuracy.
        ends = math.asinh(least / _SMALL), math.asinh(most / _SMALL)
        root = float(brentq(lambda t: left_over(_SMALL * math.sinh(t)), *ends, xtol=_TOLERANCE, rtol=1e-15))
        mu = _SMALL * math.sinh(root)
    thetas = np.array([theta(b, mu) for b in range(len(curves))])
    # Where a term is affine, one mu belongs to a whole range of theta_b.
    thetas = thetas / thetas.sum() if thetas.sum() > 0 else np.eye(len(curves))[int(np.argmin(at_zero))]
    values = np.array([curve(order * float(part))[0] for curve, part in zip(curves, thetas, strict=True)])
    exponent = math.log1p(float(np.sum(np.array(shares) * np.expm1(values))))
    return exponent, thetas, np.array(shares) * np.exp(values - exponent)


def joint_exponent_of_numbers(order: float, logs: FloatArray, probabilities: FloatArray) -> tuple[float, float]:
    """Return Lambda(p) at a negative order, of diagonal matrices, and how far it may be off.

    Parameters
    ----------
    order : float
        p.
    logs : array, shape (n_outcomes, n_blocks)
        log |a_b| of every outcome. A block that is 0 in some does not count.
    probabilities : array, shape (n_outcomes,)
        Of the outcomes, of sum 1.
    """
    from scipy.optimize import minimize

    logs = logs[:, np.isfinite(logs).all(axis=0)]
    if logs.shape[1] == 0:
        return math.inf, 0.0
    powers = order * logs

    def function(theta: FloatArray) -> tuple[float, FloatArray]:
        exponents = powers @ theta
        largest = float(exponents.max())
        weights = probabilities * np.exp(exponents - largest)
        return largest + math.log(float(weights.sum())), weights @ powers / weights.sum()

    starts = [np.full(powers.shape[1], 1 / powers.shape[1]), *np.eye(powers.shape[1])]
    best = min(starts, key=lambda theta: function(theta)[0])
    found = minimize(
        function,
        best,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(best),
        constraints={"type": "eq", "fun": lambda theta: theta.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 200},
    ).x
    found = np.clip(found, 0, None) / np.clip(found, 0, None).sum()
    theta = min((found, best), key=lambda theta: function(theta)[0])
    value, slope = function(theta)
    return value, float(theta @ slope - slope.min()) + 1e-15 * (1 + abs(value))  # by convexity
