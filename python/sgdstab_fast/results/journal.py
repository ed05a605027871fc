"""Journals: what a call has come to, from which the same call goes on if it was cut.

What an estimator returns depends on its arguments alone; what a run of its chains comes to, on where they start. So a
call that was cut is made again with the same arguments: what is quick is computed anew, parts that had ended are looked
up, and runs that were under way go on from the states of their chains. It ends with the bits of a call that was never
cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from sgdstab_fast._core.arguments import StreamKey
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.results.chains import Chains
from sgdstab_fast.results.storage import Savable, storable

Value = TypeVar("Value")
storable(Seed)


@dataclass(eq=False, repr=False)
class Journal(Savable):
    """What a call of an estimator has come to: what its checkpoint holds, and ``resume=`` takes."""

    estimator: str
    """Its name."""
    arguments: Mapping[str, str]
    """What it was called with, as texts or digests, but for what says when it stops, how it runs and where."""
    budget: Mapping[str, str] = field(default_factory=dict)
    """When it stops, as texts: what may be another each time that the call goes on."""
    seed: Seed | None = None
    """Where its randomness comes from."""
    values: dict[str, Any] = field(default_factory=dict)
    """What parts of it have come to, by their place in it, as "p = 0.5"."""
    chains: dict[str, Chains[Any]] = field(default_factory=dict)
    """The states of runs, by the part that they belong to and where their streams begin."""

    def copy(self) -> Journal:
        """Return one that may be added to."""
        return replace(self, values=dict(self.values), chains=dict(self.chains))

    def __repr__(self) -> str:
        n_steps = sum(chains.n_steps for chains in self.chains.values())
        budget = "".join(f", {name}={value}" for name, value in self.budget.items())
        return (
            f"Journal(estimator={self.estimator!r}, {len(self.values)} parts done, {len(self.chains)} runs of "
            f"{n_steps} steps{budget})"
        )


class Writer(Protocol):
    """What writes journals."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to."""

    def write(self, journal: Journal) -> None:
        """Write."""


@dataclass(frozen=True)
class Recorder:
    """Keeps the journal of a call, or of a part of it, and has it written when it is time to."""

    journal: Journal
    writer: Writer | None = None
    place: str = ""
    earlier: Any = None
    """A result to go on from, where that was given rather than a journal."""

    def at(self, place: str) -> Recorder:
        """Return what keeps the journal for a part."""
        return replace(self, place=f"{self.place}{place}: ")

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return self.writer is not None and self.writer.is_due

    def get(self, place: str) -> Any:
        """Return what a part has come to before; None if it has not ended."""
        return self.journal.values.get(self.place + place)

    def put(self, place: str, value: Any) -> None:
        """Keep what a part has come to, and forget what its runs have: nothing more is asked of them."""
        self.journal.values[self.place + place] = value
        its = f"{self.place}{place}: "
        for kept in (self.journal.chains, self.journal.values):
            for name in [name for name in kept if name.startswith(its)]:
                del kept[name]
        if self.writer is not None and self.is_due:
            self.writer.write(self.journal)

    def run_from(self, key: StreamKey, first_chain: int, first_step: int = 0) -> Chains[Any] | None:
        """Return the chains of a run as they were left, free to be advanced; None if there was none."""
        found = self.journal.chains.get(self._name(key, first_chain, first_step))
        return None if found is None else found.copy()

    def keep(self, chains: Chains[Any]) -> None:
        """Keep the chains of a run as they are now."""
        self.journal.chains[self._name(chains.key, chains.first_chain, chains.first_step)] = chains

    def keep_if_due(self, so_far: Callable[[], Chains[Any]]) -> None:
        """Keep the chains of a run that is under way, and write them, if it is time to."""
        if self.writer is not None and self.is_due:
            self.keep(so_far().copy())  # the run goes on, and moves its states
            self.writer.write(self.journal)

    def _name(self, key: StreamKey, first_chain: int, first_step: int) -> str:
        return f"{self.place}{key[0]:016x}{key[1]:016x} {first_chain} {first_step}"
