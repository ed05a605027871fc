"""Projective chains that need no estimating, and what is not defined for some systems."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.directions.results import ProjectiveChain
from sgdstab_fast.exact.regularity import Regularity
from sgdstab_fast.results.chains import Chains, Ending, VectorRecords
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.simulation.continuation import recording_task
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.outcome import closed_form_attributes
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.statistics.means import Measured, mean_of
from sgdstab_fast.systems.sgd import plain_of
from sgdstab_fast.systems.system import System

_MOST_SAMPLED = 2**20  # steps
_SEVERAL = "steps are on several examples, and the log growth of a step is no sum of parts that belong to one each"
_EPOCHS = "what a step on an example does depends on its place in the epoch"
_NO_EXAMPLES = "matrices of an ensemble are not examples, and directions have no parts that belong to them"
_MEMORY = "with momentum a direction is one of the present displacement and of the past one, not of displacements alone"


def what_is_missing(system: System) -> tuple[str, str]:
    """Return why lambda has no parts by example, and why directions have no shares; each empty if they have."""
    without_parts = "" if system.has_parts_by_outcome else _SEVERAL if system.is_independent else _EPOCHS
    if system.shares() is not None:
        return without_parts, ""
    return without_parts, _MEMORY if system.outcome == "example" else _NO_EXAMPLES


def without_direction(system: System, common: dict[str, Any]) -> ProjectiveChain:
    """Say that products of steps annihilate every displacement."""
    following, shares = system.next_steps() if system.has_parts_by_outcome else None, system.shares()
    n = 0 if following is None else len(following.weights)
    n_participating = 0 if shares is None else shares.n_examples
    return ProjectiveChain(
        exponent=-math.inf,
        standard_error=0.0,
        effective_sample_size=math.inf,
        exponent_by_example=np.full(n, -math.inf),
        exponent_by_example_standard_error=np.zeros(n),
        participation=np.zeros(n_participating),
        participation_standard_error=np.zeros(n_participating),
        contraction_rate=-math.inf,
        contraction_rate_standard_error=0.0,
        autocorrelation_time=1.0,
        autocorrelation_time_standard_error=0.0,
        variances={"autocovariances": Measured(0.0, 0.0), "batch means": Measured(0.0, 0.0)},
        mixed=False,
        **common,
    )


def single_direction(system: System, options: Options, regular: Regularity | None, reason: str) -> ProjectiveChain:
    """Describe the one direction there is in one dimension, where steps are numbers."""
    law = _law_of_numbers(system, options)
    parts = law.parts
    known = closed_form_attributes(system, options.seed)
    if law.n_steps > 0:
        known |= {"degrees_of_freedom": options.n_chains - 1, "n_steps": law.n_steps, "n_chains": options.n_chains}
        known |= {"converged": law.converged, "stopped_by": "max_steps"}
        known |= {"provenance": provenance(options.seed, "average", system)}
    without_parts, without_shares = what_is_missing(system)
    shares = _shares(system)
    parts = np.empty(0) if without_parts else parts
    return ProjectiveChain(
        exponent=law.exponent.value,
        standard_error=law.exponent.standard_error,
        effective_sample_size=math.inf,
        exponent_by_example=parts,
        exponent_by_example_standard_error=np.zeros(len(parts)),
        participation=shares,
        participation_standard_error=np.zeros(len(shares)),
        contraction_rate=-math.inf,
        contraction_rate_standard_error=0.0,
        autocorrelation_time=float(system.grain),
        autocorrelation_time_standard_error=0.0,
        variances={"autocovariances": law.variance, "batch means": law.variance},
        mixed=False,
        reason=reason,
        without_parts=without_parts,
        without_shares=without_shares,
        regularity=regular,
        system=system,
        ending=Ending(_chains(system, options), system.grain, 1),
        **known,
    )


def _chains(system: System, options: Options) -> Chains[VectorRecords]:
    """Return chains before any step."""
    return Chains(
        key=options.seed.key,
        states=np.ones((options.n_chains, 1, 1)),
        steps_per_batch=system.grain,
        records=VectorRecords.empty(options.n_chains, 1, 0, 1),
    )


class _LawOfNumbers(NamedTuple):
    """Log abs of steps that are numbers, which are independent from epoch to epoch."""

    exponent: Measured
    variance: Measured
    parts: FloatArray
    """Of outcomes in the exponent."""
    n_steps: int = 0
    """Steps simulated."""
    converged: bool = True


def _law_of_numbers(system: System, options: Options) -> _LawOfNumbers:
    """Return mean and variance, of all outcomes or, where these are too many, of a sample."""
    if (plain := plain_of(system)) is not None:
        logs = plain.log_determinants
        exponent, variance = float(logs.mean()), 0.0 if np.isneginf(logs).any() else float(logs.var())
        return _LawOfNumbers(Measured(exponent, 0.0), Measured(variance, 0.0), logs / len(logs))
    outcomes = system.outcomes()
    if outcomes is None:
        return _sampled(system, options)
    drawn, n_steps = outcomes.probabilities > 0, outcomes.n_steps
    sizes, probabilities = np.abs(outcomes.matrices[drawn, 0, 0]), outcomes.probabilities[drawn]
    with np.errstate(divide="ignore"):
        logs = np.where(sizes <= 2 * np.finfo(float).eps, -math.inf, np.log(sizes))
    parts = np.zeros(len(drawn))
    parts[drawn] = probabilities * logs
    exponent = float(parts.sum()) / n_steps
    variance = 0.0
    if math.isfinite(exponent):
        variance = float(probabilities @ (logs - n_steps * exponent) ** 2) / n_steps
    return _LawOfNumbers(Measured(exponent, 0.0), Measured(variance, 0.0), parts)


def _sampled(system: System, options: Options) -> _LawOfNumbers:
    """Return mean and variance of log growth over independent epochs, or steps."""
    grain, budget = system.grain, options.budget
    n_batches = max(min(budget.max_steps, _MOST_SAMPLED) // (options.n_chains * grain), 2)
    task = recording_task(system, system.no_growth, grain, 1)
    log_growth = advance(_chains(system, options), task, n_batches, options.workers).records.log_growth
    n_steps = options.n_chains * n_batches * grain
    if not np.isfinite(log_growth).all():
        return _LawOfNumbers(Measured(-math.inf, 0.0), Measured(0.0, 0.0), np.empty(0), n_steps)
    exponent = mean_of(log_growth[:, :, 0].mean(axis=1) / grain)
    variance = mean_of(log_growth[:, :, 0].var(axis=1, ddof=1) / grain)
    met = budget.met(np.abs([exponent.value]), np.array([exponent.standard_error]))
    return _LawOfNumbers(exponent, variance, np.empty(0), n_steps, bool(met.all()) or not budget.has_tolerance)


def _shares(system: System) -> FloatArray:
    """Return the shares of examples in the one direction there is."""
    shares = system.shares()
    if shares is None:
        return np.empty(0)
    lengths = np.abs(shares.root[0]) ** 2
    if shares.units is not None:
        lengths = np.bincount(shares.units, lengths, shares.n_examples)
    return np.asarray(lengths / lengths.sum())
