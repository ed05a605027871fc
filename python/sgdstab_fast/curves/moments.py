"""A convex curve through moment Lyapunov exponents, and what it says of large deviations.

Lambda(p) = lim (1/n) log E |Phi_n|^p is convex, with Lambda(0) = 0, Lambda'(0) = lambda and Lambda''(0) = sigma^2, the
variance of the central limit theorem. It is known at some orders p_j, up to errors s_j. On [a, b], which spans 0 and
these orders, with midpoint m and half length h,

    Lambda(p) = p c(p),    c(p) = sum_k c_k T_k((p - m) / h),    lambda = c(0),    sigma^2 = 2 c'(0).

The series of an analytic function with logarithmic singularities decays as c_k ~ rho^k / k. So c_0 is free, and the
others are a priori normal with mean 0 and standard deviations A rho^k / k: given A and rho, this is weighted least
squares with a smooth cut in place of a degree,

    minimise  sum_j (Lambda(p_j) - Lambda_j)^2 / s_j^2  +  sum_{k >= 1} (k c_k / (A rho^k))^2.

Data weigh A and rho by their evidence, and c is the mean over both. Its covariance contains what errors of the data
leave open, and what lies between and beyond the orders: terms that no data have seen keep their prior width. Where the
curve is not convex it is moved to the nearest one that is, in the norm of that covariance.

Large deviations: P(lambda_n ~ x) ~ exp(-n I(x)), with I(x) = sup_p (p x - Lambda(p)), at the p at which Lambda'(p) = x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from sgdstab_fast._core.arguments import FloatArray

_FEWEST_TERMS, _SPARE_TERMS, _MOST_TERMS = 25, 10, 48  # spare ones beyond the number of orders
_AMPLITUDES = 10.0 ** np.arange(-16, 1.6, 0.5)  # A, relative to the largest abs(Lambda(p) / p)
_DECAYS = np.linspace(0.25, 0.85, 7)  # rho
_NEGLIGIBLE = 1e-6  # posterior weight
_EPS = float(np.finfo(float).eps)
_EXACT = 1e-14  # relative error of values without one
_SLACK = 1e-12  # relative, at the ends of a range
_MARGIN = 1e-3  # of the farthest constraint, so that nothing dips between them
_DIP = 1e-7  # of Lambda'' below 0, relative to its maximum, that is let be
_CONSTRAINTS, _CHECKS = 500, 4000  # points at which Lambda'' >= 0 is asked for, and ensured
_ADVICE = "give orders on both sides of 0, such as numpy.linspace(-1, 1, 9)"


@dataclass(frozen=True, eq=False)
class MomentCurve:
    """Lambda(p) between the smallest and the largest order, 0 among them."""

    orders_range: tuple[float, float]
    """Where the curve can be trusted."""
    coefficients: FloatArray
    """c_k, shape (n_terms,)."""
    deviations: FloatArray
    """A root of their covariance, shape (n_terms, n_terms): one column per independent standard normal error."""
    n_orders: int
    """Orders with finite exponents, 0 not counted."""
    misfit: float
    """The largest abs(Lambda(p_j) - Lambda_j) / s_j."""

    @classmethod
    def fit(cls, orders: ArrayLike, exponents: ArrayLike, standard_errors: ArrayLike) -> MomentCurve:
        """Fit a curve.

        Parameters
        ----------
        orders : array, shape (n,)
            p_j, ascending. What is given at p = 0 is ignored: Lambda(0) = 0.
        exponents : array, shape (n,)
            Lambda_j. Orders at which it is inf, and those beyond, are left out.
        standard_errors : array, shape (n,)
            s_j of the exponents; 0 if they are exact to rounding.

        Raises
        ------
        ValueError
            If arguments do not make sense, if an exponent is -inf, or if none is finite at an order other than 0.
        """
        p, values, errors = _finite(orders, exponents, standard_errors)
        orders_range = min(float(p[0]), 0.0), max(float(p[-1]), 0.0)
        largest = float(np.abs(values).max()) or 1.0
        errors = np.maximum(errors, np.maximum(_EXACT * np.abs(values), _EPS * largest))
        coefficients, deviations = _posterior(p, values, errors, orders_range)
        residuals = (_derivative(coefficients, p, 0, orders_range) - values) / errors
        # Errors that are too small to be true, or a series that is too short, show in the residuals.
        deviations = deviations * max(1.0, float(np.sqrt(np.mean(residuals**2))))
        coefficients = _convex(coefficients, deviations, orders_range)
        residuals = (_derivative(coefficients, p, 0, orders_range) - values) / errors
        return cls(orders_range, coefficients, deviations, p.size, float(np.abs(residuals).max()))

    @property
    def exponents_range(self) -> tuple[float, float]:
        """Lambda' at both ends of the orders, between which the rate function is known."""
        low, high = self.derivative(np.array(self.orders_range)).tolist()
        return low, max(low, high)

    def value(self, p: ArrayLike) -> FloatArray:
        """Lambda(p)."""
        return _derivative(self.coefficients, self._inside(p), 0, self.orders_range)

    def derivative(self, p: ArrayLike) -> FloatArray:
        """Lambda'(p)."""
        return _derivative(self.coefficients, self._inside(p), 1, self.orders_range)

    def second_derivative(self, p: ArrayLike) -> FloatArray:
        """Lambda''(p)."""
        return _derivative(self.coefficients, self._inside(p), 2, self.orders_range)

    def value_standard_error(self, p: ArrayLike) -> FloatArray:
        """Return the standard error of Lambda(p), which is 0 at p = 0."""
        return self._standard_error(p, 0)

    @property
    def derivative_at_zero(self) -> float:
        """The Lyapunov exponent lambda = Lambda'(0)."""
        self._require_curvature("lambda")
        return float(self.derivative(0.0))

    @property
    def derivative_at_zero_standard_error(self) -> float:
        """Standard error of lambda."""
        self._require_curvature("lambda")
        return float(self._standard_error(0.0, 1))

    @property
    def clt_variance(self) -> float:
        """The variance sigma^2 = Lambda''(0) of the central limit theorem."""
        self._require_curvature("sigma^2")
        return float(self.second_derivative(0.0))

    @property
    def clt_variance_standard_error(self) -> float:
        """Standard error of sigma^2."""
        self._require_curvature("sigma^2")
        return float(self._standard_error(0.0, 2))

    def maximiser(self, x: ArrayLike) -> FloatArray:
        """Return the order p at which Lambda'(p) = x; ValueError if x is out of `exponents_range`."""
        (low, high), x = self.exponents_range, np.asarray(x, dtype=float)
        slack = _SLACK * max(abs(low), abs(high))
        outside = x[~((x >= low - slack) & (x <= high + slack))]
        if outside.size:
            raise ValueError(
                f"x = {float(outside[0])!r} is not between {low!r} and {high!r}, the slopes of Lambda at the outermost "
                "orders: give orders further out"
            )
        m, h = (self.orders_range[1] + self.orders_range[0]) / 2, (self.orders_range[1] - self.orders_range[0]) / 2
        slopes = chebyshev.chebder(self.coefficients, scl=1 / h)
        slopes = chebyshev.chebadd(self.coefficients, chebyshev.chebmul([m, h], slopes))  # of c + p c'
        before, after, parts = np.full((*x.shape, 1), -1.0), np.full((*x.shape, 1), 1.0), np.linspace(0, 1, 33)
        for _ in range(11):  # Lambda' does not decrease
            points = before + (after - before) * parts
            below = (chebyshev.chebval(points[..., 1:-1], slopes) < x[..., None]).sum(axis=-1, keepdims=True)
            before, after = (np.take_along_axis(points, below + k, axis=-1) for k in (0, 1))
        after = after[..., 0]
        return np.asarray(np.clip(m + h * after, *self.orders_range))

    def rate(self, x: ArrayLike) -> FloatArray:
        """Return I(x) = sup_p (p x - Lambda(p)); ValueError if x is out of `exponents_range`."""
        p = self.maximiser(x)
        return np.asarray(np.maximum(p * np.asarray(x, dtype=float) - self.value(p), 0.0))

    def rate_standard_error(self, x: ArrayLike) -> FloatArray:
        """Return the standard error of I(x): of Lambda at the maximiser, and of the maximiser to second order."""
        p = self.maximiser(x)
        slope_error, width = self._standard_error(p, 1), self.orders_range[1] - self.orders_range[0]
        with np.errstate(divide="ignore"):
            shift = np.minimum(np.divide(slope_error, 2 * np.maximum(self.second_derivative(p), 0)), width)
        return np.asarray(np.hypot(self.value_standard_error(p), slope_error * shift))

    def zero(self) -> float | None:
        """Return the order p > 0 at which Lambda(p) = 0 while lambda < 0; None if it is not among the orders."""
        from scipy.optimize import brentq  # type: ignore[import-untyped]

        high = self.orders_range[1]

        def ratio(p: float) -> float:
            """Lambda(p) / p, which does not decrease."""
            return float(chebyshev.chebval(_unit(p, self.orders_range), self.coefficients))

        if not (high > 0 and ratio(0.0) < 0 <= ratio(high)):
            return None
        return float(brentq(ratio, 0.0, high, xtol=4 * _EPS * high, rtol=4 * _EPS))

    def zero_standard_error(self) -> float | None:
        """Return the standard error of the zero: that of Lambda over its slope there."""
        zero = self.zero()
        if zero is None:
            return None
        error, slope = float(self.value_standard_error(zero)), float(self.derivative(zero))
        return error / slope if slope > 0 else math.inf

    def _standard_error(self, p: ArrayLike, order: int) -> FloatArray:
        """Return the standard error of a derivative of Lambda."""
        return np.asarray(
            np.linalg.norm(_derivative(self.deviations, self._inside(p), order, self.orders_range), axis=0)
        )

    def _inside(self, p: ArrayLike) -> FloatArray:
        """Return orders, none of which is out of the range of the curve."""
        (low, high), p = self.orders_range, np.asarray(p, dtype=float)
        slack = _SLACK * (high - low)
        outside = p[~((p >= low - slack) & (p <= high + slack))]
        if outside.size:
            raise ValueError(f"order {float(outside[0])!r} is not between {low!r} and {high!r}, the range of the curve")
        return np.asarray(p)

    def _require_curvature(self, name: str) -> None:
        """One order beside 0 gives a straight line."""
        if self.n_orders < 2:
            raise ValueError(f"{name} needs finite exponents at two orders or more beside 0: {_ADVICE}")


def _finite(
    orders: ArrayLike, exponents: ArrayLike, standard_errors: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return orders other than 0 at which moments are finite, their exponents and errors."""
    p, values, errors = (np.asarray(x, dtype=float) for x in (orders, exponents, standard_errors))
    if p.ndim != 1 or values.shape != p.shape or errors.shape != p.shape:
        raise ValueError(
            f"orders, exponents and standard errors have shapes {p.shape}, {values.shape} and {errors.shape}: "
            "give one-dimensional arrays of one length"
        )
    if not (np.isfinite(p).all() and (np.diff(p) > 0).all()):
        raise ValueError("orders must be finite, ascending and distinct")
    beside = p != 0
    p, values, errors = p[beside], values[beside], errors[beside]
    if np.isnan(values).any() or not (errors[np.isfinite(values)] >= 0).all():
        raise ValueError("exponents and standard errors must not be NaN, and standard errors not negative")
    if (values == -np.inf).any():
        raise ValueError(f"the exponent of order {float(p[values == -np.inf][0])!r} is -inf: nothing survives")
    infinite = p[values == np.inf]
    kept = (p > infinite[infinite < 0].max(initial=-np.inf)) & (p < infinite[infinite > 0].min(initial=np.inf))
    kept &= np.isfinite(errors)
    if not kept.any():
        raise ValueError(f"no exponent of an order other than 0 is known and finite: {_ADVICE}")
    return p[kept], values[kept], errors[kept]


def _unit(p: ArrayLike, orders_range: tuple[float, float]) -> FloatArray:
    """(p - m) / h."""
    low, high = orders_range
    return np.asarray((np.asarray(p) - (low + high) / 2) / ((high - low) / 2))


def _derivative(coefficients: FloatArray, p: FloatArray, order: int, orders_range: tuple[float, float]) -> FloatArray:
    """Return the derivative k c^(k-1)(p) + p c^(k)(p) of p c(p), one for each column of coefficients."""
    u, scale = _unit(p, orders_range), 2 / (orders_range[1] - orders_range[0])
    result = p * chebyshev.chebval(u, chebyshev.chebder(coefficients, order, scl=scale))
    if order > 0:
        result = order * chebyshev.chebval(u, chebyshev.chebder(coefficients, order - 1, scl=scale)) + result
    return np.asarray(result)


def _posterior(
    p: FloatArray, values: FloatArray, errors: FloatArray, orders_range: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Return mean and root of the covariance of c_k."""
    # In units of prior standard deviations: [V D / s; I] z = [Lambda_j / s_j; 0]. Rows of small errors come first, for
    # their weights differ by many orders of magnitude.
    rows, n_terms = np.argsort(errors), max(_FEWEST_TERMS, min(p.size + _SPARE_TERMS, _MOST_TERMS))
    k = np.arange(n_terms)
    p, values, errors = p[rows], values[rows], errors[rows]
    scale = float(np.abs(values / p).max()) or 1.0
    amplitude, decay = (grid.ravel() for grid in np.meshgrid(_AMPLITUDES, _DECAYS))
    widths = scale * amplitude[:, None] * decay[:, None] ** k / np.maximum(k, 1)
    widths[:, 0] = scale
    system = np.zeros((amplitude.size, p.size + n_terms - 1, n_terms + 1))
    design = p[:, None] * chebyshev.chebvander(_unit(p, orders_range), n_terms - 1) / errors[:, None]
    system[:, : p.size, :-1] = design * widths[:, None, :]
    system[:, : p.size, -1] = values / errors
    system[:, p.size :, 1:-1] = np.eye(n_terms - 1)
    reduced = np.asarray(np.linalg.qr(system, mode="r"))
    triangles, sides = reduced[:, :n_terms, :-1], reduced[:, :n_terms, -1]
    rest = (reduced[:, n_terms:, -1] ** 2).sum(axis=1)
    # A has the density 1 / (1 + A^2) on a logarithmic grid, so times A, and rho that of a uniform variable.
    evidence = -rest / 2 - np.log(np.abs(np.diagonal(triangles, axis1=1, axis2=2))).sum(axis=1)
    evidence += np.log(amplitude / (1 + amplitude**2))
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    kept = weights > _NEGLIGIBLE
    weights = weights[kept] / weights[kept].sum()
    roots = np.linalg.solve(triangles[kept], np.eye(n_terms)) * widths[kept][:, :, None]
    each = np.einsum("ikl,il->ik", roots, sides[kept])
    mean = weights @ each
    within = np.swapaxes(roots, 1, 2).reshape(-1, n_terms) * np.repeat(np.sqrt(weights), n_terms)[:, None]
    between = (each - mean) * np.sqrt(weights)[:, None]
    return np.asarray(mean), np.asarray(np.transpose(np.linalg.qr(np.concatenate([within, between]), mode="r")))


def _convex(coefficients: FloatArray, deviations: FloatArray, orders_range: tuple[float, float]) -> FloatArray:
    """Return the nearest coefficients, in standard errors, with Lambda'' >= 0."""
    from scipy.optimize import nnls

    def second_derivatives(terms: FloatArray, n_points: int) -> FloatArray:
        """Lambda'', at points that are denser towards the ends."""
        points = low + (high - low) * (1 + np.cos(np.linspace(np.pi, 0, n_points))) / 2
        return _derivative(terms, np.clip(points, low, high), 2, orders_range).T

    low, high = orders_range
    if second_derivatives(coefficients, _CHECKS).min() >= 0:
        return coefficients
    # Least distance: minimise |z| where B z >= g, by non-negative least squares of [B^T; g^T] y = (0, 1).
    constraints = second_derivatives(np.eye(coefficients.size), _CONSTRAINTS)
    rows = constraints @ deviations
    sizes = np.linalg.norm(rows, axis=1)
    bounds = -(constraints @ coefficients) / sizes
    unit = float(bounds.max())
    bounds += _MARGIN * max(unit, 0.0)
    if unit > 0:
        system = np.vstack([(rows / sizes[:, None]).T, bounds / unit])
        goal = np.append(np.zeros(coefficients.size), 1.0)
        rest = system @ nnls(system, goal, maxiter=30 * _CONSTRAINTS)[0] - goal
        if -rest[-1] > np.finfo(float).eps:  # else no curve within 10^8 standard errors is convex
            coefficients = coefficients - unit * deviations @ (rest[:-1] / rest[-1])
    # Between the points, and for rounding: e p^2 adds 2 e to Lambda''.
    checked = second_derivatives(coefficients, _CHECKS)
    lift = max(0.0, -float(checked.min())) / 2
    if lift <= _DIP * float(np.abs(checked).max()):
        return coefficients
    lifted = coefficients.copy()
    lifted[:2] += lift * (low + high) / 2, lift * (high - low) / 2
    return lifted
