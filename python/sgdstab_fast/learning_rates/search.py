"""Critical learning rates of every law of batches and every optimiser.

In mean square the zero of Lambda(2) is an eigenvalue for independent batches (`operators.second_moments`); where
epochs are few enough to go through, Lambda(2) is computed at learning rates that close in on it. Where every step, or
every epoch, is the same, Lambda(p) = p lambda, and lambda is a spectral radius: one zero for all criteria.

Else the first zero of lambda(eta) is searched for by simulation. It lies between

    eta_ms  <=  eta_as  <=  the first eta with E log abs det A = 0,

the latter where the determinants are few. From below, learning rates rise until lambda is surely positive. Sets of
learning rates then close in on what is in between, and the last set, at n learning rates with independent streams,
gives the zero of the parabola of least squares. Independent streams make n short runs worth as much as a long one. With
z the zero, b and c slope and curvature there, and h the half width of the set, the parabola has the error

    e^2 = x^T C x / b^2 + (abs(c) h^2 / b)^2 (h / z)^2,    x = (1, z, z^2),

C the covariance of its coefficients: what parabolas do to lines, cubics do to parabolas in the proportion h / z.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.exact.full_batches import gd_threshold
from sgdstab_fast.exact.zeros import AGREEING, FARTHEST, LARGEST_RANK, bounds_of_zero, mean_square_zero
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.exponents.results import LyapunovExponent
from sgdstab_fast.learning_rates.results import CriticalLearningRate, known_rate, warn_if_short
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.warnings import collected
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.progress import Progress, after, reporter
from sgdstab_fast.systems.sgd import LinearizedSGD

_EPS = float(np.finfo(float).eps)
_BRACKET_SHARE, _SET_SHARE = 1 / 64, 1 / 8  # of the budget, for a learning rate on the way up, for a set
_SIGN_CONFIDENCE = 1 - 1e-4
_FIRST_FACTOR, _LARGEST_FACTOR = 1.1, 2.0  # between learning rates on the way up
_N_RATES = 8  # of a set
_SURE = 4.0  # standard errors
_RESOLVED = 6.0  # errors in the distance of neighbours
_MOST_SETS = 12
_WIDEST, _CUBIC = 0.03, 1 / 12  # the last set's half width, relative: tolerances of cubics that it is made for
_PARABOLA, _SPARE = 1.5, 1.25  # by which a parabola knows its zero worse than a constant, and what is to spare
_ROUNDS, _MISFIT = 12, 4.0  # of sets that are fitted; chi squared of parabolas that do not fit


@dataclass
class _Simulated:
    """Lambda at any learning rate, and what it has cost."""

    system: LinearizedSGD
    options: Options
    report: Callable[[Progress], object]
    n_steps: int = 0
    n_runs: int = 0

    def __call__(
        self,
        learning_rate: float,
        max_steps: int,
        tolerance: float = 0.0,
        *,
        sign_confidence: float | None = None,
        resume: LyapunovExponent | None = None,
    ) -> LyapunovExponent:
        """Simulate, with streams of its own unless there is a run to go on from."""
        spent = 0 if resume is None else resume.n_steps
        most = max(max_steps, self.options.n_chains) + spent
        progress = after(self.report, self.n_steps - spent, self.options.budget.max_steps)
        its = self.options.within(most, rtol=0.0, atol=tolerance, sign_confidence=sign_confidence)
        its = replace(its, seed=self.options.seed.child_of_key(self.n_runs), progress=progress)
        with collected():  # what a single run lacks is in its error, and the search says what it lacks itself
            found = estimate_exponent(self.system.with_learning_rate(learning_rate), its, resume)
        self.n_runs += resume is None
        self.n_steps += found.n_steps - spent
        return found

    @property
    def left(self) -> int:
        """Steps of the budget that are left."""
        return self.options.budget.max_steps - self.n_steps


def search(system: LinearizedSGD, options: Options) -> CriticalLearningRate:
    """Return the first zero of lambda, by simulation where bounds do not settle it."""
    bounds = low, high = bounds_of_zero(system)
    tolerance = max(options.budget.rtol * low, options.budget.atol)
    if low > 0 and high - low <= 2 * max(AGREEING * low, tolerance):
        agree = high - low <= AGREEING * low
        reason = "bounds from below and above agree" if agree else "bounds leave no more than the tolerance"
        error = 0.0 if agree else (high - low) / 2
        return _result(system, options, high if agree else (low + high) / 2, error, bounds, reason=reason)
    with reporter(options.progress, options.budget.max_steps, "critical learning rate") as report:
        function = _Simulated(system, options, report)
        low, high, height = _bracket(function, bounds)
        found = _close_in(function, low, high, height, bounds)
    warn_if_short(found, options.budget)
    return found


def _bracket(function: _Simulated, bounds: tuple[float, float]) -> tuple[float, float, float]:
    """Return learning rates at which lambda is surely negative and surely positive, and its value at the latter.

    What the budget does not tell is infinite, or 0.
    """
    low, highest = bounds
    share = function.options.budget.part(_BRACKET_SHARE)
    factor = _FIRST_FACTOR
    rate, down = low * factor, False
    if low == 0 or not function.system.is_independent:
        # Without replacement or with it, epochs or not: thresholds are of the same order.
        alike = function.system.with_batches(sampling="iid")
        first = mean_square_zero(alike) if alike.rank <= LARGEST_RANK else None
        rate = max(rate, gd_threshold(alike) / 8 if first is None else first[0])
        down = low == 0
    high, height = highest, math.nan
    while function.left >= function.options.n_chains:
        if rate >= highest:
            break
        found = function(rate, share, sign_confidence=_SIGN_CONFIDENCE)
        mean, error = found.exponent, found.standard_error
        if mean > _SURE * error:
            high, height = rate, mean
            if not down:
                break
            rate /= _FIRST_FACTOR
            continue
        if mean < -_SURE * error:
            low, down = rate, False
            if high < highest:
                break
        if down:
            rate /= _FIRST_FACTOR
        else:
            factor = min(factor**1.5, _LARGEST_FACTOR) if rate > low else factor
            rate *= factor
        if rate > FARTHEST * max(low, bounds[0]) > 0:
            break
    return low, high, height


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

    @property
    def error(self) -> float:
        return math.hypot(self.sampling_error, self.bend)


def _close_in(
    function: _Simulated, low: float, high: float, height: float, bounds: tuple[float, float]
) -> CriticalLearningRate:
    """Narrow a bracket, and fit the zero in what is left."""
    budget, system, options = function.options.budget, function.system, function.options
    middle, error = (low + high) / 2, (high - low) / 2
    if not math.isfinite(high):
        result = _result(system, options, max(low, bounds[0]), math.inf, bounds, reason="first zero of lambda")
        return replace(
            result, n_steps=function.n_steps, n_chains=options.n_chains, converged=False, stopped_by="max_steps"
        )
    for _ in range(_MOST_SETS):
        goal = max(budget.rtol * middle, budget.atol)
        half = _half_width(middle, goal)
        affordable = function.left / _N_RATES >= 16 * options.n_chains
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
    return _last_set(function, middle, error, height / (2 * error) if height > 0 else 0.0, bounds)


def _half_width(middle: float, goal: float) -> float:
    """Return the half width of a set at which cubics move the zero by less than the goal."""
    return middle * min(_WIDEST, max((_CUBIC * goal / middle) ** (1 / 3), 1e-4)) if goal > 0 else middle * _WIDEST / 4


def _last_set(
    function: _Simulated, middle: float, error: float, slope: float, bounds: tuple[float, float]
) -> CriticalLearningRate:
    """Fit the zero at learning rates around what is known of it."""
    budget, options = function.options.budget, function.options
    goal = max(budget.rtol * middle, budget.atol)
    half = max(_half_width(middle, goal), min(1.1 * error, middle / 4))
    fit: _Fit | None = None
    found: list[LyapunovExponent] = []
    met, ready, share = False, False, _SET_SHARE
    for _ in range(_ROUNDS):
        # A first set tells the slope, and centres the others.
        rates = np.linspace(max(middle - half, middle / 2), middle + half, _N_RATES)
        steps = int(function.left / _N_RATES * (0.75 if goal > 0 else 1.0))
        if not ready:
            steps = budget.part(share / _N_RATES, function.left)
        if steps < options.n_chains:
            break
        ask = goal / _PARABOLA / _SPARE * math.sqrt(_N_RATES)
        tolerance = (ask if ready else max(ask, half / _RESOLVED)) * max(slope, 0.0)
        found = [function(float(rate), steps, tolerance) for rate in rates]
        candidate = _fitted(rates, found)
        if ready and candidate is not None and candidate.error > goal > 0 and candidate.misfit < _MISFIT:
            tolerance = ask * max(0.5, goal / candidate.error) * 0.9 * candidate.slope
            steps = function.left // _N_RATES
            if steps >= options.n_chains:
                found = [
                    function(float(rate), steps, tolerance, resume=each) if each.chains is not None else each
                    for rate, each in zip(rates, found, strict=True)
                ]
                candidate = _fitted(rates, found) or candidate
        if candidate is not None and (fit is None or candidate.error <= fit.error):
            fit = candidate
        good = candidate is not None and candidate.misfit < _MISFIT
        met = good and candidate is not None and candidate.error <= goal
        if met or (ready and good):
            break
        if candidate is not None and good:
            middle, slope, ready = candidate.value, candidate.slope, True
            half = max(_half_width(middle, goal), min(4 * candidate.error, half))
            goal = max(budget.rtol * middle, budget.atol)
            continue
        # A bend that no parabola has: closer, and more of the budget if signs do not tell where.
        below, above = _between_signs(rates, found)
        ready, share = False, share if above - below < half else min(2 * share, 1.0)
        middle, half = (below + above) / 2, min(0.6 * (above - below), 0.75 * half)
        error = (above - below) / 2
        if candidate is not None and below < candidate.value < above:
            slope = candidate.slope
    if fit is None:
        result = _result(
            function.system, options, middle, max(error, bounds[0] * _EPS), bounds, reason="first zero of lambda"
        )
        return replace(
            result, n_steps=function.n_steps, n_chains=options.n_chains, converged=False, stopped_by="max_steps"
        )
    value = min(max(fit.value, bounds[0]), bounds[1])
    stopped_by = "max_steps" if not met else "rtol" if fit.error <= budget.rtol * value else "atol"
    return replace(
        _result(function.system, options, value, fit.error, bounds, reason="first zero of lambda"),
        derivative=fit.slope,
        derivative_standard_error=fit.slope_error,
        degrees_of_freedom=min(each.degrees_of_freedom for each in found),
        n_steps=function.n_steps,
        n_chains=options.n_chains,
        converged=met,
        stopped_by=stopped_by,
        provenance=provenance(options.seed, "anchored", function.system.fingerprint),
    )


def _between_signs(rates: FloatArray, found: list[LyapunovExponent]) -> tuple[float, float]:
    """Return the learning rates of a set between which lambda surely changes its sign, or its ends."""
    means, errors = _arrays(found)
    positive = np.flatnonzero(means > _SURE * errors)
    first = int(positive[0]) if positive.size else len(rates) - 1
    negative = np.flatnonzero(means[:first] < -_SURE * errors[:first])
    return float(rates[negative[-1]] if negative.size else rates[0]), float(rates[first])


def _arrays(found: list[LyapunovExponent]) -> tuple[FloatArray, FloatArray]:
    means = np.array([each.exponent for each in found])
    errors = np.array([each.standard_error for each in found])
    return means, np.where(np.isfinite(means), errors, 0.0)


def _fitted(rates: FloatArray, found: list[LyapunovExponent]) -> _Fit | None:
    """Return the zero of a parabola through estimates with independent errors; None if it has none near."""
    means, errors = _arrays(found)
    usable = np.isfinite(means) & np.isfinite(errors)
    if usable.sum() < 5:
        return None
    middle, half = float(rates.mean()), float(rates[-1] - rates[0]) / 2
    x = (rates[usable] - middle) / half
    weights = 1 / np.maximum(errors[usable], _EPS)
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
    allowances = np.array([each.bias_allowance for each in found])[usable]
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
    )


def _result(
    system: LinearizedSGD, options: Options, value: float, error: float, bounds: tuple[float, float], *, reason: str
) -> CriticalLearningRate:
    made_of = provenance(options.seed, "closed form", system.fingerprint)
    return known_rate(value, "almost-sure", reason, made_of, error=error, bounds=bounds)
