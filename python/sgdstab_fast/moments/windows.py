"""Windows: populations weighted by their growth in the recent past, which makes them one (`moments.populations`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.control_variates import combined

LONGEST_WINDOW = 1 / 4  # of a run
COSTLY = 1.2  # standard error with a window over the least of any
PIECES = 4
_LEAST_WEIGHT = 1 / 5  # effective share of populations and batches, by window weights


def windowed(log_growth: FloatArray, excess: FloatArray, start_up: int) -> tuple[FloatArray, float, float]:
    """Weight populations by their growth over a window of the past.

    Parameters
    ----------
    log_growth : array, shape (n_populations, n_batches)
        Of total weights, up to the beginning of what `excess` is about.
    excess : array, shape (n_populations, n_batches, n_columns)
        What has the same mean in every column: of growth less 1, in units of a typical one.
    start_up : int
        Batches to cut off.

    Returns
    -------
    series : array, shape (n_populations, n_batches - start_up, n_columns)
        The ratio sum G E / sum G, linear in what each population and batch contributes.
    unsettled : float
        What half the window, or twice the window, makes of the mean.
    bias : float
        What the window has changed.
    """
    n_batches = log_growth.shape[1]
    total = np.cumsum(log_growth - log_growth[:, start_up:].mean(), axis=1)
    total = np.concatenate([np.zeros((len(total), 1)), total], axis=1)
    all_series: list[FloatArray] = []
    all_means: list[FloatArray] = []
    window = 0
    while window <= LONGEST_WINDOW * (n_batches - start_up):
        since = total[:, np.maximum(np.arange(1, n_batches + 1) - window, 0)]
        with np.errstate(invalid="ignore"):  # of populations that a step has annihilated
            log_weights = np.where(np.isneginf(total[:, 1:]), -np.inf, total[:, 1:] - since)
        weights = np.exp(log_weights - log_weights[:, start_up:].max())[:, start_up:]
        weights /= weights.mean()
        if 1 / (weights**2).mean() < _LEAST_WEIGHT:
            break  # few populations would stand for all, and their error not be seen
        ratio: Any = (weights[:, :, None] * excess[:, start_up:]).mean(axis=(0, 1))
        for _ in range(2):
            with np.errstate(invalid="ignore"):  # where it is infinite
                series = ratio + weights[:, :, None] * (excess[:, start_up:] - ratio)
            means = combined_columns(series).mean(axis=1)
            ratio = float(means.mean())
        all_series.append(series)
        all_means.append(means)
        window = max(1, 2 * window)
    errors = np.array([means.std(ddof=1) for means in all_means])
    values = np.array([means.mean() for means in all_means])
    chosen = int(np.flatnonzero(errors <= COSTLY * errors.min())[-1])
    beside = np.abs(values[max(chosen - 1, 0) : chosen + 2] - values[chosen])
    return all_series[chosen], float(beside.max()), float(values[0] - values[max(chosen, min(1, len(values) - 1))])


def combined_columns(series: FloatArray) -> FloatArray:
    """Combine the columns of (n_populations, n_batches, n_columns), which have one mean; (n_populations, n_batches)."""
    return combined(series, PIECES) if series.shape[2] > 1 else series[:, :, 0]
