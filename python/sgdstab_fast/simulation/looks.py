"""Looks: at which batches a run looks at its estimate, and the pieces that it is cut into between them."""

from __future__ import annotations

import math
from collections.abc import Iterator

_FIRST_LOOK = 16  # batches a chain
GROWTH, IDLE_GROWTH = 1.5, 4.0  # from look to look, with a tolerance to meet and without
_PIECE_SECONDS = 0.1


def grid_of_looks(n_batches: int) -> list[int]:
    """Return the fixed grid of looks up to n_batches a chain."""
    return list(grid(n_batches + 1))


def grid(limit: int, growth: float = GROWTH) -> Iterator[int]:
    """Yield the fixed grid of looks below the limit."""
    look = float(_FIRST_LOOK)
    while math.ceil(look) < limit:
        yield math.ceil(look)
        look *= growth


def pieces(n_batches: int, seconds_per_batch: float) -> Iterator[int]:
    """Cut n_batches into pieces of about a tenth of a second, by a cost model rather than a clock."""
    size = max(1, int(_PIECE_SECONDS / seconds_per_batch) if seconds_per_batch else n_batches)
    for start in range(0, n_batches, size):
        yield min(size, n_batches - start)
