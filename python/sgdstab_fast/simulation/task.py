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
from sgdstab_fast.simulation.looks import pieces
from sgdstab_fast.simulation.workers import Workers

PIECE_SECONDS = 0.1
_SENT_SECONDS = 1.0  # with an executor: every piece sends the task


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
    """Chains that an executor is given together."""

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
    report: Callable[[int], object] = lambda n_steps: None,
) -> Chains[Records]:
    """Advance every chain by n_batches batches.

    In pieces of about a tenth of a second, or one first batch, between which Ctrl-C works, and after each of which its
    steps, of all chains together, are reported. Where one first batch of all chains takes longer, work items go
    one after the other. With an executor every piece sends the task along, and is longer.
    """
    n_steps = chains.steps_per_batch // chains.coarseness
    seconds, longest = task.seconds_per_step * chains.n_streams * n_steps, PIECE_SECONDS
    size = chains.n_chains
    if workers.executor is not None:
        size, longest = task.chains_per_item, _SENT_SECONDS
        seconds *= min(size / chains.n_chains, 1.0)
    else:
        n_threads = workers.useful_threads(-(-chains.n_chains // task.chains_per_item))
        seconds /= n_threads
        if seconds > longest:
            size = task.chains_per_item * n_threads
    states, recorded, done = chains.states, list[Records](), 0
    for n in pieces(n_batches, chains.coarseness, seconds, longest):
        first_step = chains.next_step + done * n_steps
        items = [
            Item(states[c : c + size], arguments.Stream(chains.key, chains.first_chain + c, first_step, n, n_steps))
            for c in range(0, chains.n_chains, size)
        ]
        found = list(workers.map(task, items))
        states = found[0][0] if len(found) == 1 else np.concatenate([its for its, _ in found])
        recorded.append(_merged(_joined([its for _, its in found], axis=0), n, max(n // chains.coarseness, 1)))
        done += n
        if n < chains.coarseness and done % chains.coarseness == 0:
            parts = chains.coarseness // n
            recorded[-parts:] = [_merged(_joined(recorded[-parts:], axis=1), parts, 1)]
        report(n * n_steps * chains.n_streams)
    return chains.after(states, recorded)


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
