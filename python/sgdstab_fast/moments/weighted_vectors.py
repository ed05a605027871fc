"""Weighted vectors: the moment exponent Lambda(p) of any random product that can be advanced, by populations of them.

A walker j is a direction s_j of R^d, of unit length, with a weight W_j; its own stream of random steps takes it to the
direction s_j' with the log growth l_j over n steps. In the norm of a positive definite matrix M it is worth

    W_j' = W_j (e^(l_j) |s_j'|_M / |s_j|_M)^p,    g = sum_j W_j' / sum_j W_j,    E g = exp(n Lambda(p)),

the mean over walkers with the stationary law of order p. In the metric E|A s|_M^2 = rho |s|_M^2 the norm |s|_M^p is
close to the eigenfunction of the moments, in which weights fluctuate least (at p = 2 it is the eigenfunction). Walkers
are resampled, systematically, once weights are worth less than half as many walkers; streams stay where they are.

That metric gives a control variate as well: whatever p is, and whatever came before,

    c = sum_j W_j (e^(2 l_j) |s_j'|_M^2 / rho^n - |s_j|_M^2) / |s_j|_M^2 / sum_j W_j,    E c = 0.

Weights by the growth over a window of the past make all populations one (`moments.populations`); here g of a batch
is weighted by the growth before it. How fast starts are forgotten under the weights of order p is seen from second
vectors q_j, orthogonal to s_j and under the same steps, which some populations carry along (`statistics.mixing`).

With p > 0, walkers that are annihilated have no weight; a population of none but such begins again anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast._core.streams import RESAMPLING
from sgdstab_fast.moments.populations import (
    ROUNDING,
    START_UP,
    of_half_the_run,
)
from sgdstab_fast.moments.resampling import Advance, AnnihilatedError, Batch, Populations, WalkersState
from sgdstab_fast.moments.results import OrderMoment
from sgdstab_fast.moments.starts import kind_of_each, leading_kinds
from sgdstab_fast.moments.windows import combined_columns, windowed
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.journal import Journal, Recorder
from sgdstab_fast.results.progress import Progress
from sgdstab_fast.results.result import INTERRUPTED, SHORT
from sgdstab_fast.results.storage import storable
from sgdstab_fast.simulation.looks import grid, rounded
from sgdstab_fast.simulation.options import Budget
from sgdstab_fast.statistics.anchored import AnchoredGrowth, Rounding, start_up_batches
from sgdstab_fast.statistics.estimates import Estimate, unknown
from sgdstab_fast.statistics.mixing import N_COMPANIONS, Mixing, first_resolved

_LEAST_POPULATIONS = 8
# Relative variance of weights between looks at them; growth over few steps is what the control variate explains best.
_SPREAD, _CONTROLLED_SPREAD = 0.1, 0.01
_PILOT_LOOKS, _PILOT_SHARE, _MOST_UNITS = 32, 1 / 8, 64  # a unit each, and of the budget; between looks
LEAST_BATCHES, _MOST_BATCHES = 32, 4096
_LEAST_STEPS = 400  # of a walker before a tolerance may stop a run
_WALKERS = "walkers"  # in a journal
_NOTHING_LEFT = -60.0  # log growth that windows give a population that is annihilated, from a typical one


def walker_moment(
    advance: Advance,
    vectors: FloatArray,
    order: float,
    *,
    budget: Budget,
    seed: Seed,
    n_kinds: int = 1,
    steps_unit: int = 1,
    scale: float = 0.0,
    metric: FloatArray | None = None,
    mean_square: float | None = None,
    floor: FloatArray | None = None,
    progress: Callable[[Progress], object] | None = None,
    recorder: Recorder | None = None,
) -> OrderMoment:
    """Estimate Lambda(p) at one order p from what a random product does to vectors.

    Parameters
    ----------
    advance : callable
        ``advance(vectors, first_step, n_steps)`` takes vectors of shape (n, 1, dimension), those of the chains 0, ..,
        n - 1, and returns them, of unit length, with their log growth, (n,); -inf where one is annihilated. What chain
        c does at a step depends on c and the step alone. n is n_populations * size, or less for second vectors.
    vectors : array, shape (n_populations, size, dimension)
        What walkers start from, of any length: independent populations, at least 8, of at least 2 walkers.
    order : float
        p. Errors at different orders are independent if their streams are.
    budget : Budget
        A relative tolerance is relative to abs(Lambda(p)) or `scale`, whichever is larger; max_steps counts the steps
        of all walkers. Looks at the estimate are at totals that grow by half.
    seed : Seed
        For resampling and second vectors.
    n_kinds : int, optional
        Populations started as so many kinds (`moments.starts`).
    steps_unit : int, optional
        Weights are looked at after multiples of so many steps: those of an epoch, or 1.
    scale : float, optional
        See `budget`.
    metric : array, shape (dimension, dimension), optional
        M, symmetric and positive semidefinite, in whose norm weights are taken; that of `floor` by default.
    mean_square : float, optional
        log rho per step, if E|A v|_M^2 = rho^steps_unit |v|_M^2 for the product A of a unit's steps, whatever came
        before: for a control variate.
    floor : array, shape (dimension, dimension), optional
        Positive definite: so much of it is added to `metric` as vectors of small norm need; the identity by default.
    progress : callable, optional
        What to call with a `Progress` at every look.
    recorder : Recorder, optional
        Keeps where walkers are at every look, from which a run that was cut goes on.

    Returns
    -------
    OrderMoment
        Lambda(p) with its standard error: infinite where products annihilate, -inf for p > 0 and inf for p < 0, and NaN
        if the run overflowed. Steps are those of all walkers together, of second vectors too.

    Raises
    ------
    ValueError
        If the populations are too few or too small, or the budget does not give each of them a few looks.
    """
    n_populations, size, dimension = vectors.shape
    if n_populations < _LEAST_POPULATIONS or size < 2 or steps_unit < 1:
        raise ValueError(
            f"n_populations must be at least {_LEAST_POPULATIONS}, size at least 2 and steps_unit at least 1, not "
            f"{n_populations!r}, {size!r} and {steps_unit!r}"
        )
    if order == 0:
        return OrderMoment(0.0, "closed form")
    n_walkers, n_beside = n_populations * size, min(N_COMPANIONS, n_populations) * size
    most = budget.max_steps // ((n_walkers + n_beside) * steps_unit)
    if most < LEAST_BATCHES:
        least = (n_walkers + n_beside) * steps_unit * LEAST_BATCHES
        raise ValueError(f"max_steps must be at least {least} for so many walkers, not {budget.max_steps!r}")
    rng = seed.generator(RESAMPLING)
    beside = rng.standard_normal((n_beside, dimension))
    if metric is None and mean_square is None:
        metric, floor = floor, None
    populations = Populations(advance, order, metric, mean_square, vectors, beside, rng, floor)
    recorder = Recorder(Journal("", {})) if recorder is None else recorder
    before: Course | None = recorder.get(_WALKERS)
    try:
        if before is not None:
            populations.go_on_from(before.walkers)
            return _simulated(populations, n_kinds, before, budget, scale, progress, recorder)
        pilot_looks = max(1, min(_PILOT_LOOKS, int(_PILOT_SHARE * most)))
        spread = populations.batch(pilot_looks, steps_unit).spread
        goal = _SPREAD if mean_square is None else _CONTROLLED_SPREAD
        longest = min(_MOST_UNITS, max(1, (most - pilot_looks) // LEAST_BATCHES))
        units = int(np.clip(math.log1p(goal) / math.log1p(max(1e-12, spread)), 1, longest))
        begun = Course(units * steps_unit, 1, 1, [], [], populations.state())
        return _simulated(populations, n_kinds, begun, budget, scale, progress, recorder)
    except AnnihilatedError:
        return OrderMoment(
            math.copysign(math.inf, -order),
            "population",
            n_steps=populations.n_steps,
            population=size,
            stopped_by="annihilation",
            reason="products of steps annihilate every displacement",
        )


def scouts(
    advance: Advance,
    order: float,
    vectors: FloatArray,
    n_batches: int,
    n_steps: int,
    seed: Seed,
    *forms: Any,
) -> FloatArray:
    """Return log growth in batches, (n_populations, n_batches), of walkers; `forms`: metric and floor."""
    metric, floor = forms if forms[0] is not None else (forms[1], None)
    rng = seed.generator(RESAMPLING)
    populations = Populations(advance, order, metric, None, vectors, vectors[:0, 0], rng, floor)
    try:
        batches = [populations.batch(1, n_steps).log_growth for _ in range(n_batches)]
    except AnnihilatedError:
        batches = []
    return np.reshape(batches, (len(batches), len(vectors))).T


@storable
@dataclass(frozen=True)
class Course:
    """How far a simulation has come: at a look, or between two batches."""

    n_steps: int
    """Of a first batch."""
    coarseness: int
    """First batches of a batch,"""
    together: int
    """and of a separation."""
    batches: list[Batch]
    separations: list[FloatArray]
    walkers: WalkersState


def _simulated(
    populations: Populations,
    n_kinds: int,
    begun: Course,
    budget: Budget,
    scale: float,
    progress: Callable[[Progress], object] | None,
    recorder: Recorder,
) -> OrderMoment:
    """Simulate until a tolerance is met or the budget is used up, in batches of n_steps, or later 2, 4, .. times."""
    n_steps, coarseness, together = begun.n_steps, begun.coarseness, begun.together
    batches, separations = list(begun.batches), list(begun.separations)

    def keep() -> None:
        state = Course(n_steps, coarseness, together, list(batches), list(separations), populations.state())
        recorder.put(_WALKERS, state)

    estimate, bias, effective, stopped_by = unknown(1), math.nan, math.nan, "max_steps"
    looked = len(batches) * coarseness - (len(batches) > 0)
    while stopped_by == "max_steps":
        done = len(batches) * coarseness
        limit = done + (budget.max_steps - populations.n_steps) // (populations.n_streams * n_steps)
        limit = rounded(limit, _MOST_BATCHES)
        # Without a tolerance there is nothing to look for once it is known how populations mix.
        looks = grid(limit, _MOST_BATCHES) if budget.has_tolerance or len(populations.beside) > 0 else []
        # Walkers are kept before a look: a run that goes on looks where it was cut.
        target = next((look for look in [*looks, limit] if look > looked), None)
        if target is None:
            break
        while len(batches) * coarseness < target:
            if len(batches) == _MOST_BATCHES:
                trend = populations.trend(n_steps * coarseness)
                batches = [
                    batch.followed_by(after, trend) for batch, after in zip(batches[::2], batches[1::2], strict=True)
                ]
                coarseness *= 2
                if len(populations.beside) > 0:
                    separations, together = [batch.separation for batch in batches], coarseness
            try:
                batches.append(populations.batch(coarseness, n_steps))
            except Stopped:
                if math.isnan(estimate.mean[0]):
                    raise
                stopped_by = INTERRUPTED
                break
            if len(populations.beside) > 0:
                separations.append(batches[-1].separation)
            if recorder.is_due:
                keep()
        if stopped_by == INTERRUPTED:
            break
        keep()
        looked = target
        per_batch = n_steps * coarseness
        estimate, bias, effective = _estimate(
            populations, n_kinds, batches, per_batch, np.array(separations).T, n_steps * together
        )
        if estimate.mixed:
            populations.beside = populations.beside[:0]
        sizes = np.maximum(np.abs(estimate.mean) / per_batch, scale)
        errors = estimate.standard_error / per_batch
        if progress is not None:
            now = float(estimate.mean[0]) / per_batch, float(errors[0])
            progress(Progress(populations.n_steps, budget.max_steps, *now))
        if target * n_steps >= _LEAST_STEPS and estimate.settled:
            stopped_by = budget.stopped_by(sizes, errors)
    return OrderMoment(
        exponent=float(estimate.mean[0]) / per_batch,
        method="population",
        standard_error=float(estimate.standard_error[0]) / per_batch,
        population_bias=bias / per_batch,
        effective_sample_size=float(estimate.effective_sample_size[0]),
        effective_walkers=effective,
        degrees_of_freedom=estimate.degrees_of_freedom,
        within_tolerance=stopped_by not in SHORT,
        mixed=estimate.mixed,
        n_steps=populations.n_steps,
        population=populations.shape[1],
        stopped_by=stopped_by,
    )


def _estimate(
    populations: Populations,
    n_kinds: int,
    batches: list[Batch],
    per_batch: int,
    separation: FloatArray,
    per_separation: int,
) -> tuple[Estimate, float, float]:
    """Return the estimate of Lambda(p) over a batch, what windows have changed, and effective walkers."""
    log_growth, control, effective = (
        np.array([getattr(batch, name) for batch in batches]).T for name in ("log_growth", "control", "effective")
    )
    if not (np.isfinite(log_growth) | np.isneginf(log_growth)).all() or np.isneginf(log_growth).all():
        return unknown(1), math.nan, math.nan
    level = float(np.median(log_growth[np.isfinite(log_growth)]))
    with np.errstate(over="ignore"):
        columns = [np.expm1(log_growth - level)]
    if populations.mean_square is not None and np.isfinite(control).all():
        half = populations.order / 2
        with np.errstate(over="ignore", invalid="ignore"):
            factor = np.exp(half * populations.mean_square * per_batch - level)
            columns.append(columns[0] - half * factor * control)
    growth = np.stack(columns, axis=2)[:, 1:]
    looks = [*grid(separation.shape[1], _MOST_BATCHES), separation.shape[1]]
    kinds, leading = kind_of_each(len(growth), n_kinds), np.arange(n_kinds) == 0

    def of_leading() -> tuple[Mixing, int]:
        """How second vectors of the kinds that lead mix, and what to cut off."""
        its = separation[leading[kinds[: len(separation)]]]
        mixing = first_resolved(np.stack([its, np.zeros(its.shape)], axis=2), per_separation, looks)
        if not mixing.separated:
            mixing = of_half_the_run(len(batches) * per_batch)
        return mixing, max(start_up_batches(mixing, growth.shape[1], per_batch), growth.shape[1] // START_UP)

    start_up = of_leading()[1]
    leading, missed = leading_kinds([growth[kinds == kind, start_up:, :1] for kind in range(n_kinds)])
    (mixing, start_up), kept = of_leading(), leading[kinds]
    past = np.maximum(log_growth, level + _NOTHING_LEFT)[kept, :-1]
    # The control variate is blind where the dominant second moment, which the first populations have, is not.
    growth = growth[kept] if leading[0] else growth[kept, :, :1]
    series, unsettled, bias = windowed(past, growth, start_up)
    unsettled = math.hypot(unsettled, missed)
    size, rounding = populations.shape[1], ROUNDING * max(1.0, abs(populations.order))
    spread = math.sqrt(size) * float(combined_columns(series).mean(axis=1).std(ddof=1))
    found = AnchoredGrowth(series, per_batch, mixing, Rounding(rounding, 1)).estimate(spread=spread)
    total = 1 + float(found.mean[0])
    if not total > 0:
        return unknown(1), math.nan, math.nan
    estimate = replace(
        found,
        mean=level + np.log1p(found.mean),
        standard_error=np.hypot(found.standard_error, unsettled) / total,
        bias_allowance=math.hypot(found.bias_allowance or 0.0, unsettled) / total,
    )
    return estimate, bias / total, float(effective[kept, start_up:].mean())
