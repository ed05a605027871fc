"""Tasks: what a worker is given."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast._core.functions import FloatArray, core
from sgdstab_fast.results.chains import Chains


@dataclass(frozen=True)
class Kernel:
    """A function of the core that advances states, and what it is called with."""

    name: str
    states: str
    """The name of its argument for the states."""
    arguments: dict[str, Any]
    seconds_per_step: float
    """Measured, on one thread."""
    chains_per_item: int
    """Chains that an executor is given together."""


def call(kernel: str, arguments: dict[str, Any]) -> tuple[FloatArray, ...]:
    """Call a kernel of the core by name: what an executor, of threads or of processes, is given."""
    result: tuple[FloatArray, ...] = getattr(core, kernel)(**arguments)
    return result


def advance(chains: Chains, kernel: Kernel, n_batches: int, n_threads: int, executor: Executor | None) -> Chains:
    """Advance every chain by n_batches batches through a kernel of the core."""
    common = {
        **kernel.arguments,
        "key": chains.key,
        "first_step": chains.n_batches * chains.steps_per_batch,
        "n_batches": n_batches,
        "steps_per_batch": chains.steps_per_batch,
    }
    if executor is None:
        first = {kernel.states: chains.states, "first_chain": chains.first_chain}
        outputs = [call(kernel.name, {**common, **first, "n_threads": n_threads})]
    else:
        size = kernel.chains_per_item
        items = [
            {kernel.states: chains.states[c : c + size], "first_chain": chains.first_chain + c}
            for c in range(0, chains.n_chains, size)
        ]
        futures = [executor.submit(call, kernel.name, {**common, **item, "n_threads": 1}) for item in items]
        outputs = [future.result() for future in futures]
    states, *records = (parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return replace(
        chains,
        states=states,
        records=tuple(np.concatenate(pair, axis=1) for pair in zip(chains.records, records, strict=True)),
    )
