"""Statistics: from the log growth of batches of steps to an estimate with an error bar.

Chains are independent, so that means over whole chains are independent samples whatever the correlation along a
chain. The error bar comes from batch means over (chains x batches), with as few batches a chain as give at least
`MIN_SAMPLES` samples: one, for the default number of chains, where the interval is exact up to normality of the
chain means.

The start-up is cut off by the marginal standard error rule applied to the average over chains (White, "An effective
truncation heuristic for bias reduction in simulation output", Simulation 69, 1997): drop the first d batches where
d <= half minimises sum_{t>=d} (x_t - mean)^2 / (n - d)^2; at least an eighth is dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray

MIN_SAMPLES = 64
# Two-sided false-alarm rate of about 1e-5 for each exponent, on stationary independent batches.
DRIFT_LIMIT = 4.5
# What a tolerance waits for: chains that settle as slowly as the maximum of random walks does (equal exponents, n^-1/2)
# would stop too early at DRIFT_LIMIT, and waiting costs nothing but steps.
SETTLED_LIMIT = 2.0
_LEAST_START_UP = 1 / 8


class OfExponents(NamedTuple):
    """What is said of each exponent of a spectrum, shape (k,)."""

    degrees_of_freedom: NDArray[np.int64]
    bias_allowance: FloatArray


class RareAllowance(NamedTuple):
    """What standard errors include for outcomes of small probability."""

    allowance: float
    """In nats per step, of the first exponent."""
    probability: float
    """Of such an outcome."""
    is_lost: bool
    """Whether it is for what numbers do not hold between outcomes, of which more steps tell no more."""


@dataclass(frozen=True)
class Estimate:
    """Means per step with their errors; fields of shape (k,) unless said otherwise."""

    mean: FloatArray
    standard_error: FloatArray
    degrees_of_freedom: int
    start_up: int
    """Batches cut off at the start of every chain."""
    effective_sample_size: FloatArray
    """Independent batches that would give the same standard error."""
    drift: float
    """Second half less first half of what was kept, in its standard errors: the largest over k."""
    top_drift: float
    """The same, of the first exponent."""
    chain_disagreement: float
    """Variance of chain means over what the variance within chains predicts; about 1. Of the first exponent."""
    bias_allowance: float | None = None
    """What the standard errors include for imperfect mixing; None if they include nothing, whatever it is."""
    mixed: bool = True
    """Whether chains were seen to forget their starts; True where that was not looked at."""
    gap: float = math.nan
    """lambda_1 - lambda_2 as far as it was measured."""
    details: Any = None
    """What whoever estimates has found besides, and wants to have of the last look at the end of a run."""
    is_curve: bool = False
    """Whether the exponents are those of many learning rates, none of them more important than others."""
    scales: FloatArray | None = None
    """What a relative tolerance is relative to, shape (k,); the largest finite mean if None, infinite of what is not
    asked for."""
    of_exponents: OfExponents | None = None
    """What differs from exponent to exponent; None where that is nothing."""

    rare: RareAllowance | None = None
    """What is included for rare outcomes, if anything."""

    def within(self, low: float, high: float) -> Estimate:
        """Return the estimate of an exponent that is known to lie between two numbers."""
        return replace(
            self,
            mean=np.clip(self.mean, low, high),
            standard_error=np.minimum(self.standard_error, (high - low) / 2),
        )

    @property
    def settled(self) -> bool:
        """Whether a tolerance may stop the run.

        By the first exponent alone: of many the worst drifts by chance. An error bar that allows for it may stop
        drifting.
        """
        return self.bias_allowance is not None or (abs(self.top_drift) < SETTLED_LIMIT and not self.drifts)

    @property
    def drifts(self) -> bool:
        """Whether the chains were still on their way to the stationary law."""
        return abs(self.drift) > DRIFT_LIMIT


def unknown(k: int) -> Estimate:
    """Return the estimate of k exponents before any batch: not a number."""
    nothing = np.full(k, np.nan)
    return Estimate(nothing, nothing, 1, 0, nothing, drift=0.0, top_drift=0.0, chain_disagreement=1.0, mixed=False)


def batch_means(log_growth: FloatArray, steps_per_batch: int) -> Estimate:
    """Estimate growth per step from log growth per batch, of shape (n_chains, n_batches, k); NaN without batches."""
    if log_growth.shape[1] == 0:
        return unknown(log_growth.shape[2])
    finite = np.isfinite(log_growth).all(axis=(0, 1))
    growth = np.where(finite, log_growth, 0.0) / steps_per_batch
    start_up = _start_up(growth.mean(axis=0))
    kept = growth[:, start_up:]
    samples = grouped(kept, math.ceil(MIN_SAMPLES / growth.shape[0]))
    mean = samples.mean(axis=0)
    n_samples = samples.shape[0]
    spread = samples.std(axis=0, ddof=1) if n_samples > 1 else np.full_like(mean, np.inf)
    standard_error = spread / math.sqrt(n_samples)
    # Rounding is a floor to what can be known.
    standard_error = np.maximum(standard_error, np.finfo(float).eps * np.abs(mean))
    mean = np.where(finite, mean, _non_finite(log_growth))
    standard_error = np.where(finite, standard_error, np.where(np.isnan(mean), np.nan, 0.0))
    scaled = drift(kept)[2]
    return Estimate(
        mean=mean,
        standard_error=standard_error,
        degrees_of_freedom=max(n_samples - 1, 1),
        start_up=start_up,
        effective_sample_size=effective_sample_size(kept, standard_error),
        drift=float(scaled[np.abs(scaled).argmax()]),
        top_drift=float(scaled[0]),
        chain_disagreement=chain_disagreement(kept[:, :, 0]),
    )


def effective_sample_size(kept: FloatArray, standard_error: FloatArray) -> FloatArray:
    """Return the number of independent batches that would give the standard errors, shape (k,)."""
    variance = ((kept - kept.mean(axis=(0, 1))) ** 2).mean(axis=(0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        size: FloatArray = np.where(standard_error > 0, variance / standard_error**2, kept.shape[0] * kept.shape[1])
    return size


def _non_finite(log_growth: FloatArray) -> FloatArray:
    """-inf where log growth reached -inf, NaN where it was lost to overflow."""
    lost = np.isnan(log_growth).any(axis=(0, 1)) | np.isposinf(log_growth).any(axis=(0, 1))
    values: FloatArray = np.where(lost, np.nan, -np.inf)
    return values


def grouped(growth: FloatArray, n_groups: int) -> FloatArray:
    """Means over n_groups runs of consecutive batches a chain, (n_chains * n_groups, k); odd ones at the start go.

    Of (..., n_chains, n_batches, k), whatever comes before.
    """
    *before, n_chains, n_batches, k = growth.shape
    n_groups = min(n_groups, n_batches)
    size = n_batches // n_groups
    last = growth[..., n_batches - n_groups * size :, :]
    groups: FloatArray = last.reshape(*before, n_chains * n_groups, size, k).mean(axis=-2)
    return groups


def _start_up(series: FloatArray) -> int:
    """Batches to drop by the marginal standard error rule, the largest over the columns of (n_batches, k)."""
    n = series.shape[0]
    candidates = n // 2
    if candidates == 0:
        return 0
    centred = (series - series.mean(axis=0))[::-1]
    count = np.arange(1, n + 1)[:, None]
    squares = np.cumsum(centred**2, axis=0) - np.cumsum(centred, axis=0) ** 2 / count
    error = (np.maximum(squares, 0) / count**2)[::-1]  # error[d]: batches d.. kept
    return max(int(error[: candidates + 1].argmin(axis=0).max()), int(n * _LEAST_START_UP))


def drift(kept: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return second half less first half of (n_chains, n_batches, k), its standard error and their ratio: (k,) each."""
    n_chains, n_batches, k = kept.shape
    n_groups = 2 * math.ceil(MIN_SAMPLES / (2 * n_chains))
    if n_batches < n_groups or k == 0:
        return np.zeros(k), np.full(k, np.inf), np.zeros(k)
    halves = grouped(kept, n_groups).reshape(n_chains, 2, -1, k)
    first, second = (halves[:, half].reshape(-1, k) for half in (0, 1))
    with np.errstate(invalid="ignore", over="ignore"):  # -inf less -inf
        difference = second.mean(axis=0) - first.mean(axis=0)
        error = np.sqrt((first.var(axis=0, ddof=1) + second.var(axis=0, ddof=1)) / first.shape[0])
    level = np.abs(kept).mean(axis=(0, 1))
    meaningful = np.abs(difference) > 1e3 * np.finfo(float).eps * (level + np.finfo(float).eps)
    scaled: FloatArray = np.divide(difference, error, out=np.zeros_like(error), where=meaningful & (error > 0))
    return difference, error, scaled


def chain_disagreement(kept: FloatArray) -> float:
    """Return the variance of chain means of (n_chains, n_batches) over what the variance within chains predicts."""
    n_chains, n_batches = kept.shape
    n_groups = 8
    if n_chains < 2 or n_batches < n_groups:
        return 1.0
    groups = grouped(kept[:, :, None], n_groups).reshape(n_chains, n_groups)
    within = groups.var(axis=1, ddof=1).mean()
    between = n_groups * groups.mean(axis=1).var(ddof=1)
    rounding = (1e-12 * np.abs(groups).mean()) ** 2
    return float(between / within) if within > rounding else 1.0
