"""Rounds: how a run is cut into calls of the core, when it stops, and who is told meanwhile.

The core advances a bounded number of batches at a time; here are the looks at the estimate, at totals that grow
geometrically, and between them pieces short enough for Ctrl-C and a progress bar. Where a run is cut changes no bit of
it: what chains do depends on (key, chain, step) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._native import FloatArray, StreamKey, core
from sgdstab_fast.statistics import BatchMeans, batch_means

_FIRST_LOOK = 16  # batches a chain
_GROWTH, _IDLE_GROWTH = 1.5, 4.0  # from look to look, with a tolerance to meet and without
_PIECE_SECONDS = 0.1
_CHAINS_PER_ITEM = 4  # of the core, and of an executor


@dataclass(frozen=True)
class Progress:
    """What a progress callback receives."""

    n_steps: int
    """Steps done, of all chains together."""
    max_steps: int
    """Steps at which the run stops at the latest."""
    exponent: float
    """The estimate of the top exponent at the last look, NaN before the first."""
    standard_error: float
    """Its standard error."""


ProgressOption: TypeAlias = bool | Callable[[Progress], object] | None


@dataclass(frozen=True)
class Chains:
    """The state of a run, which is also its checkpoint.

    Advancing consumes the states: they move on to the chains that `advance` returns.

    states has shape (n_chains, dimension) for vectors and (n_chains, dimension, k) for frames; records are arrays of
    shape (n_chains, n_batches, ...), one for each output of the core after the first.
    """

    key: StreamKey
    states: FloatArray
    steps_per_batch: int
    records: tuple[FloatArray, ...]
    first_chain: int = 0

    @property
    def n_chains(self) -> int:
        """Number of independent chains."""
        return int(self.states.shape[0])

    @property
    def n_batches(self) -> int:
        """Batches done by every chain."""
        return int(self.records[0].shape[1])

    @property
    def n_exponents(self) -> int:
        """Exponents that the chains are about: 1 for vectors, k for frames."""
        return 1 if self.states.ndim == 2 else int(self.states.shape[2])

    @property
    def n_steps(self) -> int:
        """Steps done, of all chains together."""
        return self.n_chains * self.n_batches * self.steps_per_batch

    def advance(
        self,
        kernel: str,
        arguments: dict[str, Any],
        n_batches: int,
        n_threads: int,
        executor: Executor | None,
    ) -> Chains:
        """Advance every chain by n_batches batches through a kernel of the core."""
        common = {
            **arguments,
            "key": self.key,
            "first_step": self.n_batches * self.steps_per_batch,
            "n_batches": n_batches,
            "steps_per_batch": self.steps_per_batch,
        }
        name = "vectors" if self.states.ndim == 2 else "frames"
        if executor is None:
            outputs = [
                _call(kernel, {**common, name: self.states, "first_chain": self.first_chain, "n_threads": n_threads})
            ]
        else:
            size = _CHAINS_PER_ITEM if name == "vectors" else 1
            futures = [
                executor.submit(
                    _call,
                    kernel,
                    {
                        **common,
                        name: self.states[c : c + size],
                        "first_chain": self.first_chain + c,
                        "n_threads": 1,
                    },
                )
                for c in range(0, self.n_chains, size)
            ]
            outputs = [future.result() for future in futures]
        states, *records = (
            parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*outputs, strict=True)
        )
        return replace(
            self,
            states=states,
            records=tuple(np.concatenate(pair, axis=1) for pair in zip(self.records, records, strict=True)),
        )


def _call(kernel: str, arguments: dict[str, Any]) -> tuple[FloatArray, ...]:
    """Call a kernel of the core by name: what an executor, of threads or of processes, is given."""
    result: tuple[FloatArray, ...] = getattr(core, kernel)(**arguments)
    return result


@dataclass(frozen=True)
class Budget:
    """When a run stops: at a tolerance, or after max_steps steps of all chains together."""

    rtol: float
    atol: float
    max_steps: int

    @classmethod
    def validated(cls, rtol: Any, atol: Any, max_steps: Any) -> Budget:
        """Check what the user passed."""
        return cls(
            validation.nonnegative_number(rtol, "rtol"),
            validation.nonnegative_number(atol, "atol"),
            validation.integer(max_steps, "max_steps"),
        )

    @property
    def has_tolerance(self) -> bool:
        """Whether anything but max_steps can stop the run."""
        return self.rtol > 0 or self.atol > 0

    def steps_per_chain(self, n_chains: int) -> int:
        """Return how many steps each of n_chains may take; refuse a budget that has none for some."""
        if self.max_steps < n_chains:
            raise ValueError(f"max_steps must be at least n_chains ({n_chains}), not {self.max_steps!r}")
        return self.max_steps // n_chains

    def met(self, value: float, standard_error: float) -> str | None:
        """Return the tolerance that is met, ``"rtol"`` or ``"atol"``, if any; none by what is not a number."""
        if self.rtol > 0 and standard_error <= self.rtol * abs(value):
            return "rtol"
        if self.atol > 0 and standard_error <= self.atol:
            return "atol"
        return None


@dataclass(frozen=True)
class Run:
    """What `run` returns."""

    chains: Chains
    estimate: BatchMeans
    stopped_by: str

    @property
    def size(self) -> float:
        """The largest finite magnitude among the exponents, which `rtol` is relative to; NaN if one is lost."""
        mean = self.estimate.mean
        return math.nan if np.isnan(mean).any() else float(np.abs(mean[np.isfinite(mean)]).max(initial=0.0))

    @property
    def error(self) -> float:
        """The largest standard error."""
        return float(self.estimate.standard_error.max())


def run(
    chains: Chains,
    kernel: str,
    arguments: dict[str, Any],
    budget: Budget,
    *,
    seconds_per_step: float,
    n_threads: int,
    progress: ProgressOption,
    executor: Executor | None,
) -> Run:
    """Advance chains until a tolerance is met by chains that have left their start-up, or the budget is used up."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must be a concurrent.futures.Executor, not {executor!r}")
    seconds_per_batch = seconds_per_step * chains.n_chains * chains.steps_per_batch / n_threads
    if executor is not None:
        seconds_per_batch = 0.0  # every piece sends K along: one piece a look
    done = _look(chains, budget)
    with reporter(progress, budget.max_steps) as report:
        for look in _looks(chains, budget):
            if done.stopped_by != "max_steps":
                break
            for n_batches in _pieces(look - done.chains.n_batches, seconds_per_batch):
                advanced = done.chains.advance(kernel, arguments, n_batches, n_threads, executor)
                done = replace(done, chains=advanced)
                _report(report, done, budget)
            done = _look(done.chains, budget)
            _report(report, done, budget)
    return done


def _look(chains: Chains, budget: Budget) -> Run:
    """Estimate, and say which tolerance may stop the run here; ``"max_steps"`` if none may."""
    log_growth = chains.records[0].reshape(chains.n_chains, chains.n_batches, chains.n_exponents)
    done = Run(chains, batch_means(log_growth, chains.steps_per_batch), "max_steps")
    met = budget.met(done.size, done.error) if done.estimate.settled else None
    return replace(done, stopped_by=met) if met else done


def _report(report: Callable[[Progress], object], done: Run, budget: Budget) -> None:
    mean, error = float(done.estimate.mean[0]), float(done.estimate.standard_error[0])
    report(Progress(done.chains.n_steps, budget.max_steps, mean, error))


def _looks(chains: Chains, budget: Budget) -> Iterator[int]:
    """Yield the totals of batches a chain at which to look: a fixed geometric grid, then what the budget allows."""
    limit = max(budget.max_steps // (chains.n_chains * chains.steps_per_batch), 1)
    look = float(_FIRST_LOOK)
    while math.ceil(look) < limit:
        if math.ceil(look) > chains.n_batches:
            yield math.ceil(look)
        look *= _GROWTH if budget.has_tolerance else _IDLE_GROWTH
    if limit > chains.n_batches:
        yield limit


def _pieces(n_batches: int, seconds_per_batch: float) -> Iterator[int]:
    """Cut n_batches into pieces of about a tenth of a second, by a cost model rather than a clock."""
    size = max(1, int(_PIECE_SECONDS / seconds_per_batch)) if seconds_per_batch else n_batches
    for start in range(0, n_batches, size):
        yield min(size, n_batches - start)


@contextmanager
def reporter(progress: ProgressOption, max_steps: int) -> Iterator[Callable[[Progress], object]]:
    """Return what to call with each Progress: the user's callable, a bar on standard error, or nothing."""
    if progress is None or progress is False:
        yield lambda state: None
    elif progress is True:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("lambda", total=max_steps)

            def show(state: Progress) -> None:
                estimate = "" if math.isnan(state.exponent) else f" {state.exponent:.4g} ± {state.standard_error:.1g}"
                bar.update(task, completed=state.n_steps, total=state.max_steps, description=f"exponent{estimate}")

            yield show
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be None, a bool or a callable, not {progress!r}")


def overflow_safe_steps(log_determinants: FloatArray) -> int:
    """Return how many steps squared norms surely survive.

    log abs(1 - eta K_ii) bounds what a step does to the norm of K, which the Euclidean one follows up to a factor; over
    n random steps its sum stays below n mean + 10 sqrt(n) rms + max. Doubles overflow at e^709; squares of what stays
    below e^300 are safe. A singular step leaves rounding, e^-40.
    """
    size = np.abs(np.maximum(log_determinants, -40))
    mean, rms, largest = size.mean(), math.sqrt((size**2).mean()), size.max()
    if largest == 0:
        return 2**20
    budget = max(300 - largest, largest)
    # n mean + 10 sqrt(n) rms = budget, solved for sqrt(n)
    root = (-10 * rms + math.sqrt(100 * rms**2 + 4 * mean * budget)) / (2 * mean)
    return int(np.clip(max(root**2, budget / largest), 1, 2**20))
