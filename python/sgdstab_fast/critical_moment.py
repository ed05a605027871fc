"""Critical learning rates of moments: the zero of Lambda(p) as a function of the learning rate.

Lambda(p) / p does not decrease in p and is lambda at p = 0. So with eta(p) the learning rate at which it changes sign,

    2 / max_i K_ii  <=  eta(p)  <=  eta_ms = eta(2)          p > 2,
    eta_ms          <=  eta(p)  <=  eta_as                    0 < p < 2,
    eta_as          <=  eta(p)                                p < 0, where moments that grow mean vectors that shrink.

Where Lambda(p) is computed at every learning rate, that is all. Where it is simulated, secants close in on the zero
until noise hides the sign, and a last pair of learning rates around it, with the same streams, has the zero between
them: its error is that of Lambda over the slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from sgdstab_fast.blocks import blocks_of
from sgdstab_fast.bounds import bounds_of_zero
from sgdstab_fast.moments import MomentFamily, OrderMoment
from sgdstab_fast.one_block import How
from sgdstab_fast.panels import family_of
from sgdstab_fast.results import CriticalLearningRate, provenance, warn
from sgdstab_fast.rounds import Progress, after, reporter
from sgdstab_fast.systems import LinearizedSGD

_EXACT = 1e-12  # relative, of bounds that agree and of zeros of what is computed
_COARSE_SHARE = 1 / 32  # of the budget, for a step of the search
_COARSE_TOLERANCE = 0.05  # relative to Lambda
_MOST_SECANTS, _MOST_PAIRS = 20, 3
_LEAST_STEPS = 64  # of a population, for an evaluation
_SURE = 3.0  # standard errors
_APART = 4.0  # half the distance of a pair, in errors of the zero
_NARROWEST = 1e-4  # relative, of a pair
_FARTHEST = 2.0**20  # times the lower bound


@dataclass
class _Function:
    """Lambda(p) / p of one K at any learning rate, and what it has cost."""

    system: LinearizedSGD
    order: float
    how: How
    report: Callable[[Progress], object]
    n_steps: int = 0
    simulated: bool = False

    def __call__(self, learning_rate: float, tolerance: float = 0.0, max_steps: int | None = None) -> OrderMoment:
        """Return Lambda(p) / p, simulated until its error is below tolerance."""
        share = self.how.budget.max_steps if max_steps is None else max_steps
        budget = replace(
            self.how.budget,
            rtol=0.0 if tolerance > 0 else _COARSE_TOLERANCE,
            atol=tolerance * abs(self.order),
            max_steps=max(share, _LEAST_STEPS * self.how.n_chains),
        )
        progress = after(self.report, self.n_steps, self.how.budget.max_steps)
        its = replace(self.how, budget=budget, progress=progress)
        found = MomentFamily(self.system.with_learning_rate(learning_rate)).at(self.order, its, None)
        self.n_steps += found.n_steps
        self.simulated = self.simulated or found.n_steps > 0
        return replace(
            found,
            exponent=found.exponent / self.order,
            standard_error=found.standard_error / abs(self.order),
            numerical_error=found.numerical_error / abs(self.order),
        )

    @property
    def left(self) -> int:
        """Steps of the budget that are left."""
        return self.how.budget.max_steps - self.n_steps


def critical_moment(system: LinearizedSGD, order: float, how: How) -> CriticalLearningRate:
    """Return the learning rate at which Lambda(p) changes sign; p is not 0."""
    if how.budget.max_steps < _LEAST_STEPS * how.n_chains:
        raise ValueError(
            f"max_steps must be at least {_LEAST_STEPS} n_chains ({_LEAST_STEPS * how.n_chains}), not "
            f"{how.budget.max_steps!r}"
        )
    with reporter(how.progress, how.budget.max_steps, "critical learning rate") as report:
        function = _Function(system, order, how, report)
        low, high = _bounds(system, order, function)
        if high <= low * (1 + _EXACT):
            return _result(function, high, 0.0, (low, high), met=True)
        value, slope, bracket = _secants(function, low, high)
        if not function.simulated:
            return _result(function, value, 0.0, bracket, met=True)
        return _pairs(function, value, slope, (low, high))


def _bounds(system: LinearizedSGD, order: float, function: _Function) -> tuple[float, float]:
    blocks = blocks_of(system)
    families = [family_of(block.system) for block in blocks]
    high = min(bounds_of_zero(block.system, family)[1] for block, family in zip(blocks, families, strict=True))
    least = 2 / float(system.diagonal.max())
    thresholds = [family.threshold()[0] for family in families if family is not None]
    mean_square = max(least, min(thresholds)) if len(thresholds) == len(blocks) else None
    if (system.diagonal[system.diagonal > 0] == system.diagonal.max()).all() and order < 0:
        return least, least  # reflections
    if order > 2:
        return least, max(least, high if mean_square is None else mean_square)
    low = least if mean_square is None else mean_square
    if order < 0:
        before, low = low, low
        while not function(high, max_steps=int(_COARSE_SHARE * function.how.budget.max_steps)).exponent > 0:
            before, high = high, 1.25 * high
            if high > _FARTHEST * low:
                raise ValueError(
                    f"Lambda({order:g}) does not change sign up to a learning rate of {high:g}: none is critical"
                )
        low = max(low, before)
    return low, high


def _secants(function: _Function, low: float, high: float) -> tuple[float, float, tuple[float, float]]:
    """Return zero, slope and bracket, as closely as single evaluations tell: the Illinois method on a bracket."""
    share = int(_COARSE_SHARE * function.how.budget.max_steps)
    at_low, at_high = function(low, max_steps=share), function(high, max_steps=share)
    f_low, f_high = min(at_low.exponent, 0.0), max(at_high.exponent, 0.0)
    value, last = high if f_high == 0 else low, 0
    slope = (f_high - f_low) / (high - low)
    for _ in range(200 if not function.simulated else _MOST_SECANTS):
        if f_high == 0 or f_low == 0:
            value = high if f_high == 0 else low
            break
        if not (f_low < 0 < f_high and math.isfinite(f_low) and math.isfinite(f_high)):
            value = (low + high) / 2
        else:
            value = (low * f_high - high * f_low) / (f_high - f_low)
        if not low < value < high or high - low < _EXACT * high:
            break
        found = function(value, max_steps=share)
        slope = (found.exponent - f_low) / (value - low) if f_low < 0 else slope
        if abs(found.exponent) <= _SURE * found.error:
            break
        if found.exponent > 0:
            high, f_high = value, found.exponent
            f_low, last = (f_low / 2 if last > 0 else f_low), 1
        else:
            low, f_low = value, found.exponent
            f_high, last = (f_high / 2 if last < 0 else f_high), -1
    return value, slope, (low, high)


def _pairs(function: _Function, value: float, slope: float, bounds: tuple[float, float]) -> CriticalLearningRate:
    """Estimate the zero from pairs of learning rates that close in on it."""
    budget = function.how.budget
    error, met = math.inf, False
    width = _SURE * _COARSE_TOLERANCE * value / 8
    degrees_of_freedom = 1
    for pair in range(_MOST_PAIRS):
        tolerance = max(budget.rtol * value, budget.atol)
        last = pair == _MOST_PAIRS - 1
        goal = tolerance if last or width <= _APART * tolerance else max(tolerance, width / _APART / 4)
        left, right = max(value - width, value / 2), value + width
        steps = int(function.left / (2 if last else 8))
        if steps < _LEAST_STEPS * function.how.n_chains:
            break
        ends = [function(rate, goal * slope / 1.5 if slope > 0 else 0.0, steps) for rate in (left, right)]
        rise = ends[1].exponent - ends[0].exponent
        if not (math.isfinite(rise) and rise > 0):
            width *= 2
            continue
        slope = rise / (right - left)
        value = left - ends[0].exponent / slope
        # The line between them is off by the curvature: about slope / eta.
        error = math.hypot(max(end.error for end in ends) / slope, width**2 / (2 * value))
        degrees_of_freedom = min(end.degrees_of_freedom for end in ends)
        met = error <= tolerance
        if met:
            break
        width = max(_APART * error, _NARROWEST * value, _APART * tolerance)
    result = _result(function, value, error, bounds, met=met)
    if budget.has_tolerance and not met:
        warn(
            f"max_steps={budget.max_steps} ended the search at {value:.6g} +- {error:.1g}, short of "
            f"rtol={budget.rtol:g} and atol={budget.atol:g}"
        )
    return replace(
        result, derivative=function.order * slope, degrees_of_freedom=max(degrees_of_freedom, 1), converged=met
    )


def _result(
    function: _Function, value: float, error: float, bounds: tuple[float, float], *, met: bool
) -> CriticalLearningRate:
    how = function.how
    stopped_by = "closed form"
    if function.simulated:
        stopped_by = "max_steps" if not met else "rtol" if how.budget.rtol * value >= error else "atol"
    return CriticalLearningRate(
        value=value,
        standard_error=error,
        criterion=function.order,
        bounds=bounds,
        derivative=math.nan,
        derivative_standard_error=math.nan,
        reason=f"zero of Lambda({function.order:g})",
        degrees_of_freedom=2**31,
        n_steps=function.n_steps,
        n_chains=how.n_chains if function.simulated else 0,
        converged=met,
        stopped_by=stopped_by,
        provenance=provenance(how.seed, "moments", function.system.fingerprint),
    )
