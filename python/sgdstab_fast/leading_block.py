"""The block of K that grows fastest, where directions end up."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from sgdstab_fast._native import FloatArray
from sgdstab_fast.blocks import PlainBlock, plain_blocks_of
from sgdstab_fast.components import IntArray, components
from sgdstab_fast.exponent import lyapunov_exponent
from sgdstab_fast.results import AccuracyWarning
from sgdstab_fast.streams import Seed
from sgdstab_fast.systems import LinearizedSGD

_MAX_STEPS, _N_CHAINS = 2_000_000, 32  # of all blocks together


class LeadingBlock(NamedTuple):
    """A block of K as a system of its own, and how its vectors lie among all."""

    system: LinearizedSGD
    """The system of its examples alone."""
    share: float
    """Of all examples, and so of the steps."""
    examples: IntArray
    """Which they are."""
    embedding: FloatArray
    """P, shape (dimension of the block, dimension), with P P^T = 1: v P is a vector of the whole, v P^T its part."""
    reason: str
    """What to tell about other blocks; empty if there are none."""
    exponents: FloatArray | None
    """All Lyapunov exponents of the whole, where K is diagonal."""


def leading_block(
    system: LinearizedSGD, seed: Seed, n_threads: int | None = None, executor: Executor | None = None
) -> LeadingBlock | None:
    """Return the block with the largest exponent; None if K does not fall into blocks."""
    blocks = plain_blocks_of(system)
    if len(blocks) == 1 and blocks[0].share == 1:
        return None
    block = blocks[_fastest(blocks, seed, n_threads, executor)]
    examples = components(system)[block.index]
    if system.coordinates == "gram":
        embedding = np.eye(system.dimension)[examples]
    else:
        # The rows of F are those of its own factor, turned.
        embedding = np.asarray(np.linalg.lstsq(block.system.rows, system.rows[examples], rcond=None)[0])
    reason = (
        f"K falls into {len(blocks)} components, and what follows is of the one that grows fastest, that of example "
        f"{examples[0]}"
    )
    diagonal = len(blocks) > 1 and len(blocks) == system.dimension
    return LeadingBlock(
        system=block.system,
        share=block.share,
        examples=examples,
        embedding=embedding,
        reason=reason if len(blocks) > 1 else "",
        exponents=np.array([each.share * each.system.sum_of_exponents for each in blocks]) if diagonal else None,
    )


def _fastest(blocks: list[PlainBlock], seed: Seed, n_threads: int | None, executor: Executor | None) -> int:
    """Return the number of the block with the largest exponent."""
    if len(blocks) == 1:
        return 0
    exponents = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        for block in blocks:
            found = lyapunov_exponent(
                block.system,
                max_steps=max(_MAX_STEPS // len(blocks), _N_CHAINS),
                n_chains=_N_CHAINS,
                rng=np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, block.index)),
                n_threads=n_threads,
                executor=executor,
            )
            exponents.append(block.share * found.exponent)
    return int(np.argmax(exponents))
