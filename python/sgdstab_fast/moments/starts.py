"""Starts of walkers: directions of every kind that may carry a moment, and which of them does.

Where two kinds of directions hardly feed each other (nearly decoupled blocks of K, a heavy example among light ones), a
moment of one order p > 0 is carried by the one and that of another order by the other: Lambda(p) is nearly the largest
of Lambda_b(p), of each kind b alone. Populations whose walkers are all of one kind agree with each other on what that
kind grows by. So scouts, a few small populations of each kind, first tell how fast each grows, and all walkers start as
the kind that grows fastest, if that is beyond doubt, or else with the dominant second moment.

At negative orders a moment of products is what is left where all kinds are small, and a single kind that happens to be
small is exceptional: every walker starts as a sum of the dominant second moment and of the slowest direction, where
stable SGD spends its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.systems.system import System

SURE = 3.0  # standard errors: a false alarm costs a longer start-up
_TRACE = 1e-6  # of other directions next to one of a kind: hardly anything in any metric


@dataclass(frozen=True)
class Scouted:
    """What scouts of a kind grow by, per step."""

    growth: float
    standard_error: float

    def surpasses(self, growth: float, standard_error: float) -> bool:
        """Whether the kind surely grows faster than another estimate says."""
        return self.growth - growth > SURE * math.hypot(self.standard_error, standard_error)


def scouted(log_growth: FloatArray, n_steps: int) -> Scouted:
    """Return what populations grow by, from log growth in batches that took n_steps together, (n_populations, n).

    From the last quarter; what that differs by from the quarter before is still to settle.
    """
    n_batches = log_growth.shape[1]
    quarter = n_batches // 4
    before, last = (part.sum(axis=1) for part in (log_growth[:, -2 * quarter : -quarter], log_growth[:, -quarter:]))
    if not (np.isfinite(before).all() and np.isfinite(last).all()):
        return Scouted(-math.inf, 0.0)
    per_step = n_batches / (quarter * n_steps)
    error = float(last.std(ddof=1)) / math.sqrt(len(last))
    return Scouted(per_step * float(last.mean()), per_step * math.hypot(error, float((last - before).mean())))


def next_to(system: System, vectors: FloatArray, kind: FloatArray, noise: float = _TRACE) -> FloatArray:
    """Return starts next to directions of a kind, with a little of other vectors; all of one shape (.., dimension)."""
    return _unit(system, kind) + noise * _unit(system, vectors)


def sums_of(system: System, vectors: FloatArray, kind: FloatArray) -> FloatArray:
    """Return starts that are as much of one kind as of another, which do not cancel; of the shape of vectors."""
    one, other = _unit(system, vectors), _unit(system, kind)
    longer = _lengths(system, one + other) >= _lengths(system, one - other)
    return np.where(longer, one + other, one - other)


def _unit(system: System, vectors: FloatArray) -> FloatArray:
    """Return vectors of unit length in parameter space, or as they are where that is 0; same shape."""
    lengths = _lengths(system, vectors)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0))


def _lengths(system: System, vectors: FloatArray) -> FloatArray:
    """Return lengths in parameter space, shape (.., 1) of (.., dimension)."""
    return system.lengths(vectors.reshape(-1, vectors.shape[-1])).reshape(*vectors.shape[:-1], 1)
