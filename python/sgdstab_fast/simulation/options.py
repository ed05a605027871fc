"""Run options: when a run stops, with how many chains, from which seed, and where it runs."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast._core.seeds import Seed, seed_from
from sgdstab_fast._core.streams import MOST_CHAINS
from sgdstab_fast.simulation.progress import ProgressOption
from sgdstab_fast.simulation.workers import Workers


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
class Options:
    """The arguments of an estimate, checked."""

    method: str
    budget: Budget
    n_chains: int
    seed: Seed
    n_threads: int
    progress: ProgressOption
    executor: Executor | None

    @property
    def workers(self) -> Workers:
        """Where it runs."""
        return Workers(self.n_threads, self.executor)

    @classmethod
    def validated(
        cls,
        method: str,
        budget: Budget,
        n_chains: Any,
        rng: Any,
        n_threads: Any,
        progress: ProgressOption,
        executor: Executor | None,
        *,
        least_chains: int = 1,
    ) -> Options:
        """Check what the user passed."""
        return cls(
            method=method,
            budget=budget,
            n_chains=validation.integer(n_chains, "n_chains", low=least_chains, high=MOST_CHAINS),
            seed=seed_from(rng),
            n_threads=validation.thread_count(n_threads),
            progress=progress,
            executor=executor,
        )


def shared_between(options: Options, n_blocks: int) -> Options:
    """Return how to estimate one of n_blocks blocks, so that all together keep to the budget and the tolerances."""
    if n_blocks < 2:
        return options
    budget = options.budget
    budget.steps_per_chain(options.n_chains)  # refused in terms of what the user gave
    max_steps = max(budget.max_steps // n_blocks, 1)
    inflation = math.sqrt(1 + 2 * math.log(n_blocks))
    confidence = budget.sign_confidence
    return replace(
        options,
        n_chains=min(options.n_chains, max_steps),
        budget=replace(
            budget,
            max_steps=max_steps,
            rtol=budget.rtol / inflation,
            atol=budget.atol / inflation,
            sign_confidence=None if confidence is None else 1 - (1 - confidence) / n_blocks,
        ),
    )
