"""Streams: which of the 2^64 streams of a key belong to whom.

Chain c of a run draws from the stream with the number first + c. What one key is used for by one estimator draws from
streams of its own: claims of one row of `CLAIMS` do not meet. Rows may share numbers: they never share a key.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """The streams first, .., first + size - 1."""

    first: int
    size: int

    def within(self, other: Claim) -> bool:
        """Say whether all of them are among those of the other claim."""
        return other.first <= self.first and self.first + self.size <= other.first + other.size

    def meets(self, other: Claim) -> bool:
        """Say whether any stream is in both."""
        return self.first < other.first + other.size and other.first < self.first + self.size


MOST_CHAINS = 2**24
"""Of a run, or populations."""

# lambda and its moments, each block of K by itself
BLOCK_STREAMS = 2**34  # from one block of K to the next, which are fewer than 2^29
CHAINS = Claim(0, 2**32)  # of a run; of panels of learning rates in turn; walkers one by one
COMPANIONS = Claim(2**32, 2**32)
PILOTS = Claim(2**33, 2**33)
PANEL_STREAMS = 2**24  # from one panel of learning rates to the next, in a search that takes fewer than 2^8

# Frames: a pilot chain for every period tried.
FRAMES = Claim(0, MOST_CHAINS)
FRAME_PILOTS = Claim(2**63, 2**32)

# Directions, of all blocks of K together: their random starts are vectors, and take no steps.
DIRECTIONS = Claim(0, MOST_CHAINS)
DIRECTION_PILOTS = Claim(2**33, MOST_CHAINS)
STARTS = Claim(2**35, 2**32)

# Products of matrices: pilot number 0, 1, .. after the populations, one after the other.
PRODUCTS = Claim(0, 2**33)
PRODUCT_PILOTS = Claim(2**33, 2**40)
PRODUCT_PILOT_STREAMS = 2**33

CLAIMS = {
    "lambda and moments of a block": (CHAINS, COMPANIONS, PILOTS),
    "frames": (FRAMES, FRAME_PILOTS),
    "directions": (DIRECTIONS, DIRECTION_PILOTS, STARTS),
    "products": (PRODUCTS, PRODUCT_PILOTS),
}


def first_of_block(block: int) -> int:
    """Return where the claims of a block of K begin."""
    return block * BLOCK_STREAMS


def first_of_panel(block: int, panel: int) -> int:
    """Return where the chains of a panel of learning rates of a block begin."""
    return first_of_block(block) + panel * PANEL_STREAMS


def first_of_product_pilot(number: int) -> int:
    """Return where the populations of a pilot begin."""
    return PRODUCT_PILOTS.first + number * PRODUCT_PILOT_STREAMS
