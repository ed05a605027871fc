"""Pilots: short runs that tell which way to lambda is the shortest, and how often growth is to be evaluated on it.

An evaluation costs as much as many steps, and successive ones are correlated. With the autocorrelation rho measured at
multiples of the shortest spacing T_0, the time to a given variance is, for T = m T_0, proportional to

    (evaluation + T steps) (1 + 2 sum_j rho(j m T_0)) Var g;

averages of growth along chains, of variance sigma^2 a step, take step sigma^2. Where one evaluation takes as long as
tens of thousands of steps, a pilot without any tells whether averages are there before a pilot with evaluations would
be. Times are those of a model, not of a clock, so that results do not depend on the machine.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import PILOTS
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import initial_vectors
from sgdstab_fast.simulation.task import Task, advance
from sgdstab_fast.simulation.vectors import vectors_task
from sgdstab_fast.statistics.control_variates import combined
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.system import System

_CHAINS, _EVALUATIONS, _GROUPS, _SHARE = 64, 32, 4, 1 / 16
_NOISE = 0.1  # of an autocorrelation
_LONGEST_SPACING = 16  # times N
_ALIKE = 1.02  # times to a variance: of these the longest spacing, so that the first look comes early
_LONG_PILOT = 0.02  # seconds
_CLEARLY = 2.0  # how much faster averages must be
_DRIFTING = 2.0  # variances that error bars of averages come to, at least, with what halves of a run differ by
_SIGN = 1 / 4  # of lambda: an error that lets its sign be known


class Plan(NamedTuple):
    """What pilots say."""

    spacing: int | None
    """Steps between evaluations; None where averages get there first."""
    n_steps: int
    """Steps that pilots took, one or two."""


def planned(system: System, options: Options, growth: Growth, task: Task[VectorRecords], first_chain: int) -> Plan:
    """Return how many steps to take between evaluations, if any, and the steps spent on finding out."""
    shortest = max(1, int(system.steps_per_epoch) // 2)
    n_steps = _CHAINS * _EVALUATIONS * shortest
    if n_steps > _SHARE * options.budget.max_steps:
        return Plan(4 * shortest, 0)
    seconds = _CHAINS * _EVALUATIONS * growth.seconds_per_evaluation
    if seconds > _LONG_PILOT:
        rough = _pilot(system, options, system.no_growth, vectors_task(system, system.no_growth), shortest, first_chain)
        if _seconds_of_averages(rough.log_growth[:, :, 0], shortest, options, task.seconds_per_step) < seconds:
            return Plan(None, n_steps)
        n_steps *= 2
    recorded = _pilot(system, options, growth, task, shortest, first_chain)
    if not np.isfinite(recorded.growth).all():
        return Plan(4 * shortest, n_steps)
    series = combined(recorded.growth, _GROUPS)
    series -= series.mean()
    lags = range(_EVALUATIONS)
    autocovariance = np.array([(series[:, lag:] * series[:, : _EVALUATIONS - lag]).mean() for lag in lags])
    correlation = autocovariance / autocovariance[0] if autocovariance[0] > 0 else np.zeros(_EVALUATIONS)
    # Up to where it drowns in noise.
    correlation[int(np.argmax(correlation < _NOISE)) if (correlation < _NOISE).any() else None :] = 0

    def time_to_variance(spacing: int) -> float:
        correlated = 1 + 2 * float(correlation[spacing // shortest :: spacing // shortest].sum())
        return (growth.seconds_per_evaluation + spacing * task.seconds_per_step) * correlated

    longest = max(int(_LONGEST_SPACING * system.steps_per_epoch), 64)
    candidates = [shortest * 2**doublings for doublings in range(64) if shortest * 2**doublings <= longest]
    times = [time_to_variance(spacing) for spacing in candidates]
    if seconds > _LONG_PILOT:
        averaged = task.seconds_per_step * _DRIFTING * _variance_of_steps(recorded.log_growth[:, :, 0], shortest)
        if _CLEARLY * averaged < min(times) * autocovariance[0]:
            return Plan(None, n_steps)
        return Plan(max(T for T, time in zip(candidates, times, strict=True) if time <= _ALIKE * min(times)), n_steps)
    return Plan(candidates[int(np.argmin(times))], n_steps)


def _pilot(
    system: System,
    options: Options,
    growth: Growth,
    task: Task[VectorRecords],
    shortest: int,
    first_chain: int,
) -> VectorRecords:
    """Return what a few short chains record."""
    first = first_chain + PILOTS.start
    chains = Chains(
        key=options.seed.key,
        states=initial_vectors(system, growth.covariance, options.seed.key, _CHAINS, 1, first),
        steps_per_batch=shortest,
        records=VectorRecords.empty(_CHAINS, 1, growth.size),
        first_chain=first,
    )
    seconds = task.seconds_per_step + growth.seconds_per_evaluation / shortest
    task = replace(task.with_options(spacing=shortest), seconds_per_step=seconds)
    return advance(chains, task, _EVALUATIONS, options.workers).records


def _variance_of_steps(log_growth: FloatArray, steps_per_batch: int) -> float:
    """Return sigma^2, per step, from chains' log growth in batches."""
    n_steps = log_growth.shape[1] * steps_per_batch
    return float(log_growth.sum(axis=1).var(ddof=1) / n_steps)


def _seconds_of_averages(
    log_growth: FloatArray, steps_per_batch: int, options: Options, seconds_per_step: float
) -> float:
    """Return how long averages take to meet the tolerance that is met first, or to use up a budget without one."""
    budget = options.budget
    exponent = abs(float(log_growth.mean())) / steps_per_batch
    tolerance = max(budget.rtol * exponent, budget.atol, 0.0 if budget.sign_confidence is None else _SIGN * exponent)
    n_steps = float(budget.max_steps)
    if np.isfinite(log_growth).all() and tolerance > 0:
        n_steps = _DRIFTING * _variance_of_steps(log_growth, steps_per_batch) / tolerance**2
    return n_steps * seconds_per_step if n_steps <= budget.max_steps else math.inf
