"""Gram matrices in float32."""

import numpy as np

RNG_SEED = 3
EPSILON = float(np.finfo(np.float32).eps)


def gram_of(n: int, rank: int, spread: float = 0.0) -> np.ndarray:
    """K of float32, of a rank, whose examples differ by 10^spread."""
    rng = np.random.default_rng(RNG_SEED)
    factor = rng.standard_normal((n, rank)) / np.sqrt(rank)
    factor *= 10 ** (spread * rng.random((n, 1)))
    return (factor @ factor.T).astype(np.float32)
