"""Laws: which examples a step draws.

A unit is an example, or the group of rows of K that belong to one example of several outputs. A step draws a batch S of
units and averages their gradients, A_S = I - (eta/|S|) sum_{u in S} P_u K with P_u the projector on the rows of u
(Chemnitz & Engel 2025, section 2.7; for batches of one and single outputs, equation 2.19):

    iid                B of N units without replacement, independently from step to step
    with_replacement   B independent units
    epoch              the N units in a random order, B at a time, the last batch smaller; then in another order
    cyclic             the same with one order for ever, that of the rows

Second moments feel the law through p: E[A S A^T] = (1 - p) (full step) + p (mean over steps on single units), with
p = (N - B) / (B (N - 1)) without replacement and 1/B with (Mulayoff & Michaeli, arXiv 2306.07850, equation 20).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import AnyFloatArray, FloatArray
from sgdstab_fast.results.storage import fields_of, store_as

IntArray = NDArray[np.int64]

SAMPLINGS = ("iid", "with_replacement", "epoch", "cyclic")
_NO_ROWS: IntArray = np.empty(0, dtype=np.int64)


class Enumeration(NamedTuple):
    """All batches that a law draws, or epochs."""

    probabilities: FloatArray
    """Of each epoch, shape (n,)."""
    batches: list[tuple[int, ...]]
    """The different batches of units."""
    places: IntArray
    """Which of them an epoch consists of, in order: shape (n, steps)."""


@dataclass(frozen=True, eq=False)
class Law:
    """How batches are drawn."""

    n_units: int
    """N."""
    batch_size: int = 1
    """B."""
    sampling: str = "iid"
    probabilities: FloatArray | None = None
    """Of each unit in a draw, shape (N,); None if they are all the same."""
    offsets: IntArray = field(default_factory=lambda: _NO_ROWS)
    """Where the rows of each unit begin in `members`, shape (N + 1,); empty where unit u has row u."""
    members: IntArray = field(default_factory=lambda: _NO_ROWS)

    @property
    def is_independent(self) -> bool:
        """Whether batches do not depend on those before."""
        return self.sampling in ("iid", "with_replacement")

    @property
    def is_single(self) -> bool:
        """Whether every step draws one row, uniformly and independently."""
        return self.batch_size == 1 and self.is_independent and self.probabilities is None and not self.offsets.size

    @property
    def is_deterministic(self) -> bool:
        """Whether all steps, or all epochs, are the same."""
        return self.sampling == "cyclic" or self.is_full

    @property
    def is_full(self) -> bool:
        """Whether every step draws all units, once each."""
        return self.batch_size == self.n_units and self.sampling != "with_replacement" and self.probabilities is None

    @property
    def steps_per_epoch(self) -> int:
        """Steps that go through all units once, rounded up."""
        return -(-self.n_units // self.batch_size)

    @property
    def noise(self) -> float:
        """p, of independent batches."""
        if self.sampling == "with_replacement" or self.n_units == 1:
            return 1 / self.batch_size if self.sampling == "with_replacement" else 0.0 if self.batch_size > 1 else 1.0
        return (self.n_units - self.batch_size) / (self.batch_size * (self.n_units - 1))

    @property
    def unit_probabilities(self) -> FloatArray:
        """Of each unit in a draw, shape (N,)."""
        return np.full(self.n_units, 1 / self.n_units) if self.probabilities is None else self.probabilities

    def rows(self, unit: int) -> IntArray:
        """Return the rows of a unit."""
        if not self.offsets.size:
            return np.array([unit], dtype=np.int64)
        return self.members[self.offsets[unit] : self.offsets[unit + 1]]

    def units_of_rows(self, n_rows: int) -> IntArray:
        """Return the unit of every row, shape (n_rows,)."""
        if not self.offsets.size:
            return np.arange(n_rows)
        units = np.empty(n_rows, dtype=np.int64)
        units[self.members] = np.repeat(np.arange(self.n_units), np.diff(self.offsets))
        return units

    def restricted(self, rows: NDArray[np.intp], n_rows: int) -> Law:
        """Return the law of the same draws where there are only some of the rows, in that order."""
        place = np.full(n_rows, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        members = [place[self.rows(unit)] for unit in range(self.n_units)]
        kept = [each[each >= 0] for each in members]
        return replace(self, offsets=np.cumsum([0, *map(len, kept)]), members=np.concatenate(kept))

    @property
    def for_core(self) -> arguments.Law:
        """What the core is told."""
        return arguments.Law(
            self.sampling,
            self.batch_size,
            self.n_units,
            None if self.probabilities is None else cumulative(self.probabilities),
            np.ascontiguousarray(self.offsets, dtype=np.int64),
            np.ascontiguousarray(self.members, dtype=np.int64),
        )

    @property
    def n_batches(self) -> float:
        """Different batches, or different epochs, that there are."""
        n, b = self.n_units, self.batch_size
        if self.is_deterministic:
            return 1
        if self.sampling == "iid":
            return math.comb(n, b)
        if self.sampling == "with_replacement":
            return math.comb(n + b - 1, b)
        log_count = math.lgamma(n + 1) - (n // b) * math.lgamma(b + 1) - math.lgamma(n % b + 1)
        return round(math.exp(log_count)) if log_count < 40 else math.inf

    def batches(self) -> Iterator[tuple[float, list[tuple[int, ...]]]]:
        """Yield the probability of every batch, or epoch, and its batches of units, in order."""
        n, b = self.n_units, self.batch_size
        units = range(n)
        if self.is_deterministic:
            yield 1.0, [tuple(units[first : first + b]) for first in range(0, n, b)]
        elif self.sampling == "iid":
            p = self.unit_probabilities
            for batch in itertools.combinations(units, b):
                yield float(p[batch[0]]) if b == 1 else 1 / math.comb(n, b), [batch]
        elif self.sampling == "with_replacement":
            p = self.unit_probabilities
            for batch in itertools.combinations_with_replacement(units, b):
                counts = np.bincount(batch, minlength=n)
                ways = math.factorial(b) / math.prod(math.factorial(int(count)) for count in counts)
                yield ways * float(np.prod(p**counts)), [batch]
        else:
            count = self.n_batches
            for epoch in _partitions(tuple(units), b):
                yield 1 / count, epoch

    def enumerated(self) -> Enumeration:
        """Return all batches, or epochs; of a block, whose other units do not move anything, those that differ."""
        if self.is_independent or self.is_deterministic:
            probabilities, epochs = zip(*self.batches(), strict=True)
            return Enumeration(np.array(probabilities), *_numbered(epochs, range(self.n_units)))
        moving = frozenset(unit for unit in range(self.n_units) if self.rows(unit).size)
        return _different_epochs(self.n_units, self.batch_size, moving)


def validated(
    n_rows: int,
    batch_size: Any = 1,
    sampling: Any = "iid",
    groups: Any = None,
    probabilities: Any = None,
) -> Law:
    """Check what the user passed."""
    offsets, members = (_NO_ROWS, _NO_ROWS) if groups is None else _grouped(groups, n_rows)
    n_units = len(offsets) - 1 if groups is not None else n_rows
    sampling = validation.choice(sampling, "sampling", SAMPLINGS)
    high = None if sampling == "with_replacement" else n_units
    batch_size = validation.integer(batch_size, "batch_size", high=high)
    if groups is not None and n_units == n_rows and np.array_equal(members, np.arange(n_rows)):
        offsets = members = _NO_ROWS
    law = Law(n_units, batch_size, sampling, None, offsets, members)
    if probabilities is None:
        return law
    found = validation.distribution(probabilities, "probabilities", n_units, "one for each example")
    if not law.is_independent or (sampling == "iid" and batch_size > 1):
        raise ValueError(
            f"probabilities are for batch_size=1 or sampling='with_replacement', not for batch_size={batch_size} and "
            f"sampling={sampling!r}"
        )
    if (found == found[0]).all():
        return law
    if (found == 0).any():
        raise ValueError(
            f"probabilities must be positive, but probabilities[{int(found.argmin())}] is 0: leave out of gram what is "
            "never drawn"
        )
    return replace(law, probabilities=found)


def row_weights(law: Law, n_rows: int, step_scaling: Any, scale: Any) -> FloatArray | None:
    """Return the factors of the steps on rows, shape (n_rows,); None if all are 1."""
    scaling = validation.choice(step_scaling, "step_scaling", ("unbiased", "equal"))
    factor = validation.positive_number(scale, "scale")
    if law.probabilities is None or scaling == "equal":
        return None if factor == 1 else np.full(n_rows, factor)
    with np.errstate(over="ignore"):
        weights = factor / (law.n_units * law.probabilities)
    return np.asarray(weights[law.units_of_rows(n_rows)])


def weighted(matrix: AnyFloatArray, weights: FloatArray, columns: FloatArray | float = 1.0) -> FloatArray:
    """Return a matrix times the roots of weights of rows, and of columns; refuse what passes floating point."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.asarray(columns * matrix * np.sqrt(weights)[:, None], dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(
            f"scale, over probabilities, is too large: times gram it passes floating point, being up to {weights.max()}"
        )
    return found


def _grouped(groups: Any, n_rows: int) -> tuple[IntArray, IntArray]:
    """Return offsets and members of the groups, in the order in which they first appear."""
    known: dict[Any, int] = {}
    labels = validation.labels(groups, "groups", n_rows, "one label for each row")
    units = np.array([known.setdefault(label, len(known)) for label in labels], dtype=np.int64)
    offsets, members = np.concatenate([[0], np.cumsum(np.bincount(units))]), np.argsort(units, kind="stable")
    return validation.frozen(offsets), validation.frozen(members)


def cumulative(probabilities: FloatArray) -> FloatArray:
    """Return cumulative probabilities, 1 from the last that is not 0 on."""
    sums = np.cumsum(probabilities)
    sums[np.flatnonzero(probabilities)[-1] :] = 1.0
    return np.asarray(sums)


def _numbered(
    epochs: Sequence[list[tuple[int, ...]]], moving: Collection[int]
) -> tuple[list[tuple[int, ...]], IntArray]:
    """Return batches that differ in size or in units that move something, and which of them epochs consist of."""
    numbers: dict[tuple[int, ...], int] = {}  # of every batch
    known: dict[Any, int] = {}
    different: list[tuple[int, ...]] = []
    for batch in itertools.chain.from_iterable(epochs):
        if batch in numbers:
            continue
        what = len(batch), tuple(unit for unit in batch if unit in moving)
        numbers[batch] = known.setdefault(what, len(known))
        if numbers[batch] == len(different):
            different.append(batch)
    return different, np.array([[numbers[batch] for batch in epoch] for epoch in epochs])


@functools.lru_cache(maxsize=2)
def _all_epochs(n_units: int, batch_size: int) -> list[list[tuple[int, ...]]]:
    """Return all epochs, which takes longer than what is asked of them: at many rates, of every block of K."""
    return list(_partitions(tuple(range(n_units)), batch_size))


@functools.lru_cache(maxsize=16)
def _different_epochs(n_units: int, batch_size: int, moving: frozenset[int]) -> Enumeration:
    batches, places = _numbered(_all_epochs(n_units, batch_size), moving)
    probabilities = np.full(len(places), 1 / len(places))
    if len(moving) < n_units:
        places, counts = np.unique(places, axis=0, return_counts=True)
        probabilities = counts / counts.sum()
    for array in (places, probabilities):
        array.flags.writeable = False
    return Enumeration(probabilities, batches, places)


def _partitions(units: tuple[int, ...], size: int) -> Iterator[list[tuple[int, ...]]]:
    """Yield the ways to cut the units into consecutive batches of a size, the last one smaller."""
    if not units:
        yield []
        return
    for batch in itertools.combinations(units, min(size, len(units))):
        left = tuple(unit for unit in units if unit not in batch)
        for others in _partitions(left, size):
            yield [batch, *others]


def _of_file(**fields: Any) -> Law:
    """Return a law that a file holds, if it can be one: the core draws by its numbers."""
    law = Law(**fields)
    validation.choice(law.sampling, "sampling", SAMPLINGS)
    offsets, members = law.offsets, law.members
    if offsets.size and not (
        offsets.shape == (law.n_units + 1,)
        and offsets[0] == 0
        and (np.diff(offsets) > 0).all()
        and offsets[-1] == members.size
        and np.array_equal(np.sort(members), np.arange(members.size))
    ):
        raise ValueError("its groups are none")
    most = math.inf if law.sampling == "with_replacement" else law.n_units
    if not 1 <= law.batch_size <= most or (law.probabilities is not None and law.probabilities.shape != (law.n_units,)):
        raise ValueError("its batches are none")
    return law


store_as("Law", fields_of, _of_file, Law)
