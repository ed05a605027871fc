"""Anchored means: one exponent from anchored growth in several metrics.

The mean of g_M under the stationary law is the exponent for every metric M, so every difference g_M - g_M' has the
known mean 0. With samples y_c of one g and differences x_c, independent over chains c, least squares

    y_c = lambda + x_c . beta + noise

gives the combination of metrics, with weights that sum to one, of least variance (S. S. Lavenberg and P. D. Welch, "A
perspective on the use of control variables to increase the efficiency of Monte Carlo simulations", Management Science 27,
1981). Weights are fitted to several pieces of each chain, which need not be quite independent; the error bar comes from
the means of whole chains, which are, with the degrees of freedom of the weights paid for.

Nothing here assumes that chains mix within their length; it is checked, and paid for where it fails: with the drift between
the halves of the run, if there is one; if chains are too short to mix, with that drift and its error extrapolated
over the relaxation still to come, but no more than the spread of g over all that the chains have visited; and with that
spread if nothing is known about their relaxation (`sgdstab_fast.mixing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sgdstab_fast._native import FloatArray
from sgdstab_fast.mixing import Mixing
from sgdstab_fast.statistics import (
    MIN_SAMPLES,
    Estimate,
    batch_means,
    chain_disagreement,
    drift,
    effective_sample_size,
    grouped,
    start_up_batches,
    unknown,
)

_COLLINEAR = 1e-7  # differences that are this close to a combination of others, relative, are rounding
_ROUNDING = 1e-14
_LEAST_SAMPLES_PER_WEIGHT = 4
_SAMPLES_FOR_WEIGHTS = 4  # for each one for the error bar
_DRIFT = 4.0  # standard errors: a false alarm in 1e4


@dataclass(frozen=True)
class Fit:
    """Least squares with known means of the regressors."""

    weights: FloatArray
    """Of the metrics; they sum to one."""
    inflation: float
    """Variance of the mean over what it would be, had the weights not been fitted to the same samples."""


def fit(samples: FloatArray) -> Fit:
    """Combine the columns of samples, (n_samples, n_metrics), which all have the same mean."""
    n, n_metrics = samples.shape
    mean = samples.mean(axis=0)
    base = int(samples.var(axis=0).argmin())
    weights = np.zeros(n_metrics)
    weights[base] = 1.0
    others = np.delete(np.arange(n_metrics), base)
    controls = samples[:, [base]] - samples[:, others]
    centre = controls.mean(axis=0)
    centred = controls - centre
    # Each difference in units of its own spread; one that does not vary beyond rounding says nothing.
    spread = centred.std(axis=0)
    known = spread > _ROUNDING * np.abs(samples).max()
    left, singular, right = np.linalg.svd(centred[:, known] / spread[known], full_matrices=False)
    rank = int((singular > _COLLINEAR * singular.max(initial=0.0)).sum())
    rank = min(rank, max(n // _LEAST_SAMPLES_PER_WEIGHT - 1, 0))
    slopes = right[:rank].T @ (left[:, :rank].T @ (samples[:, base] - mean[base]) / singular[:rank])
    weights[others[known]] = slopes / spread[known]
    weights[base] -= weights.sum() - 1
    # The fit takes `rank` of n - 1 degrees of freedom, and the weights' own errors multiply the controls' means.
    leverage = right[:rank] @ (centre[known] / spread[known]) / singular[:rank]
    inflation = (n - 1) / (n - 1 - rank) * (1 + n * float(leverage @ leverage)) if rank else 1.0
    return Fit(weights, inflation)


def _mean_of_chains(combined: FloatArray, n_groups: int, inflation: float) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom from the means of chains, or of n_groups pieces of each."""
    samples = grouped(combined, n_groups)[:, 0]
    n = len(samples)
    error = float(samples.std(ddof=1)) * math.sqrt(inflation / n) if n > 1 else math.inf
    return float(samples.mean()), error, max(n - 1, 1)


def anchored_means(
    growth: FloatArray, steps_per_batch: int, mixing: Mixing, n_examples: int, rounding: float
) -> Estimate:
    """Estimate an exponent from anchored growth per batch, of shape (n_chains, n_batches, n_metrics).

    `growth` is the mean over a batch's evaluations, each a mean over n_examples; `rounding` is what rounding does to it.
    """
    n_chains, n_batches, _ = growth.shape
    if n_batches == 0:
        return unknown(1)
    if not np.isfinite(growth).all():
        annihilated = not np.isnan(growth).any() and not np.isposinf(growth).any()
        return replace(unknown(1), mean=np.array([-math.inf if annihilated else math.nan]), standard_error=np.zeros(1))
    n_groups = math.ceil(MIN_SAMPLES / n_chains)
    weights = fit(grouped(growth[:, n_batches // 2 :], _SAMPLES_FOR_WEIGHTS * n_groups)).weights
    start_up = start_up_batches((growth @ weights).mean(axis=0)[:, None], least=0.0)
    if mixing.resolved:
        start_up = max(start_up, min(math.ceil(mixing.start_up_steps / steps_per_batch), n_batches // 2))
    kept = growth[:, start_up:]
    best = fit(grouped(kept, _SAMPLES_FOR_WEIGHTS * n_groups))
    combined = (kept @ best.weights)[:, :, None]
    mean, standard_error, degrees_of_freedom = _mean_of_chains(combined, n_groups, best.inflation)
    # The logarithm of a factor f has the error eps / f, and the smallest f is at least exp(2 N g) or so.
    eps = float(np.finfo(float).eps)
    cancellation = 8 * eps * math.exp(min(max(-2 * n_examples * mean, 0.0), 80.0)) / (2 * n_examples)
    rounding = max(rounding, eps * abs(mean), cancellation) * float(np.abs(best.weights).sum())
    difference, difference_error, scaled_drift = (float(value[0]) for value in drift(combined))
    bias_allowance = abs(difference) if abs(scaled_drift) > _DRIFT else 0.0
    if not mixing.resolved:
        # No more than the spread of all that the chains have seen, and less if what drifts is seen to relax.
        n_steps = kept.shape[1] * steps_per_batch
        extrapolated = mixing.bias(math.hypot(difference, difference_error), n_steps) if mixing.separated else math.inf
        bias_allowance = max(bias_allowance, min(extrapolated, float(combined.std())))
    errors = np.array([math.hypot(max(standard_error, rounding), bias_allowance)])
    return Estimate(
        mean=np.array([mean]),
        standard_error=errors,
        degrees_of_freedom=degrees_of_freedom,
        start_up=start_up,
        effective_sample_size=effective_sample_size(combined, errors),
        drift=scaled_drift,
        top_drift=scaled_drift,
        chain_disagreement=chain_disagreement(combined[:, :, 0]),
        bias_allowance=bias_allowance,
        mixed=mixing.resolved,
        gap=mixing.gap,
    )


def frame_means(log_growth: FloatArray, growth: FloatArray, steps_per_batch: int) -> Estimate:
    """Estimate exponents from log growth per batch, (n_chains, n_batches, k), and the anchored growth at its end.

    `growth` has the shape (n_chains, n_batches, n_metrics, k). Both have the same means, so that each exponent has a
    combination of its own.
    """
    average = batch_means(log_growth, steps_per_batch)
    n_chains, n_batches, n_metrics, k = growth.shape
    if n_metrics == 0 or n_batches == 0:
        return average
    mean, standard_error = average.mean.copy(), average.standard_error.copy()
    n_groups = math.ceil(MIN_SAMPLES / n_chains)
    for j in range(k):
        columns = np.concatenate([log_growth[:, :, None, j] / steps_per_batch, growth[:, :, :, j]], axis=2)
        kept = columns[:, average.start_up :]
        if not np.isfinite(kept).all():
            continue
        best = fit(grouped(kept, _SAMPLES_FOR_WEIGHTS * n_groups))
        mean[j], error, _ = _mean_of_chains((kept @ best.weights)[:, :, None], n_groups, best.inflation)
        standard_error[j] = max(error, float(np.finfo(float).eps) * abs(mean[j]))
    kept_growth = log_growth[:, average.start_up :] / steps_per_batch
    return replace(
        average,
        mean=mean,
        standard_error=standard_error,
        effective_sample_size=effective_sample_size(kept_growth, standard_error),
    )
