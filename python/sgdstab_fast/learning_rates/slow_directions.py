"""The first zero of lambda of K with slow directions, whose decay eta kappa_min / N is all that lambda is below it.

Fast directions shrink most of the time, and in rare bursts grow until they carry the slow ones along. With beta(eta)
what bursts add to the growth of the slowest displacement, and r(eta) the rate at which it decays by itself,

    lambda = beta - r,    mu = beta / r = 1 + lambda / r,    mu = 1 where lambda = 0.

beta rises by orders of magnitude within a percent of the learning rate, and n steps say as much of it as the number of
their bursts allows: growth over n steps has the variance phi n beta, so that what counts is how often the slowest
direction has decayed, n r. Chains run at learning rates around the zero, one after the other, and log mu is fitted by a
parabola, as of counts with dispersion phi (P. McCullagh and J. Nelder, "Generalized Linear Models", 1989, chapter 9).

Growth is that of |a|, w = G a: next to the norm of parameter space it weighs each direction by its eigenvalue, and
hardly feels fast ones unless they carry all. Half of the chains start with all components of a alike, as bursts leave
them, and half in the slowest direction: as long as they do not agree, their difference is part of the error.

Where kappa_min is so small that no run sees the slowest direction decay, eigenvalues below c times the largest are
raised to that, and the zeros z(c), relative to what bounds them from below, are extrapolated to c = kappa_min /
kappa_max. Bursts reach directions of eigenvalue c with a probability like c^alpha, Lambda(alpha) = 0 for the fast ones
(B. Derrida and H. Hilhorst, J. Phys. A 16, 1983), and have to make up for a decay like c: they do not depend on c much,
and as far as they do, for alpha < 1, nearly as x = 1 / log(1/c). Most of the way that the last slope leads to is taken
where it leads down (where alpha > 1 zeros rise, and settle), and as much is in the error, with half of what the scale
has moved. (Leaving slow directions out instead, as `slow_cutoff` does, takes learning rates farther from the limit, and
from above.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import first_of_panel
from sgdstab_fast.exact.zeros import bounds_of_zero
from sgdstab_fast.learning_rates.panels import family_of
from sgdstab_fast.learning_rates.results import CriticalLearningRate, SlowDirections, known_rate
from sgdstab_fast.operators.level_pairs import gd_exponent_of
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import Progress, reporter
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.storage import storable
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import normals
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.simulation.vectors import vectors_task
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import Part

_SLOW = 1e-2  # eta kappa_min, below which directions are slow, where all examples are drawn equally often
# Of eigenvalues, relative to the largest: the first one, the coarsest where steps are few, and from one to the next.
_FIRST_CUTOFF, _COARSEST, _RATIO = 1e-3, 0.1, 10**-0.5
_LINEAR = 1e-7  # eta kappa / N, below which decay is proportional to it
_OF_BUDGET = 0.2  # for the first zero
_BURN_IN, _AGAIN = 3.0, 1.0  # decays of the slowest direction before a chain counts, and at another learning rate
_SLOW_STARTS, _OTHER_STARTS = slice(0, None, 2), slice(1, None, 2)  # of the chains
_LEAST_STEPS = 4  # epochs of a chain at a learning rate
_SECONDS = 0.05  # of a batch
_ROUGH, _FIRST = 32.0, 256.0  # decays, of all chains, on the way to the zero, and in the first round next to it
_NEAR = 1.0  # of log mu, next to the zero
_PLACES = (-0.7, 0.7, -0.25, 0.25)  # of log mu, where chains run
_MOST_MOVES, _FARTHEST = 20, 0.1  # of log eta
_SURE, _CERTAIN = 2.0, 16.0  # standard errors, and the square of what is beyond doubt
_NOTHING = 0.05  # a mu that may be none
_FIT, _CLOSE, _LEAST_OF_PARABOLA = 1.5, 2.5, 6  # points that are fitted: log mu, and distance in units of the slope
_LEAST_POINTS = 3
_LEAST_SLOPE, _STEEPER, _FLATTEST = 0.3, 3.0, 3.0  # relative to what it was, and d log mu / d log eta
_LEAST_DEPTH = 1e-2  # log(kappa_max / kappa_min)
_SAME = 1e-6  # of depths, between which there is nothing to raise
_FIRST_SLOPE = 30.0  # d log mu / d log eta
# Tolerance of zeros that are extrapolated: a share of what is asked for, or of the error so far; of the first ones.
_SHARE, _OF_ERROR, _COARSE = 0.4, 0.15, 1e-3
_LEAST_ZEROS, _LAST = 3, 4  # that are extrapolated
_DRIFT, _NO_EXCESS = 0.1, 1e-6  # of the share of the way that another K tells, at least
_COARSER = 4.0  # a cutoff of another K may be
_WAY, _ALLOWED = 0.7, 0.75  # of the way that the slope leads to
_OF_SCALE = 0.5  # of what the scale moves, that is allowed for
_FEW, _POWER = 10.0, 1.5  # of the way: what is allowed of what few zeros exceed the bound by


@storable
class Point(NamedTuple):
    """What chains say of mu at a learning rate."""

    learning_rate: float
    mean: float
    decays: float
    """Of all chains together."""
    residuals: FloatArray
    """Of every chain, times its decays."""
    apart: float
    """Mean of chains that started slow less that of the others."""


class Fitted(NamedTuple):
    """Where mu = 1."""

    value: float
    standard_error: float
    slope: float
    """d log mu / d log eta."""
    slope_error: float

    def times(self, scale: float) -> Fitted:
        """Return the same of another unit of learning rates."""
        return self._replace(value=scale * self.value, standard_error=scale * self.standard_error)


class OutOfStepsError(Exception):
    """The budget is used up."""


@dataclass
class Spent:
    """The steps of a search, and whom it tells."""

    options: Options
    report: Callable[[Progress], object]
    n_steps: int = 0
    n_done: int = 0
    """Steps of those claimed that have been taken."""
    value: float = math.nan
    error: float = math.nan

    @property
    def left(self) -> int:
        """Steps of the budget that are left."""
        return self.options.budget.max_steps - self.n_steps

    def take(self, n_steps: int) -> None:
        """Claim steps."""
        if n_steps > self.left:
            raise OutOfStepsError
        self.n_steps += n_steps

    def tell(self, n_steps: int, so_far: object = None) -> None:
        """Report that so many more steps are done."""
        self.n_done += n_steps
        self.report(Progress(self.n_done, self.options.budget.max_steps, self.value, self.error))


class Bursts:
    """Chains of a system, from learning rate to learning rate."""

    def __init__(self, system: LinearizedSGD, spent: Spent, first_chain: int) -> None:
        self.system, self._spent, self._first_chain = system, spent, first_chain
        self._place = spent.options.asked(f"bursts from chain {first_chain}")
        before = spent.options.recorder.get(self._place) or ((), np.empty(0), 0)
        self._before, self._points = list(before[0]), list[tuple[Point, int]]()
        self._states, self._next_step = before[1].copy(), before[2]
        self._slowest, largest = system.rows_of_k.extreme_eigenvalues()
        self.depth = 1 / max(math.log(largest / self._slowest), _LEAST_DEPTH)
        """x = 1 / log(kappa_max / kappa_min), over which zeros are extrapolated."""

    def decay(self, learning_rate: float) -> float:
        """Return r, at which the slowest direction decays by itself.

        In proportion to its eigenvalue where that is small: next to a multiplier of 1 rounding would hide it.
        """
        recurrence, n = self.system.recurrence, self.system.n_examples
        scale = max(_LINEAR * n / (learning_rate * self._slowest), 1.0)
        slowest = np.array([scale * self._slowest])
        return -gd_exponent_of(slowest, learning_rate, n, recurrence.free, recurrence.readout) / scale

    def at(self, learning_rate: float, decays: float) -> Point:
        """Return what so many decays of all chains together say at a learning rate."""
        point: Point
        if self._before:
            point, n_steps = self._before.pop(0)
            self._spent.take(n_steps)
            self._spent.n_done += n_steps
        else:
            taken = self._spent.n_steps
            point = self._measured(learning_rate, decays)
            n_steps = self._spent.n_steps - taken
        self._points.append((point, n_steps))
        if not self._before:
            self._spent.options.recorder.put(self._place, (tuple(self._points), self._states.copy(), self._next_step))
        return point

    def _measured(self, learning_rate: float, decays: float) -> Point:
        system, options = self.system.with_learning_rate(learning_rate), self._spent.options
        n_chains, key, rows = options.n_chains, options.seed.key, system.rows_of_k
        rate, task = self.decay(learning_rate), vectors_task(system, system.no_growth)
        longest = max(1, int(_SECONDS / (task.seconds_per_step * n_chains)))
        least = _LEAST_STEPS * max(1, round(system.steps_per_epoch))

        def in_batches(n_steps: float) -> tuple[int, int]:
            n_batches = math.ceil(n_steps / longest)
            return n_batches, system.whole_epochs(math.ceil(n_steps / n_batches))

        counted = in_batches(max(decays / rate / n_chains, least))
        before = in_batches(max((_AGAIN if self._states.size else _BURN_IN) / rate, least))
        if not self._states.size:
            start = normals(key, n_chains, (len(rows),), self._first_chain) @ rows.moved(np.arange(len(rows)))
            start[_SLOW_STARTS] = rows.slowest
            self._states = np.tile(start, system.recurrence.levels)[:, None]
        growth = np.zeros(n_chains)
        for n_batches, steps_per_batch in (before, counted):
            self._spent.take(n_chains * n_batches * steps_per_batch)
            growth = -self._log_lengths()
            chains = Chains(
                key=key,
                states=self._states,
                steps_per_batch=steps_per_batch,
                records=VectorRecords.empty(n_chains, 1, 0),
                first_chain=self._first_chain,
                first_step=self._next_step,
            )
            done = advance(chains, task, n_batches, options.workers, self._spent.tell)
            self._states, self._next_step = done.states, done.next_step
            growth += done.records.log_growth[:, :, 0].sum(axis=1) + self._log_lengths()
        each = rate * math.prod(counted)
        mu = 1 + growth / each
        apart = float(mu[_SLOW_STARTS].mean() - mu[_OTHER_STARTS].mean())
        return Point(learning_rate, float(mu.mean()), n_chains * each, each * (mu - mu.mean()), apart)

    def _log_lengths(self) -> FloatArray:
        """Return log |a| of every chain, of the present displacement."""
        rows = self.system.rows_of_k
        return np.asarray(np.log(np.linalg.norm(rows.coefficients(self._states[:, 0, : rows.rank]), axis=1)))


def has_slow_directions(system: LinearizedSGD, learning_rate: float) -> bool:
    """Say whether the slowest direction takes many epochs to decay, in each of which all examples are drawn.

    Bursts have to be short beside that, and examples that are drawn rarely make them long.
    """
    rarest = system.law.n_units * float(system.law.unit_probabilities.min())
    return learning_rate * system.rows_of_k.extreme_eigenvalues()[0] < _SLOW * rarest


def search_with_slow_directions(
    block: Part[LinearizedSGD],
    bounds: tuple[float, float],
    options: Options,
    start: CriticalLearningRate | None = None,
) -> CriticalLearningRate:
    """Return the first zero of lambda of a block, from those where slow directions are less and less so.

    `start` is that of a K much like it, if it is known.
    """
    budget, found, whole = options.budget, list[tuple[float, Fitted]](), block.system
    tolerance = max(budget.rtol, budget.atol / bounds[0])
    zero, met = Fitted(bounds[0], (bounds[1] - bounds[0]) / 2, math.nan, math.nan), False
    with reporter(options.progress, budget.max_steps, "critical learning rate") as report:
        spent = Spent(options, report)
        bursts = Bursts(whole, spent, 0)
        depth, cutoff = bursts.depth, _first_cutoff(bursts, bounds[0], options)
        first_cutoff = cutoff
        before = None if start is None else start.slow_directions
        if before is not None and cutoff <= before.cutoff <= _COARSER * cutoff:
            cutoff = first_cutoff = before.cutoff
        else:
            before = None
        try:
            while not met and not (found and bursts.depth <= depth):
                direct = _depth_of(cutoff) <= depth * (1 + _SAME)
                system = whole if direct else whole.with_slow_eigenvalues_raised(cutoff)
                bursts = Bursts(system, spent, first_of_panel(block.index, len(found)))
                scale = 1.0 if direct else bounds[0] / bounds_of_zero(system, family_of(system))[0]
                last = found[-1][1] if found else _guessed(bursts, bounds, before)
                rough = _COARSE if len(found) < _LEAST_ZEROS else _OF_ERROR * zero.standard_error / zero.value
                its_own = tolerance if direct else max(_SHARE * tolerance, rough)
                found.append((bursts.depth, last))
                for fitted in _zeros_of(bursts, last.times(1 / scale), its_own):
                    found[-1] = bursts.depth, fitted.times(scale)
                    here = found[-1][1] if direct else _extrapolated(found, depth, bounds[0], abs(scale - 1), before)
                    if here.standard_error < zero.standard_error:  # or it is not what it will be
                        zero = here
                zero = here
                spent.value, spent.error = zero.value, zero.standard_error
                enough = direct or before is not None or len(found) >= _LEAST_ZEROS
                met = enough and zero.standard_error <= tolerance * zero.value
                cutoff *= _RATIO
        except (OutOfStepsError, Stopped):
            pass
    slope = bursts.decay(zero.value) / zero.value
    value = min(max(zero.value, bounds[0]), bounds[1])
    known = math.isfinite(zero.slope)
    taken_over = before is not None and len(found) < _LEAST_ZEROS and not known
    how = ", extrapolated to the slowest directions" + (" as for an earlier K" if taken_over else "")
    reason = "first zero of lambda" + ("" if known else how)
    made_of = provenance(options.seed, "average", whole)
    if start is not None:
        made_of["start"] = start.provenance["system"]
    return replace(
        known_rate(value, "almost-sure", reason, made_of, error=zero.standard_error, bounds=bounds),
        derivative=block.share * slope * zero.slope,
        derivative_standard_error=block.share * slope * zero.slope_error,
        degrees_of_freedom=options.n_chains - 1,
        n_steps=spent.n_steps,
        n_chains=options.n_chains,
        converged=met,
        stopped_by=options.stopped_search_by(value, zero.standard_error, met=met),
        slow_directions=_for_others(found, zero, bounds[0], first_cutoff, before),
    )


def _for_others(
    found: Sequence[tuple[float, Fitted]], zero: Fitted, low: float, cutoff: float, before: SlowDirections | None
) -> SlowDirections | None:
    """Return what a search for another K may start from."""
    if not found or not math.isfinite(found[0][1].standard_error):
        return before
    first = found[0][1]
    excess = float(max(first.value - low, first.standard_error))
    if before is not None and len(found) < _LEAST_ZEROS:
        share, error = before.share, _drifted(before, first.value / low - 1)
    else:
        share, error = float((zero.value - low) / excess), float(zero.standard_error / excess)
    return SlowDirections(cutoff, first.value / low - 1, share, error, float(first.slope))


def _drifted(before: SlowDirections, excess: float) -> float:
    """Return the error of the share that another K tells: it may have changed as much as the first zero has."""
    change = abs(excess - before.excess) / max(abs(excess), abs(before.excess), _NO_EXCESS)
    return math.hypot(before.share_error, max(_DRIFT, change))


def _depth_of(cutoff: float) -> float:
    return 1 / math.log(1 / cutoff)


def _first_cutoff(bursts: Bursts, learning_rate: float, options: Options) -> float:
    """Return the finest cutoff from the first one on whose zero leaves some of the budget."""
    burn_in = (_BURN_IN + _AGAIN * len(_PLACES)) * options.n_chains
    rate = (burn_in + _ROUGH + _FIRST) / (_OF_BUDGET * options.budget.max_steps)
    affordable = math.exp(-1 / bursts.depth) * rate / bursts.decay(learning_rate)
    return min(max(_FIRST_CUTOFF, affordable), _COARSEST)


def _guessed(bursts: Bursts, bounds: tuple[float, float], before: SlowDirections | None) -> Fitted:
    """Return a guess of the first zero: from another K, or from learning rates that rise."""
    if before is None:
        return _bracketed(bursts, bounds)
    return Fitted((1 + before.excess) * bounds[0], math.inf, before.slope, math.inf)


def _bracketed(bursts: Bursts, bounds: tuple[float, float]) -> Fitted:
    """Return a guess: the first of rising learning rates at which lambda is positive."""
    rate, factor = bounds[0], 1.0
    while rate < bounds[1] and bursts.at(rate, _ROUGH).mean < 1:
        factor = min(max(1.01, factor**1.5), math.exp(_FARTHEST))
        rate = min(factor * rate, bounds[1])
    return Fitted(rate, math.inf, _FIRST_SLOPE, math.inf)


def _zeros_of(bursts: Bursts, last: Fitted, tolerance: float) -> Iterator[Fitted]:
    """Yield better and better guesses of where lambda = 0, up to a relative tolerance."""
    points, rate = list[Point](), last.value
    for _ in range(_MOST_MOVES):
        points.append(bursts.at(rate, _ROUGH))
        if abs(_log(points[-1].mean)) < _NEAR:
            break
        rate *= math.exp(min(max(-_log(points[-1].mean) / last.slope, -_FARTHEST), _FARTHEST))
        below, above = _around(points)
        if 0 < below < above < math.inf and not below < rate < above:
            rate = math.sqrt(below * above)
    fitted, decays = _fitted(points, last._replace(value=rate)), _FIRST
    while True:
        for place in _PLACES:
            rate = fitted.value * math.exp(min(max(place / fitted.slope, -_FARTHEST), _FARTHEST))
            points.append(bursts.at(rate, decays / len(_PLACES)))
        fitted = _fitted(points, fitted)
        yield fitted
        if fitted.standard_error <= tolerance * fitted.value:
            return
        # As many as are missing, and no more than doubles what there is.
        known = sum(each.decays for each in points)
        missing = known * ((fitted.standard_error / (tolerance * fitted.value)) ** 2 - 1)
        decays = min(max(missing, known / 4), known)


def _around(points: Sequence[Point]) -> tuple[float, float]:
    """Return the highest learning rate where mu was below 1, and the lowest where it was above."""
    below = max((each.learning_rate for each in points if each.mean <= 1), default=0.0)
    return below, min((each.learning_rate for each in points if each.mean > 1), default=math.inf)


def _log(mu: float) -> float:
    return math.log(min(max(mu, _NOTHING), 1 / _NOTHING))


def _fitted(points: Sequence[Point], guess: Fitted) -> Fitted:
    """Fit log mu by a polynomial in y = slope log(eta / eta_0), with 1 of y and 0 of y^2 as weak priors."""
    below, above = _around(points)
    near = [each for each in points if abs(_log(each.mean)) <= _FIT]
    near = [each for each in near if abs(math.log(each.learning_rate / guess.value)) * guess.slope <= _CLOSE]
    if len(near) < _LEAST_POINTS and 0 < below < above < math.inf:
        width = math.log(above / below)  # no noise hides the sign: halfway
        return Fitted(math.sqrt(below * above), above - below, min(1 / width, _STEEPER * guess.slope), math.inf)
    near = near if len(near) >= _LEAST_POINTS else list(points[-len(_PLACES) :])
    learning_rates, mean, decays = (np.array([each[index] for each in near]) for index in range(3))
    degree = 2 if len(near) >= _LEAST_OF_PARABOLA else 1
    design = np.vander(guess.slope * np.log(learning_rates / guess.value), degree + 1, increasing=True)
    prior, weak = np.eye(3)[1, : degree + 1], np.diag([0.0, 1.0, 1.0])[: degree + 1, : degree + 1]
    beta = prior.copy()
    for _ in range(100):
        mu = np.exp(np.clip(design @ beta, -3, 3))
        information = design.T @ ((decays * mu)[:, None] * design) + weak
        step = np.linalg.solve(information, design.T @ (decays * (mean - mu)) - weak @ (beta - prior))
        beta += np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-10:
            break
    # What a chain has at one learning rate it may go on with at the next.
    residuals = np.sum([each.residuals for each in near], axis=0)
    dispersion = float(residuals @ residuals) * len(residuals) / (len(residuals) - 1) / float(mu @ decays)
    misfit = float((decays * (mean - mu) ** 2 / mu).sum()) / max(len(near) - degree - 1, 1)
    covariance = max(dispersion, misfit) * np.linalg.inv(information)
    # Chains from both sides that have not met: half of how far they are apart, beyond noise.
    apart = abs(float(np.array([each.apart for each in near]) @ decays)) / float(decays.sum())
    noise = 2 * math.sqrt(dispersion * float(mu @ decays)) / float(decays.sum())
    unmet = max(apart - _SURE * noise, 0.0) / 2
    beta, y = np.pad(beta, (0, 2 - degree)), 0.0
    for _ in range(50):  # the root, by Newton's iteration
        slope = max(beta[1] + 2 * beta[2] * y, _LEAST_SLOPE)
        y = min(max(y - float(beta[0] + beta[1] * y + beta[2] * y * y) / slope, -2.0), 2.0)
    at = np.array([1.0, y, y * y])[: degree + 1]
    along = np.array([0.0, 1.0, 2 * y])[: degree + 1]
    value = guess.value * math.exp(y / guess.slope)
    error = value / guess.slope * math.sqrt(float(at @ covariance @ at) + unmet**2) / slope
    sure = [each for each in points if each.decays * (each.mean - 1) ** 2 > _CERTAIN * max(dispersion, misfit, 1.0)]
    first, last = _around(sure)
    if first < last and not first <= value <= last:  # farther than noise takes it
        outside = max(first - value, value - last)
        value, error = min(max(value, first), last), math.hypot(error, outside)
    return Fitted(
        value=value,
        standard_error=error,
        slope=max(guess.slope * min(slope, _STEEPER), _FLATTEST),
        slope_error=guess.slope * math.sqrt(float(along @ covariance @ along)),
    )


def _extrapolated(
    found: Sequence[tuple[float, Fitted]], depth: float, low: float, moved: float, before: SlowDirections | None
) -> Fitted:
    """Extrapolate the last zeros, of which the scale has moved the last one, to the depth of the slowest direction.

    Few zeros go as far towards `low` as those of another K did, if there is one.
    """
    if before is not None and len(found) < _LEAST_ZEROS:
        first = found[0][1]
        excess = max(first.value - low, 0.0)
        share_error = _drifted(before, first.value / low - 1)
        error = math.hypot(before.share * first.standard_error, share_error * (excess + first.standard_error))
        return Fitted(low + before.share * excess, error, math.nan, math.nan)
    x, zeros, errors = (
        np.array(column)
        for column in zip(*((x, its.value, its.standard_error) for x, its in found[-_LAST:]), strict=True)
    )
    way = x[-1] - depth
    if len(found) < _LEAST_ZEROS:
        allowed = max((_FEW * way) ** _POWER, 1.0) * (zeros[-1] - low + errors[-1])
        return Fitted(zeros[-1], math.hypot(errors[-1], allowed), math.nan, math.nan)
    (slope, _), covariance = np.polyfit(x - x[-1], zeros, 1, w=1 / errors, cov="unscaled")
    allowed = _ALLOWED * way * math.hypot(slope, math.sqrt(float(covariance[0, 0])))
    error = math.hypot(errors[-1], allowed, _OF_SCALE * moved * zeros[-1])
    return Fitted(zeros[-1] - _WAY * max(slope, 0.0) * way, error, math.nan, math.nan)
