"""Pilots: short runs that tell which way to lambda is the shortest, and how often growth is to be evaluated on it.

An evaluation costs as much as many steps, and successive ones are correlated. With the autocorrelation rho measured at
multiples of the shortest spacing T_0, the time to a given variance is, for T = m T_0, proportional to

    (evaluation + T steps) (1 + 2 sum_j rho(j m T_0)) Var g;

averages of growth along chains, of variance sigma^2 a step, take step sigma^2. Where one evaluation takes as long as
tens of thousands of steps, a pilot without any tells whether averages are there before a pilot with evaluations would
be. Where metrics themselves take long to make, the cheap ones are tried first, and the others made only if the
tolerance is further off than that takes. Times are those of a model, not of a clock, so that results do not depend on
the machine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import PILOTS
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.looks import FIRST_LOOK
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import initial_vectors, n_twins_of
from sgdstab_fast.simulation.task import Task, advance
from sgdstab_fast.simulation.vectors import vectors_task
from sgdstab_fast.statistics.control_variates import combined
from sgdstab_fast.systems.growth import Growth, GrowthChoice
from sgdstab_fast.systems.system import System

_CHAINS, _EVALUATIONS, _GROUPS, _SHARE = 64, 32, 4, 1 / 16
_NOISE = 0.1  # of an autocorrelation
_LONGEST_SPACING = 16  # times N
_ALIKE = 1.02  # times to a variance: of these the longest spacing, so that there are fewer evaluations
_LONG_PILOT = 0.02  # seconds
_LONG_EVALUATION, _FEW_CHAINS, _FEW_EVALUATIONS = 5e-5, 32, 16  # seconds; of them a pilot may have fewer
_CLEARLY = 2.0  # how much faster averages must be
_DRIFTING = 2.0  # variances that error bars of averages come to, at least, with what halves of a run differ by
_SIGN = 1 / 4  # of lambda: an error that lets its sign be known


class Plan(NamedTuple):
    """What pilots say."""

    spacing: int | None
    """Steps between evaluations; None where averages get there first."""
    n_steps: int = 0
    """Steps that pilots took, one or two."""
    seconds: float = 0.0
    """Time to the tolerance that is met first, but for what chains owe to their starts; 0 where it is not known."""


def grown(
    system: System, options: Options, choices: Sequence[GrowthChoice], first_chain: int
) -> tuple[GrowthChoice, Growth, Plan]:
    """Return the first growth to choose from beside which making the next one would not pay, and a plan with it."""
    n_steps = 0
    for choice, after in itertools.zip_longest(choices, choices[1:]):
        growth = choice.make()
        plan = planned(system, options, growth, first_chain) if growth.size > 0 else Plan(None)
        n_steps += plan.n_steps
        if after is None or plan.seconds <= after.seconds:
            break
    return choice, growth, plan._replace(n_steps=n_steps)


def planned(system: System, options: Options, growth: Growth, first_chain: int) -> Plan:
    """Return how many steps to take between evaluations, if any, and the steps spent on finding out."""
    shortest, task = max(1, int(system.steps_per_epoch) // 2), vectors_task(system, growth)
    is_long = growth.seconds_per_evaluation > _LONG_EVALUATION
    n_chains, n_evaluations = (_FEW_CHAINS, _FEW_EVALUATIONS) if is_long else (_CHAINS, _EVALUATIONS)
    n_steps = n_chains * n_evaluations * shortest
    if n_steps > _SHARE * options.budget.max_steps:
        return Plan(4 * shortest)
    pilot = _Pilot(system, options, n_chains, n_evaluations, shortest, first_chain)
    seconds = n_chains * n_evaluations * growth.seconds_per_evaluation
    if seconds > _LONG_PILOT:
        rough = pilot.run(system.no_growth, vectors_task(system, system.no_growth)).log_growth[:, :, 0]
        averages = task.seconds_per_step * _DRIFTING * _steps_to(rough, shortest, options)
        if averages < seconds:
            return Plan(None, n_steps, averages)
        n_steps *= 2
    recorded = pilot.run(growth, task)
    if not np.isfinite(recorded.growth).all():
        return Plan(4 * shortest, n_steps)
    series = combined(recorded.growth, _GROUPS)
    tolerance = _tolerance(float(series.mean()), options)
    series -= series.mean()
    lags = range(n_evaluations)
    autocovariance = np.array([(series[:, lag:] * series[:, : n_evaluations - lag]).mean() for lag in lags])
    correlation = autocovariance / autocovariance[0] if autocovariance[0] > 0 else np.zeros(n_evaluations)
    # Up to where it drowns in noise.
    correlation[int(np.argmax(correlation < _NOISE)) if (correlation < _NOISE).any() else None :] = 0

    def time_to_variance(spacing: int) -> float:
        correlated = 1 + 2 * float(correlation[spacing // shortest :: spacing // shortest].sum())
        return (growth.seconds_per_evaluation + spacing * task.seconds_per_step) * correlated

    longest = max(int(_LONGEST_SPACING * system.steps_per_epoch), 64)
    candidates = [shortest * 2**doublings for doublings in range(64) if shortest * 2**doublings <= longest]
    times = [time_to_variance(spacing) for spacing in candidates]
    least = min(times)
    seconds_to_tolerance = least * autocovariance[0] / tolerance**2 if tolerance > 0 else math.inf
    if seconds <= _LONG_PILOT:
        return Plan(candidates[int(np.argmin(times))], n_steps, seconds_to_tolerance)
    averaged = task.seconds_per_step * _DRIFTING * _variance_of_steps(recorded.log_growth[:, :, 0], shortest)
    if _CLEARLY * averaged < least * autocovariance[0]:
        return Plan(None, n_steps, averaged / tolerance**2 if tolerance > 0 else math.inf)
    if tolerance == 0:
        spacing = max(T for T, time in zip(candidates, times, strict=True) if time <= _ALIKE * least)
        return Plan(spacing, n_steps, math.inf)
    # No sooner than at the first look.
    evaluations = FIRST_LOOK * (options.n_chains + n_twins_of(options))
    looks = [evaluations * (growth.seconds_per_evaluation + T * task.seconds_per_step) for T in candidates]
    ends = [max(time * autocovariance[0] / tolerance**2, look) for time, look in zip(times, looks, strict=True)]
    return Plan(candidates[int(np.argmin(ends))], n_steps, seconds_to_tolerance)


@dataclass(frozen=True)
class _Pilot:
    """A few short chains."""

    system: System
    options: Options
    n_chains: int
    n_batches: int
    steps_per_batch: int
    first_chain: int

    def run(self, growth: Growth, task: Task[VectorRecords]) -> VectorRecords:
        """Return what they record, at the end of every batch."""
        first, key = self.first_chain + PILOTS.start, self.options.seed.key
        chains = Chains(
            key=key,
            states=initial_vectors(self.system, growth.covariance, key, self.n_chains, 1, first),
            steps_per_batch=self.steps_per_batch,
            records=VectorRecords.empty(self.n_chains, 1, growth.size),
            first_chain=first,
        )
        seconds = task.seconds_per_step + growth.seconds_per_step(self.steps_per_batch)
        task = replace(task.with_options(spacing=self.steps_per_batch), seconds_per_step=seconds)
        return advance(chains, task, self.n_batches, self.options.workers).records


def _variance_of_steps(log_growth: FloatArray, steps_per_batch: int) -> float:
    """Return sigma^2, per step, from chains' log growth in batches."""
    n_steps = log_growth.shape[1] * steps_per_batch
    return float(log_growth.sum(axis=1).var(ddof=1) / n_steps)


def _tolerance(exponent: float, options: Options) -> float:
    """Return the standard error at which a run stops; 0 if none does."""
    budget, exponent = options.budget, abs(exponent)
    of_sign = 0.0 if budget.sign_confidence is None else _SIGN * exponent
    return max(budget.rtol * exponent, budget.atol, of_sign)


def _steps_to(log_growth: FloatArray, steps_per_batch: int, options: Options) -> float:
    """Return how many steps averages take to a tolerance, but for drifts; infinitely many if none is in the budget."""
    tolerance = _tolerance(float(log_growth.mean()) / steps_per_batch, options)
    if not (np.isfinite(log_growth).all() and tolerance > 0):
        return math.inf
    n_steps = _variance_of_steps(log_growth, steps_per_batch) / tolerance**2
    return n_steps if _DRIFTING * n_steps <= options.budget.max_steps else math.inf
