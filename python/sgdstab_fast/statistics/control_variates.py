"""Anchored means: one exponent from anchored growth in several metrics.

The mean of g_M under the stationary law is the exponent for every metric M, so every difference g_M - g_M' has the
known mean 0: they are control variates. With one g as the response and differences as regressors, least squares give
the combination of metrics, with weights that sum to one, of least variance (S. S. Lavenberg and P. D. Welch, "A
perspective on the use of control variables to increase the efficiency of Monte Carlo simulations", Management Science
27, 1981). Weights fitted to the same samples would bias the mean, by a part of the error bar where rare excursions
carry the variance; so those of a fold of chains are fitted to the other folds, which are independent of it. The error
bar comes from the means of whole chains.

Nothing here assumes that chains mix within their length; it is checked, and paid for where it fails: with the drift
between the halves of the run, if there is one, and with what twins gain on their chains, where chains have twins
(`statistics.twins`). Of others the gap between two exponents is known at the most (`statistics.mixing`). If they are
too short to mix, they pay with that drift and its error, extrapolated over the relaxation still to come, but no more
than the spread of g over all that the chains have visited; and with that spread if nothing is known about their
relaxation.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.estimates import (
    MIN_SAMPLES,
    Estimate,
    chain_disagreement,
    drift,
    effective_sample_size,
    grouped,
    unknown,
)
from sgdstab_fast.statistics.means import mean_of
from sgdstab_fast.statistics.mixing import Mixing
from sgdstab_fast.statistics.twins import Twins

_COLLINEAR = 1e-7  # differences that are this close to a combination of others, relative, are rounding
_ROUNDING = 1e-14
_LEAST_SAMPLES_PER_WEIGHT = 4
_PIECES = 4  # of a chain for each one that counts for the error bar: weights may be fitted to correlated ones
_FOLDS = 4  # of chains
_RELAXATION_TIMES = 5  # that a piece of a chain must last to count as independent of the next
_NEGLIGIBLE = 1 / 2  # of a standard error
_FEW_CHAINS = 16  # fewer do not show the spread of what they have not visited
_DRIFT = 4.0  # standard errors: a false alarm in 1e4


def fit(samples: FloatArray) -> FloatArray:
    """Return the weights, which sum to one, of the combination of the columns of samples with the least variance.

    All columns, of shape (..., n_samples, n_metrics), have the same mean; weights are (..., n_metrics).
    """
    base = _base(samples)
    response = np.take_along_axis(samples, base, axis=-1)
    weights = _slopes(response - samples, response, np.abs(samples).max(axis=(-2, -1)))[..., 0]
    np.put_along_axis(weights, base[..., 0, :], 1 - weights.sum(axis=-1, keepdims=True), axis=-1)
    return weights


def _base(samples: FloatArray) -> NDArray[np.intp]:
    """Return the column of least variance, shape (..., 1, 1); differences of all others from it have the mean 0."""
    return np.asarray(samples.var(axis=-2, keepdims=True).argmin(axis=-1, keepdims=True))


def _slopes(controls: FloatArray, responses: FloatArray, size: float | FloatArray) -> FloatArray:
    """Return the regression of responses, (..., n, n_responses), on controls, (..., n, n_controls), samples of a size.

    One that does not vary beyond rounding, as what is left of the base, says nothing, and has slopes of 0.
    """
    centred = controls - controls.mean(axis=-2, keepdims=True)
    # Each difference in units of its own spread.
    spread = centred.std(axis=-2)
    known = spread > _ROUNDING * np.asarray(size)[..., None]
    units = np.where(known, 1 / np.where(known, spread, 1.0), 0.0)
    left, singular, right = np.linalg.svd(centred * units[..., None, :], full_matrices=False)
    most = max(controls.shape[-2] // _LEAST_SAMPLES_PER_WEIGHT - 1, 0)
    used = (singular > _COLLINEAR * singular.max(axis=-1, keepdims=True)) & (np.arange(singular.shape[-1]) < most)
    inverse = np.where(used, 1 / np.where(used, singular, 1.0), 0.0)
    along = left.swapaxes(-1, -2) @ (responses - responses.mean(axis=-2, keepdims=True)) * inverse[..., None]
    return np.asarray(right.swapaxes(-1, -2) @ along * units[..., None])


def adjusted(responses: FloatArray, growth: FloatArray) -> FloatArray:
    """Return the means of chains, (n_chains, n_responses), less what differences between metrics explain of them.

    `responses` and `growth`, of shapes (n_chains, n_pieces, n_responses) and (n_chains, n_pieces, n_metrics), are means
    over pieces of chains. The slopes for a fold of chains are fitted to the others, as in `combined`: a sum of
    responses that is one of the metrics is adjusted to their combination.
    """
    n_chains, _, n_metrics = growth.shape
    n_folds = min(_FOLDS, n_chains)
    fold = np.arange(n_chains) % n_folds
    size = float(np.abs(growth).max())
    result = responses.mean(axis=1)
    for f in range(n_folds):
        others, its = fold != f, fold == f
        samples = growth[others].reshape(-1, n_metrics)
        base = int(_base(samples)[0, 0])
        slopes = _slopes(samples[:, [base]] - samples, responses[others].reshape(len(samples), -1), size)
        means = growth[its].mean(axis=1)
        result[its] -= (means[:, [base]] - means) @ slopes
    return np.asarray(result)


def combined(growth: FloatArray, n_pieces: int) -> FloatArray:
    """Combine the metrics of (n_chains, n_batches, n_metrics), with weights from other chains; (n_chains, n_batches).

    The weights of a fold of chains are fitted to the others', cut into n_pieces each. Several numbers go side by side,
    before the chains: (..., n_chains, n_batches, n_metrics).
    """
    n_chains, n_batches = growth.shape[-3:-1]
    if n_chains == 1 and n_batches >= _FOLDS * _LEAST_SAMPLES_PER_WEIGHT:
        return _combined_in_time(growth, n_pieces)
    return np.asarray(np.einsum("...cbm,...cm->...cb", growth, weights_of_chains(growth, n_pieces)))


def weights_of_chains(growth: FloatArray, n_pieces: int) -> FloatArray:
    """Return the weights of metrics for every chain, fitted to others cut into n_pieces each; (n_chains, n_metrics)."""
    *before, n_chains, _, n_metrics = growth.shape
    n_folds = min(_FOLDS, n_chains)
    pieces = grouped(growth, n_pieces).reshape(*before, n_chains, -1, n_metrics)
    fold = np.arange(n_chains) % n_folds
    weights = np.empty((*before, n_chains, n_metrics))
    for f in range(n_folds):
        # Of a single short chain, its own: the only thing there is.
        others = pieces[..., fold != f, :, :] if n_folds > 1 else pieces
        weights[..., fold == f, :] = fit(others.reshape(*before, -1, n_metrics))[..., None, :]
    return weights


def _combined_in_time(growth: FloatArray, n_pieces: int) -> FloatArray:
    """Do the same for a single chain, whose folds are stretches of time."""
    stretches = np.array_split(growth, _FOLDS, axis=-2)
    combined_stretches = []
    for f, stretch in enumerate(stretches):
        others = np.concatenate(stretches[:f] + stretches[f + 1 :], axis=-2)
        combined_stretches.append(np.einsum("...cbm,...m->...cb", stretch, fit(grouped(others, n_pieces))))
    return np.concatenate(combined_stretches, axis=-1)


def _mean_of_chains(series: FloatArray, n_groups: int) -> tuple[float, float, int]:
    """Return mean, standard error and degrees of freedom from the means of chains, or of n_groups pieces of each."""
    samples = grouped(series[:, :, None], n_groups)[:, 0]
    return *mean_of(samples), max(len(samples) - 1, 1)


def start_up_batches(mixing: Mixing, n_batches: int, steps_per_batch: int) -> int:
    """Return how many of n_batches to cut off at the start of every chain."""
    return min(math.ceil(mixing.start_up_steps / steps_per_batch), n_batches // 2) if mixing.resolved else 0


def anchored_means(
    growth: FloatArray,
    steps_per_batch: int,
    mixing: Mixing,
    n_examples: int,
    rounding: float,
    spread: float | None = None,
    twins: Twins | None = None,
    least_start_up: int = 0,
) -> Estimate:
    """Estimate an exponent from anchored growth per batch, of shape (n_chains, n_batches, n_metrics).

    `growth` is the mean over a batch's evaluations, each a mean over n_examples; `rounding` is what rounding does to
    it; `spread` what chains that do not mix at all may be off by, that of all samples by default. Given twins, they say
    what to cut off, at least `least_start_up`, and what bias is left, instead of the gap that `mixing` has measured.
    """
    n_chains, n_batches, _ = growth.shape
    if n_batches == 0:
        return unknown(1)
    if not np.isfinite(growth).all():
        annihilated = not np.isnan(growth).any() and not np.isposinf(growth).any()
        if not annihilated:
            return unknown(1)
        return replace(
            unknown(1),
            mean=np.array([-math.inf]),
            standard_error=np.zeros(1),
            effective_sample_size=np.array([math.inf]),
            bias_allowance=0.0,
            mixed=True,
        )
    # Of few chains, pieces count as independent if they are several relaxation times long.
    pieces = n_batches * steps_per_batch / max(_RELAXATION_TIMES * mixing.relaxation_time, 1.0)
    n_groups = max(1, int(min(math.ceil(MIN_SAMPLES / n_chains), pieces)))
    # No rule that looks at the series itself: where rare excursions carry the variance, that would choose among them.
    if twins is not None:
        start_up, bias, unseen = _start_up(growth, twins, _PIECES * n_groups, least_start_up)
    else:
        start_up, bias, unseen = start_up_batches(mixing, n_batches, steps_per_batch), 0.0, 0.0
    series = combined(growth[:, start_up:], _PIECES * n_groups)
    mean, standard_error, degrees_of_freedom = _mean_of_chains(series, n_groups)
    # The logarithm of a factor f has the error eps / f, and the smallest f is at least exp(2 N g) or so.
    eps = float(np.finfo(float).eps)
    cancellation = 8 * eps * math.exp(min(max(-2 * n_examples * mean, 0.0), 80.0)) / (2 * max(n_examples, 1))
    cancellation = cancellation if n_examples > 0 else 0.0
    standard_error = max(standard_error, rounding, eps * abs(mean), cancellation)
    difference, difference_error, scaled_drift = (float(value[0]) for value in drift(series[:, :, None]))
    mixed = mixing.resolved if twins is None else bias <= _NEGLIGIBLE * standard_error < math.inf
    if twins is None and not mixed:
        # No more than the spread of all that the chains have seen, and less if what drifts is seen to relax.
        n_steps = series.shape[1] * steps_per_batch
        extrapolated = mixing.bias(math.hypot(difference, difference_error), n_steps) if mixing.separated else math.inf
        seen = (float(series.std()) if spread is None else spread) if n_chains >= _FEW_CHAINS else math.inf
        bias = min(extrapolated, seen)
    if abs(scaled_drift) > _DRIFT:
        bias = max(bias, abs(difference))
    # Chains that vary more than by what they may have missed have not missed it.
    errors = np.array([math.hypot(max(standard_error, unseen), bias)])
    return Estimate(
        mean=np.array([mean]),
        standard_error=errors,
        degrees_of_freedom=degrees_of_freedom,
        start_up=start_up,
        effective_sample_size=effective_sample_size(series[:, :, None], errors),
        drift=scaled_drift,
        top_drift=scaled_drift,
        chain_disagreement=chain_disagreement(series),
        bias_allowance=bias,
        mixed=mixed,
        gap=mixing.gap,
    )


def _start_up(growth: FloatArray, twins: Twins, n_pieces: int, least: int) -> tuple[int, float, float]:
    """Return how many batches to cut off, so that statistical error and bias together are least.

    And the bias that is left, and what has not been seen.
    """
    n_chains, n_batches, _ = growth.shape
    weights = weights_of_chains(growth[:, n_batches // 2 :], n_pieces)
    differences = twins.differences(growth, weights)
    means = np.einsum("cbm,cm->c", growth, weights) / n_batches
    variance = mean_of(means).standard_error ** 2 if n_chains > 1 else 0.0
    candidates = [first for first in (n_batches * eighths // 8 for eighths in range(5)) if first >= least]
    biases = {first: twins.bias(differences, first, n_batches) for first in candidates}
    start_up = min(biases, key=lambda first: variance * n_batches / (n_batches - first) + biases[first] ** 2)
    return start_up, biases[start_up], twins.unseen(differences, n_chains * (n_batches - start_up))
