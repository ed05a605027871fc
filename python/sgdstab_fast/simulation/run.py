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
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.journal import Recorder
from sgdstab_fast.results.progress import Progress, reporter
from sgdstab_fast.results.result import INTERRUPTED, SHORT
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
    def converged(self) -> bool:
        """Whether a tolerance was met."""
        return self.stopped_by not in SHORT

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
    if chains.n_batches == 0:
        if options.is_cut:
            raise Stopped
        chains = _gone_on(chains, options.recorder)
    done = _between_looks(chains, estimate, budget) if chains.is_between_looks else _look(chains, estimate, budget)
    with reporter(options.progress, budget.max_steps, label) as report:
        n_steps = n_before = chains.n_steps

        def tell(more: int) -> None:
            nonlocal n_steps
            n_steps += more
            report(_progress(done, n_steps, n_before, budget))

        while done.stopped_by == "max_steps" and (look := _next_look(done, budget)) is not None:
            try:
                done = _advanced(done, look, task, companion_task, workers, tell, options.recorder)
            except Stopped as stopped:
                options.recorder.keep(replace(stopped.so_far, is_between_looks=True))
                return _cut(done, stopped.so_far, estimate, budget)
            done = _look(done.chains, estimate, budget)
            if look in looks_so_far(done.chains):  # others, at the ends of budgets, change nothing that follows
                done = replace(done, chains=replace(done.chains, companions_go_on=not done.estimate.mixed))
            tell(0)
    options.recorder.keep(done.chains)
    return done


def _gone_on(chains: Chains[Records], recorder: Recorder) -> Chains[Records]:
    """Return the chains as a run that was cut has left them, if there was one; else as they are."""
    left = recorder.run_from(chains.key, chains.first_chain, chains.first_step)
    if left is None:
        return chains
    for name in ("spacing", "steps_per_first_batch", "n_streams"):
        if getattr(left, name) != getattr(chains, name):
            raise ValueError(
                f"max_steps is too different from that of the call which resume is of: {name} was "
                f"{getattr(left, name)}, and is {getattr(chains, name)}"
            )
    return left


def _advanced(
    done: Run[Records],
    look: int,
    task: Task[Records],
    companion_task: Task[Any] | None,
    workers: Workers,
    tell: Callable[[int], object],
    recorder: Recorder,
) -> Run[Records]:
    """Return the run with its chains at the next look, and companions where they are then."""

    def own(more: int, so_far: Callable[[], Chains[Records]]) -> None:
        recorder.keep_if_due(lambda: replace(so_far(), is_between_looks=True))
        tell(more)

    chains = _until(look, done.chains, task, workers, own)
    companions = chains.companions
    if companions is not None and companion_task is not None and chains.companions_go_on:
        last = max(grid(look + 1, companions.most_batches), default=0)

        def theirs(more: int, so_far: Callable[[], Chains[Any]]) -> None:
            recorder.keep_if_due(lambda: replace(chains, companions=so_far(), is_between_looks=True))
            tell(more)

        try:
            companions = _until(last, companions, companion_task, workers, theirs)
        except Stopped as stopped:
            raise Stopped(replace(chains, companions=stopped.so_far)) from None
        chains = replace(chains, companions=companions)
    return replace(done, chains=replace(chains, is_between_looks=False))


def _until(
    n_first_batches: int,
    chains: Chains[Any],
    task: Task[Any],
    workers: Workers,
    tell: Callable[[int, Callable[[], Chains[Any]]], object],
) -> Chains[Any]:
    """Advance chains until they have done so many first batches, merging batches on the way."""
    while (missing := n_first_batches - chains.n_first_batches) > 0:
        if chains.n_batches >= chains.most_batches:
            chains = chains.coarsened()
        n_batches = min(missing // chains.coarseness, chains.most_batches - chains.n_batches)
        chains = advance(chains, task, n_batches, workers, tell)
    return chains


def _cut(
    done: Run[Records], chains: Chains[Records], estimate: Callable[[Chains[Records]], Estimate], budget: Budget
) -> Run[Records]:
    """Return the run as it was cut between looks, with the estimate of its last look, if it has come to one."""
    if done.chains.n_batches > 0:
        return replace(done, chains=replace(chains, is_between_looks=True), stopped_by=INTERRUPTED)
    if chains.n_batches > 0:
        return replace(_between_looks(chains, estimate, budget), stopped_by=INTERRUPTED)
    raise Stopped


def _between_looks(
    chains: Chains[Records], estimate: Callable[[Chains[Records]], Estimate], budget: Budget
) -> Run[Records]:
    """Return a run where it does not look if it is not cut: what its chains say alone, companions being behind."""
    alone = replace(chains.until(chains.n_batches), companions=None)
    found = _look(alone, estimate, budget).estimate
    return Run(replace(chains, is_between_looks=True), found, "max_steps")


def _progress(done: Run[Any], n_steps: int, n_before: int, budget: Budget) -> Progress:
    """Return what a run tells after so many steps: its estimate is that of the last look."""
    if done.estimate.is_curve:
        return Progress(n_steps, budget.max_steps, math.nan, math.nan, n_steps_before=n_before)
    mean, error = float(done.estimate.mean[0]), float(done.estimate.standard_error[0])
    goal = budget.goal(mean, float(done.sizes[0]))
    return Progress(n_steps, budget.max_steps, mean, error, goal, n_steps_before=n_before)


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
    # A run that was cut as its chains had come to a look, and companions had not, looks there.
    looked = chains.n_first_batches - (chains.is_between_looks and chains.n_begun == 0)
    return next((look for look in looks if look > looked), None)
