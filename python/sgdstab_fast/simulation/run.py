"""Runs: when one looks at its estimate, when it stops, and who is told meanwhile.

Looks are at totals that grow geometrically; between them the core advances in pieces (`simulation.task`). Nothing but
the end of a run depends on the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.chains import Chains, Records
from sgdstab_fast.results.progress import Progress, reporter
from sgdstab_fast.simulation.looks import GROWTH, IDLE_GROWTH, grid, looks_so_far, rounded
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.task import Task, advance
from sgdstab_fast.simulation.workers import Workers
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.intervals import student_quantile


@dataclass(frozen=True)
class Run(Generic[Records]):
    """What `run` returns."""

    chains: Chains[Records]
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
    chains: Chains[Records],
    task: Task[Records],
    estimate: Callable[[Chains[Records]], Estimate],
    options: Options,
    *,
    companion_task: Task[Any] | None = None,
    label: str = "exponent",
) -> Run[Records]:
    """Advance chains until a tolerance is met by chains that have left their start-up, or the budget is used up.

    Companions catch up at looks, unless the estimate said at the last look of the grid that chains have mixed.
    """
    budget, workers = options.budget, options.workers
    done = _look(chains, estimate, budget)
    with reporter(options.progress, budget.max_steps, label) as report:
        n_steps = chains.n_steps

        def tell(more: int) -> None:
            nonlocal n_steps
            n_steps += more
            mean, error = float(done.estimate.mean[0]), float(done.estimate.standard_error[0])
            if done.estimate.is_curve:
                mean = error = math.nan
            report(Progress(n_steps, budget.max_steps, mean, error))

        while done.stopped_by == "max_steps" and (look := _next_look(done, budget)) is not None:
            done = replace(done, chains=_until(look, done.chains, task, workers, tell))
            companions = done.chains.companions
            if companions is not None and companion_task is not None and done.chains.companions_go_on:
                last = max(grid(look + 1, companions.most_batches), default=0)
                companions = _until(last, companions, companion_task, workers, tell)
                done = replace(done, chains=replace(done.chains, companions=companions))
            done = _look(done.chains, estimate, budget)
            if look in looks_so_far(done.chains):  # others, at the ends of budgets, change nothing that follows
                done = replace(done, chains=replace(done.chains, companions_go_on=not done.estimate.mixed))
            tell(0)
    return done


def _until(
    n_first_batches: int, chains: Chains[Any], task: Task[Any], workers: Workers, tell: Callable[[int], object]
) -> Chains[Any]:
    """Advance chains until they have done so many first batches, merging batches on the way."""
    while (missing := n_first_batches - chains.n_first_batches) > 0:
        if chains.n_batches >= chains.most_batches:
            chains = chains.coarsened()
        n_batches = min(missing // chains.coarseness, chains.most_batches - chains.n_batches)
        chains = advance(chains, task, n_batches, workers, tell)
    return chains


def _look(chains: Chains[Records], estimate: Callable[[Chains[Records]], Estimate], budget: Budget) -> Run[Records]:
    """Estimate, and say what may stop the run here; ``"max_steps"`` if nothing may."""
    done = Run(chains, estimate(chains), "max_steps")
    if done.estimate.settled:
        done = replace(done, stopped_by=budget.stopped_by(done.sizes, done.estimate.standard_error))
        confidence = budget.sign_confidence
        if done.stopped_by == "max_steps" and confidence is not None and known_sign(done, confidence):
            done = replace(done, stopped_by="sign")
    return done


def known_sign(done: Run[Any], confidence: float) -> int:
    """Return the sign of the first exponent, -1 or +1, if known with this confidence, else 0.

    A run looks at its estimate several times, and may stop when it likes what it sees. So half of the rate of error
    1 - confidence is spent on the grid, look l getting the share 1 / (l (l + 1)), and half on looks beside it, at the
    ends of budgets, that after n batches getting 1 / (n (n + 1)): over all looks these add up to the whole.
    """
    n, looks = done.chains.n_first_batches, looks_so_far(done.chains)
    look = len(looks) if looks and looks[-1] == n else n
    level = 1 - (1 - confidence) / (2 * max(look, 1) * (look + 1))
    mean, error = float(done.estimate.mean[0]), float(done.estimate.standard_error[0])
    half_width = student_quantile(level, done.estimate.degrees_of_freedom) * error
    if not done.estimate.settled or not abs(mean) > half_width:
        return 0
    return 1 if mean > 0 else -1


def _next_look(done: Run[Any], budget: Budget) -> int | None:
    """Return the first batches a chain at which to look next, on a fixed geometric grid or where the budget ends.

    Companions share the budget until they are done.
    """
    chains, companions = done.chains, done.chains.companions
    own = chains.n_streams
    most = budget.max_steps - chains.pilot_steps
    if companions is not None and not chains.companions_go_on:
        most -= companions.n_steps
    elif companions is not None:
        own += companions.n_streams
    limit = max(most * chains.coarseness // (own * chains.steps_per_batch), 1)
    limit = rounded(limit, chains.most_batches)
    growth = GROWTH if budget.has_tolerance else IDLE_GROWTH
    looks = [*grid(limit, chains.most_batches, growth), limit]
    return next((look for look in looks if look > chains.n_first_batches), None)
