"""Means of independent samples, and estimates from samples left out in turn, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray


class Measured(NamedTuple):
    """A number with its error."""

    value: float
    standard_error: float


def standard_errors(samples: FloatArray) -> FloatArray:
    """Return the standard errors of means over the first axis; infinite for a single sample."""
    n = len(samples)
    if n == 1:
        return np.full(samples.shape[1:], math.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # of samples that are infinite, or whose squares are
        return np.asarray(samples.std(axis=0, ddof=1) / math.sqrt(n))


def mean_of(samples: FloatArray) -> Measured:
    """Return the mean of independent samples, shape (n,)."""
    return Measured(float(samples.mean()), float(standard_errors(samples)))


def left_out_in_turn(estimate: Callable[[NDArray[np.bool_]], float], n_samples: int, n_groups: int) -> float:
    """Return the standard error of an estimate, by the jackknife: `estimate` is told which samples to keep."""
    groups = np.arange(n_samples) % n_groups
    without = np.array([estimate(groups != g) for g in range(min(n_groups, n_samples))])
    with np.errstate(invalid="ignore"):
        return math.sqrt((len(without) - 1) * float(without.var()))
