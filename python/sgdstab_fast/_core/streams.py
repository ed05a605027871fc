"""Streams: which of the 2^64 streams of a key belong to whom.

Chain c of a run draws from the stream with the number first + c. What an estimator uses one key for draws from streams
of its own: the claims in a row of `CLAIMS` do not meet. Rows never share a key.

Populations of walkers are counted as chains are, but walker j of population c, of `size` walkers, draws from the stream
c * size + j of the same key. That is apart from all other walkers of populations of one size; claims of populations
of different sizes, which those of different blocks of K may have, may meet: a known limit.

The last word of the counter (`random/stream.hpp`) says what numbers of a stream are for, so that these never meet:

    0       examples of steps                                (`random/stream.hpp`, `random/draws.hpp`)
    1       initial states                                   (`simulation.starts`)
    2       resampling of populations                        (`cpp/src/kernels/populations.cpp`)
    3       tilted steps of walkers                          (`cpp/src/steps/tilted.cpp`)
    4 .. 7  batches, permutations, trials of evaluations     (`random/draws.hpp`; evaluations are numbered above)

Other keys come from a seed by spawn numbers of numpy's (`seeds.Seed`). Children of what the user gave:

    (b)         lambda of block b of K, roughly              (`directions.leading_part`)
    (4)         lambda of vectors, to check frames           (`exponents.spectrum`)

and, by the key alone, generators and children:

    ()          directions to try                            (`directions.lyapunov_function`, a generator)
    ()          moments from the chains of a result          (`directions.stationary`)
    (3)         resampling of weighted vectors               (`moments.weighted_vectors`, a generator)
    (4)         lambda, that moments are held against        (`moments.moments`)
    (5)         runs of diagonal matrices, and (5, 0) before the first step (`exponents.logarithms`, numpy's generators)
    (6, j)      the same, of volumes of j vectors            (`exponents.volumes`)
    (n)         run n of a search over learning rates        (`learning_rates.zeros`)
    (low, high) an order of moments, by the bits of it       (`Seed.at_order`)
"""

from __future__ import annotations

MOST_CHAINS = 2**24  # of a run, or populations
INITIAL_STATES = 1  # the counter's last word
RESAMPLING, SLOPE = 3, 4  # spawn numbers

# lambda and its moments, of one block of K; those of the next begin BLOCK_STREAMS later.
CHAINS = range(0, 2**32)  # or populations, or walkers; of panels of learning rates in turn, MOST_CHAINS each
COMPANIONS = range(2**32, 2**33)
PILOTS = range(2**33, 2**34 - MOST_CHAINS)
INFLUENCES = range(2**34 - MOST_CHAINS, 2**34)  # of rare outcomes
BLOCK_STREAMS = 2**34
# Frames, of all blocks together. There is a pilot chain for every period tried.
FRAMES = range(0, MOST_CHAINS)
FRAME_PILOTS = range(2**63, 2**63 + 2**32)
FRAME_STARTS = range(2**63 + 2**32, 2**63 + 2**32 + MOST_CHAINS)  # numbers of random parts, no steps
FRAME_INFLUENCES = range(2**63 + 2**33, 2**63 + 2**33 + MOST_CHAINS)  # of rare outcomes
# Directions, of all blocks together. Random starts are vectors, and take no steps.
DIRECTIONS = range(0, MOST_CHAINS)
DIRECTION_PILOTS = range(2**33, 2**33 + MOST_CHAINS)
DIRECTION_INFLUENCES = range(2**34, 2**34 + MOST_CHAINS)
STARTS = range(2**35, 2**35 + 2**32)
# Products of matrices, by populations. Those of pilot number 0, 1, .. begin len(PRODUCTS) apart.
PRODUCTS = range(0, 2**33)
PRODUCT_PILOTS = range(2**33, 2**43)

CLAIMS = {
    "lambda and moments of a block": (CHAINS, COMPANIONS, PILOTS, INFLUENCES),
    "frames": (FRAMES, FRAME_PILOTS, FRAME_STARTS, FRAME_INFLUENCES),
    "directions": (DIRECTIONS, DIRECTION_PILOTS, DIRECTION_INFLUENCES, STARTS),
    "products": (PRODUCTS, PRODUCT_PILOTS),
}


def first_of_block(block: int) -> int:
    """Return where the claims of a block of K begin."""
    return block * BLOCK_STREAMS


def first_of_panel(block: int, panel: int) -> int:
    """Return where the chains of a panel of learning rates of a block begin."""
    return first_of_block(block) + panel * MOST_CHAINS


def first_of_product_pilot(number: int) -> int:
    """Return where the populations of a pilot begin."""
    return PRODUCT_PILOTS.start + number * PRODUCTS.stop
