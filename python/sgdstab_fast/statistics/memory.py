"""Memory: how long directions are remembered."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.means import left_out_in_turn

_WINDOW = 5.0  # autocorrelation times over which autocorrelations are summed
LONGEST_SEGMENT = 1024  # batches whose inner products are formed together
_COMPARED = 64  # chains that are compared with one another
_GROUPS = 16  # of chains, left out in turn
_NEGLIGIBLE = 1e-13  # of 1 - b: directions do not vary beyond rounding


class Memory(NamedTuple):
    """How long directions are remembered."""

    time: float
    """tau, in steps."""
    standard_error: float
    """Of tau."""
    resolved: bool
    """Whether the directions given were long enough to sum over."""


def memory(directions: FloatArray, spacing: int, least_window: int = 0) -> Memory:
    """Estimate tau from directions every `spacing` steps, unit vectors (n_chains, n, dimension) in parameter space.

    Autocorrelations are summed over five times tau, and over `least_window` steps as far as lags go.
    """
    n_chains, n, _ = directions.shape
    length = min(n, LONGEST_SEGMENT)
    n_lags = max(length // 2, 1)
    products = np.zeros((n_chains, n_lags))
    # Row i of the view are the products with what follows batch i, and zeros past the end.
    squares = np.zeros((length, length + n_lags))
    row, entry = squares.strides
    following = np.lib.stride_tricks.as_strided(squares, (length, n_lags), (row + entry, entry))
    for chain, path in enumerate(directions):
        for start in range(0, n - length + 1, length):
            segment = path[start : start + length]
            squares[:, :length] = (segment @ segment.T) ** 2
            products[chain] += following.sum(axis=0)
    products /= (n // length) * (length - np.arange(n_lags))
    unrelated = np.zeros(n_chains)
    for its in np.array_split(np.arange(n_chains), math.ceil(n_chains / _COMPARED)):
        for batch in directions[its].transpose(1, 0, 2):
            squared = (batch @ batch.T) ** 2
            unrelated[its] += (squared.sum(axis=1) - squared.diagonal()) / (max(len(its) - 1, 1) * n)
    time, resolved = _summed(products.mean(axis=0), float(unrelated.mean()), spacing, least_window)

    def time_of(kept: NDArray[np.bool_]) -> float:
        return _summed(products[kept].mean(axis=0), float(unrelated[kept].mean()), spacing, least_window)[0]

    return Memory(time, left_out_in_turn(time_of, n_chains, _GROUPS), resolved)


def _summed(products: FloatArray, unrelated: float, spacing: int, least_window: int) -> tuple[float, bool]:
    """Sum rho over a window of five times the sum (A. D. Sokal, 1997) or more; return tau and whether it was found."""
    if not 1 - unrelated > _NEGLIGIBLE:
        return float(spacing), True
    rho = (products - unrelated) / (1 - unrelated)
    times = spacing * (2 * np.cumsum(rho) - 1)  # rho(0) = 1 counts once
    enough = spacing * np.arange(len(rho)) >= _WINDOW * times
    window = int(enough.argmax()) if enough.any() else len(rho) - 1
    window = max(window, min(math.ceil(least_window / spacing), len(rho) - 1))
    return max(float(times[window]), 0.0), bool(enough.any())
