"""Chains that go on from where a run ended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.chains import Chains, Ending, VectorRecords, in_pairs
from sgdstab_fast.simulation.task import PIECE_SECONDS, Task, advance
from sgdstab_fast.simulation.vectors import vectors_task
from sgdstab_fast.simulation.workers import Workers
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.system import System


def recording_task(system: System, growth: Growth, spacing: int, orthonormalise_every: int) -> Task[VectorRecords]:
    """Return the task that records the direction, and growth, after every batch of `spacing` steps."""
    task = vectors_task(system, growth, spacing=spacing)
    every = min(task.options.renormalise_every, orthonormalise_every)
    seconds = 2 * task.seconds_per_step + growth.seconds_per_step(spacing)
    return replace(task.with_options(renormalise_every=every, record=True), seconds_per_step=seconds)


def continued_directions(
    system: System, ending: Ending, n_batches: int, spacing: int, workers: Workers | None = None
) -> FloatArray:
    """Return directions every `spacing` steps, or whole epochs, shape (n_chains, n_batches, dimension)."""
    vectors = ending.chains.states[:, :1]
    return continued(system, ending, vectors, n_batches, system.whole_epochs(spacing), workers=workers).directions


def continued(
    system: System,
    ending: Ending,
    vectors: FloatArray,
    n_batches: int,
    spacing: int,
    *,
    first_batch: int = 0,
    workers: Workers | None = None,
) -> VectorRecords:
    """Take n_batches batches of `spacing` steps from the vectors given, shape (n_chains, k, dimension).

    What chains do depends on where the run ended alone: calling twice gives the same.
    """
    chains = Chains(
        key=ending.chains.key,
        states=np.array(vectors, order="C"),
        steps_per_batch=spacing,
        records=VectorRecords.empty(len(vectors), vectors.shape[1], 0, system.dimension),
        first_chain=ending.chains.first_chain,
        first_step=ending.chains.next_step + first_batch * spacing,
    )
    task = recording_task(system, system.no_growth, spacing, ending.orthonormalise_every)
    return advance_windows(chains, task, n_batches, workers or Workers()).records


def advance_windows(
    chains: Chains[VectorRecords], task: Task[VectorRecords], n_batches: int, workers: Workers
) -> Chains[VectorRecords]:
    """Advance chains that evaluate nothing by batches that may be so long that calls of the core end within them.

    Where these end depends on chains and task alone.
    """
    longest = max(1, int(PIECE_SECONDS / (task.seconds_per_step * chains.n_streams)))
    coarseness, n_steps = 1, chains.steps_per_batch
    while n_steps > longest * coarseness:
        coarseness *= 2
    whole = n_steps - n_steps % coarseness
    if whole == n_steps:
        return replace(advance(replace(chains, coarseness=coarseness), task, n_batches, workers), coarseness=1)
    empty = chains.until(0).records
    for _ in range(n_batches):
        # What does not divide by a power of two comes last.
        first_step, here = chains.next_step, replace(chains, records=empty, steps_per_batch=whole)
        here = advance(replace(here, first_step=first_step, coarseness=coarseness), task, 1, workers)
        rest = replace(here, first_step=first_step + whole, records=empty, steps_per_batch=n_steps - whole)
        rest = advance(replace(rest, coarseness=1), task, 1, workers)
        chains = chains.after(rest.states, [in_pairs(here.after(rest.states, [rest.records]).records)])
    return chains
