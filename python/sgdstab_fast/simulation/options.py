"""Run options: when a run stops, with how many chains, from which seed, and where it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.results.journal import Recorder
from sgdstab_fast.results.progress import ProgressOption
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.simulation.checkpoints import current_recorder
from sgdstab_fast.simulation.workers import Workers

Value = TypeVar("Value")
_ENOUGH = 200_000_000  # steps, of which parts of a run have their shares: more would be spent on what is not asked for

_SIGN_KNOWN = 4.0  # standard errors at which signs are known, about


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

    @property
    def wanted(self) -> str:
        """What is to be met before max_steps, as messages say it."""
        asked = {"rtol": self.rtol, "atol": self.atol, "sign_confidence": self.sign_confidence}
        return " and ".join(f"{name}={value:g}" for name, value in asked.items() if value)

    def goal(self, mean: float, size: float) -> float:
        """Return the standard error that ends a run with this exponent; NaN if none does."""
        goals = [self.atol, self.rtol * size if math.isfinite(size) else 0.0]
        goals += [abs(mean) / _SIGN_KNOWN] if self.sign_confidence is not None else []
        goal = max((each for each in goals if not math.isnan(each)), default=0.0)
        return goal if goal > 0 else math.nan

    def steps_per_chain(self, n_chains: int) -> int:
        """Return how many steps each of n_chains may take; refuse a budget that has none for some."""
        if self.max_steps < n_chains:
            raise ValueError(f"max_steps must be at least n_chains ({n_chains}), not {self.max_steps!r}")
        return self.max_steps // n_chains

    def part(self, share: float, left: int | None = None) -> int:
        """Return the steps of a part that may miss its tolerance: a share of what is left, or of what is enough."""
        return math.ceil(share * min(self.max_steps if left is None else left, _ENOUGH))

    def met_relative(self, sizes: FloatArray, standard_errors: FloatArray) -> NDArray[np.bool_]:
        """Return which exponents meet the relative tolerance; none does whose size is not a number.

        One of infinite size is not asked for.
        """
        if self.rtol == 0:
            return np.isposinf(sizes)
        return np.asarray(np.isposinf(sizes) | (~np.isnan(sizes) & (standard_errors <= self.rtol * sizes)))

    def stopped_by(self, sizes: FloatArray, standard_errors: FloatArray) -> str:
        """Return what stops a run with these exponents: a tolerance that all of them meet, or max_steps alone."""
        if not self.met(sizes, standard_errors).all():
            return "max_steps"
        return "rtol" if self.met_relative(sizes, standard_errors).all() else "atol"

    def met(self, sizes: FloatArray, standard_errors: FloatArray) -> NDArray[np.bool_]:
        """Return which exponents meet a tolerance."""
        absolute = (self.atol > 0) & ~np.isnan(sizes) & (standard_errors <= self.atol)
        return np.asarray(absolute | self.met_relative(sizes, standard_errors))


@dataclass(frozen=True)
class Options:
    """How to estimate, checked: what estimators hand on to what they are made of."""

    budget: Budget
    n_chains: int
    seed: Seed
    method: str = "anchored"
    workers: Workers = field(default_factory=Workers)
    progress: ProgressOption = None
    recorder: Recorder = field(default_factory=current_recorder)

    @property
    def cut_short_by(self) -> str:
        """What ends a part that misses its tolerances, as `stopped_by` says it."""
        return INTERRUPTED if self.is_cut else "max_steps"

    def make_known(self, found: Any) -> None:
        """Say what the call would return if it had to return now; a part has nothing to say."""
        if not self.recorder.place:
            self.workers.interruption.make_known(found)

    def stopped_search_by(self, value: float, error: float, *, met: bool) -> str:
        """Return what has stopped a search for a value."""
        return self.cut_short_by if not met else "rtol" if error <= self.budget.rtol * value else "atol"

    def within(self, max_steps: int | None = None, **tolerances: float | None) -> Options:
        """Return the same with a budget of max_steps, and other tolerances if they are given."""
        changes: dict[str, Any] = {**tolerances, "max_steps": self.budget.max_steps if max_steps is None else max_steps}
        return replace(self, budget=replace(self.budget, **changes))

    def child(self, *numbers: int) -> Options:
        """Return the same for a part of the run, with a seed of its own."""
        return replace(self, seed=self.seed.child(*numbers))

    def child_of_key(self, *numbers: int) -> Options:
        """Return the same for one of many evaluations."""
        return replace(self, seed=self.seed.child_of_key(*numbers))

    def at(self, place: str) -> Options:
        """Return the same for a part of the run, which keeps its place in the journal."""
        return replace(self, recorder=self.recorder.at(place))

    @property
    def is_cut(self) -> bool:
        """Whether the call is no longer wanted."""
        return self.workers.interruption.requested

    def asked(self, place: str) -> str:
        """Return the place of a part with all that it is asked: another budget is another question."""
        budget = self.budget
        asked = f"rtol={budget.rtol!r} atol={budget.atol!r} sign={budget.sign_confidence!r} steps={budget.max_steps}"
        return f"{place} ({asked}, {self.n_chains} chains)"

    def once(self, place: str, part: Callable[[Options], Value]) -> Value:
        """Return what a part of the run has come to before it was cut, or else comes to now.

        The place has to say what is asked of the part besides the budget.
        """
        question = self.asked(place)
        known: Value | None = self.recorder.get(question)
        if known is not None:
            return known
        found = part(self.at(question))
        if not self.is_cut:
            self.recorder.put(question, found)
        return found

    def for_parts(self, n_parts: int) -> Options:
        """Return how to estimate one of n_parts, so that all together keep to the budget and the tolerances."""
        if n_parts < 2:
            return self
        budget = self.budget
        budget.steps_per_chain(self.n_chains)  # refused in terms of what the user gave
        max_steps = max(budget.max_steps // n_parts, 1)
        inflation = math.sqrt(1 + 2 * math.log(n_parts))
        confidence = budget.sign_confidence
        its = self.within(
            max_steps,
            rtol=budget.rtol / inflation,
            atol=budget.atol / inflation,
            sign_confidence=None if confidence is None else 1 - (1 - confidence) / n_parts,
        )
        return replace(its, n_chains=min(self.n_chains, max_steps))
