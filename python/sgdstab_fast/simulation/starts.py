"""Starts: what chains start from."""

from __future__ import annotations

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast._core.streams import INITIAL_STATES
from sgdstab_fast.systems.system import RANDOM_SHARE, System

_POWER_ITERATIONS = 30
_JITTER = 1e-13  # of the trace


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
    jitter = _JITTER * np.trace(covariance) * np.eye(system.dimension)
    # Rounded, so that the last bits of a decomposition rarely matter; another build of LAPACK may still find others.
    root = _root(covariance + jitter).astype(np.float32).astype(float)
    vectors = normals(key, n_chains, (k, system.dimension), first_chain) @ root.T
    vectors[:, 0] += ((np.sqrt(size) - vectors[:, 0] @ main) / size)[:, None] * along.astype(np.float32)
    return np.ascontiguousarray(vectors)
