"""Moment exponents with kinks: the largest of convex curves, each of a kind of directions that others hardly feed.

Lambda(p) of blocks of K is, for p > 0, the largest of the blocks' Lambda_b(p), each analytic with Lambda_b(0) = 0, and
of nearly decoupled blocks it is nearly that. One smooth curve through both sides of a kink means nothing. So each piece
is a curve of its own (`curves.moments`), and from one piece to the next the slope jumps: there the rate function is a
straight line. Where blocks are not known, a kink is looked for between two orders, where one curve misses the orders by
much more than their errors and two do not.

What is read off is held against the orders themselves: by convexity,

    Lambda(-p)/(-p) <= lambda <= Lambda(p)/p,    Lambda(t) < 0 for all orders below the tail index t, and > 0 above,

and where it contradicts them it is moved, and its error with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.moments import MomentCurve

Points = tuple[FloatArray, FloatArray, FloatArray]
"""Orders, ascending, exponents and standard errors."""
_MISFIT, _BETTER = 10.0, 3.0  # standard errors that one curve may miss orders by; how much better two must be
_FEWEST, _CANDIDATES = 2, 4  # orders of a piece; gaps between orders to try
_SURE = 3.0  # standard errors of orders that bound what is read off
_GRID = 1025  # points at which curves are compared


@dataclass(frozen=True, eq=False)
class Envelope:
    """Lambda(p) between the smallest and the largest order, in pieces."""

    pieces: tuple[MomentCurve, ...]
    """The curve of each piece, the first of which holds 0."""
    kinks: FloatArray
    """Positive orders at which one piece ends and the next begins, ascending, one less than pieces."""
    orders_range: tuple[float, float]
    """Where the curve can be trusted."""
    points: Points
    """What is known of Lambda."""
    rivals: tuple[MomentCurve, ...] = ()
    """Curves that may as well be the one at 0."""

    @classmethod
    def fit(cls, whole: Points, parts: Sequence[Points] = ()) -> Envelope:
        """Fit curves through all that is known: of the whole, and of its parts, whose largest it is for p > 0.

        Raises
        ------
        ValueError
            As `MomentCurve.fit` does.
        """
        single = MomentCurve.fit(*whole)
        known = [part for part in parts if ((part[0] > 0) & np.isfinite(part[1]) & np.isfinite(part[2])).any()]
        if len(known) > 1 and single.orders_range[1] > 0:
            return _of_parts(single.orders_range, whole, known)
        if single.misfit > _MISFIT:
            return _in_two(single, whole)
        return cls((single,), np.empty(0), single.orders_range, whole)

    @property
    def n_orders(self) -> int:
        """Orders with finite exponents, 0 not counted, of the piece that holds 0."""
        return self.pieces[0].n_orders

    @property
    def misfit(self) -> float:
        """The largest abs(Lambda(p_j) - Lambda_j) / s_j of all pieces."""
        return max(piece.misfit for piece in self.pieces)

    @property
    def exponents_range(self) -> tuple[float, float]:
        """Lambda' at both ends of the orders, between which the rate function is known."""
        low, high = self.derivative(np.array(self.orders_range)).tolist()
        return low, max(low, high)

    def value(self, p: ArrayLike) -> FloatArray:
        """Lambda(p)."""
        return self._of_pieces(p, _continued)

    def derivative(self, p: ArrayLike) -> FloatArray:
        """Lambda'(p), from below at a kink."""
        return self._of_pieces(p, lambda piece, q: piece.derivative(_within(piece, q)))

    def second_derivative(self, p: ArrayLike) -> FloatArray:
        """Lambda''(p), from below at a kink."""
        return self._of_pieces(p, lambda piece, q: piece.second_derivative(_within(piece, q)))

    def value_standard_error(self, p: ArrayLike) -> FloatArray:
        """Return the standard error of Lambda(p), which is 0 at p = 0."""
        return self._of_pieces(p, lambda piece, q: piece.value_standard_error(_within(piece, q)))

    @property
    def derivative_at_zero(self) -> float:
        """The Lyapunov exponent lambda = Lambda'(0)."""
        low, high = self._slope_bounds
        return float(np.clip(self.pieces[0].derivative_at_zero, low, max(low, high)))

    @property
    def derivative_at_zero_standard_error(self) -> float:
        """Standard error of lambda."""
        error = self.pieces[0].derivative_at_zero_standard_error
        moved = abs(self.derivative_at_zero - self.pieces[0].derivative_at_zero)
        return max(error, moved, *(rival.derivative_at_zero_standard_error for rival in self.rivals))

    @property
    def clt_variance(self) -> float:
        """The variance sigma^2 = Lambda''(0) of the central limit theorem."""
        return self.pieces[0].clt_variance

    @property
    def clt_variance_standard_error(self) -> float:
        """Standard error of sigma^2."""
        variance = self.clt_variance
        apart = [abs(rival.clt_variance - variance) for rival in self.rivals if rival.n_orders > 1]
        return max(self.pieces[0].clt_variance_standard_error, self._curvature_missed, *apart)

    def maximiser(self, x: ArrayLike) -> FloatArray:
        """Return the order p at which Lambda'(p) = x, a kink where it jumps past; ValueError if x is out of range."""
        x = np.asarray(x, dtype=float)
        if len(self.pieces) == 1:
            return self.pieces[0].maximiser(x)
        edges = [self.orders_range[0], *self.kinks.tolist(), self.orders_range[1]]
        low, high = self.exponents_range
        slack = 1e-12 * max(abs(low), abs(high))
        outside = x[~((x >= low - slack) & (x <= high + slack))]
        if outside.size:
            return self.pieces[0].maximiser(x)  # which says what is wrong
        result = np.full(x.shape, edges[0])
        for piece, start, end in zip(self.pieces, edges[:-1], edges[1:], strict=True):
            first, last = (float(piece.derivative(_within(piece, np.array(p)))) for p in (start, end))
            inside = (x > first) & (x <= last)
            result[inside] = np.clip(piece.maximiser(x[inside]), start, end)
            result[x > last] = end
            result[(x <= first) & (result > start)] = start
        return result

    def rate(self, x: ArrayLike) -> FloatArray:
        """Return I(x) = sup_p (p x - Lambda(p)); ValueError if x is out of `exponents_range`."""
        p = self.maximiser(x)
        return np.asarray(np.maximum(p * np.asarray(x, dtype=float) - self.value(p), 0.0))

    def rate_standard_error(self, x: ArrayLike) -> FloatArray:
        """Return the standard error of I(x): of Lambda at the maximiser, and of the maximiser to second order."""
        if len(self.pieces) == 1:
            return self.pieces[0].rate_standard_error(x)
        p = self.maximiser(x)
        errors = self.value_standard_error(p)
        for kink, piece in zip(self.kinks, self.pieces[1:], strict=True):
            errors = np.where(p == kink, np.maximum(errors, piece.value_standard_error(kink)), errors)
        return errors

    def zero(self) -> float | None:
        """Return the order p > 0 at which Lambda(p) = 0 while lambda < 0; None if it is not among the orders."""
        zero = self._zero()
        if zero is None:
            return None
        low, high = self._zero_bounds
        return float(np.clip(zero, low, max(low, high)))

    def zero_standard_error(self) -> float | None:
        """Return the standard error of the zero: that of Lambda over its slope there."""
        zero, found = self.zero(), self._zero()
        if zero is None or found is None:
            return None
        error, slope = float(self.value_standard_error(found)), float(self.derivative(found))
        return max(error / slope if slope > 0 else math.inf, abs(zero - found))

    def _zero(self) -> float | None:
        from scipy.optimize import brentq  # type: ignore[import-untyped]

        if len(self.pieces) == 1:
            return self.pieces[0].zero()
        if not self.derivative_at_zero < 0:
            return None
        edges = [0.0, *self.kinks.tolist(), max(self.orders_range[1], 0.0)]
        for piece, start, end in zip(self.pieces, edges[:-1], edges[1:], strict=True):
            if end > 0 and _value_of(piece, end) >= 0:
                start = max(start, 1e-9 * end)
                if _value_of(piece, start) >= 0:
                    return float(start)
                return float(brentq(partial(_value_of, piece), start, end))
        return None

    @property
    def _slope_bounds(self) -> tuple[float, float]:
        """What convexity makes of orders on either side of 0 for lambda."""
        p, values, errors = self._sure_points
        below, above = p < 0, p > 0
        low = (values[below] + errors[below]) / p[below]
        high = (values[above] + errors[above]) / p[above]
        return float(low.max(initial=-math.inf)), float(high.min(initial=math.inf))

    @property
    def _zero_bounds(self) -> tuple[float, float]:
        """The largest order at which Lambda is surely negative, and the smallest at which it is surely positive."""
        p, values, errors = self._sure_points
        low = p[(p > 0) & (values + errors < 0)].max(initial=0.0)
        return float(low), float(p[(p > 0) & (values - errors > 0)].min(initial=math.inf))

    @property
    def _curvature_missed(self) -> float:
        """How far the mean of Lambda'' between the orders next to 0 is from what these orders say, beyond errors."""
        p, values, errors = self._sure_points
        below, above = np.flatnonzero(p < 0)[-1:], np.flatnonzero(p > 0)[:1]
        if not (below.size and above.size):
            return 0.0
        both = np.concatenate([below, above])
        q = p[both]
        scale = 2 / float(q[1] - q[0])
        of_orders = scale * float(np.diff(values[both] / q)[0])
        of_curve = scale * float(np.diff(self.value(q) / q)[0])
        return max(abs(of_orders - of_curve) - scale * float((errors[both] / np.abs(q)).sum()), 0.0)

    @property
    def _sure_points(self) -> Points:
        """Orders with finite exponents, and how far these may surely be off."""
        p, values, errors = self.points
        kept = np.isfinite(values) & np.isfinite(errors) & (p != 0)
        slack = 1e-12 * np.abs(values[kept])
        return p[kept], values[kept], _SURE * errors[kept] + slack

    def _of_pieces(self, p: ArrayLike, function: Callable[[MomentCurve, FloatArray], FloatArray]) -> FloatArray:
        p = np.asarray(p, dtype=float)
        if len(self.pieces) == 1:
            return function(self.pieces[0], p)
        result, which = np.empty(p.shape), np.searchsorted(self.kinks, p)
        for number, piece in enumerate(self.pieces):
            its = which == number
            result[its] = function(piece, p[its])
        return result


def _value_of(piece: MomentCurve, p: float) -> float:
    """Lambda(p) of a piece, at one order."""
    return float(_continued(piece, np.array(p)))


def _within(piece: MomentCurve, p: FloatArray) -> FloatArray:
    """Return orders, those beyond the end of a piece's own at that end."""
    return np.where(p > piece.orders_range[1], piece.orders_range[1], p)


def _continued(piece: MomentCurve, p: FloatArray) -> FloatArray:
    """Lambda(p) of a piece, beyond its own orders along the tangent there."""
    inside = _within(piece, p)
    return np.asarray(piece.value(inside) + (p - inside) * piece.derivative(inside))


def _of_parts(orders_range: tuple[float, float], whole: Points, parts: Sequence[Points]) -> Envelope:
    """Return the largest of the curves of parts for p > 0, and the whole's below 0."""
    curves = [MomentCurve.fit(*part) for part in parts]
    slopes = np.array([float(curve.derivative(0.0)) for curve in curves])
    errors = np.array([curve.derivative_at_zero_standard_error if curve.n_orders > 1 else 0.0 for curve in curves])
    first = int(np.lexsort((errors, -slopes))[0])
    rivals = [
        curve
        for number, curve in enumerate(curves)
        if number != first and slopes[number] + _SURE * math.hypot(errors[number], errors[first]) >= slopes[first]
    ]
    negative = whole[0] < 0
    if negative.any():  # the part at 0 carries on below, as long as it is the whole
        its = parts[first]
        kept = its[0] >= 0
        joined = tuple(np.concatenate([a[negative], b[kept]]) for a, b in zip(whole, its, strict=True))
        curves[first] = MomentCurve.fit(*joined)
    grid = np.linspace(0, orders_range[1], _GRID)[1:]
    ratios = np.array([_continued(curve, grid) / grid for curve in curves])
    leaders = ratios.argmax(axis=0)
    leaders[0] = first if ratios[first, 0] >= ratios[leaders[0], 0] - abs(ratios[first, 0]) * 1e-9 else leaders[0]
    changes = np.flatnonzero(np.diff(leaders))
    pieces = [curves[leaders[0]], *(curves[leaders[change + 1]] for change in changes)]
    kinks = [
        _crossing(curves[leaders[change]], curves[leaders[change + 1]], float(grid[change]), float(grid[change + 1]))
        for change in changes
    ]
    return Envelope(tuple(pieces), np.array(kinks), orders_range, whole, tuple(rivals))


def _in_two(single: MomentCurve, whole: Points) -> Envelope:
    """Return two curves with a kink between two orders where they fit much better than one."""
    p, values, errors = (array[np.isfinite(whole[1]) & np.isfinite(whole[2])] for array in whole)
    best = Envelope((single,), np.empty(0), single.orders_range, whole)
    others = p != 0
    slopes = np.diff(values) / np.diff(p)
    bends = np.array([(slopes[k + 1] - slopes[k - 1]) / (p[k + 1] - p[k]) for k in range(1, len(p) - 2)])
    for k in (np.argsort(-bends)[:_CANDIDATES] + 1).tolist():
        left, right = others & (p <= p[k]), others & (p >= p[k + 1])
        if p[k] < 0 or left.sum() < _FEWEST or right.sum() < _FEWEST:
            continue
        curves = [MomentCurve.fit(p[side], values[side], errors[side]) for side in (left, right)]
        misfit = max(curve.misfit for curve in curves)
        if misfit < min(best.misfit, single.misfit / _BETTER):
            kink = _crossing(curves[0], curves[1], float(p[k]), float(p[k + 1]))
            best = Envelope(tuple(curves), np.array([kink]), single.orders_range, whole)
    return best


def _crossing(before: MomentCurve, after: MomentCurve, low: float, high: float) -> float:
    """Return the order between two at which one curve overtakes the other; the middle if none does."""
    from scipy.optimize import brentq

    def lead(p: float) -> float:
        return _value_of(after, p) - _value_of(before, p)

    if not lead(low) < 0 < lead(high):
        return (low + high) / 2
    return float(brentq(lead, low, high))
