"""Blocks: a K that falls into blocks that do not feel each other, as systems of their own.

A block with n of the N examples moves in n/N of the steps, so that its exponent is n/N of that of the block alone, and
the exponent of the whole is the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgdstab_fast.systems.components import components
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import System


@dataclass(frozen=True, eq=False)
class Block:
    """A block of K."""

    index: int
    """Its number, by which its streams differ from those of others."""
    system: System
    """The system of its examples alone."""
    share: float
    """n/N, of the steps of the whole; 1 where the others stand in the block's law as idle steps."""


@dataclass(frozen=True, eq=False)
class PlainBlock(Block):
    """A block of the K of a plain system."""

    system: LinearizedSGD


def plain_blocks_of(system: LinearizedSGD) -> list[PlainBlock]:
    """Return the blocks of the K of a plain system; the system itself if it does not fall into any."""
    found = components(system)
    if len(found) == 1 and found[0].size == system.n_examples:
        return [PlainBlock(0, system, 1.0)]
    return [PlainBlock(i, system.part(examples), examples.size / system.n_examples) for i, examples in enumerate(found)]


def blocks_of(system: System) -> Sequence[Block]:
    """Return the blocks of a system, those of K; the system itself if it does not fall into any."""
    if isinstance(system, LinearizedSGD) and system.is_plain:
        return plain_blocks_of(system)
    return [Block(index, part, 1.0) for index, part in enumerate(system.parts())]
