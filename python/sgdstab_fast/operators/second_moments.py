"""Second moments under every law of independent batches and every linear recurrence, without simulation.

A state z has `levels` blocks, and a step with a batch of B units u, each with rows k_i in isometric coordinates, is

    z -> (F (x) I) z - (eta / B) e_1 (x) sum_u G_u (h^T (x) I) z,    G_u = sum_(i in u) k_i k_i^T,    H = sum_u p_u G_u.

With p = (N - B) / (B (N - 1)) for batches without replacement, 1 / B for draws with replacement, 1 for B = 1 and 0 for
B = N, and with M = F (x) I - eta e_1 h^T (x) H, second moments S = E[z z^T] advance by the positive map

    Q(S) = M S M^T + p eta^2 e_1 e_1^T (x) (sum_u p_u G_u S_hh G_u - H S_hh H),    S_hh = (h^T (x) I) S (h (x) I)

(for one level Mulayoff & Michaeli, arXiv 2306.07850, equations 12 and 20). With row weights pi_i = N p_u and
Pi^(1/2) K Pi^(1/2) = U diag(w) U^T, H has the eigenvalues w_a / N. In its eigenbasis, with u_a = eta w_a / N and
M_a = F - u_a e_1 h^T, blocks S_ab of shape levels x levels advance by

    L_ab = M_a (x) M_b - p u_a u_b (e_1 (x) e_1) (h (x) h)^T,

each for itself, apart from the term of rank n, sum_u. Hence rho(Q) is the largest z at which the symmetric map

    R(z) X = BlockDiag_u( V [ (V^T X V) o p N u_a u_b g_ab(z) ] V^T ),    V = Pi^(-1/4) U,
    g_ab(z) = (h (x) h)^T (z - L_ab)^-1 (e_1 (x) e_1),

of symmetric matrices X_u, one for every unit, has the largest eigenvalue 1. With Z = V^T X V then

    S_ab = sqrt(w_a w_b) Z_ab (z - L_ab)^-1 (e_1 (x) e_1),

and the eigenvector of the adjoint map has (z - L_ab)^-T (h (x) h) in its place. rho(Q) is at least rho(M)^2, from where
Newton's iteration for the reciprocal of the eigenvalue, concave for one level, climbs.

From above, rho(Q) <= z if X - R(z) X >= 0 for some X with a metric M > 0, M_ab = Z_ab (z - L_ab)^-T (h (x) h): then
z M - Q*(M) = (h h^T) o V^T (X - R(z) X) V >= 0, and Q is a positive map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.operators.drawn_units import DrawnUnits, Draws
from sgdstab_fast.operators.krylov import improved_leading_vector, overlooked_vector
from sgdstab_fast.operators.level_pairs import LevelPairs, gd_threshold_of, log_radius
from sgdstab_fast.results.progress import tell_of

_EPS = float(np.finfo(float).eps)
_MOST_NEWTON_STEPS = 100
_NEAR = 1.1  # to 1, for a start
_FIRST_TRY, _MOST_TRIES = 1 / 64, 24  # above a root, relative; each of them is four times as far


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """The dominant eigenvalue rho of Q, its eigenvector and that of its adjoint."""

    exponent: float
    """log rho."""
    growth: float
    """rho - 1."""
    error: float
    """Estimated error of the exponent."""
    residual: float
    """|R X - X| / |X|."""
    converged: bool
    n_applications: int
    """Products R X."""
    n_iterations: int
    """Values of z tried."""
    metric: FloatArray
    """E[M^T metric M] = rho metric, level-major, in the coordinates of the system; largest diagonal entry 1."""
    covariance: FloatArray
    """E[M covariance M^T] = rho covariance, likewise."""


def second_moments(
    draws: Draws,
    learning_rate: float,
    free: FloatArray,
    readout: FloatArray,
    *,
    tolerance: float = 1e-11,
    max_applications: int = 1000,
) -> SecondMoments:
    """Compute the mean-square exponent Lambda(2) = log rho(Q), the metric and the covariance.

    Parameters
    ----------
    draws : Draws
        Rows of K, and how batches of them are drawn.
    learning_rate : float
        eta.
    free, readout : array, shape (levels, levels) and (levels,)
        F and h.
    tolerance : float
        For the relative residual of R X = X; the error of the exponent is quadratic in it.
    max_applications : int
        Products R X to make at most.

    Returns
    -------
    SecondMoments
        Nats per step; -inf if every product of steps annihilates every state in the mean.
    """
    units, n_units, noise = DrawnUnits(draws), draws.n_units, draws.noise
    pairs = LevelPairs(units.eigenvalues / n_units, noise if n_units > 1 else 0.0, n_units, free, readout)
    growths, radii = pairs.of_means(learning_rate)
    corner = int(growths.argmax())
    lowest = float(growths[corner])
    if pairs.noise == 0:
        exponent = 2 * log_radius(lowest, float(radii[corner]))
        error, forms = pairs.one_direction(learning_rate, corner)
        solution = _Solution(lowest, 0.0, 0.0, True, 0, 0, np.empty(0))
    else:
        solution = _solve(
            units,
            lambda growth, diagonal: pairs.weights(growth, learning_rate, by_growth=True, diagonal=diagonal),
            lowest,
            pairs.uncertainty(learning_rate, corner),
            corner,
            tolerance,
            max_applications,
        )
        if not solution.converged:
            highest = _upper_bound(
                units,
                lambda growth: pairs.weights(growth, learning_rate, by_growth=True)[0],
                lambda growth, moments: pairs.forms(growth, learning_rate, moments)[0],
                solution,
                abs(lowest),
            )
            solution = replace(solution, error=max(solution.error, highest - solution.root))
        rho = 1 + solution.root
        error = solution.error + _EPS * learning_rate * float(pairs.rates[-1])
        if rho > error:
            exponent, error = math.log1p(solution.root), error / rho
        elif solution.converged:
            exponent, error = -math.inf, 0.0
        else:
            exponent, error = math.log(max(rho, _EPS)), math.inf
        forms = pairs.forms(solution.root, learning_rate, units.moments(solution.vector))
    metric, covariance = units.in_coordinates(*forms)
    return SecondMoments(
        exponent=exponent,
        growth=solution.root,
        error=error,
        residual=solution.residual,
        converged=solution.converged,
        n_applications=solution.n_applications,
        n_iterations=solution.n_iterations,
        metric=metric,
        covariance=covariance,
    )


def mean_square_threshold(
    draws: Draws,
    free: FloatArray,
    readout: FloatArray,
    *,
    tolerance: float = 1e-11,
    max_applications: int = 1000,
) -> tuple[float, float]:
    """Return the smallest learning rate at which rho(Q) = 1, and its numerical error.

    The largest eigenvalue of R(1) vanishes at small learning rates, and is 1 or more at the threshold of full batches.
    Arguments are those of `second_moments`.
    """
    units, n_units, noise = DrawnUnits(draws), draws.n_units, draws.noise
    pairs = LevelPairs(units.eigenvalues / n_units, noise if n_units > 1 else 0.0, n_units, free, readout)
    highest = gd_threshold_of(units.eigenvalues, n_units, free, readout)
    if pairs.noise == 0:
        return highest, 16 * _EPS * highest
    # R(1) depends on 1 / eta as R does on z.
    solution = _solve(
        units,
        lambda inverse, diagonal: pairs.weights(0.0, 1 / inverse, by_growth=False, diagonal=diagonal),
        1 / highest,
        64 * _EPS / highest if len(readout) > 1 else 0.0,  # as `gd_threshold_of` knows it
        len(units.eigenvalues) - 1,
        tolerance,
        max_applications,
    )
    threshold = 1 / solution.root
    if solution.converged:
        return threshold, threshold * (threshold * solution.error + _EPS)
    most = _upper_bound(
        units,
        lambda inverse: pairs.weights(0.0, 1 / inverse, by_growth=False)[0],
        lambda inverse, moments: pairs.forms(0.0, 1 / inverse, moments)[0],
        solution,
        1 / highest,
    )
    least = max(solution.root - solution.error, 1 / highest)
    return threshold, max(threshold - 1 / most, 1 / least - threshold)


@dataclass(frozen=True, eq=False)
class _Solution:
    """Where the largest eigenvalue of R is 1."""

    root: float
    error: float
    residual: float
    converged: bool
    n_applications: int
    n_iterations: int
    vector: FloatArray


def _upper_bound(
    units: DrawnUnits,
    values_at: Callable[[float], FloatArray],
    metric_at: Callable[[float, FloatArray], FloatArray],
    found: _Solution,
    size: float,
) -> float:
    """Return what the root is at most, from an X near one that did not converge; inf if it proves nothing."""
    x = units.positive(found.vector)
    step = _FIRST_TRY * max(abs(found.root), size)
    for _ in range(_MOST_TRIES):
        t, moments = found.root + step, units.moments(x)
        if units.are_positive(x - units.blocks(moments * values_at(t)), 0.0) and _is_definite(metric_at(t, moments)):
            return t
        step *= 4
    return math.inf


def _is_definite(blocks: FloatArray) -> bool:
    """Say whether a form of levels, shape (levels, levels, r, r), is positive definite."""
    size = len(blocks) * blocks.shape[-1]
    form = blocks.transpose(0, 2, 1, 3).reshape(size, size)
    roots = np.sqrt(np.maximum(form.diagonal(), 0.0))
    if not (roots > 0).all():
        return False
    with suppress(np.linalg.LinAlgError):
        np.linalg.cholesky((form + form.T) / 2 / roots / roots[:, None])
        return True
    return False


def _solve(
    units: DrawnUnits,
    weights: Callable[[float, bool], FloatArray],
    lowest: float,
    uncertainty: float,
    corner: int,
    tolerance: float,
    most: int,
) -> _Solution:
    """Find the t at which the largest eigenvalue theta of R, which decreases in t, is 1.

    `lowest` is a bound from below, `uncertainty` its error, `corner` the slowest direction.
    """
    t, low, high, gap = lowest + uncertainty, lowest - uncertainty, math.inf, 0.0
    nudge = max(uncertainty, _EPS * abs(lowest))
    # X_u = pi_u^(1/2) I has Z = I, and its Rayleigh quotient is below theta.
    for _ in range(_MOST_NEWTON_STEPS):
        values, slopes, _ = weights(t, True)
        theta, slope = values.sum() / units.total_weight, slopes.sum() / units.total_weight
        if not (_NEAR < theta < math.inf and -math.inf < slope < 0 and (values > 0).all()):  # or at a pole
            break
        t += float(theta * (1 - theta) / slope)
    x = units.start(corner, everywhere=t > lowest + uncertainty)
    n_applications = n_iterations = 0
    settled = False  # whether the root is known, and the vector at it is looked for
    while True:
        values, slopes, roundings = weights(t, False)
        n_iterations += 1
        if n_iterations < _MOST_NEWTON_STEPS and not (np.isfinite(values).all() and (values.diagonal() > 0).all()):
            low, nudge = t, 2 * nudge  # at a pole or below it
            t = after if (after := min(t + nudge, (low + high) / 2)) > t else high
            continue

        def product(vector: FloatArray, values: FloatArray = values) -> FloatArray:
            return units.product(vector, values)

        with np.errstate(over="ignore", invalid="ignore"):  # near a pole
            image = product(x)
            theta = float(x @ image)
            residual = float(np.linalg.norm(image - x))
        n_applications += 1
        tell_of("second moments", n_iterations, residual, tolerance)
        done = residual <= tolerance or n_applications >= most or n_iterations >= _MOST_NEWTON_STEPS
        goal = 0.2 * tolerance if settled else max(0.2 * tolerance, 0.1 * abs(theta - 1))
        while not done and np.linalg.norm(image - theta * x) > goal and n_applications < most:
            x, image, gap, applied = improved_leading_vector(product, x, image, goal, most - n_applications)
            n_applications += applied
            theta = float(x @ image)
        moments = units.moments(x)
        square = moments * moments
        slope = float(np.vdot(square, slopes))
        if slope < 0:
            after = t + theta * (1 - theta) / slope
        else:  # on the way to a pole just below
            after, nudge = t + nudge, 4 * nudge
        if theta >= 1:
            # Newton's steps do not pass the root from here: a bound that they do was not one of the largest eigenvalue.
            low, high = max(low, t), high if after <= high else math.inf
        else:
            high = min(high, t)
        if not low <= after <= high:
            after = (low + high) / 2
        rounding = float(np.vdot(square, roundings)) / abs(slope) if slope < 0 else 0.0
        resolved = residual > tolerance and abs(after - t) <= max(rounding, _EPS * abs(t)) and (slope < 0 or theta < 1)
        after = t if resolved else after
        if resolved and not settled and np.linalg.norm(image - theta * x) > tolerance:
            settled, high = True, math.inf
            continue
        if done or resolved:
            if n_applications < most and units.hardly_feed(x):
                other, applied = overlooked_vector(
                    product, x, units.start(corner, everywhere=True), most - n_applications
                )
                n_applications += applied
                if other is not None:
                    x, low, high, settled = other, t, math.inf, False
                    continue
            break
        t = after
    distance = float(np.linalg.norm(image - theta * x))
    # Second moments are positive semidefinite: what is not belongs to another eigenvalue.
    converged = (residual <= tolerance or resolved) and units.are_positive(x)
    quadratic = 4 * distance**2 / gap if gap > 0 else math.inf
    error = min(distance, quadratic) if converged else residual
    last_step = 0.0 if resolved else (theta - 1) ** 2  # what one of Newton's leaves
    error = (error + last_step) / -slope + rounding if slope < 0 else 0.0
    if not converged:
        error = max(error, after - low)
    if after - lowest <= 2 * uncertainty:
        error += 2 * uncertainty
    return _Solution(after, error, residual, converged, n_applications, n_iterations, x)
