"""Critical learning rates of moments: the zero of Lambda(p) as a function of the learning rate.

Lambda(p) / p does not decrease in p and is lambda at p = 0. So with eta(p) the learning rate at which it changes sign,

    2 / max_i K_ii  <=  eta(p)  <=  eta_ms = eta(2)          p > 2,
    eta_ms          <=  eta(p)  <=  eta_as                    0 < p < 2,
    eta_as          <=  eta(p)                                p < 0, where moments that grow mean vectors that shrink,

for plain SGD; eta_ms is the bound that systems of independent batches have as well. What is missing is found by going
away from there, or from where independent batches would have it, until Lambda(p) surely has the other sign.

Where Lambda(p) is computed at every learning rate, that is all; else `learning_rates.zeros` closes in on it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sgdstab_fast.curves.zeros import AGREEING, root
from sgdstab_fast.exact.zeros import bounds_of_zero, mean_square_zero
from sgdstab_fast.learning_rates.panels import family_of
from sgdstab_fast.learning_rates.results import CriticalLearningRate, known_rate, rate_between, warn_if_short
from sgdstab_fast.learning_rates.zeros import Reading, Readings, bracket, zero_between
from sgdstab_fast.moments.moments import moment_family
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import reporter
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.systems.sgd import LinearizedSGD

_COARSE_TOLERANCE = 0.05  # relative to Lambda
_LEAST_STEPS = 64  # of a population, for a reading
_OF_HIGHEST = 1 / 32  # of the budget, for that at the highest learning rate
_BESIDE = 1.1  # times what is known to be stable or not, where Lambda(p) is looked at first


def critical_moment(system: LinearizedSGD, order: float, options: Options) -> CriticalLearningRate:
    """Return the learning rate at which Lambda(p) changes sign; p is not 0."""
    budget, least = options.budget, _LEAST_STEPS * options.n_chains
    if budget.max_steps < least:
        raise ValueError(f"max_steps must be at least {_LEAST_STEPS} n_chains ({least}), not {budget.max_steps!r}")
    made_of = provenance(options.seed, "moments", system)
    reason = f"zero of Lambda({order:g})"

    def at(learning_rate: float, its: Options, _: Any) -> Reading:
        its = its.within(atol=abs(order) * its.budget.atol)
        found = moment_family(system.with_learning_rate(learning_rate)).at(order, its, None)
        return Reading(found.exponent / order, found.error / abs(order), found.n_steps, found.degrees_of_freedom)

    with reporter(options.progress, budget.max_steps, "critical learning rate") as report:
        least = max(least, moment_family(system).least_steps_per_chain(options.n_chains) * options.n_chains)
        function = Readings(at, options, report, least, _COARSE_TOLERANCE)
        low, high = _bounds(system, order) if system.is_plain else _bounds_of_any(system, order)
        if math.isfinite(high):
            options.make_known(rate_between((low, high), order, made_of, options.n_chains))
        height = math.nan
        if not (low > 0 and high < math.inf):
            low, high, height = bracket(function, _first(system, order, low, high), low, high)
            if not (low > 0 and high < math.inf):
                if options.is_cut:
                    raise Stopped
                how = "raise max_steps" if function.left < function.least_steps else "none is critical"
                raise ValueError(f"Lambda({order:g}) does not surely change sign between {low:g} and {high:g}: {how}")
        zero = high
        if high > low * (1 + AGREEING):
            if math.isnan(height):
                height = function(high, budget.part(_OF_HIGHEST)).value
            # Noise has no root: once there is some, every learning rate will do.
            zero = root(lambda rate: function(rate).value if function.n_steps == 0 else 0.0, low, high)
        if options.is_cut and function.n_steps == 0:
            raise Stopped
        if function.n_steps == 0:
            return known_rate(zero, order, reason, made_of)
        known = known_rate(zero, order, reason, made_of, bounds=(low, high))
        found = _within_bounds(zero_between(function, known, low, high, height))
    warn_if_short(found, budget)
    slope, error = order * found.derivative, abs(order) * found.derivative_standard_error
    return replace(found, derivative=slope, derivative_standard_error=error)


def _within_bounds(found: CriticalLearningRate) -> CriticalLearningRate:
    """Return a rate within its bounds: of large powers, of which rare products are all, one may be far outside."""
    value = min(max(found.value, found.bounds[0]), found.bounds[1])
    off = abs(value - found.value)
    return found if off == 0 else replace(found, value=value, standard_error=math.hypot(found.standard_error, off))


def _bounds(system: LinearizedSGD, order: float) -> tuple[float, float]:
    """Return learning rates between which Lambda(p) of a plain system changes sign; infinity for negative p."""
    blocks = system.parts()
    families = [family_of(block.system) for block in blocks]
    high = min(bounds_of_zero(block.system, family)[1] for block, family in zip(blocks, families, strict=True))
    least = 2 / float(system.diagonal.max())
    thresholds = [family.threshold()[0] for family in families if family is not None]
    mean_square = max(least, min(thresholds)) if len(thresholds) == len(blocks) else None
    if order > 2:
        return least, max(least, high if mean_square is None else mean_square)
    if order > 0:
        return least if mean_square is None else mean_square, high
    if (system.diagonal[system.diagonal > 0] == system.diagonal.max()).all():
        return least, least  # reflections
    return least if mean_square is None else mean_square, math.inf


def _bounds_of_any(system: LinearizedSGD, order: float) -> tuple[float, float]:
    """Return them for other systems, as far as they are known without going there."""
    known = mean_square_zero(system) if order == 2 or system.is_deterministic or system.is_independent else None
    if known is None:
        return 0.0, math.inf
    zero, _ = known
    if order == 2 or system.is_deterministic:
        return zero, zero
    return (zero, math.inf) if order < 2 else (0.0, zero)


def _first(system: LinearizedSGD, order: float, low: float, high: float) -> float:
    """Return the learning rate to look at first: next to what is known, or where independent batches have it."""
    if low > 0:
        return _BESIDE * (low if order > 0 or not system.is_plain else bounds_of_zero(system)[1])
    if high < math.inf:
        return high / _BESIDE
    start = mean_square_zero(system.with_batches(sampling="iid"))
    assert start is not None  # of independent batches
    return start[0]
