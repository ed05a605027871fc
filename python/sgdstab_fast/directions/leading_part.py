"""The block of K that grows fastest, where directions end up."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple, cast

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast._core.seeds import Seed
from sgdstab_fast.exponents.exponent import lyapunov_exponent
from sgdstab_fast.results.warnings import AccuracyWarning
from sgdstab_fast.systems.components import IntArray, components
from sgdstab_fast.systems.parts import Block, blocks_of
from sgdstab_fast.systems.sgd import LinearizedSGD

_MAX_STEPS, _N_CHAINS = 2_000_000, 32  # of all blocks together


class LeadingBlock(NamedTuple):
    """A block of K as a system of its own, and how its vectors lie among all."""

    system: LinearizedSGD
    """The system of its examples alone."""
    share: float
    """Of all examples, and so of the steps; 1 where the others stand in the block's law as idle steps."""
    examples: IntArray
    """Which rows of K they are."""
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
    rows = components(system)
    if len(rows) == 1 and rows[0].size == len(system.diagonal):
        return None
    blocks = blocks_of(system)
    block = blocks[_fastest(blocks, seed, n_threads, executor)]
    its, examples = cast(LinearizedSGD, block.system), rows[block.index]
    if system.coordinates == "gram":
        embedding = np.eye(system.rank)[examples]
    else:
        # The rows of F are those of its own factor, turned.
        embedding = np.asarray(np.linalg.lstsq(its.rows, system.rows[examples], rcond=None)[0])
    if system.recurrence.levels > 1:
        embedding = np.asarray(np.kron(np.eye(system.recurrence.levels), embedding), dtype=np.float64)
    reason = (
        f"K falls into {len(blocks)} components, and what follows is of the one that grows fastest, that of example "
        f"{system.law.units_of_rows(len(system.diagonal))[examples[0]]}"
    )
    exponents = np.array([each.share * each.system.sum_of_exponents for each in blocks])
    diagonal = len(blocks) > 1 and len(blocks) == system.dimension and not np.isnan(exponents).any()
    return LeadingBlock(
        system=its,
        share=block.share,
        examples=examples,
        embedding=embedding,
        reason=reason if len(blocks) > 1 else "",
        exponents=exponents if diagonal else None,
    )


def _fastest(blocks: Sequence[Block], seed: Seed, n_threads: int | None, executor: Executor | None) -> int:
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
