"""Chains: the state of a run, which is also its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sgdstab_fast._core.functions import FloatArray, StreamKey


@dataclass(frozen=True)
class Chains:
    """The state of a run, which is also its checkpoint.

    Advancing consumes the states: they move on to the chains that `simulation.task.advance` returns.

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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run of chains of directions ended, from which `simulation.continuation` goes on."""

    chains: Chains
    resolution: int
    """Steps that resolve how directions move."""
    orthonormalise_every: int
    """Steps after which two vectors still span a plane."""

    @property
    def next_step(self) -> int:
        """The step at which chains go on."""
        return self.chains.n_batches * self.chains.steps_per_batch
