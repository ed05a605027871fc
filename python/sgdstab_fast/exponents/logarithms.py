"""Chains of logarithms: products of diagonal matrices that rare outcomes interrupt.

Under diagonal matrices D every coordinate of a vector grows by itself, by r_j a step. With others coming every 1/p
steps, coordinates come to differ by exp((r_1 - r_j) / p), which may be more than what numbers can be: a coordinate that
has become 0 in a run is one that has never been. Where another matrix maps the axis of the largest r_j onto others and
has nothing to put in its place, its entry there being 0, all depends on how small the others have been.

So chains are of logarithms of coordinates, with their signs. A run of diagonal matrices, of geometric length, is taken
at once: how often each of them came is multinomial. It counts as a step, together with the matrix that ends it.
Deviations of these numbers from their means are control variates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, Stream
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import n_twins_of, normals
from sgdstab_fast.simulation.task import Item, Task
from sgdstab_fast.systems.system import Outcomes, System

IN_LOGARITHMS = "logarithms"
"""The method, as `provenance` names it."""
_FAR = 40.0  # logarithm that coordinates differ by at the end of a mean run
_NEARLY_ZERO = 25.0  # and that an entry is smaller by than the largest
_LARGEST_DIMENSION, _MOST_NUMBERS = 16, 2**14
_STEPS_PER_BATCH, _FIRST_BATCHES, _WALKERS = 16, 16, 8
_START_UP = (8, 32)  # steps before the first
_STREAMS = 5  # spawn number of the key
_SECONDS_PER_STEP = 3e-7
_LEAST = -1e300  # of what has become 0


class DiagonalRuns(NamedTuple):
    """The law of runs of m diagonal matrices, each of which one of n others ends."""

    logs: FloatArray
    """Of the diagonals' sizes, shape (m, d)."""
    signs: FloatArray
    """Of the diagonals."""
    shares: FloatArray
    """Probabilities of the diagonal ones, given that one of them comes, shape (m,)."""
    others: FloatArray
    """Logarithms of sizes of entries of the others, shape (n, d, d)."""
    other_signs: FloatArray
    other_shares: FloatArray
    """Their probabilities, given that one of them comes, shape (n,)."""
    probability: float
    """p, that one of the others comes."""


def diagonal_runs(system: System) -> DiagonalRuns | None:
    """Return the law of runs, if they are so long that vectors are to be followed in logarithms; else None."""
    outcomes = system.outcomes(_MOST_NUMBERS) if 1 < system.dimension <= _LARGEST_DIMENSION else None
    if outcomes is None or outcomes.n_steps != 1:
        return None
    found = runs_of(outcomes)
    if found is None or np.isinf(found.logs).any():
        return None
    rates = found.shares @ found.logs
    first = rates >= rates.max() - 1e-12 * np.abs(rates).max()
    replaced = found.others[:, first][:, :, first].max(axis=(1, 2)) - found.others.max(axis=(1, 2))
    return found if replaced.min() < -_NEARLY_ZERO and float(np.ptp(rates)) > _FAR * found.probability else None


def runs_of(outcomes: Outcomes) -> DiagonalRuns | None:
    """Return the law of runs; None if all matrices are diagonal, or none. Those that annihilate end runs."""
    drawn = outcomes.probabilities > 0
    matrices, probabilities = outcomes.matrices[drawn], outcomes.probabilities[drawn]
    diagonals = np.einsum("njj->nj", matrices)
    diagonal = np.count_nonzero(matrices, axis=(1, 2)) == np.count_nonzero(diagonals, axis=1)
    diagonal &= diagonals.any(axis=1)
    if diagonal.all() or not diagonal.any():
        return None
    with np.errstate(divide="ignore"):
        return DiagonalRuns(
            logs=np.log(np.abs(diagonals[diagonal])),
            signs=np.sign(diagonals[diagonal]),
            shares=probabilities[diagonal] / probabilities[diagonal].sum(),
            others=np.log(np.abs(matrices[~diagonal])),
            other_signs=np.sign(matrices[~diagonal]),
            other_shares=probabilities[~diagonal] / probabilities[~diagonal].sum(),
            probability=float(probabilities[~diagonal].sum()),
        )


@dataclass(frozen=True, eq=False)
class _InLogarithms(Task[VectorRecords]):
    """Advances walkers, states of shape (n_chains, n_walkers, 2, d): logarithms of sizes, and signs."""

    def __call__(self, item: Item, n_threads: int) -> tuple[FloatArray, VectorRecords]:
        """Advance the chains of an item; what grows is per step of the product, the mean over walkers."""
        runs: DiagonalRuns = self.steps
        stream, (logs, signs) = item.stream, np.moveaxis(item.states, 2, 0)
        growth = np.empty((len(logs), stream.n_batches, 1 + runs.logs.shape[1] + len(runs.other_shares)))
        for batch in range(stream.n_batches):
            lengths, turns, others = _drawn(runs, stream, batch, logs.shape[:2])
            totals, total = np.zeros_like(logs), np.zeros(logs.shape[:2])
            for step in range(stream.steps_per_batch):
                logs = logs + lengths[:, step]
                chosen, parts = others[:, step], runs.others[others[:, step]] + logs[:, :, None]
                largest = np.maximum(parts.max(axis=3), _LEAST)  # of every row, beside which nothing is lost
                scaled = np.exp(parts - largest[..., None])
                sums = np.einsum("cwij,cwij,cwj->cwi", scaled, runs.other_signs[chosen], signs * turns[:, step])
                with np.errstate(divide="ignore"):
                    logs, signs = np.log(np.abs(sums)) + largest, np.sign(sums)
                size = logs.max(axis=2)
                total += size
                logs = np.where(np.isneginf(size)[..., None], 0.0, logs - np.maximum(size, _LEAST)[..., None])
                totals += lengths[:, step]
            expected = stream.steps_per_batch * (1 / runs.probability - 1) * (runs.shares @ runs.logs)
            came = np.stack([(others == i).sum(axis=1) for i in range(len(runs.other_shares))], axis=-1)
            variates = [totals - expected, came - stream.steps_per_batch * runs.other_shares]
            own = runs.probability * total[..., None]
            every = np.concatenate([own, *(own + runs.probability * each for each in variates)], axis=2)
            growth[:, batch] = every.mean(axis=1)
        nothing = np.full((len(logs), stream.n_batches, 1), np.nan)
        own_growth = np.concatenate([growth[:, :, :1], nothing], axis=2)
        empty = np.empty((len(logs), stream.n_batches, 0))
        return np.stack([logs, signs], axis=2), VectorRecords(own_growth, growth, empty)


def _drawn(
    runs: DiagonalRuns, stream: Stream, batch: int, shape: tuple[int, ...]
) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Return what runs add to logarithms, and turn, (n_chains, n_steps, n_walkers, d), and what ends them."""
    n_chains, n_walkers = shape
    size = (n_chains, stream.steps_per_batch, n_walkers)
    lengths, others = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.intp)
    counts = np.empty((*size, len(runs.shares)))
    first = stream.first_step // stream.steps_per_batch
    cumulative = np.cumsum(runs.other_shares)[:-1]
    for chain in range(n_chains):
        # The last word 0: initial states have another.
        counter = [0, first + batch, stream.first_chain + chain, 0]
        rng = np.random.Generator(np.random.Philox(key=np.array(stream.key, dtype=np.uint64), counter=counter))
        lengths[chain] = rng.geometric(runs.probability, size[1:]) - 1
        counts[chain] = rng.multinomial(lengths[chain], runs.shares)
        others[chain] = np.searchsorted(cumulative, rng.random(size[1:]), side="right")
    odd = (counts % 2) @ (runs.signs < 0)
    return counts @ runs.logs, 1.0 - 2 * (odd % 2), others


def chains_and_task(
    runs: DiagonalRuns, options: Options, first_chain: int
) -> tuple[Chains[VectorRecords], Task[VectorRecords]]:
    """Return chains before their first step, with twins that start elsewhere, and what advances them."""
    n_chains, d = options.n_chains, runs.logs.shape[1]
    per_chain = max(1, options.budget.max_steps // n_chains)
    n_walkers, start_up = int(np.clip(per_chain // 256, 1, _WALKERS)), int(np.clip(per_chain // 4, *_START_UP))
    numbers = normals(options.seed.child_of_key(_STREAMS).key, n_chains, (3, n_walkers, d), first_chain)
    with np.errstate(divide="ignore"):
        own, twins = np.moveaxis(np.stack([np.log(np.abs(numbers)), np.sign(numbers)], axis=3)[:, :2], 1, 0)
    rates = runs.shares @ runs.logs
    own[:, :, 0] += numbers[:, 2, :, :1] ** 2 * (rates - rates.max()) / runs.probability
    task = task_of(runs)
    own, _ = task(Item(own, Stream(options.seed.child_of_key(_STREAMS, 0).key, first_chain, 0, 1, start_up)), 1)
    chains = Chains(
        key=options.seed.child_of_key(_STREAMS).key,
        states=own,
        steps_per_batch=int(np.clip(per_chain // (_FIRST_BATCHES * n_walkers), 1, _STEPS_PER_BATCH)),
        records=_empty(runs, n_chains),
        first_chain=first_chain,
        n_walkers=n_walkers,
        n_examples=0,
    )
    if (n_twins := n_twins_of(options)) > 0:
        chains = chains.with_twins(twins[:n_twins], _empty(runs, n_twins))
    return replace(chains, pilot_steps=n_chains * n_walkers * start_up), task


def task_of(runs: DiagonalRuns) -> Task[VectorRecords]:
    """Return what advances chains."""
    return _InLogarithms(
        function=IN_LOGARITHMS,
        steps=runs,
        metrics=None,
        options=None,
        records=VectorRecords,
        seconds_per_step=_SECONDS_PER_STEP,
        chains_per_item=4,
    )


def _empty(runs: DiagonalRuns, n_chains: int) -> VectorRecords:
    return VectorRecords.empty(n_chains, 2, 1 + runs.logs.shape[1] + len(runs.other_shares))
