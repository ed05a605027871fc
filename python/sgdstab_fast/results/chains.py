"""Chains: the state of a run, which is also its ending."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast.results.storage import fields_of, storable, store_as
from sgdstab_fast.statistics.anchored import Rounding

Records = TypeVar("Records", bound=NamedTuple)
"""What chains have recorded: arrays of shape (n_chains, n_batches, ...), of which log growth is the first."""

_MOST_NUMBERS = 2**24  # of a record
_LEAST_RECORD, _LARGEST_RECORD = 64, 2048  # batches that it has at most, by what they record


@storable
class VectorRecords(NamedTuple):
    """What chains of k vectors each record in every batch."""

    log_growth: FloatArray
    """Of the vectors, shape (n_chains, n_batches, k)."""
    growth: FloatArray
    """Anchored growth, summed over evaluations, shape (n_chains, n_batches, n_metrics)."""
    directions: FloatArray
    """The first vectors at the end, shape (n_chains, n_batches, dimension); of width 0 unless they are recorded."""

    @classmethod
    def empty(cls, n_chains: int, k: int, n_metrics: int, recorded: int = 0) -> VectorRecords:
        """Return the records before any batch."""
        return cls(*(np.empty((n_chains, 0, width)) for width in (k, n_metrics, recorded)))


@storable
class FrameRecords(NamedTuple):
    """What chains of a frame of k vectors each record in every batch."""

    log_growth: FloatArray
    """log R_jj, shape (n_chains, n_batches, k)."""
    log_determinants: FloatArray
    """Of the steps, shape (n_chains, n_batches)."""
    smallest_ratios: FloatArray
    """min_j R_jj / abs(v_j), of the same shape."""
    growth: FloatArray
    """Anchored growth of volumes, the mean over evaluations, shape (n_chains, n_batches, n_metrics, n_evaluated)."""

    @classmethod
    def empty(cls, n_chains: int, k: int, n_evaluated: int, n_metrics: int) -> FrameRecords:
        """Return the records before any batch."""
        each = np.empty((n_chains, 0))
        return cls(np.empty((n_chains, 0, k)), each, each, np.empty((n_chains, 0, n_metrics, n_evaluated)))


@storable
class PanelRecords(NamedTuple):
    """What chains of panels, vectors at many learning rates, record in every batch."""

    log_growth: FloatArray
    """Shape (n_chains, n_batches, n_panels, k, n_lanes)."""
    growth: FloatArray
    """Anchored growth, summed over evaluations, shape (n_chains, n_batches, n_panels, n_metrics, n_lanes)."""

    @classmethod
    def empty(cls, n_chains: int, n_panels: int, k: int, n_metrics: int, n_lanes: int) -> PanelRecords:
        """Return the records before any batch."""
        return cls(*(np.empty((n_chains, 0, n_panels, width, n_lanes)) for width in (k, n_metrics)))


@storable
class PopulationRecords(NamedTuple):
    """What populations of weighted walkers record in every batch."""

    log_growth: FloatArray
    """Of the total weight, shape (n_chains, n_batches)."""
    effective_size: FloatArray
    """(sum W)^2 / sum W^2, of the same shape."""
    norms: FloatArray
    """Weighted means of norm^p in every metric, shape (n_chains, n_batches, n_metrics)."""
    excess: FloatArray
    """Weighted means of norm^p times what is expected of the next step, less 1, of the same shape."""
    separation: FloatArray
    """Log growth of the distance to passive vectors, shape (n_chains, n_batches)."""

    @classmethod
    def empty(cls, n_chains: int, n_metrics: int) -> PopulationRecords:
        """Return the records before any batch."""
        each, of_metrics = np.empty((n_chains, 0)), np.empty((n_chains, 0, n_metrics))
        return cls(each, each, of_metrics, of_metrics, each)


def _mean(first: FloatArray, second: FloatArray) -> FloatArray:
    return (first + second) / 2


def _last(first: FloatArray, second: FloatArray) -> FloatArray:
    return second


# What two batches have recorded as one. What a population stands for goes by its growth up to an evaluation, and not by
# what it has grown after it: only that at the end is as good as it was.
_TOGETHER: dict[type[Any], tuple[Callable[[FloatArray, FloatArray], FloatArray], ...]] = {
    VectorRecords: (np.add, np.add, _last),
    FrameRecords: (np.add, np.add, np.minimum, _mean),
    PanelRecords: (np.add, np.add),
    PopulationRecords: (np.add, _mean, _last, _last, np.add),
}


def in_pairs(records: Records) -> Records:
    """Return what batches twice as long would have recorded."""
    every = zip(_TOGETHER[type(records)], records, strict=True)
    with np.errstate(invalid="ignore"):
        return records._make(together(record[:, 0::2], record[:, 1::2]) for together, record in every)


@storable
@dataclass(frozen=True)
class Chains(Generic[Records]):
    """The state of a run, which is also its ending.

    Advancing consumes the states: they move on to the chains that `simulation.task.advance` returns.

    Batches grow with the run: once a record is as large as it may be, neighbouring batches are merged, and go on twice
    as long. So records are bounded, and what a chain has recorded after a number of steps depends on that number alone.

    states has shape (n_chains, k, dimension) for vectors, (n_chains, dimension, k) for frames and (n_chains, n_walkers,
    ...) for populations.
    """

    key: StreamKey
    states: FloatArray
    steps_per_batch: int
    records: Records
    first_chain: int = 0
    first_step: int = 0
    """The step at which the first batch began."""
    n_walkers: int = 1
    """Of each chain, where chains are populations: a step of a chain is a step of each."""
    spacing: int = 1
    """Steps between evaluations of anchored growth, where that is recorded."""
    n_examples: int = 1
    """Steps over which an evaluation of anchored growth is a mean, N where every example has its own."""
    rounding: float = 0.0
    """What rounding may do to anchored growth."""
    cancellation: float = math.inf
    """The mean of 1 / f over these steps at the most, f what a step leaves of a squared norm."""
    metric: str = ""
    """The name of the metrics in which anchored growth is evaluated, where there is a choice."""
    start: FloatArray | None = None
    """The direction that chains start as, shape (dimension,), where their dominant second moment is not known; or the
    frame, (dimension, k)."""
    pilot_steps: int = 0
    """Steps spent before on choosing the spacing."""
    companions: Chains[Any] | None = None
    """Chains that take the same steps from other starts, or carry one more vector, from which mixing is known."""
    companions_go_on: bool = True
    """Whether they were to, at the last look that there is whatever the budget."""
    coarseness: int = 1
    """First batches that a batch is by now, a power of two: steps are always taken in first batches."""
    largest_record: int = _LARGEST_RECORD
    """Batches that a record has at most."""
    begun: tuple[Records, ...] = ()
    """What was recorded of a batch that is under way: parts of it, as long as the binary digits of `n_begun`."""
    n_begun: int = 0
    """First batches of it that are done."""
    is_between_looks: bool = False
    """Whether the run was cut here, rather than where it looks at its estimate."""

    @property
    def n_chains(self) -> int:
        """Number of independent chains."""
        return int(self.states.shape[0])

    @property
    def rounding_of_growth(self) -> Rounding:
        """What rounding may do to what chains say of growth."""
        return Rounding(self.rounding, self.n_examples, self.cancellation)

    @property
    def n_streams(self) -> int:
        """Streams of examples of all chains."""
        return self.n_chains * self.n_walkers

    @property
    def n_batches(self) -> int:
        """Batches done by every chain."""
        return int(self.records[0].shape[1])

    @property
    def n_first_batches(self) -> int:
        """Batches done, counted in those of the start."""
        return self.n_batches * self.coarseness

    @property
    def most_batches(self) -> int:
        """Batches, a power of two, after which they are merged in pairs."""
        numbers = sum(math.prod(record.shape[:1] + record.shape[2:]) for record in self.records)
        most = max(_LEAST_RECORD, min(self.largest_record, _MOST_NUMBERS // max(numbers, 1)))
        return int(1 << (most.bit_length() - 1))

    @property
    def steps_per_first_batch(self) -> int:
        """Steps of a batch of the start."""
        return self.steps_per_batch // self.coarseness

    @property
    def steps_done(self) -> int:
        """Steps of every chain since the first batch began."""
        return self.n_batches * self.steps_per_batch + self.n_begun * self.steps_per_first_batch

    @property
    def next_step(self) -> int:
        """The step at which chains go on."""
        return self.first_step + self.steps_done

    @property
    def n_steps(self) -> int:
        """Steps done, of all chains together."""
        own = self.n_streams * self.steps_done + self.pilot_steps
        return own if self.companions is None else own + self.companions.n_steps

    def copy(self) -> Chains[Records]:
        """Return chains whose states may be consumed."""
        companions = None if self.companions is None else self.companions.copy()
        return replace(self, states=self.states.copy(), companions=companions)

    def until(self, n_batches: int) -> Chains[Records]:
        """Return the chains with the records that they had after n_batches, for a look back."""
        companions = self.companions
        if companions is not None:
            companions = companions.until(n_batches * self.coarseness // companions.coarseness)
        records = self.records._make(record[:, :n_batches] for record in self.records)
        return replace(self, records=records, companions=companions, begun=(), n_begun=0)

    def after(
        self, states: FloatArray, records: Sequence[Records], begun: Sequence[Records] = (), n_begun: int = 0
    ) -> Chains[Records]:
        """Return the chains in new states, with what they have recorded on the way there."""
        every = zip(self.records, *records, strict=True)
        merged = self.records._make(np.concatenate(each, axis=1) for each in every)
        return replace(self, states=states, records=merged, begun=tuple(begun), n_begun=n_begun)

    def coarsened(self) -> Chains[Records]:
        """Return the chains with neighbouring batches merged: half as many, of twice as many steps."""
        return replace(
            self,
            records=in_pairs(self.records),
            steps_per_batch=2 * self.steps_per_batch,
            coarseness=2 * self.coarseness,
        )

    def with_twins(self, states: FloatArray, records: Records) -> Chains[Records]:
        """Return the chains with twins of the first of them, in other states; their batches are merged together."""
        twins = replace(self, states=states, records=records)
        most = min(self.most_batches, twins.most_batches)
        return replace(self, largest_record=most, companions=replace(twins, largest_record=most))

    def as_coarse_as(self, others: Chains[Any]) -> Chains[Records]:
        """Return the chains with batches merged until they are as long as those of others; an odd last one is left."""
        chains = self
        while chains.coarseness < others.coarseness:
            chains = chains.until(chains.n_batches // 2 * 2).coarsened()
        return chains


@dataclass(frozen=True, eq=False)
class Ending:
    """Where a run of chains of directions ended, from which `simulation.continuation` goes on."""

    chains: Chains[VectorRecords]
    resolution: int
    """Steps that resolve how directions move."""
    orthonormalise_every: int
    """Steps after which two vectors still span a plane."""


store_as("Checkpoint", fields_of, Ending, Ending)  # as files have called it from the first on
