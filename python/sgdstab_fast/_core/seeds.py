"""Streams of randomness: from what ``numpy.random.default_rng`` takes to the keys of the core's Philox streams.

The example that chain c draws at step n is a pure function of (key, c, n); `cpp/include/sgdstab/stream.hpp` defines
it. Initial states draw on the same key through numpy's Philox, at counters that no step uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast._core.functions import FloatArray, StreamKey

_INITIAL_STATES = 1  # the counter's last word: 0 for steps
RANDOM_SHARE = 1e-3


@dataclass(frozen=True)
class Seed:
    """Where a run's randomness comes from: the stream key and the entropy that reproduces it."""

    key: StreamKey
    entropy: Any
    spawn_key: tuple[int, ...]


def seed_from(rng: Any) -> Seed:
    """Return the seed for whatever ``numpy.random.default_rng`` takes.

    A Generator or BitGenerator spawns a child, so that calling twice gives independent runs.
    """
    if isinstance(rng, np.random.SeedSequence):
        sequence = rng
    elif isinstance(rng, np.random.RandomState):
        sequence = np.random.SeedSequence(rng.randint(2**32, size=8, dtype=np.uint64).tolist())
    elif isinstance(rng, (np.random.Generator, np.random.BitGenerator)):
        generator = np.random.default_rng(rng)
        parent = generator.bit_generator.seed_seq
        if isinstance(parent, np.random.SeedSequence):
            sequence = parent.spawn(1)[0]
        else:  # set up without one
            sequence = np.random.SeedSequence(generator.integers(2**32, size=8).tolist())
    else:
        try:
            sequence = np.random.SeedSequence(rng)
        except (TypeError, ValueError) as error:
            raise type(error)(f"rng must be what numpy.random.default_rng takes, not {rng!r}") from error
    high, low = (int(word) for word in sequence.generate_state(2, np.uint64))
    return Seed(key=(high, low), entropy=sequence.entropy, spawn_key=tuple(sequence.spawn_key))


def seed_of(provenance: Mapping[str, Any]) -> Seed:
    """Return the seed that a result says it came from."""
    return Seed(tuple(provenance["stream_key"]), provenance["seed_entropy"], tuple(provenance["spawn_key"]))


def seed_at(seed: Seed, order: float) -> Seed:
    """Return the seed for an order of moments: errors at different orders are independent."""
    sequence = np.random.SeedSequence(list(seed.key), spawn_key=tuple(np.array([order]).view(np.uint32).tolist()))
    high, low = (int(word) for word in sequence.generate_state(2, np.uint64))
    return Seed((high, low), seed.entropy, seed.spawn_key)


def normals(key: StreamKey, n_chains: int, shape: tuple[int, ...], first_chain: int = 0) -> FloatArray:
    """Return standard normal numbers, shape (n_chains, *shape); chain c's depend on key and c alone."""
    numbers = np.empty((n_chains, *shape))
    for chain in range(n_chains):
        counter = [0, 0, first_chain + chain, _INITIAL_STATES]
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
