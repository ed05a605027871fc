"""Starts: what chains start from.

The exponent is the largest growth that any start leads to. Where two kinds of directions hardly feel each other, slow
and fast ones or two blocks, a start of one kind grows as that kind does for as long as the other takes to catch up:
log(1/share) / gap steps if it has a share of it, and longer where the gap fluctuates. A start in which all kinds take
part has no such wait. So chains start in the dominant second moment with a little of what else there is, and some of
them have twins, which take the same steps from elsewhere (`statistics.twins`):

    chains      c + share (s + f)       c what goes with a single example in the dominant second moment,
    twins       c + s + f,              s the direction that the mean step shrinks least,
                s + share (c + f)       f the sum of all examples' gradients times normal numbers,

each of unit length in parameter space, s turned towards c.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast._core.streams import INITIAL_STATES
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.statistics.twins import MOST_TWINS, kinds
from sgdstab_fast.systems.system import RANDOM_SHARE, System

_POWER_ITERATIONS = 30
_JITTER = 1e-13  # of the trace
_SHARE = 1e-3  # of other kinds of directions
_SHARE_BESIDE_SLOW = (
    1e-6  # the same where chains start as the slowest direction: they see how it decays, and a mean of n
)
# steps is off by its square over n


class Starts(NamedTuple):
    """Directions of several kinds for every chain, each of shape (n_chains, dimension) and of unit length."""

    typical: FloatArray
    slow: FloatArray
    random: FloatArray
    further: FloatArray
    """Of the same kind as `random`, for second vectors."""
    share: float
    """Of other kinds of directions in what chains start from."""

    @property
    def chains(self) -> FloatArray:
        """What chains start from, one vector each: shape (n_chains, 1, dimension), of Euclidean length 1."""
        return _euclidean(self.typical + self.share * (self.slow + self.random))[:, None]

    def twins(self, n_twins: int) -> FloatArray:
        """Return what twins of the first chains start from, and a second vector each: shape (n_twins, 2, dimension)."""
        of_kinds = (self.typical + self.slow + self.random, self.slow + _SHARE * (self.typical + self.random))
        first = np.empty((n_twins, self.typical.shape[1]))
        for its, kind in zip(of_kinds, kinds(n_twins), strict=False):
            first[kind] = its[kind]
        return _euclidean(np.stack([first, self.further[:n_twins]], axis=1))


def n_twins_of(options: Options) -> int:
    """Return how many chains have twins."""
    return min(MOST_TWINS, options.n_chains, options.budget.max_steps - options.n_chains)


def normals(key: StreamKey, n_chains: int, shape: tuple[int, ...], first_chain: int = 0) -> FloatArray:
    """Return standard normal numbers, shape (n_chains, *shape); chain c's depend on key and c alone."""
    numbers = np.empty((n_chains, *shape))
    for chain in range(n_chains):
        counter = [0, 0, first_chain + chain, INITIAL_STATES]
        philox = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)
        np.random.Generator(philox).standard_normal(out=numbers[chain])
    return numbers


def initial_states(
    key: StreamKey,
    n_chains: int,
    k: int,
    slow: FloatArray,
    first_chain: int = 0,
    random_share: float = RANDOM_SHARE,
) -> FloatArray:
    """Return the states to start from, shape (n_chains, dimension, k); chain c's depends on key and c alone.

    The first columns start near the slow directions given, of shape (dimension, at most k) and unit length, where a
    stable system spends its time, plus a random thousandth, or another share, so that no direction and no block of a
    reducible K is left out; further columns are random. The slow directions come from an eigen-solver, rounded to
    single precision so that its last bits rarely matter; another build of LAPACK may still find other signs, and other
    paths from them.
    """
    dimension, n_slow = slow.shape
    states = normals(key, n_chains, (dimension, k), first_chain)
    states *= 1 / np.sqrt(dimension)
    states[:, :, :n_slow] *= random_share
    states[:, :, :n_slow] += slow.astype(np.float32)
    return states


def starts(
    system: System, covariance: FloatArray | None, key: StreamKey, n_chains: int, first_chain: int = 0
) -> Starts:
    """Return directions to start from; those of chain c depend on key and c alone.

    Given the dominant second moment; the slow direction stands for it without.
    """
    n_numbers = system.n_random
    numbers = normals(key, n_chains, (1 + 2 * n_numbers,), first_chain)
    choice, random, further = np.split(numbers, [1, 1 + n_numbers], axis=1)
    slow = np.tile(system.slow_directions(1).T.astype(np.float32).astype(float), (n_chains, 1))
    typical = slow if covariance is None else _typical(system, covariance, choice[:, 0])
    random = system.displacements(random)
    typical, slow, random = (_unit(system, system.confined(each, typical)) for each in (typical, slow, random))
    slow = np.where((slow**2).sum(axis=1)[:, None] > 0, slow, typical)
    against = system.lengths(typical + slow) < system.lengths(typical - slow)
    return Starts(
        typical=typical,
        slow=np.where(against[:, None], -slow, slow),
        random=random,
        further=_unit(system, system.displacements(further)),
        share=_SHARE_BESIDE_SLOW if covariance is None else _SHARE,
    )


def spread_from(start: FloatArray | None, vectors: FloatArray) -> float:
    """Return what vectors, (n, dimension), have spread to since they started as one direction, if they did.

    The mean of log(1 / cos) of their angles with it, and no more than that of random directions.
    """
    spread = None if start is None else spread_of_frames(start[:, None], vectors[:, :, None])
    return 0.0 if spread is None else float(spread[0])


def spread_of_frames(start: FloatArray | None, frames: FloatArray) -> FloatArray | None:
    """Return the same of each of k columns, of frames (n_chains, dimension, columns) that started as (dimension, k).

    Of the angle of a column with all directions that it and those before it started as.
    """
    if start is None or not np.isfinite(frames).all():
        return None
    k = start.shape[1]
    before = np.linalg.qr(start)[0]
    cosines = np.triu(before.T @ np.linalg.qr(frames[:, :, :k])[0])
    parts = np.sqrt(np.einsum("cij,cij->cj", cosines, cosines))
    # Of a random direction, the mean of cos^2 is 1/d.
    return np.asarray(-np.log(np.clip(parts, len(start) ** -0.5, 1.0)).mean(axis=0))


def _typical(system: System, covariance: FloatArray, numbers: FloatArray) -> FloatArray:
    """Return directions with about the dominant second moment, each what goes with a single axis or example.

    Normal vectors with that moment would have a part in all blocks that hardly feel each other.
    """
    cumulative = np.cumsum(system.squared_amplitudes(covariance))
    shares = np.array([NormalDist().cdf(number) for number in numbers])
    axes = np.searchsorted(cumulative, shares * cumulative[-1])
    # Rounded, so that the last bits of a decomposition rarely matter; another build of LAPACK may still find others.
    found = system.correlated(axes, covariance)
    found = np.ldexp(found, -int(np.frexp(np.abs(found).max(initial=0.0))[1])) if np.abs(found).max() > 1e30 else found
    return np.asarray(found.astype(np.float32).astype(float))


def _euclidean(vectors: FloatArray) -> FloatArray:
    """Return vectors of length 1 as the core sees it, so that what they grow by themselves counts from the start."""
    # In units of its largest entry, exactly: squares of small ones would be 0.
    _, powers = np.frexp(np.abs(vectors).max(axis=-1, keepdims=True))
    vectors = np.ldexp(vectors, -powers)
    with np.errstate(invalid="ignore"):
        return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _unit(system: System, vectors: FloatArray) -> FloatArray:
    lengths = system.lengths(vectors)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0)[:, None])


def _root(covariance: FloatArray) -> FloatArray:
    """Return L with covariance = L L^T: Cholesky's, or the symmetric one of what is definite up to rounding."""
    try:
        return np.asarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T)


def initial_vectors(
    system: System, covariance: FloatArray | None, key: StreamKey, n_chains: int, k: int, first_chain: int = 0
) -> FloatArray:
    """Return the vectors to start from, shape (n_chains, k, dimension), the first of each chain nearly stationary.

    Given the dominant second moment; near the slowest direction without.
    """
    if covariance is None:
        states = initial_states(key, n_chains, k, system.slow_directions(1), first_chain, system.random_share)
        return np.ascontiguousarray(states.transpose(0, 2, 1))
    covariance = covariance / covariance.diagonal().max()
    main = covariance[:, covariance.diagonal().argmax()]
    for _ in range(_POWER_ITERATIONS):
        main = covariance @ (main / np.linalg.norm(main))
    main /= np.linalg.norm(main)
    along = covariance @ main
    size = float(main @ along)
    if not size > 0:  # rounding alone, of what differs by more orders than floating point tells apart
        return initial_vectors(system, None, key, n_chains, k, first_chain)
    jitter = _JITTER * np.trace(covariance) * np.eye(system.dimension)
    # Rounded, so that the last bits of a decomposition rarely matter; another build of LAPACK may still find others.
    root = _root(covariance + jitter).astype(np.float32).astype(float)
    vectors = normals(key, n_chains, (k, system.dimension), first_chain) @ root.T
    vectors[:, 0] += ((np.sqrt(size) - vectors[:, 0] @ main) / size)[:, None] * along.astype(np.float32)
    return np.ascontiguousarray(vectors)
