"""Tasks: what a worker is given, and how chains advance by it.

A work item is some chains, where they are in their streams, and how far to go: what becomes of it depends on that and
the task alone. So where a run is cut into calls, and who makes them, changes no bit of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple

import numpy as np

from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.functions import core
from sgdstab_fast.results.chains import Chains, Records, in_pairs
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.simulation.looks import pieces
from sgdstab_fast.simulation.workers import Workers

PIECE_SECONDS = 0.1
_SENT_SECONDS = 1.0  # with an executor: items take their states along


class Item(NamedTuple):
    """Some chains, and how far they go."""

    states: FloatArray
    stream: arguments.Stream


@dataclass(frozen=True, eq=False)
class Task(Generic[Records]):
    """A function of the core that advances chains, and what it is called with whatever the chains; pure, to be sent."""

    function: str
    steps: Any
    """What a step does, a tuple of `_core.arguments`; large and the same throughout a run, as metrics are."""
    metrics: Any
    """What growth is evaluated in."""
    options: Any
    """A tuple too, with a field for each."""
    records: type[Records]
    """What chains record."""
    seconds_per_step: float
    """Measured, on one thread."""
    chains_per_item: int
    """Chains that are worked on together, as evaluations are: another number of them would be rounded otherwise."""

    def with_options(self, **options: Any) -> Task[Records]:
        """Return the task with some options changed."""
        return replace(self, options=self.options._replace(**options))

    def __call__(self, item: Item, n_threads: int) -> tuple[FloatArray, Records]:
        """Advance the chains of an item, and return their states, in place of the old ones, and what they recorded."""
        function = getattr(core, self.function)
        states, *records = function(self.steps, self.metrics, item.states, item.stream, self.options, n_threads)
        return states, self.records(*records)


def advance(
    chains: Chains[Records],
    task: Task[Records],
    n_batches: int,
    workers: Workers,
    report: Callable[[int, Callable[[], Chains[Records]]], object] = lambda n_steps, so_far: None,
) -> Chains[Records]:
    """Advance every chain by n_batches batches, of which one may be under way.

    In pieces of about a tenth of a second, or one first batch, after each of which its steps, of all chains together,
    are reported, and what gives the chains so far. Where one first batch of all chains takes longer, work items go one
    after the other. With an executor pieces are longer: every item takes its states along.

    Raises
    ------
    Stopped
        Where the work is no longer wanted, with the chains so far.
    """
    coarseness, n_steps = chains.coarseness, chains.steps_per_first_batch
    seconds, longest = task.seconds_per_step * chains.n_streams * n_steps, PIECE_SECONDS
    size, long, apart = chains.n_chains, False, workers.executor is not None
    if workers.executor is not None:
        size, longest = task.chains_per_item, _SENT_SECONDS
        seconds *= min(size / chains.n_chains, 1.0)
    else:
        n_threads = workers.useful_threads(-(-chains.n_chains // task.chains_per_item))
        seconds /= n_threads
        if seconds > longest:
            size = task.chains_per_item * n_threads
            long = apart = workers.interruption.possible
    states, next_step, recorded = chains.states, chains.next_step, list[Records]()
    begun, n_begun = list(chains.begun), chains.n_begun

    def so_far() -> Chains[Records]:
        return chains.after(states, recorded, begun, n_begun)

    for n in pieces(n_batches, coarseness, n_begun, seconds, longest):
        if workers.interruption.requested:
            raise Stopped(so_far())
        starts = states.copy() if apart else states  # a piece that is left behind moves those that it was given
        items = [
            Item(starts[c : c + size], arguments.Stream(chains.key, chains.first_chain + c, next_step, n, n_steps))
            for c in range(0, chains.n_chains, size)
        ]
        try:
            found = list(workers.map(task, items, long=long))
        except Stopped:
            raise Stopped(so_far()) from None
        states = found[0][0] if len(found) == 1 else np.concatenate([its for its, _ in found])
        new, next_step = _joined([its for _, its in found], axis=0), next_step + n * n_steps
        if n >= coarseness:
            recorded.append(_merged(new, n, n // coarseness))
        else:
            begun.append(_merged(new, n, 1))
            n_begun += n
            while n_begun % (2 * n) == 0:  # as digits are carried
                begun[-2:] = [_merged(_joined(begun[-2:], axis=1), 2, 1)]
                n *= 2
            if n_begun == coarseness:
                recorded, begun, n_begun = [*recorded, *begun], [], 0
        report(new[0].shape[1] * n_steps * chains.n_streams, so_far)
    return so_far()


def _joined(records: list[Records], axis: int) -> Records:
    """Return records one after the other: of all chains, or of all batches."""
    if len(records) == 1:
        return records[0]
    return records[0]._make(np.concatenate(each, axis=axis) for each in zip(*records, strict=True))


def _merged(records: Records, n: int, n_batches: int) -> Records:
    """Return the records of n batches as those of n_batches, 2, 4, .. times as long."""
    while n > n_batches:
        records, n = in_pairs(records), n // 2
    return records
