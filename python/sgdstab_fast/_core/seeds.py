"""Streams of randomness: from what ``numpy.random.default_rng`` takes to the keys of the core's Philox streams.

The example that chain c draws at step n is a pure function of (key, c, n); `cpp/include/sgdstab/stream.hpp` defines
it. Initial states draw on the same key through numpy's Philox, at counters that no step uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdstab_fast._core.functions import StreamKey


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
