"""All products of a few steps: the share of those whose norm is below a limit, by enumeration.

Every product of n steps is one of N^a second halves times one of N^b first halves, a + b = n, all as likely.
"""

from __future__ import annotations

import math

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

MOST_NUMBERS = 2**22
"""Entries of all products together: half a second."""
_AT_ONCE = 2**18
_LOST = 1e-12  # of a product of matrices of norm 1


def are_few(n_steps: int, n: int, dimension: int) -> bool:
    """Return whether products of n out of so many steps can be enumerated."""
    return n * math.log2(n_steps) + 2 * math.log2(dimension) <= math.log2(MOST_NUMBERS)


def count_below(steps: FloatArray, n: int, limit: float) -> int | None:
    """Return how many of the N^n products have log ||Phi_n||_2 below the limit; None if rounding may have made some.

    Parameters
    ----------
    steps : array, shape (N, d, d)
        Each as likely as the others.
    n : int
        Steps of a product.
    limit : float
        What the logarithm is compared with.
    """
    first, second = _products(steps, n // 2), _products(steps, n - n // 2)
    if min(np.linalg.norm(half, axis=(1, 2)).min() for half in (first, second)) == 0:
        return None
    (firsts, first_logs), (seconds, second_logs) = _scaled(first), _scaled(second)
    chunk = max(1, _AT_ONCE // first.size)
    count = 0
    for start in range(0, len(seconds), chunk):
        slots = slice(start, start + chunk)
        products = seconds[slots, None] @ firsts
        limits = limit - second_logs[slots, None] - first_logs
        norms = np.linalg.norm(products, axis=(2, 3))
        if norms.min() < _LOST:
            return None
        high = np.log(norms)
        low = high - np.log(steps.shape[1]) / 2
        count += int((high < limits).sum())
        open_ = (low < limits) & (high >= limits)
        count += int((np.log(np.linalg.norm(products[open_], 2, axis=(1, 2))) < limits[open_]).sum())
    return count


def _products(steps: FloatArray, n: int) -> FloatArray:
    products = np.eye(steps.shape[1])[None]
    for _ in range(n):
        products = (steps[:, None] @ products).reshape(-1, *steps.shape[1:])
    return products


def _scaled(matrices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return matrices of Frobenius norm 1, and logarithms of what they were."""
    norms = np.linalg.norm(matrices, axis=(1, 2))
    return matrices / norms[:, None, None], np.log(norms)
