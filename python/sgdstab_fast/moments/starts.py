"""Starts of walkers: directions of every kind that may carry a moment, and which of them does.

Where two kinds of directions hardly feed each other (nearly decoupled blocks of K, a heavy example among light ones), a
moment of one order p > 0 is carried by the one and that of another order by the other: Lambda(p) is nearly the largest
of Lambda_b(p), of each kind b alone. Populations whose walkers are all of one kind agree with each other on what that
kind grows by, and in populations of several kinds chance decides which is left, as long as they grow by nearly the
same. So every population starts as one kind: with the dominant second moment, or next to a direction e that hardly
feeds it, e^T M e being next to nothing in the metric M of the mean square, one of those that scouts, a small population
next to each, find to grow fastest. What each kind grows by is known as well as the answer has to be, and those are left
out that grow surely less than another. Where all directions feed each other there is one kind.

At negative orders a moment of products is what is left where all kinds are small, and a single kind that happens to be
small is exceptional: every walker starts as a sum of the dominant second moment and of the slowest direction, where
stable SGD spends its time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.moments.windows import combined_columns
from sgdstab_fast.statistics.estimates import grouped
from sgdstab_fast.statistics.mixing import N_COMPANIONS
from sgdstab_fast.systems.system import System

SCOUTS = 16  # walkers of a population
SCOUT_SHARE = 8  # one of so many steps of a budget are for scouts
_EACH = 8  # extremes of each sort
_LARGEST = 512  # dimension, beyond which only the slowest and the fastest directions are looked at
_APART = 1e-6  # of the mean of e^T M e, below which a direction hardly feeds what M is of
_SEEN = 1e-4  # of the same, that a metric of one kind is given of all
_RIVALS = 3  # kinds beside that of the dominant second moment
_SURE = 3.0  # standard errors of what kinds grow by
_MUCH = 4.0  # times the variance of another
_DOUBT = 2.0  # the same, that kinds of one growth are apart by chance
_PIECES = 8  # of a run
_TRACE = 1e-6  # of other directions next to one of a kind: hardly anything in any metric


def apart(system: System, metric: FloatArray | None) -> FloatArray:
    """Return directions that hardly feed the dominant second moment, (n, dimension), of unit length in parameter space.

    Of those that are far from each other, the slowest first; none if the metric of the mean square is not known.
    """
    if system.dimension == 1 or metric is None:
        return np.empty((0, system.dimension))
    slow = system.slow_directions(1).T
    if system.dimension > _LARGEST:
        directions = np.concatenate([slow, system.fast_directions(_EACH).T])
    else:
        directions = np.concatenate([slow, system.from_isometric_vectors(system.extremes(_EACH))])
    directions = _unit(system, directions)
    return np.asarray(directions[hardly_feed(system, directions, metric)])


def hardly_feed(system: System, directions: FloatArray, metric: FloatArray | None) -> NDArray[np.bool_]:
    """Return which directions, (n, dimension), are next to nothing in the metric of the mean square, if it is known."""
    if metric is None:
        return np.zeros(len(directions), dtype=bool)
    directions = _unit(system, directions)
    sizes = np.einsum("ni,ij,nj->n", directions, metric, directions)
    return np.asarray(sizes < _APART * _mean_size(metric, system.norm()))


def seeing_all(system: System, metric: FloatArray) -> FloatArray:
    """Return a metric in which all kinds have a size, so that what others leave in them is nothing beside it."""
    norm = system.norm()
    return np.asarray(metric + _SEEN * _mean_size(metric, norm) * (np.eye(len(metric)) if norm is None else norm))


def _mean_size(metric: FloatArray, norm: FloatArray | None) -> float:
    """Return the mean of e^T M e over directions."""
    return float(np.trace(metric if norm is None else np.linalg.solve(norm, metric))) / len(metric)


def rivals(order: float, log_growth: FloatArray) -> NDArray[np.intp]:
    """Return which scouts may grow fastest, from log growth in batches, (n_populations, n_batches).

    From the last quarter, for which as much is hoped as chance allows. What the slowest direction grows by is a
    straight line in p: it is not the largest beyond p = 2 unless it is there; before, it always may be.
    """
    quarter = log_growth.shape[1] // 4
    if quarter < 2:
        return np.unique(np.linspace(0, len(log_growth) - 1, _RIVALS).astype(np.intp))  # nothing is known
    last = log_growth[:, -quarter:]
    with np.errstate(invalid="ignore"):
        hoped = last.mean(axis=1) + last.std(axis=1, ddof=1) / math.sqrt(quarter)
    hoped[np.isnan(hoped)] = -math.inf
    if order < 2:
        hoped[0] = math.inf
    return np.argsort(-hoped, kind="stable")[:_RIVALS]


def one_by_one(system: System, vectors: FloatArray, kinds: FloatArray) -> FloatArray:
    """Return starts of populations, (n_populations, size, dimension): vectors as they are, or next to each kind."""
    vectors, number = vectors.copy(), kind_of_each(len(vectors), len(kinds) + 1)
    for kind, direction in enumerate(kinds, start=1):
        vectors[number == kind] = next_to(system, vectors[number == kind], direction)
    return vectors


def kind_of_each(n_populations: int, n_kinds: int) -> NDArray[np.intp]:
    """Return the number of the kind that each population starts as.

    Neighbours are of one, so that what is fitted to others is of all kinds; and as many companions as there may be of
    all kinds alike.
    """
    block = min(n_populations, N_COMPANIONS)
    return np.arange(n_populations) % max(block, 1) * n_kinds // max(block, 1)


@np.errstate(over="ignore", invalid="ignore")  # growth of one batch may be infinite beside that of others
def leading_kinds(growth: list[FloatArray]) -> tuple[NDArray[np.bool_], float]:
    """Return which kinds may grow fastest, and how much more there may be.

    Given growth of each kind, (n_populations, n_batches, n_columns), the columns of which have one mean once a kind is
    settled. Kinds that still turn into others, so that the halves of the first column differ or part of it is surely
    less than that of the first kind, are left out but for the first: weight on its way from one kind to another shows
    as growth, and columns differ. There may be more by what the fastest grows by more than all that are kept, beyond
    what chance explains, or by what is not known of those that vary differently.
    """
    if len(growth) == 1 or min(map(len, growth)) < 2 or growth[0].shape[1] < _PIECES:
        return np.ones(len(growth), dtype=bool), 0.0
    pieces = [grouped(each[:, :, :1], _PIECES).reshape(len(each), _PIECES) for each in growth]
    turns = [each[:, _PIECES // 2 :].mean(axis=1) - each[:, : _PIECES // 2].mean(axis=1) for each in pieces]
    means = [combined_columns(each).mean(axis=1) for each in growth]
    (value, variance), (turn, turn_variance) = (
        np.array([(each.mean(), each.var(ddof=1) / len(each)) for each in samples]).T for samples in (means, turns)
    )
    least = [(each.mean(axis=0) + _SURE * each.std(axis=0, ddof=1) / math.sqrt(len(each))).min() for each in pieces]
    settled = (np.abs(turn) <= _SURE * np.sqrt(turn_variance)) & (least > value[0] - _SURE * math.sqrt(variance[0]))
    settled[0] = True
    leader = int(np.where(settled, value, -math.inf).argmax())
    open_ = settled & (value[leader] - value <= _SURE * np.sqrt(variance + variance[leader]))
    # Kinds that vary differently are different: metrics combined would show the one that varies least.
    leading = open_ & (variance <= _MUCH * variance[leader]) & (variance[leader] <= _MUCH * variance)
    more = (value + _DOUBT * np.sqrt(variance))[open_ & ~leading].max(initial=-math.inf) - value[leader]
    its = np.concatenate([each for each, leads in zip(means, leading, strict=True) if leads])
    chance = _DOUBT * math.sqrt(max(int(leading.sum()) - 1, 0) * its.var(ddof=1) / len(its))
    return leading, max(float(value[leader] - its.mean()) - chance, float(more), 0.0)


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
