"""Zeros over learning rates of what is simulated: lambda, or Lambda(p)/p, negative before its first zero.

Learning rates rise or fall until the sign is sure on either side (`bracket`). Sets of learning rates then close in on
what is in between, and the last set, at n learning rates with independent streams, gives the zero of the parabola of
least squares (`zero_between`). Independent streams make n short runs worth as much as a long one. With z the zero, b
and c slope and curvature there, and h the half width of the set, the parabola has the error

    e^2 = x^T C x / b^2 + (abs(c) h^2 / b)^2 (h / z)^2,    x = (1, z, z^2),

C the covariance of its coefficients: what parabolas do to lines, cubics do to parabolas in the proportion h / z. Where
another kind of directions takes over, lambda has a kink that no power tells of: the zero also has to be the same,
beyond chance, without either end of the set, and how far it moves is part of its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.zeros import FARTHEST
from sgdstab_fast.learning_rates.results import CriticalLearningRate
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import Progress, after
from sgdstab_fast.results.storage import storable
from sgdstab_fast.results.warnings import collected
from sgdstab_fast.simulation.options import Options

_EPS = float(np.finfo(float).eps)
_BRACKET_SHARE, _SET_SHARE = 1 / 64, 1 / 5  # of the budget, for a learning rate on the way, for a set
_SIGN_CONFIDENCE = 1 - 1e-4
_FIRST_FACTOR, _LARGEST_FACTOR = 1.1, 2.0  # between learning rates on the way up or down
_N_RATES = 8  # of a set
_LEAST_STEPS = 16  # of a chain, in a set that is worth it
_SURE = 4.0  # standard errors
_RESOLVED = 6.0  # errors in the distance of neighbours
_MOST_SETS = 12
_WIDEST, _CUBIC = 0.03, 1 / 12  # the last set's half width, relative; the part of the tolerance that is for cubics
_PARABOLA, _SPARE = 1.5, 1.25  # by which a parabola knows its zero worse than a constant, and what is to spare
_SHARPER = 0.7  # errors and half width of a set, than those of one that did not do
_ROUNDS, _MISFIT = 12, 4.0  # of sets that are fitted; chi squared of parabolas that do not fit


@storable
class Reading(NamedTuple):
    """What is known at a learning rate."""

    value: float
    error: float
    n_steps: int
    degrees_of_freedom: int
    allowance: float = 0.0
    """Of the error, what may have the same sign at all learning rates: of chains that were not seen to mix."""
    run: Any = None
    """From which to go on, if that is possible."""


@dataclass
class Readings:
    """A function of the learning rate that is simulated, or computed where it can be, and what that has cost."""

    at: Callable[[float, Options, Any], Reading]
    """Of a learning rate, of how to simulate there, and of what to go on from or None."""
    options: Options
    report: Callable[[Progress], object]
    least_steps: int
    """Of a reading."""
    coarse: float = 0.0
    """Relative tolerance of readings that are asked for none."""
    n_steps: int = 0
    n_called: int = 0
    n_read: int = 0
    """With streams of their own."""

    def __call__(
        self,
        learning_rate: float,
        max_steps: int = 0,
        tolerance: float = 0.0,
        *,
        sign_confidence: float | None = None,
        resume: Reading | None = None,
    ) -> Reading:
        """Simulate, with streams of its own unless there is a run to go on from; no more once that is not wanted."""
        spent = 0 if resume is None else resume.n_steps
        its = self.options.within(
            max(max_steps, self.least_steps) + spent,
            rtol=0.0 if tolerance > 0 else self.coarse,
            atol=tolerance,
            sign_confidence=sign_confidence,
        )
        progress = after(self.report, self.n_steps - spent, self.options.budget.max_steps)
        its = replace(its, seed=self.options.seed.child_of_key(self.n_read), progress=progress)
        try:
            with collected():  # what a single run lacks is in its error, and the search says what it lacks itself
                run = None if resume is None else resume.run
                found = its.once(
                    f"reading {self.n_called} at {learning_rate!r}", lambda its: self.at(learning_rate, its, run)
                )
        except Stopped:
            return Reading(0.0, math.inf, spent, 1)
        self.n_called += 1
        self.n_read += resume is None
        self.n_steps += found.n_steps - spent
        return found

    @property
    def left(self) -> int:
        """Steps of the budget that are left."""
        return 0 if self.options.is_cut else self.options.budget.max_steps - self.n_steps


def bracket(function: Readings, rate: float, low: float, high: float) -> tuple[float, float, float]:
    """Return learning rates at which a function is surely negative and surely positive, and its value at the latter.

    From a first learning rate down as long as none is known to be negative (low is 0), then up as long as none is known
    to be positive (high is infinite). What the budget does not tell stays 0, infinite, or NaN.
    """
    share = function.options.budget.part(_BRACKET_SHARE)
    first, factor, height, highest = rate, _FIRST_FACTOR, math.nan, rate
    while function.left >= function.least_steps and low < rate < high:
        found = function(rate, share, sign_confidence=_SIGN_CONFIDENCE)
        if found.value > _SURE * found.error:
            high, height = rate, found.value
        elif found.value < -_SURE * found.error:
            low = rate
        highest = max(highest, rate)
        if low == 0:
            rate /= _FIRST_FACTOR
        elif math.isnan(height):
            rate = highest * factor
            factor = min(factor**1.5, _LARGEST_FACTOR) if function.n_steps > 0 else factor
        else:
            break
        if not 1 / FARTHEST < rate / first < FARTHEST:
            break
    return low, high, height


def bracket_between(
    function: Readings, below: float, above: float, negative: float
) -> tuple[float, float, float] | None:
    """Return what `bracket` does, of two learning rates, if the function is surely negative and positive there.

    Up to `negative` it is known to be.
    """
    share = function.options.budget.part(_BRACKET_SHARE)
    if below >= above or function.left < 2 * function.least_steps:
        return None
    if below > negative:
        found = function(below, share, sign_confidence=_SIGN_CONFIDENCE)
        if not found.value < -_SURE * found.error:
            return None
    found = function(above, share, sign_confidence=_SIGN_CONFIDENCE)
    return (below, above, found.value) if found.value > _SURE * found.error else None


@dataclass(frozen=True)
class _Fit:
    """The zero of the parabola of least squares, the parabola, and their errors."""

    value: float
    sampling_error: float
    bend: float
    slope: float
    slope_error: float
    misfit: float
    """Chi squared, per degree of freedom."""
    degrees_of_freedom: int
    """Of the estimate that is known least well."""

    @property
    def error(self) -> float:
        return math.hypot(self.sampling_error, self.bend)


def zero_between(
    function: Readings, known: CriticalLearningRate, low: float, high: float, height: float = math.nan
) -> CriticalLearningRate:
    """Narrow a bracket, fit the zero in what is left, and add it to what is known: its bounds, and what it is."""
    budget, bounds = function.options.budget, known.bounds
    middle, error = (low + high) / 2, (high - low) / 2
    options = function.options
    known = replace(known, n_chains=options.n_chains, stopped_by=options.cut_short_by, converged=False)
    if not math.isfinite(high):
        return replace(known, value=max(low, bounds[0]), standard_error=math.inf, n_steps=function.n_steps)
    for _ in range(_MOST_SETS):
        goal = max(budget.rtol * middle, budget.atol)
        half = _half_width(middle, goal)
        affordable = function.left / _N_RATES >= max(function.least_steps, _LEAST_STEPS * function.options.n_chains)
        if high - low <= 4 * half or not affordable:
            break
        rates = np.linspace(low, high, _N_RATES + 1)[1:]
        spacing = float(rates[1] - rates[0])
        steps = budget.part(_SET_SHARE / _N_RATES, function.left)
        slope = height / (high - low) if height > 0 else 0.0
        found = [function(float(rate), steps, slope * spacing / _RESOLVED) for rate in rates]
        means, errors = _arrays(found)
        below, above = _between_signs(rates, found)
        below = low if below == rates[0] and not means[0] < -_SURE * errors[0] else below
        at_above = float(means[int(np.searchsorted(rates, above))])
        height = at_above if at_above > 0 else height
        stuck = above - below > 0.75 * (high - low)
        low, high = below, above
        middle, error = (low + high) / 2, (high - low) / 2
        if stuck:
            break
    return _last_set(function, known, middle, error, height / (2 * error) if height > 0 else 0.0)


def _half_width(middle: float, goal: float) -> float:
    """Return the half width of a set at which cubics move the zero by less than the goal."""
    return middle * min(_WIDEST, max((_CUBIC * goal / middle) ** (1 / 3), 1e-4)) if goal > 0 else middle * _WIDEST / 4


def _last_set(
    function: Readings, known: CriticalLearningRate, middle: float, error: float, slope: float
) -> CriticalLearningRate:
    """Fit the zero at learning rates around what is known of it."""
    budget, bounds = function.options.budget, known.bounds
    goal = max(budget.rtol * middle, budget.atol)
    half = max(_half_width(middle, goal), min(1.1 * error, middle / 4))
    low, high = middle - error, middle + error  # between which signs are sure to differ
    fit: _Fit | None = None
    found: list[Reading] = []
    met, ready, share, sharper = False, False, _SET_SHARE, 1.0
    for _ in range(_ROUNDS):
        # A first set tells the slope, and centres the others.
        rates = np.linspace(max(middle - half, middle / 2), middle + half, _N_RATES)
        steps = int(function.left / _N_RATES * (0.75 if goal > 0 else 1.0))
        if not ready:
            steps = budget.part(share / _N_RATES, function.left)
        if function.left < _N_RATES * function.least_steps:
            break
        ask = sharper * goal / _PARABOLA / _SPARE * math.sqrt(_N_RATES)
        tolerance = (ask if ready else max(ask, half / _RESOLVED)) * max(slope, 0.0)
        found = [function(float(rate), steps, tolerance) for rate in rates]
        candidate = _fitted(rates, found)
        if ready and candidate is not None and candidate.error > goal > 0 and candidate.misfit < _MISFIT:
            tolerance = ask * max(0.5, goal / candidate.error) * 0.9 * candidate.slope
            steps = function.left // _N_RATES
            if steps >= function.least_steps:
                found = [
                    function(float(rate), steps, tolerance, resume=None if each.run is None else each)
                    for rate, each in zip(rates, found, strict=True)
                ]
                candidate = _fitted(rates, found) or candidate
        if candidate is not None and (fit is None or candidate.error <= fit.error):
            fit = candidate
        good = candidate is not None and candidate.misfit < _MISFIT
        met = good and candidate is not None and candidate.error <= goal
        if met or (ready and good and goal == 0):
            break
        if candidate is not None and good and ready:  # but for a little
            middle, slope, sharper, half = candidate.value, candidate.slope, _SHARPER * sharper, _SHARPER * half
            continue
        if candidate is not None and good:
            middle, slope, ready = candidate.value, candidate.slope, True
            half = max(_half_width(middle, goal), min(4 * candidate.error, half))
            goal = max(budget.rtol * middle, budget.atol)
            continue
        # A bend that no parabola has: closer, and more of the budget if signs do not tell where.
        below, above = _between_signs(rates, found)
        ready, share = False, share if above - below < half else min(2 * share, 1.0)
        means, errors = _arrays(found)
        known_signs = np.isfinite(errors) & (np.abs(means) > _SURE * errors)
        if not known_signs.any():  # nothing was learnt
            continue
        low = max(low, below) if (known_signs & (means < 0)).any() else low
        high = min(high, above) if (known_signs & (means > 0)).any() else high
        below, above = max(below, low), min(above, high)
        middle, half = (below + above) / 2, min(0.6 * (above - below), 0.75 * half)
        if not half > 0:
            middle, half = (low + high) / 2, 0.6 * (high - low)
        if candidate is not None and below < candidate.value < above:
            slope = candidate.slope
    middle, error = (low + high) / 2, (high - low) / 2
    if fit is None:
        return replace(known, value=middle, standard_error=max(error, bounds[0] * _EPS), n_steps=function.n_steps)
    value = min(max(fit.value, bounds[0]), bounds[1])
    return replace(
        known,
        value=value,
        standard_error=fit.error,
        derivative=fit.slope,
        derivative_standard_error=fit.slope_error,
        degrees_of_freedom=fit.degrees_of_freedom,
        n_steps=function.n_steps,
        converged=met,
        stopped_by=function.options.stopped_search_by(value, fit.error, met=met),
    )


def _between_signs(rates: FloatArray, found: list[Reading]) -> tuple[float, float]:
    """Return the learning rates of a set between which lambda surely changes its sign, or its ends."""
    means, errors = _arrays(found)
    positive = np.flatnonzero(means > _SURE * errors)
    first = int(positive[0]) if positive.size else len(rates) - 1
    negative = np.flatnonzero(means[:first] < -_SURE * errors[:first])
    return float(rates[negative[-1]] if negative.size else rates[0]), float(rates[first])


def _arrays(found: list[Reading]) -> tuple[FloatArray, FloatArray]:
    means = np.array([each.value for each in found])
    errors = np.array([each.error for each in found])
    return means, np.where(np.isfinite(means), errors, 0.0)


def _fitted(rates: FloatArray, found: list[Reading]) -> _Fit | None:
    """Return the zero of a parabola through estimates with independent errors; None if it has none near.

    Its bend is also by how much either end moves it.
    """
    fit = _parabola(rates, found)
    if fit is None:
        return None
    moved = 0.0
    for kept in (slice(1, None), slice(None, -1)):
        other = _parabola(rates[kept], found[kept])
        if other is not None:
            wider, narrower = other.sampling_error, fit.sampling_error
            chance = math.sqrt(max(wider - narrower, 0.0)) * math.sqrt(wider + narrower)
            moved = max(moved, abs(other.value - fit.value) - chance)
    return replace(fit, bend=max(fit.bend, moved))


def _parabola(rates: FloatArray, found: list[Reading]) -> _Fit | None:
    """Return the zero of a parabola through estimates with independent errors; None if it has none near."""
    means, errors = _arrays(found)
    usable = np.isfinite(means) & np.isfinite(errors)
    if usable.sum() < 5:
        return None
    middle, half = float(rates.mean()), float(rates[-1] - rates[0]) / 2
    x = (rates[usable] - middle) / half
    # One that is known much better than others, far from the zero, may be on another branch.
    weights = 1 / np.maximum(errors[usable], max(float(np.median(errors[usable])) / 2, _EPS))
    design = np.vander(x, 3, increasing=True) * weights[:, None]
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ (means[usable] * weights)
    misfit = design @ coefficients - means[usable] * weights
    inflation = max(1.0, float(misfit @ misfit) / (usable.sum() - 3))
    covariance = inflation * inverse @ inverse.T
    constant, linear, square = coefficients.tolist()
    straight = np.linalg.lstsq(design[:, :2], means[usable] * weights, rcond=None)[0]
    if not (linear > 0 and straight[1] > 0):
        return None
    zero = -float(straight[0] / straight[1])
    for _ in range(50):
        slope = linear + 2 * square * zero
        if not slope > 0.1 * linear or abs(zero) > 3:
            return None
        zero -= (constant + zero * (linear + square * zero)) / slope
    at = np.array([1.0, zero, zero**2])
    along = np.array([0.0, 1.0, 2 * zero])
    # Errors of chains that were not seen to mix may have the same sign at all learning rates.
    allowances = np.array([each.allowance for each in found])[usable]
    common = float(np.abs(at @ inverse * weights) @ allowances)
    sampling = math.hypot(math.sqrt(float(at @ covariance @ at)), common) / slope
    significant = max(abs(square) - math.sqrt(float(covariance[2, 2])), 0.0)
    value = middle + half * zero
    return _Fit(
        value=value,
        sampling_error=half * sampling,
        bend=half * significant / slope * (half / value) * max(abs(zero), 0.5),
        slope=slope / half,
        slope_error=math.sqrt(float(along @ covariance @ along)) / half,
        misfit=float(misfit @ misfit) / (usable.sum() - 3),
        degrees_of_freedom=min(each.degrees_of_freedom for each in found),
    )
