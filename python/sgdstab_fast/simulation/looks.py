"""Looks: after how many batches a run looks at its estimate, and the pieces that it is cut into between them.

Batches grow with the run (`results.chains`), so that looks are counted in first batches, and fall on whole batches of
the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sgdstab_fast.results.chains import Chains

FIRST_LOOK = 16  # batches a chain
GROWTH = 1.5  # from look to look
IDLE_GROWTH = GROWTH**3  # without a tolerance to meet; looks are some of the same


def grid(limit: int, most_batches: int, growth: float = GROWTH) -> Iterator[int]:
    """Yield the fixed grid of looks below the limit, of chains that record so many batches at most."""
    look = float(FIRST_LOOK)
    while (whole := rounded(math.ceil(look), most_batches, up=True)) < limit:
        yield whole
        look *= growth


def rounded(n_first_batches: int, most_batches: int, *, up: bool = False) -> int:
    """Return so many first batches, rounded to whole batches of the time when they are done."""
    coarseness = 1
    while n_first_batches > most_batches * coarseness:
        coarseness *= 2
    return (n_first_batches + (coarseness - 1 if up else 0)) // coarseness * coarseness


def looks_so_far(chains: Chains[Any]) -> list[int]:
    """Return the looks on the grid up to now, in first batches."""
    return list(grid(chains.n_first_batches + 1, chains.most_batches))


def looks_back(chains: Chains[Any]) -> list[int]:
    """Return the batches that records had at looks so far, at those that they still show as they were."""
    behind = [divmod(look, chains.coarseness) for look in looks_so_far(chains)]
    return [n_batches for n_batches, cut in behind if cut == 0 and n_batches >= FIRST_LOOK]


def pieces(n_batches: int, coarseness: int, n_begun: int, seconds: float, longest: float) -> Iterator[int]:
    """Cut n_batches of `coarseness` first batches each into first batches that take no longer than `longest` together.

    By a cost model, seconds for a first batch, rather than a clock. Pieces are whole batches, or shares of a batch by a
    power of two that begin at a multiple of their length, of which n_begun first batches are done.
    """
    left = n_batches * coarseness - n_begun
    size = max(1, int(min(longest / seconds, left)) if seconds else left)
    size = size // coarseness * coarseness if size >= coarseness else 1 << (size.bit_length() - 1)
    while left > 0:
        into = -left % coarseness  # first batches of the batch that is under way
        here = min(size, left, into & -into) if into else min(size, left)
        yield here
        left -= here
