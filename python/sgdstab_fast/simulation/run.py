"""Rounds: how a run is cut into calls of the core, when it stops, and who is told meanwhile.

The core advances a bounded number of batches at a time; here are the looks at the estimate, at totals that grow
geometrically, and between them pieces short enough for Ctrl-C and a progress bar. Where a run is cut into calls changes
no bit of it: what chains do depends on (key, chain, step) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.results.chains import Chains
from sgdstab_fast.simulation.looks import GROWTH, IDLE_GROWTH, grid, grid_of_looks, pieces
from sgdstab_fast.simulation.options import Budget
from sgdstab_fast.simulation.progress import Progress, ProgressOption, reporter
from sgdstab_fast.simulation.task import Kernel
from sgdstab_fast.simulation.task import advance as advance_chains
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.intervals import student_quantile


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
                some = advance_chains(some, by, size, n_threads, executor)
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
    growth = GROWTH if budget.has_tolerance else IDLE_GROWTH
    looks = [look for look in [*grid(limit, growth), limit] if look > chains.n_batches]
    return looks[0] if looks else None
