"""Chains of vectors: what advances them, and what they say of lambda."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, VectorOptions
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.starts import spread_from
from sgdstab_fast.simulation.task import Task
from sgdstab_fast.statistics.anchored import AnchoredGrowth
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.mixing import Mixing, measure
from sgdstab_fast.statistics.twins import Twins
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.system import System, overflow_safe_steps

MOST_BETWEEN_NORMALISATIONS = 256
_COLLAPSE = 8.0  # logarithm of the angle that two vectors may lose between orthonormalisations
_VECTORS_PER_EVALUATION, _VECTORS_PER_ITEM = 16, 4  # of the core's work items


def estimate(chains: Chains[VectorRecords], highest: float = math.inf) -> Estimate:
    """Estimate lambda, no larger than `highest`, from anchored growth if chains have recorded it, else their own."""
    return _estimate(chains, _own if chains.records.growth.shape[2] == 0 else _anchored, highest)


def estimate_with_own_growth(chains: Chains[VectorRecords], highest: float = math.inf) -> Estimate:
    """Estimate lambda from anchored growth and that of the chains themselves, which has the same mean.

    Where steps are large and batches are drawn for an evaluation, that of all steps may say as much as the expected one
    of a few.
    """
    if not np.isfinite(chains.records.log_growth[:, :, 0]).all():
        return estimate(chains, highest)
    return _estimate(chains, lambda each: np.concatenate([_anchored(each), _own(each)], axis=2), highest)


def _anchored(chains: Chains[VectorRecords]) -> FloatArray:
    return chains.records.growth / (chains.steps_per_batch // chains.spacing)


def _own(chains: Chains[VectorRecords]) -> FloatArray:
    return chains.records.log_growth[:, :, :1] / chains.steps_per_batch


def _estimate(
    chains: Chains[VectorRecords], growth_of: Callable[[Chains[VectorRecords]], FloatArray], highest: float
) -> Estimate:
    """Estimate lambda from growth per step in columns of the same mean, and that of companions, the chains' twins."""
    mixing, twins, companions = Mixing(math.nan, 0.0, 0), None, chains.companions
    if companions is not None and companions.n_batches > 0:
        mixing = measure(companions.records.log_growth, companions.steps_per_batch)
        of_twins = growth_of(companions.as_coarse_as(chains))
        twins = Twins(of_twins) if np.isfinite(of_twins).all() else None
    growth, steps = growth_of(chains), chains.steps_per_batch
    spread = spread_from(chains.start, chains.states[:, 0])
    anchored = AnchoredGrowth(growth, steps, mixing, chains.rounding_of_growth, twins, spread)
    return anchored.estimate(highest=highest)


def companions_task(system: System, task: Task[VectorRecords]) -> Task[VectorRecords]:
    """Return what advances chains of two vectors, orthonormalised before they become parallel to rounding."""
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
