"""Facts about moments that a simulated one is held against: orders that are computed, the exponent, convexity.

Lambda is convex, Lambda(0) = 0, and Lambda'(0) = lambda, so that

    Lambda(p) >= p lambda,

and chords of orders that are computed bound it on both sides (`curves.convexity`). Populations that have never been
where a moment comes from agree with each other on something else, which these bounds may rule out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.convexity import convex_bounds
from sgdstab_fast.moments.results import OrderMoment
from sgdstab_fast.operators.tensors import LARGEST_ORDER, tensor_dimension
from sgdstab_fast.results.result import EXACT

SURE = 4.0  # standard errors
CONTRADICTED = "populations missed what carries it: it is between bounds from other orders, single steps and convexity"
LARGEST_BESIDE = 20_000  # that is worth computing for a bound: a tenth of a second
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Facts:
    """Orders, ascending, and what Lambda lies between there; the same of its slope at 0."""

    orders: FloatArray
    lows: FloatArray
    highs: FloatArray
    slope: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def of(cls, orders: FloatArray, values: FloatArray, errors: FloatArray) -> Facts:
        """Return those of values with errors."""
        return cls(orders, values - errors, values + errors)

    def bounds(self, order: float) -> tuple[float, float]:
        """Return what Lambda lies between at an order other than 0, from those at other orders."""
        others = self.orders != order
        low, high = convex_bounds(order, self.orders[others], self.lows[others], self.highs[others])
        steepest = order * self.slope[0 if order > 0 else 1]
        return max(low, steepest) if math.isfinite(steepest) else low, high


def _orders_beside(order: float, dimension: int, largest: int) -> list[float]:
    """Return 0 and a few even orders on either side, of at most so many tensors."""
    middle = 2 * math.floor(max(order, 0) / 2)
    even = [p for p in range(middle - 2, middle + 5, 2) if 2 <= p <= (LARGEST_ORDER if order > 0 else 2)]
    return [0.0, *(float(p) for p in even if p == 2 or tensor_dimension(dimension, p) <= largest)]


def facts_beside(order: float, dimension: int, largest: int, exact: Callable[[float], OrderMoment | None]) -> Facts:
    """Return the facts about orders beside one that `exact` computes, of at most so many tensors."""
    known = [(p, exact(p)) for p in _orders_beside(order, dimension, largest) if p != order]
    points = [(p, each.exponent, each.error) for p, each in known if each is not None and math.isfinite(each.exponent)]
    return Facts.of(*(np.array(column) for column in zip(*points, strict=True)))


def held_against(
    found: OrderMoment, order: float, facts: Facts, others: tuple[float, float] = (-math.inf, math.inf)
) -> OrderMoment:
    """Return a moment within bounds: as it is, or, where they contradict it, as they are, with a reason.

    `others` are what else Lambda(p) is known to lie between.
    """
    value, error = found.exponent, found.standard_error
    if found.n_steps == 0 or not math.isfinite(value) or math.isnan(error):
        return found
    low, high = facts.bounds(order)
    low, high = max(low, others[0]), min(high, others[1])
    slack = _ROUNDING * abs(value)
    low, high = low - slack, high + slack
    if low - SURE * error <= value <= high + SURE * error:
        if low <= value <= high or low > high:
            return found
        return replace(found, exponent=min(max(value, low), high), standard_error=min(error, max(high - low, slack)))
    if math.isfinite(low) and math.isfinite(high):
        # Facts that contradict each other, low > high, leave as much open.
        middle, half = (low + high) / 2, max(abs(high - low) / 2, slack)
    else:
        middle = low if value < low else high
        half = abs(middle - value)
    return replace(
        found,
        exponent=middle,
        standard_error=half,
        degrees_of_freedom=EXACT,
        reason=CONTRADICTED,
        within_tolerance=False,
        mixed=False,
        stopped_by="max_steps",
    )


def held_against_each_other(orders: list[float], found: list[OrderMoment]) -> list[OrderMoment]:
    """Return moments with errors that reach as far as it takes for a convex curve to pass by all of them."""
    p = np.array([*orders, 0.0])
    values = np.array([*(each.exponent for each in found), 0.0])
    errors = SURE * np.array([*(each.error for each in found), 0.0])
    kept = np.isfinite(values) & np.isfinite(errors)
    _, first = np.unique(np.where(kept, p, np.nan), return_index=True)
    chosen = first[kept[first]]
    facts = Facts.of(p[chosen], values[chosen], errors[chosen])
    result = []
    for order, each in zip(orders, found, strict=True):
        if each.n_steps == 0 or not math.isfinite(each.exponent) or each.reason == CONTRADICTED:
            result.append(each)
            continue
        low, high = facts.bounds(order)
        apart = max(low - each.exponent, each.exponent - high)
        if apart <= SURE * each.error:
            result.append(each)
            continue
        result.append(
            replace(
                each,
                standard_error=max(apart, each.standard_error),
                reason=CONTRADICTED,
                within_tolerance=False,
                mixed=False,
                stopped_by="max_steps",
            )
        )
    return result
