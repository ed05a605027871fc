"""Chains that go on from where a run ended."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.functions import FloatArray, core
from sgdstab_fast.results.chains import Checkpoint
from sgdstab_fast.simulation.looks import pieces
from sgdstab_fast.simulation.task import Kernel
from sgdstab_fast.simulation.vectors import vectors_kernel
from sgdstab_fast.simulation.workers import Workers
from sgdstab_fast.systems.growth import Metrics, no_metrics
from sgdstab_fast.systems.system import System


class Measured(NamedTuple):
    """A number with its error."""

    value: float
    standard_error: float


def recording_kernel(system: System, metrics: Metrics, spacing: int, orthonormalise_every: int) -> Kernel:
    """Return the kernel that records the direction, and growth in the metrics, after every batch of `spacing` steps."""
    kernel = vectors_kernel(system, metrics)
    every = min(kernel.arguments["renormalise_every"], orthonormalise_every)
    arguments = {**kernel.arguments, "spacing": spacing, "renormalise_every": every, "record": True}
    seconds = 2 * kernel.seconds_per_step + metrics.seconds_per_evaluation / spacing
    return replace(kernel, arguments=arguments, seconds_per_step=seconds)


class Path(NamedTuple):
    """What chains do over batches of steps."""

    log_growth: FloatArray
    """Of the vectors, shape (n_chains, n_batches, k)."""
    directions: FloatArray
    """The first vectors after every batch, shape (n_chains, n_batches, dimension)."""


def continued_directions(
    system: System, checkpoint: Checkpoint, n_batches: int, spacing: int, workers: Workers | None = None
) -> FloatArray:
    """Return directions every `spacing` steps, or whole epochs, shape (n_chains, n_batches, dimension)."""
    vectors = checkpoint.chains.states[:, :1]
    return continued(system, checkpoint, vectors, n_batches, whole(system, spacing), workers=workers).directions


def continued(
    system: System,
    checkpoint: Checkpoint,
    vectors: FloatArray,
    n_batches: int,
    spacing: int,
    *,
    first_batch: int = 0,
    workers: Workers | None = None,
) -> Path:
    """Take n_batches batches of `spacing` steps from the vectors given, shape (n_chains, k, dimension).

    What chains do depends on where the run ended alone: calling twice gives the same.
    """
    workers = workers or Workers()
    kernel = recording_kernel(system, no_metrics(system), spacing, checkpoint.orthonormalise_every)
    vectors = np.array(vectors, order="C")
    parts, done = [], first_batch
    for size in pieces(n_batches, kernel.seconds_per_step * len(vectors) * spacing / workers.n_threads):
        vectors, log_growth, _, directions = getattr(core, kernel.name)(
            **kernel.arguments,
            vectors=vectors,
            key=checkpoint.chains.key,
            first_chain=checkpoint.chains.first_chain,
            first_step=checkpoint.next_step + done * spacing,
            n_batches=size,
            steps_per_batch=spacing,
            n_threads=workers.n_threads,
        )
        parts.append((log_growth, directions))
        done += size
    return Path(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


def whole(system: System, n_steps: int) -> int:
    """Return n_steps rounded up to whole epochs, where draws repeat within them."""
    return -(-n_steps // system.grain) * system.grain
