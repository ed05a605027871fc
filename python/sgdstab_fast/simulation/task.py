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
from sgdstab_fast.results.chains import Chains, Records
from sgdstab_fast.simulation.looks import pieces
from sgdstab_fast.simulation.workers import Workers


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

    In pieces of about a tenth of a second, between which Ctrl-C works, and after each of which the steps done, of all
    chains together, are reported. With an executor every piece sends the task along: it is one.
    """
    per_batch = chains.n_streams * chains.steps_per_batch
    seconds = task.seconds_per_step * per_batch / workers.n_threads if workers.executor is None else 0.0
    size = chains.n_chains if workers.executor is None else task.chains_per_item
    states, records, done = chains.states, [], 0
    for n in pieces(n_batches, seconds):
        first_step = chains.next_step + done * chains.steps_per_batch
        items = [
            Item(
                states[c : c + size],
                arguments.Stream(chains.key, chains.first_chain + c, first_step, n, chains.steps_per_batch),
            )
            for c in range(0, chains.n_chains, size)
        ]
        found = list(workers.map(task, items))
        states = found[0][0] if len(found) == 1 else np.concatenate([its for its, _ in found])
        records.append(found[0][1])
        if len(found) > 1:
            parts = zip(*(its for _, its in found), strict=True)
            records[-1] = task.records._make(np.concatenate(part) for part in parts)
        done += n
        report(done * per_batch)
    return chains.after(states, records)
