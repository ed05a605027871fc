"""Symmetric matrices by strips: rows from the diagonal on, with which a product costs little more than half."""

from __future__ import annotations

from collections.abc import Iterator

_STRIPS, _NARROWEST, _BYTES = 8, 64, 2**22  # of a matrix: how many, rows at least, and about at most


def strips(rank: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows of a symmetric matrix of so many, and the columns from its diagonal on."""
    width = min(max(-(-rank // _STRIPS), _NARROWEST), max(_BYTES // (8 * max(rank, 1)), 1))
    for start in range(0, rank, width):
        yield slice(start, min(start + width, rank)), slice(start, rank)
