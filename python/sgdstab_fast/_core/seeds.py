"""Streams of randomness: from what ``numpy.random.default_rng`` takes to the keys of the core's Philox streams.

The example that chain c draws at step n is a pure function of (key, c, n); `random/stream.hpp` defines
it. Initial states draw on the same key through numpy's Philox, at counters that no step uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import StreamKey


@dataclass(frozen=True)
class Seed:
    """Where a run's randomness comes from: the stream key and the entropy that reproduces it."""

    key: StreamKey
    entropy: Any
    spawn_key: tuple[int, ...]

    @classmethod
    def of(cls, sequence: np.random.SeedSequence) -> Seed:
        """Return the seed that a sequence of numpy's has."""
        high, low = (int(word) for word in sequence.generate_state(2, np.uint64))
        return cls((high, low), sequence.entropy, tuple(sequence.spawn_key))

    def child(self, *numbers: int) -> Seed:
        """Return a seed for a part of a run, which numpy spawns from what the user gave; without numbers that itself.

        What the part is made of can be made again by itself, from the seed that its result states.
        """
        return Seed.of(np.random.SeedSequence(self.entropy, spawn_key=(*self.spawn_key, *numbers)))

    def child_of_key(self, *numbers: int) -> Seed:
        """Return a seed for one of many evaluations; of the key, which seeds of orders and resumed ones have alone."""
        return seed_of_key(self.key, *numbers)

    def at_order(self, order: float) -> Seed:
        """Return the seed for an order of moments: errors at different orders are independent.

        It goes by the bits of the order, and states what the user gave.
        """
        child = self.child_of_key(*np.array([order]).view(np.uint32).tolist())
        return replace(self, key=child.key)

    def generator(self, *numbers: int) -> np.random.Generator:
        """Return a generator of numpy's, for what is not drawn by the core."""
        return np.random.default_rng(np.random.SeedSequence(list(self.key), spawn_key=numbers))


def seed_of_key(key: StreamKey, *numbers: int) -> Seed:
    """Return a seed for what goes on from chains, of which nothing but the key is known."""
    return Seed.of(np.random.SeedSequence(list(key), spawn_key=numbers))


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
    return Seed.of(sequence)


def seed_of(provenance: Mapping[str, Any]) -> Seed:
    """Return the seed that a result says it came from."""
    return Seed(tuple(provenance["stream_key"]), provenance["seed_entropy"], tuple(provenance["spawn_key"]))
