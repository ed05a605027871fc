"""Critical learning rates of moments: the zero of Lambda(p) as a function of the learning rate.

Lambda(p) / p does not decrease in p and is lambda at p = 0. So with eta(p) the learning rate at which it changes sign,

    2 / max_i K_ii  <=  eta(p)  <=  eta_ms = eta(2)          p > 2,
    eta_ms          <=  eta(p)  <=  eta_as                    0 < p < 2,
    eta_as          <=  eta(p)                                p < 0, where moments that grow mean vectors that shrink,

for plain SGD; eta_ms is the bound that systems of independent batches have as well. What is missing is found by going
away from there, or from where independent batches would have it, until Lambda(p) surely has the other sign.

Where Lambda(p) is computed at every learning rate, that is all. Where it is simulated, secants close in on the zero
until noise hides the sign. Then three learning rates at a time, with the same streams, have the zero between them: it
is that of a parabola, and its error that of Lambda over the slope, with what the parabola moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.exact.zeros import AGREEING, FARTHEST, bounds_of_zero, mean_square_zero
from sgdstab_fast.learning_rates.panels import family_of
from sgdstab_fast.learning_rates.results import CriticalLearningRate, known_rate, warn_if_short
from sgdstab_fast.moments.moments import moment_family
from sgdstab_fast.moments.results import OrderMoment
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.progress import Progress, after, reporter
from sgdstab_fast.systems.sgd import LinearizedSGD

_COARSE_SHARE = 1 / 32  # of the budget, for a step of the search
_COARSE_TOLERANCE = 0.05  # relative to Lambda
_MOST_SECANTS, _MOST_TRIPLES = 20, 6
_LEAST_STEPS = 64  # of a population, for an evaluation
_SURE = 3.0  # standard errors
_APART = 4.0  # distance of learning rates, in errors of the zero
_WIDEST, _NARROWEST = 0.02, 1e-4  # the same, relative
_SPARE = 1.5  # by which Lambda is better known than the tolerance asks for
_FACTOR, _FINE_FACTOR = 1.5, 1.1  # between learning rates on the way to the other sign: simulated, computed


@dataclass
class _Function:
    """Lambda(p) / p of one K at any learning rate, and what it has cost."""

    system: LinearizedSGD
    order: float
    options: Options
    report: Callable[[Progress], object]
    least_steps: int
    """For an evaluation."""
    n_steps: int = 0
    simulated: bool = False

    def __call__(self, learning_rate: float, max_steps: int, tolerance: float = 0.0) -> OrderMoment:
        """Return Lambda(p) / p, simulated until its error is below tolerance."""
        its = self.options.within(
            max(max_steps, self.least_steps),
            rtol=0.0 if tolerance > 0 else _COARSE_TOLERANCE,
            atol=tolerance * abs(self.order),
        )
        its = replace(its, progress=after(self.report, self.n_steps, self.options.budget.max_steps))
        found = moment_family(self.system.with_learning_rate(learning_rate)).at(self.order, its, None)
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
        return self.options.budget.max_steps - self.n_steps


def critical_moment(system: LinearizedSGD, order: float, options: Options) -> CriticalLearningRate:
    """Return the learning rate at which Lambda(p) changes sign; p is not 0."""
    if options.budget.max_steps < _LEAST_STEPS * options.n_chains:
        raise ValueError(
            f"max_steps must be at least {_LEAST_STEPS} n_chains ({_LEAST_STEPS * options.n_chains}), not "
            f"{options.budget.max_steps!r}"
        )
    with reporter(options.progress, options.budget.max_steps, "critical learning rate") as report:
        least_steps = (
            max(_LEAST_STEPS, moment_family(system).least_steps_per_chain(options.n_chains)) * options.n_chains
        )
        function = _Function(system, order, options, report, least_steps)
        bounds = _bounds if system.is_plain else _searched_bounds
        low, high = bounds(system, order, function)
        if high <= low * (1 + AGREEING):
            return _result(function, high, 0.0, (low, high), met=True)
        value, slope, bracket = _secants(function, low, high)
        if not function.simulated:
            return _result(function, value, 0.0, bracket, met=True)
        return _triples(function, value, slope, (low, high))


def _bounds(system: LinearizedSGD, order: float, function: _Function) -> tuple[float, float]:
    blocks = system.parts()
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
        before, share = low, function.options.budget.part(_COARSE_SHARE)
        while not ((found := function(high, share)).exponent > _SURE * found.error):
            before, high = high, 2 * high
            if high > FARTHEST * low or (function.simulated and function.left < share):
                raise ValueError(
                    f"Lambda({order:g}) does not change sign up to a learning rate of {high:g}: none is critical"
                )
        low = max(low, before)
    return low, high


def _searched_bounds(system: LinearizedSGD, order: float, function: _Function) -> tuple[float, float]:
    """Return learning rates between which Lambda(p) changes sign, of a system that is not plain."""
    if order == 2 or system.is_deterministic:
        known = mean_square_zero(system)
        if known is not None:
            return known[0], known[0]
    independent = system
    if not system.is_independent:
        independent = system.with_batches(sampling="iid")
    start = mean_square_zero(independent)
    assert start is not None  # of independent batches
    share = function.options.budget.part(_COARSE_SHARE)
    rate, sure = start[0], system.is_independent and order != 2
    sign = (-1 if order < 2 else 1) if sure else _sign(function(rate, share))
    before = rate
    while True:
        factor = _FACTOR if function.simulated else _FINE_FACTOR
        after_ = before / factor if sign > 0 else before * factor
        found = _sign(function(after_, share))
        if found == (-1 if sign > 0 else 1):
            return (after_, rate) if sign > 0 else (rate, after_)
        rate = after_ if found == sign else rate
        before = after_
        spent = function.simulated and function.left < share
        if spent or max(before / start[0], start[0] / before) > FARTHEST:
            low, high = sorted((start[0], before))
            raise ValueError(
                f"Lambda({order:g}) does not surely change sign between learning rates of {low:g} and {high:g}"
                + (": raise max_steps" if spent else ": none is critical")
            )


def _sign(found: OrderMoment) -> int:
    """Return the sign of Lambda(p) / p, 0 if it is not sure."""
    if not abs(found.exponent) > _SURE * found.error:
        return 0
    return 1 if found.exponent > 0 else -1


def _secants(function: _Function, low: float, high: float) -> tuple[float, float, tuple[float, float]]:
    """Return zero, slope and bracket, as closely as single evaluations tell: the Illinois method on a bracket."""
    share = function.options.budget.part(_COARSE_SHARE)
    at_low, at_high = function(low, share), function(high, share)
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
        if not low < value < high or high - low < AGREEING * high:
            break
        found = function(value, share)
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


def _triples(function: _Function, value: float, slope: float, bounds: tuple[float, float]) -> CriticalLearningRate:
    """Estimate the zero from three learning rates at a time that close in on it."""
    budget = function.options.budget
    error, met, degrees_of_freedom = math.inf, False, 1
    width = _WIDEST * value
    for triple in range(_MOST_TRIPLES):
        tolerance = max(budget.rtol * value, budget.atol)
        last = triple == _MOST_TRIPLES - 1
        steps = function.left // 3 if last else budget.part(1 / 12, function.left)
        if steps < function.least_steps:
            break
        middle = min(max(value, bounds[0]), bounds[1])
        rates = np.array([max(middle - width, middle / 2), middle, middle + width])
        goal = max(tolerance / _SPARE, 0 if last else width / (4 * _APART))
        found = [function(rate, steps, goal * slope if slope > 0 else 0.0) for rate in rates.tolist()]
        heights = np.array([each.exponent for each in found])
        if not (np.isfinite(heights).all() and heights[2] > heights[0]):
            width = min(2 * width, value / 2)
            continue
        zero, slope, bend = _zero(rates, heights)
        sampled = max(each.error for each in found) / slope
        value, error = zero, math.hypot(sampled, bend)
        degrees_of_freedom = min(each.degrees_of_freedom for each in found)
        inside = rates[0] - 2 * sampled <= zero <= rates[2] + 2 * sampled
        met = inside and error <= tolerance and bounds[0] - 2 * error <= zero <= bounds[1] + 2 * error
        if met:
            break
        if inside:
            width = max(min(width / 2, _APART * error), _NARROWEST * value)
        else:
            error = math.inf
            value = min(max(value, rates[0] - 4 * width), rates[2] + 4 * width)
    result = _result(function, min(max(value, bounds[0]), bounds[1]), error, bounds, met=met)
    warn_if_short(result, budget)
    return replace(result, derivative=function.order * slope, degrees_of_freedom=degrees_of_freedom)


def _zero(rates: FloatArray, heights: FloatArray) -> tuple[float, float, float]:
    """Return the zero of a parabola through three points, its slope there, and how far lines have it."""
    left = heights[1] > 0
    low, high = (0, 1) if left else (1, 2)
    straight = float(heights[high] - heights[low]) / float(rates[high] - rates[low])
    if not straight > 0:
        low, high = 0, 2
        straight = float(heights[2] - heights[0]) / float(rates[2] - rates[0])
    on_line = float(rates[low]) - float(heights[low]) / straight
    first = float(heights[1] - heights[0]) / float(rates[1] - rates[0])
    second = (float(heights[2] - heights[1]) / float(rates[2] - rates[1]) - first) / float(rates[2] - rates[0])
    zero = on_line
    for _ in range(50):  # Newton's iteration on Newton's form
        x0, x1 = zero - float(rates[0]), zero - float(rates[1])
        slope = first + second * (x0 + x1)
        if not slope > 0.1 * straight:
            return on_line, straight, abs(float(rates[high] - rates[low]))
        zero -= (float(heights[0]) + x0 * (first + second * x1)) / slope
    return zero, slope, abs(zero - on_line)


def _result(
    function: _Function, value: float, error: float, bounds: tuple[float, float], *, met: bool
) -> CriticalLearningRate:
    options = function.options
    made_of = provenance(options.seed, "moments", function.system.fingerprint)
    stopped_by = "closed form"
    if function.simulated:
        stopped_by = "max_steps" if not met else "rtol" if options.budget.rtol * value >= error else "atol"
    return replace(
        known_rate(value, function.order, f"zero of Lambda({function.order:g})", made_of, error=error, bounds=bounds),
        n_steps=function.n_steps,
        n_chains=options.n_chains if function.simulated else 0,
        converged=met,
        stopped_by=stopped_by,
    )
