"""Rounds: how a run is cut into calls of the core, when it stops, and who is told meanwhile.

The core advances a bounded number of batches at a time; here are the looks at the estimate, at totals that grow
geometrically, and between them pieces short enough for Ctrl-C and a progress bar. Where a run is cut into calls changes
no bit of it: what chains do depends on (key, chain, step) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.functions import FloatArray, StreamKey, core
from sgdstab_fast.statistics.estimates import Estimate, student_quantile

_FIRST_LOOK = 16  # batches a chain
_GROWTH, _IDLE_GROWTH = 1.5, 4.0  # from look to look, with a tolerance to meet and without
_PIECE_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """What a progress callback receives."""

    n_steps: int
    """Steps done, of all chains together."""
    max_steps: int
    """Steps at which the run stops at the latest."""
    exponent: float
    """The estimate of the top exponent, or of the critical learning rate, at the last look; NaN before the first, and
    in a sweep."""
    standard_error: float
    """Its standard error."""


ProgressOption: TypeAlias = bool | Callable[[Progress], object] | None


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


@dataclass(frozen=True)
class Chains:
    """The state of a run, which is also its checkpoint.

    Advancing consumes the states: they move on to the chains that `advance` returns.

    states has shape (n_chains, k, dimension) for vectors, (n_chains, dimension, k) for frames and (n_chains, n_walkers,
    ...) for populations; records are arrays of shape (n_chains, n_batches, ...), one for each output of the core after
    the first: log growth, of shape (n_chains, n_batches, k) or without k, first.
    """

    key: StreamKey
    states: FloatArray
    steps_per_batch: int
    records: tuple[FloatArray, ...]
    first_chain: int = 0
    n_walkers: int = 1
    """Of each chain, where chains are populations: a step of a chain is a step of each."""
    spacing: int = 1
    """Steps between evaluations of anchored growth, where that is recorded."""
    n_examples: int = 1
    """N, over which anchored growth is a mean."""
    rounding: float = 0.0
    """What rounding may do to anchored growth."""
    pilot_steps: int = 0
    """Steps spent before on choosing the spacing."""
    companions: Chains | None = None
    """Chains that carry one more vector, from which mixing is known (`statistics.mixing`)."""

    @property
    def n_chains(self) -> int:
        """Number of independent chains."""
        return int(self.states.shape[0])

    @property
    def n_streams(self) -> int:
        """Streams of examples of all chains."""
        return self.n_chains * self.n_walkers

    @property
    def n_batches(self) -> int:
        """Batches done by every chain."""
        return int(self.records[0].shape[1])

    @property
    def n_steps(self) -> int:
        """Steps done, of all chains together."""
        own = self.n_streams * self.n_batches * self.steps_per_batch + self.pilot_steps
        return own if self.companions is None else own + self.companions.n_steps

    def copy(self) -> Chains:
        """Return chains whose states may be consumed."""
        companions = None if self.companions is None else self.companions.copy()
        return replace(self, states=self.states.copy(), companions=companions)

    def until(self, n_batches: int) -> Chains:
        """Return the chains with the records that they had after n_batches, for a look back."""
        companions = None if self.companions is None else self.companions.until(n_batches)
        return replace(self, records=tuple(record[:, :n_batches] for record in self.records), companions=companions)

    def advance(self, kernel: Kernel, n_batches: int, n_threads: int, executor: Executor | None) -> Chains:
        """Advance every chain by n_batches batches through a kernel of the core."""
        common = {
            **kernel.arguments,
            "key": self.key,
            "first_step": self.n_batches * self.steps_per_batch,
            "n_batches": n_batches,
            "steps_per_batch": self.steps_per_batch,
        }
        if executor is None:
            first = {kernel.states: self.states, "first_chain": self.first_chain}
            outputs = [call(kernel.name, {**common, **first, "n_threads": n_threads})]
        else:
            size = kernel.chains_per_item
            items = [
                {kernel.states: self.states[c : c + size], "first_chain": self.first_chain + c}
                for c in range(0, self.n_chains, size)
            ]
            futures = [executor.submit(call, kernel.name, {**common, **item, "n_threads": 1}) for item in items]
            outputs = [future.result() for future in futures]
        states, *records = (
            parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*outputs, strict=True)
        )
        return replace(
            self,
            states=states,
            records=tuple(np.concatenate(pair, axis=1) for pair in zip(self.records, records, strict=True)),
        )


def call(kernel: str, arguments: dict[str, Any]) -> tuple[FloatArray, ...]:
    """Call a kernel of the core by name: what an executor, of threads or of processes, is given."""
    result: tuple[FloatArray, ...] = getattr(core, kernel)(**arguments)
    return result


@dataclass(frozen=True)
class Budget:
    """When a run stops: at a tolerance, once a sign is known, or after max_steps steps of all chains together."""

    rtol: float
    atol: float
    max_steps: int
    sign_confidence: float | None = None

    @classmethod
    def validated(cls, rtol: Any, atol: Any, max_steps: Any, sign_confidence: Any = None) -> Budget:
        """Check what the user passed."""
        return cls(
            validation.nonnegative_number(rtol, "rtol"),
            validation.nonnegative_number(atol, "atol"),
            validation.integer(max_steps, "max_steps"),
            None if sign_confidence is None else validation.probability(sign_confidence, "sign_confidence"),
        )

    @property
    def has_tolerance(self) -> bool:
        """Whether anything but max_steps can stop the run."""
        return self.rtol > 0 or self.atol > 0 or self.sign_confidence is not None

    def steps_per_chain(self, n_chains: int) -> int:
        """Return how many steps each of n_chains may take; refuse a budget that has none for some."""
        if self.max_steps < n_chains:
            raise ValueError(f"max_steps must be at least n_chains ({n_chains}), not {self.max_steps!r}")
        return self.max_steps // n_chains

    def met_relative(self, sizes: FloatArray, standard_errors: FloatArray) -> NDArray[np.bool_]:
        """Return which exponents meet the relative tolerance; none does whose size is not a number."""
        if self.rtol == 0:
            return np.zeros(sizes.shape, bool)
        return np.asarray(~np.isnan(sizes) & (standard_errors <= self.rtol * sizes))

    def met(self, sizes: FloatArray, standard_errors: FloatArray) -> NDArray[np.bool_]:
        """Return which exponents meet a tolerance."""
        absolute = (self.atol > 0) & ~np.isnan(sizes) & (standard_errors <= self.atol)
        return np.asarray(absolute | self.met_relative(sizes, standard_errors))


@dataclass(frozen=True)
class Run:
    """What `run` returns."""

    chains: Chains
    estimate: Estimate
    stopped_by: str

    @property
    def size(self) -> float:
        """The largest finite magnitude among the exponents, which `rtol` is relative to; NaN if one is lost."""
        mean = self.estimate.mean
        return math.nan if np.isnan(mean).any() else float(np.abs(mean[np.isfinite(mean)]).max(initial=0.0))

    @property
    def sizes(self) -> FloatArray:
        """The magnitudes that `rtol` is relative to, shape (k,)."""
        scales = self.estimate.scales
        return np.full(self.estimate.mean.shape, self.size) if scales is None else scales

    @property
    def error(self) -> float:
        """The largest standard error."""
        return float(self.estimate.standard_error.max())


def run(
    chains: Chains,
    kernel: Kernel,
    estimate: Callable[[Chains], Estimate],
    budget: Budget,
    *,
    companion_kernel: Kernel | None = None,
    n_threads: int,
    progress: ProgressOption,
    executor: Executor | None,
    label: str = "exponent",
) -> Run:
    """Advance chains until a tolerance is met by chains that have left their start-up, or the budget is used up.

    Companions catch up at every look, until the estimate says that they have shown how chains mix.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must be a concurrent.futures.Executor, not {executor!r}")
    done = _look(chains, estimate, budget)
    with reporter(progress, budget.max_steps, label) as report:

        def advance(some: Chains, by: Kernel, n_batches: int) -> Iterator[Chains]:
            seconds = by.seconds_per_step * some.n_streams * some.steps_per_batch / n_threads
            # With an executor every piece sends K along: one piece a look.
            for size in pieces(n_batches, seconds if executor is None else 0.0):
                some = some.advance(by, size, n_threads, executor)
                yield some

        while done.stopped_by == "max_steps" and (look := _next_look(done, budget)) is not None:
            for chains in advance(done.chains, kernel, look - done.chains.n_batches):
                done = replace(done, chains=chains)
                _report(report, done, budget)
            companions = chains.companions
            if companions is not None and companion_kernel is not None and not done.estimate.mixed:
                grid = max(grid_of_looks(look), default=0)
                for advanced in advance(companions, companion_kernel, max(grid - companions.n_batches, 0)):
                    done = replace(done, chains=replace(chains, companions=advanced))
                    _report(report, done, budget)
            done = _look(done.chains, estimate, budget)
            _report(report, done, budget)
    return done


def _look(chains: Chains, estimate: Callable[[Chains], Estimate], budget: Budget) -> Run:
    """Estimate, and say what may stop the run here; ``"max_steps"`` if nothing may."""
    done = Run(chains, estimate(chains), "max_steps")
    if done.estimate.settled:
        errors = done.estimate.standard_error
        if budget.met(done.sizes, errors).all():
            done = replace(done, stopped_by="rtol" if budget.met_relative(done.sizes, errors).all() else "atol")
        elif budget.sign_confidence is not None and known_sign(done, budget.sign_confidence):
            done = replace(done, stopped_by="sign")
    return done


def known_sign(done: Run, confidence: float) -> int:
    """Return the sign of the first exponent, -1 or +1, if known with this confidence, else 0.

    A run looks at its estimate several times, and may stop when it likes what it sees. So half of the rate of error
    1 - confidence is spent on the grid, look l getting the share 1 / (l (l + 1)), and half on looks beside it, at the
    ends of budgets, that after n batches getting 1 / (n (n + 1)): over all looks these add up to the whole.
    """
    n = done.chains.n_batches
    grid = grid_of_looks(n)
    look = len(grid) if grid and grid[-1] == n else n
    level = 1 - (1 - confidence) / (2 * max(look, 1) * (look + 1))
    mean, error = float(done.estimate.mean[0]), float(done.estimate.standard_error[0])
    half_width = student_quantile(level, done.estimate.degrees_of_freedom) * error
    if not done.estimate.settled or not abs(mean) > half_width:
        return 0
    return 1 if mean > 0 else -1


def _report(report: Callable[[Progress], object], done: Run, budget: Budget) -> None:
    mean, error = float(done.estimate.mean[0]), float(done.estimate.standard_error[0])
    if done.estimate.is_curve:
        mean = error = math.nan
    report(Progress(done.chains.n_steps, budget.max_steps, mean, error))


def _next_look(done: Run, budget: Budget) -> int | None:
    """Return the batches a chain at which to look next, on a fixed geometric grid or where the budget ends.

    Companions share the budget until they are done.
    """
    chains, companions = done.chains, done.chains.companions
    own = chains.n_streams
    most = budget.max_steps - chains.pilot_steps
    if companions is not None and done.estimate.mixed:
        most -= companions.n_steps
    elif companions is not None:
        own += companions.n_streams
    limit = max(most // (own * chains.steps_per_batch), 1)
    growth = _GROWTH if budget.has_tolerance else _IDLE_GROWTH
    looks = [look for look in [*_grid(limit, growth), limit] if look > chains.n_batches]
    return looks[0] if looks else None


def grid_of_looks(n_batches: int) -> list[int]:
    """Return the fixed grid of looks up to n_batches a chain."""
    return list(_grid(n_batches + 1))


def _grid(limit: int, growth: float = _GROWTH) -> Iterator[int]:
    """Yield the fixed grid of looks below the limit."""
    look = float(_FIRST_LOOK)
    while math.ceil(look) < limit:
        yield math.ceil(look)
        look *= growth


def pieces(n_batches: int, seconds_per_batch: float) -> Iterator[int]:
    """Cut n_batches into pieces of about a tenth of a second, by a cost model rather than a clock."""
    size = max(1, int(_PIECE_SECONDS / seconds_per_batch) if seconds_per_batch else n_batches)
    for start in range(0, n_batches, size):
        yield min(size, n_batches - start)


@contextmanager
def reporter(
    progress: ProgressOption, max_steps: int, label: str = "exponent"
) -> Iterator[Callable[[Progress], object]]:
    """Return what to call with each Progress: the user's callable, a bar on standard error, or nothing."""
    if progress is None or progress is False:
        yield lambda state: None
    elif progress is True:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=max_steps)

            def show(state: Progress) -> None:
                estimate = "" if math.isnan(state.exponent) else f" {state.exponent:.4g} ± {state.standard_error:.1g}"
                bar.update(task, completed=state.n_steps, total=state.max_steps, description=f"{label}{estimate}")

            yield show
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be None, a bool or a callable, not {progress!r}")


def after(report: Callable[[Progress], object], n_steps: int, max_steps: int) -> Callable[[Progress], object]:
    """Return what reports the progress of a part that begins after n_steps of max_steps."""
    return lambda state: report(replace(state, n_steps=state.n_steps + n_steps, max_steps=max_steps))


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
