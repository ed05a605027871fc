"""The block of K that grows fastest, where directions end up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.results.storage import storable
from sgdstab_fast.results.warnings import collected
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.systems.system import Part, System

_MAX_STEPS, _N_CHAINS, _RTOL = 2_000_000, 32, 1e-2  # steps of all blocks together


@storable
class LeadingBlock(NamedTuple):
    """A block of K as a system of its own, and how its vectors lie among all."""

    part: Part[System]
    embedding: FloatArray
    """P, shape (dimension of the block, dimension), with P P^T = 1: v P is a vector of the whole, v P^T its part."""
    reason: str
    """What to tell about other blocks; empty if there are none."""
    exponents: FloatArray | None
    """All Lyapunov exponents of the whole, where K is diagonal."""

    @property
    def share(self) -> float:
        """Of the steps, those that it moves in; 1 where the others stand in its law as idle steps."""
        return self.part.share

    @property
    def system(self) -> System:
        """The system of its examples alone."""
        return self.part.system


def leading_block(system: System, options: Options) -> LeadingBlock | None:
    """Return the block with the largest exponent; None if K does not fall into blocks."""
    parts = system.parts()
    if parts[0].system is system or not system.is_direct_sum:
        return None
    part = parts[_fastest(parts, options)]
    reason = (
        f"K falls into {len(parts)} components, and what follows is of the one that grows fastest, that of example "
        f"{system.example_of(part)}"
    )
    exponents = np.array([each.share * each.system.sum_of_exponents for each in parts])
    diagonal = len(parts) > 1 and len(parts) == system.dimension and not np.isnan(exponents).any()
    return LeadingBlock(
        part=part,
        embedding=system.embedding(part),
        reason=reason if len(parts) > 1 else "",
        exponents=exponents if diagonal else None,
    )


def _fastest(parts: Sequence[Part[System]], options: Options) -> int:
    """Return the number of the part with the largest exponent."""
    if len(parts) == 1:
        return 0
    its = options.within(max(_MAX_STEPS // len(parts), _N_CHAINS), rtol=_RTOL, atol=0.0)
    its = replace(its, n_chains=_N_CHAINS, progress=None)
    with collected():  # the largest of rough estimates will do
        found = [estimate_exponent(part.system, its.child(part.index)) for part in parts]
    exponents = [part.share * each.exponent for part, each in zip(parts, found, strict=True)]
    return int(np.argmax(exponents))
