"""Blocks: a K that falls into blocks that do not feel each other, as systems of their own.

A block with n of the N examples moves in n/N of the steps, so that its exponent is n/N of that of the block alone, and
the exponent of the whole is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.simulation.vectors import How
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


def shared_between(how: How, n_blocks: int) -> How:
    """Return how to estimate one of n_blocks blocks, so that all together keep to the budget and the tolerances."""
    if n_blocks < 2:
        return how
    budget = how.budget
    budget.steps_per_chain(how.n_chains)  # refused in terms of what the user gave
    max_steps = max(budget.max_steps // n_blocks, 1)
    inflation = math.sqrt(1 + 2 * math.log(n_blocks))
    confidence = budget.sign_confidence
    return replace(
        how,
        n_chains=min(how.n_chains, max_steps),
        budget=replace(
            budget,
            max_steps=max_steps,
            rtol=budget.rtol / inflation,
            atol=budget.atol / inflation,
            sign_confidence=None if confidence is None else 1 - (1 - confidence) / n_blocks,
        ),
    )


def leading(exponents: FloatArray, standard_errors: FloatArray) -> tuple[int, float]:
    """Return the index of the largest of independent estimates, and its standard error.

    The largest of m estimates, each of which may be it, is too large by sqrt(2 log m) errors.
    """
    leader = int(np.lexsort((standard_errors, -exponents))[0])
    reach = exponents[leader] - 4 * standard_errors[leader]
    rivals = standard_errors[~(exponents + 4 * standard_errors < reach)]
    error = float(rivals.max(initial=standard_errors[leader]))
    return leader, error * math.sqrt(1 + 2 * math.log(max(len(rivals), 1))) if error > 0 else error
