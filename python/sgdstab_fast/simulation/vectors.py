"""Chains of vectors: what advances them, and what they say of lambda."""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, VectorOptions
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.looks import looks_back
from sgdstab_fast.simulation.task import Task
from sgdstab_fast.statistics.control_variates import anchored_means
from sgdstab_fast.statistics.estimates import Estimate, batch_means
from sgdstab_fast.statistics.mixing import Mixing, first_resolved
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.system import System, overflow_safe_steps

MOST_BETWEEN_NORMALISATIONS = 256
_SEPARATIONS = 4.0  # standard errors of a gap
_COLLAPSE = 8.0  # logarithm of the angle that two vectors may lose between orthonormalisations
_VECTORS_PER_EVALUATION, _VECTORS_PER_ITEM = 16, 4  # of the core's work items


def estimate(chains: Chains[VectorRecords]) -> Estimate:
    """Estimate lambda from chains: from anchored growth if they have recorded it, else from their own."""
    log_growth, growth = chains.records.log_growth, chains.records.growth
    if growth.shape[2] == 0:
        return batch_means(log_growth, chains.steps_per_batch)
    return _anchored(chains, growth / (chains.steps_per_batch // chains.spacing))


def estimate_with_own_growth(chains: Chains[VectorRecords]) -> Estimate:
    """Estimate lambda from anchored growth and that of the chains themselves, which has the same mean.

    Where steps are large and batches are drawn for an evaluation, that of all steps may say as much as the expected one
    of a few.
    """
    log_growth, growth = chains.records.log_growth, chains.records.growth
    own = log_growth[:, :, :1] / chains.steps_per_batch
    if not np.isfinite(own).all():
        return estimate(chains)
    if growth.shape[2] == 0:
        if chains.companions is None:
            return batch_means(log_growth, chains.steps_per_batch)
        return _anchored(chains, own, telescoping=True)
    anchored = growth / (chains.steps_per_batch // chains.spacing)
    return _anchored(chains, np.concatenate([anchored, own], axis=2))


def _anchored(chains: Chains[VectorRecords], growth: FloatArray, *, telescoping: bool = False) -> Estimate:
    """Estimate lambda from growth per step in columns of the same mean.

    Growth along a chain adds up to that of one vector's length, `telescoping`: before directions have mixed it grows at
    a rate between exponents that are no farther apart than companions let them be, but for what its first and last
    batch may add.
    """
    mixing = Mixing(math.nan, 0.0, 0)
    if chains.companions is not None:
        companions = chains.companions
        mixing = first_resolved(companions.records.log_growth, companions.steps_per_batch, looks_back(companions))
    spread = None
    if telescoping and math.isfinite(mixing.gap) and mixing.separation != 0:
        apart = abs(mixing.gap) * (1 + _SEPARATIONS / abs(mixing.separation))
        spread = apart + float(np.ptp(growth)) / growth.shape[1]
    return anchored_means(growth, chains.steps_per_batch, mixing, chains.n_examples, chains.rounding, spread)


def companions_task(system: System) -> Task[VectorRecords]:
    """Return what advances chains of two vectors, orthonormalised before they become parallel to rounding."""
    task = vectors_task(system, system.no_growth)
    every = int(np.clip(_COLLAPSE / max(system.largest_elongation, 1e-300), 1, task.options.renormalise_every))
    return task.with_options(renormalise_every=every)


def vectors_task(system: System, growth: Growth, *, spacing: int = 1) -> Task[VectorRecords]:
    """Return what advances chains of vectors, and evaluates growth every `spacing` steps."""
    call = system.vectors_call()
    every = min(overflow_safe_steps(system.step_sizes), MOST_BETWEEN_NORMALISATIONS)
    return Task(
        function="advance_vectors",
        steps=call.steps,
        metrics=growth.metrics,
        options=VectorOptions(every, spacing, call.careful, record=False),
        records=VectorRecords,
        seconds_per_step=call.seconds_per_step,
        chains_per_item=_VECTORS_PER_EVALUATION if growth.size > 0 else _VECTORS_PER_ITEM,
    )
