"""Control variates: one exponent from anchored growth in several metrics.

The mean of g_M under the stationary law is the exponent for every metric M, so every difference g_M - g_M' has the
known mean 0: they are control variates. With one g as the response and differences as regressors, least squares give
the combination of metrics, with weights that sum to one, of least variance (S. S. Lavenberg and P. D. Welch, "A
perspective on the use of control variables to increase the efficiency of Monte Carlo simulations", Management Science
27, 1981). Weights fitted to the same samples would bias the mean, by a part of the error bar where rare excursions
carry the variance; so those of a fold of chains are fitted to the other folds, which are independent of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.estimates import grouped

_COLLINEAR = 1e-7  # differences that are this close to a combination of others, relative, are rounding
_ROUNDING = 1e-14
_LEAST_SAMPLES_PER_WEIGHT = 4
_FOLDS = 4  # of chains


def fit(samples: FloatArray) -> FloatArray:
    """Return the weights, which sum to one, of the combination of the columns of samples with the least variance.

    All columns, of shape (..., n_samples, n_metrics), have the same mean; weights are (..., n_metrics).
    """
    finite = np.isfinite(samples).all(axis=-2)
    if not finite.all():  # a metric in which steps pass floating point
        return np.asarray(np.arange(samples.shape[-1]) == finite.argmax(axis=-1)[..., None], dtype=float)
    base = _base(samples)
    response = np.take_along_axis(samples, base, axis=-1)
    weights = _slopes(response - samples, response, np.abs(samples).max(axis=(-2, -1)))[..., 0]
    np.put_along_axis(weights, base[..., 0, :], 1 - weights.sum(axis=-1, keepdims=True), axis=-1)
    return weights


def _base(samples: FloatArray) -> NDArray[np.intp]:
    """Return the column of least variance, shape (..., 1, 1); differences of all others from it have the mean 0."""
    with np.errstate(over="ignore"):
        return np.asarray(samples.var(axis=-2, keepdims=True).argmin(axis=-1, keepdims=True))


def _slopes(controls: FloatArray, responses: FloatArray, size: float | FloatArray) -> FloatArray:
    """Return the regression of responses, (..., n, n_responses), on controls, (..., n, n_controls), samples of a size.

    One that does not vary beyond rounding, as what is left of the base, says nothing, and has slopes of 0.
    """
    if not (np.isfinite(controls).all() and np.isfinite(responses).all()):
        return np.zeros((*controls.shape[:-2], controls.shape[-1], responses.shape[-1]))
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


def controlled(responses: FloatArray, control: FloatArray, n_pieces: int) -> FloatArray:
    """Return responses, (n_chains, n_batches, n_responses), less what a control explains of them.

    The control, (n_chains, n_batches), has the mean 0. Slopes for a fold of chains are fitted to the others, cut into
    n_pieces each; those of a single chain to itself. Responses whose sum is the control and a constant sum to that.
    """
    n_chains, _, n_responses = responses.shape
    n_folds = min(_FOLDS, n_chains)
    both = np.concatenate([control[..., None], responses], axis=2)
    pieces = grouped(both, n_pieces).reshape(n_chains, -1, 1 + n_responses)
    fold, result = np.arange(n_chains) % n_folds, np.empty_like(responses)
    for f in range(n_folds):
        its = fold == f
        samples = pieces[~its if n_folds > 1 else its].reshape(-1, 1 + n_responses)
        slopes = _slopes(samples[:, :1], samples[:, 1:], float(np.abs(samples[:, 1:]).max()))[0]
        result[its] = responses[its] - control[its, :, None] * slopes
    return result


def combined(growth: FloatArray, n_pieces: int, unseen: FloatArray | None = None) -> FloatArray:
    """Combine the metrics of (n_chains, n_batches, n_metrics), with weights from other chains; (n_chains, n_batches).

    The weights of a fold of chains are fitted to the others', cut into n_pieces each, as `weights_of_chains` has it.
    Several numbers go side by side, before the chains: (..., n_chains, n_batches, n_metrics).
    """
    n_chains, n_batches = growth.shape[-3:-1]
    if n_chains == 1 and n_batches >= _FOLDS * _LEAST_SAMPLES_PER_WEIGHT:
        return _combined_in_time(growth, n_pieces)
    return np.asarray(np.einsum("...cbm,...cm->...cb", growth, weights_of_chains(growth, n_pieces, unseen)))


def weights_of_chains(growth: FloatArray, n_pieces: int, unseen: FloatArray | None = None) -> FloatArray:
    """Return the weights of metrics for every chain, fitted to others cut into n_pieces each; (n_chains, n_metrics).

    What may be missing from the mean of each metric because it has not been seen, shape (n_metrics,), counts like
    errors of means that are independent of each other: metrics that agree in all that was seen need no huge weights.
    """
    *before, n_chains, _, n_metrics = growth.shape
    n_folds = min(_FOLDS, n_chains)
    pieces = grouped(growth, n_pieces).reshape(*before, n_chains, -1, n_metrics)
    fold = np.arange(n_chains) % n_folds
    weights = np.empty((*before, n_chains, n_metrics))
    for f in range(n_folds):
        # Of a single short chain, its own: the only thing there is.
        others = pieces[..., fold != f, :, :] if n_folds > 1 else pieces
        samples = others.reshape(*before, -1, n_metrics)
        if unseen is not None:
            # Beside n samples, whose mean they leave alone, these add (w_m unseen_m)^2 to the variance of means.
            mean, further = samples.mean(axis=-2, keepdims=True), np.diag(samples.shape[-2] / math.sqrt(2) * unseen)
            samples = np.concatenate([samples, mean + further, mean - further], axis=-2)
        weights[..., fold == f, :] = fit(samples)[..., None, :]
    return weights


def _combined_in_time(growth: FloatArray, n_pieces: int) -> FloatArray:
    """Do the same for a single chain, whose folds are stretches of time."""
    stretches = np.array_split(growth, _FOLDS, axis=-2)
    combined_stretches = []
    for f, stretch in enumerate(stretches):
        others = np.concatenate(stretches[:f] + stretches[f + 1 :], axis=-2)
        combined_stretches.append(np.einsum("...cbm,...m->...cb", stretch, fit(grouped(others, n_pieces))))
    return np.concatenate(combined_stretches, axis=-1)
