"""Frames: exponents from the log growth of columns, with what frames that still turn may cost.

The volume of the first j columns of a frame grows by the sum of the j largest exponents once the directions that grow
fastest have got there. Column i stays ahead of column m while the difference D of their log growth, a random walk of
drift g and variance s^2 a step, stays above 0. It forgets its start in about

    1/g + 2 s^2 / g^2  steps,

and over fewer, n say, either may come first: the volume misses, or has been pushed up by, at most

    E max(-D_n, 0) / n = sigma (phi(z) - z Phi(-z)),    sigma = s n^(-1/2),  z = g / sigma

per step, of all pairs i <= j < m; and, as long as D_n stays small, by half of log cosh D_n / n, no more than sigma^2
n / 4. That is what error bars allow for: slow directions at small learning rates are right although they never relax.
Exponent j is the difference of sums j and j - 1, which are off to the same side. Columns out of order, z < 0, are off
by |g|, once that comes to a factor e: that frame still turns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.statistics.control_variates import combined, controlled
from sgdstab_fast.statistics.estimates import (
    MIN_SAMPLES,
    Estimate,
    OfExponents,
    batch_means,
    drift,
    effective_sample_size,
    grouped,
    unknown,
)
from sgdstab_fast.statistics.intervals import ERRORS_IN_HALF
from sgdstab_fast.statistics.means import standard_errors

_PIECES = 4  # of a chain for each one that counts for the error bar: weights may be fitted to correlated ones
_RELAXATION_TIMES = 5  # that a piece of a chain must last to count as independent of the next
_RELAXED = 6  # that a chain must last to have forgotten its start
_DRIFT = 4.0  # standard errors: a false alarm in 1e4
_SEPARATED = 3.0  # deviations of one chain by which a pair is in order
_OUTGROWN = 4.5  # standard errors by which one is out of order: of very many pairs
# The difference of two columns is known to a standard error, and chance pushes it up: deviations of one chain.
_MARGIN = 1.25
_CHAINS = 4.0  # times the variance between few chains, which is not known well
_SHARPEST = 30.0  # times as sharp that anchored growth may be, from chains that are one sample each
_LOOKS = 32  # at the paths of columns
_BEYOND_ROUNDING = 1e-8  # of growth, that volumes must vary by for it to say anything
_SPOILT = 1e-2  # of growth of volumes, that columns lack
_EPS = float(np.finfo(float).eps)


def frame_means(
    log_growth: FloatArray,
    growth: FloatArray,
    steps_per_batch: int,
    k: int | None = None,
    *,
    starts_last: bool = True,
    spread: FloatArray | None = None,
    volume: KnownVolume | None = None,
) -> Estimate:
    """Estimate k exponents from log growth per batch, (n_chains, n_batches, columns), and anchored growth at its end.

    `growth` has the shape (n_chains, n_batches, n_metrics, leading), for the leading exponents. Both have the same
    means under the stationary law of the frames, so that each exponent has a combination of its own. Columns beyond the
    k-th, all by default, only show what may come before it. `starts_last` says whether frames started from directions
    that stay themselves unless faster ones pass through them, and `spread` how far the first columns, which have no
    anchored growth, have spread from there, log(1 / cos): what they have gained by that (`statistics.anchored`) counts
    until they have relaxed.

    What the `volume` of the whole space grows by beyond its known mean is a control variate: of exponents that are all
    of them the sum is then known.
    """
    n_chains, n_batches, n_columns = log_growth.shape
    k = n_columns if k is None else k
    if n_batches == 0:
        return unknown(k)
    average = batch_means(log_growth, steps_per_batch)
    finite = np.asarray(np.isfinite(log_growth).all(axis=(0, 1)))
    increments = log_growth[:, :, finite] / steps_per_batch
    start_up = min(max(average.start_up, _left_behind(increments)), n_batches // 2)
    kept = increments[:, start_up:]
    n_groups = min(math.ceil(MIN_SAMPLES / n_chains), kept.shape[1])
    turning = turning_of(kept, n_groups, steps_per_batch)
    allowance = np.maximum(
        turning.allowance, _mixed(increments * steps_per_batch, start_up, k, starts_last) / steps_per_batch
    )
    if spread is not None:
        gained = np.pad(spread, (0, n_columns - spread.size), mode="edge")[finite] / (
            ERRORS_IN_HALF * kept.shape[1] * steps_per_batch
        )
        allowance = np.maximum(allowance, np.where(_RELAXED * turning.relaxation > 1, gained, 0.0))
    with np.errstate(divide="ignore"):
        n_pieces = np.clip(np.nan_to_num(1 / (_RELAXATION_TIMES * turning.relaxation)), 1, n_groups).astype(int)
    # Means are of the same batches whatever the pieces, so that sums of exponents follow those of volumes.
    error = _errors(kept, n_pieces)
    evaluated = growth[:, start_up:, :, :k]
    evaluated = evaluated.compress(finite[: evaluated.shape[3]], axis=3)
    series = _sharper(kept, evaluated, n_pieces, error)
    if volume is not None and finite.all():
        excess = volume.excess(series, start_up, steps_per_batch)
        if float(excess.std()) > _BEYOND_ROUNDING * float(np.abs(series).max()):
            series = controlled(series, excess, _PIECES * int(n_pieces.min()))
    # A column at a time, which numpy sums in pairs: errors of sums one after the other would show.
    of_columns = np.ascontiguousarray(np.moveaxis(series, 2, 0))
    value = of_columns.reshape(len(of_columns), n_chains * series.shape[1]).mean(axis=1)
    difference, _, scaled = drift(series)
    bias = np.maximum(allowance, np.where(np.abs(scaled) > _DRIFT, np.abs(difference), 0.0))
    # A few chains do not show what rare events add to anchored growth.
    least = np.maximum(_EPS * np.abs(value), np.where(n_pieces == 1, error / _SHARPEST, 0.0))
    error = np.hypot(np.maximum(_errors(series, n_pieces), least), bias)
    mean, standard_error = average.mean.copy(), average.standard_error.copy()
    degrees_of_freedom, biases = np.full(n_columns, max(n_chains * n_groups - 1, 1)), np.zeros(n_columns)
    mean[finite], standard_error[finite], biases[finite] = value, error, bias
    degrees_of_freedom[finite] = np.maximum(n_chains * n_pieces - 1, 1)
    finite_growth = np.where(finite, log_growth, 0.0)[:, start_up:, :k] / steps_per_batch
    return Estimate(
        mean=mean[:k],
        standard_error=standard_error[:k],
        degrees_of_freedom=int(degrees_of_freedom[:k].min()),
        start_up=start_up,
        effective_sample_size=effective_sample_size(finite_growth, standard_error[:k]),
        drift=average.drift,
        top_drift=average.top_drift,
        chain_disagreement=average.chain_disagreement,
        bias_allowance=float(biases[:k].max()),
        mixed=not turning.out_of_order,
        scales=_scales(mean, k),
        of_exponents=OfExponents(degrees_of_freedom[:k], biases[:k]),
    )


def _sharper(kept: FloatArray, growth: FloatArray, n_pieces: NDArray[np.int64], error: FloatArray) -> FloatArray:
    """Return growth in its best combination with anchored growth, of the leading columns; (n_chains, n_batches, k).

    Weights are fitted to as many pieces as count for each column. Where both differ by more than chance, from `error`,
    or anchored growth is lost, it stays what it is.
    """
    series = kept.copy()
    own = kept[:, :, : growth.shape[3]].transpose(2, 0, 1)
    both = np.concatenate([own[..., None], growth.transpose(3, 0, 1, 2)], axis=3)
    usable = np.isfinite(both).all(axis=(1, 2, 3)) & (growth.shape[2] > 0)
    for n in np.unique(n_pieces[: len(both)][usable]):
        columns = np.flatnonzero(usable & (n_pieces[: len(both)] == n))
        sharper = combined(both[columns], _PIECES * int(n))
        alike = np.abs((sharper - own[columns]).mean(axis=(1, 2))) < _DRIFT * error[columns]
        series[:, :, columns[alike]] = sharper[alike].transpose(1, 2, 0)
    return series


class KnownVolume(NamedTuple):
    """How the volume of the whole space grows, and the known mean of that."""

    log_determinants: FloatArray
    """Of steps, by batch, shape (n_chains, n_batches)."""
    mean: float
    """Per step: the sum of all exponents."""
    complete: bool
    """Whether the frames span the whole space."""

    def excess(self, series: FloatArray, start_up: int, steps_per_batch: int) -> FloatArray:
        """Return growth beyond the mean, (n_chains, n_batches), given that of columns after so many batches.

        That of the columns themselves, unless rounding has spoilt some of them.
        """
        growth = self.log_determinants[:, start_up:] / steps_per_batch
        total = series.sum(axis=2) if self.complete else growth
        if abs(float((total - growth).mean())) > _SPOILT * float(growth.std() + np.abs(growth).mean()):
            total = growth
        return total - self.mean


class Turning(NamedTuple):
    """How far frames have turned, of k columns."""

    allowance: FloatArray
    """What exponents may be off by, shape (k,)."""
    relaxation: FloatArray
    """The longer relaxation time of the sums that an exponent is the difference of, in chains' lengths; (k,)."""
    out_of_order: bool
    """Whether a column is seen to outgrow one before it."""


def turning_of(growth: FloatArray, n_groups: int, steps_per_batch: int) -> Turning:
    """Return how far frames have turned, from growth per step of shape (n_chains, n_batches, k)."""
    n_chains, n_batches, k = growth.shape
    n_steps = n_batches * steps_per_batch
    if k < 2 or n_chains * n_groups < 2:
        unknown_or_none = np.full(k, math.inf if k > 1 else 0.0)
        return Turning(unknown_or_none, unknown_or_none, False)
    gap, sigma = _differences(growth, n_groups)
    z = gap / sigma
    with np.errstate(divide="ignore"):
        relaxation = np.where(gap > 0, 1 / (gap * n_steps) + 2 / z**2, math.inf)
    off = sigma * np.minimum(_normal_loss(z - _MARGIN), np.where(gap * n_steps < -1, math.inf, sigma * n_steps / 4))
    out_of_order = bool(np.triu(_outgrown(gap, sigma, n_chains, n_steps)).any())
    return Turning(_of_exponents(off), _of_exponents(relaxation), out_of_order)


def _differences(growth: FloatArray, n_groups: int) -> tuple[FloatArray, FloatArray]:
    """Return mean differences of columns, [i, m] of i less m, and their deviations over a chain.

    From n_groups pieces of chains; where those differ in time, as while a column still settles, but chains do not, from
    chains.
    """
    samples, means = grouped(growth, n_groups), growth.mean(axis=1)
    variance = _variances_of_differences(samples) / n_groups
    if len(means) > 1:
        variance = np.minimum(variance, _CHAINS * _variances_of_differences(means))
    mean = means.mean(axis=0)
    rounding = _EPS * (np.abs(mean[:, None]) + np.abs(mean)) + np.finfo(float).tiny
    return mean[:, None] - mean, np.sqrt(variance) + rounding


def _variances_of_differences(samples: FloatArray) -> FloatArray:
    """Return the variances of differences of columns of (n, k), shape (k, k)."""
    covariance = np.atleast_2d(np.cov(samples.T))
    spread = covariance.diagonal()
    return np.asarray(np.maximum(spread[:, None] + spread - 2 * covariance, 0.0))


def _outgrown(gap: FloatArray, sigma: FloatArray, n_chains: int, n: int) -> NDArray[np.bool_]:
    """Return which columns [i, m] are out of order by more than a factor e and chance, after n times the gap."""
    return np.asarray(-gap * n > 1 + _OUTGROWN * sigma * n / math.sqrt(n_chains))


def _of_exponents(of_pairs: FloatArray) -> FloatArray:
    """Return the largest over pairs i <= j < m, for the sums of j and of j - 1 exponents, of (k, k); shape (k,)."""
    upper = np.where(np.triu(np.ones(of_pairs.shape, bool), 1), of_pairs, -math.inf)
    largest = np.maximum.accumulate(np.maximum.accumulate(upper, axis=0)[:, ::-1], axis=1)[:, ::-1]
    sums = largest.diagonal(1)
    return np.asarray(np.maximum(np.append(sums, 0.0), np.append(0.0, sums)))


def _normal_loss(z: FloatArray) -> FloatArray:
    """Return E max(X - z, 0) of a standard normal X."""
    from scipy.special import ndtr  # type: ignore[import-untyped]

    return np.asarray(np.exp(-np.minimum(z**2, 1400) / 2) / math.sqrt(2 * math.pi) - z * ndtr(-z))


def _mixed(log_growth: FloatArray, start_up: int, k: int, starts_last: bool) -> FloatArray:
    """Return what exponents may be off by because columns were mixed, per batch, of (n_chains, n_batches, columns).

    Two columns that mix two directions grow apart by log cosh(g n) / n a step instead of g: by at most log(2) / n less,
    and by at most (2 d)^(1/2) / n if they grew apart by d all in all. The start-up takes away what they did then.
    Columns mix where a faster direction passes through them: one behind is seen to grow by a factor e more.
    """
    n_batches, columns = log_growth.shape[1:]
    if columns < 2:
        return np.zeros(columns)
    paths = np.cumsum(log_growth, axis=1)
    looks = paths[:, np.unique(np.linspace(0, n_batches - 1, _LOOKS).astype(int))]
    # Columns that hold a bit of everything lose most of it first.
    looks[:, :, k:] -= np.minimum.accumulate(looks[:, :, k:], axis=1)
    ahead = np.minimum.accumulate(looks, axis=2)[:, :, :-1]
    behind = np.maximum.accumulate(looks[:, :, ::-1], axis=2)[:, :, ::-1][:, :, 1:]
    may_mix = ((behind - ahead).max(axis=(0, 1)) > 1) | (not starts_last)
    before = paths[:, start_up - 1, :-1] - paths[:, start_up - 1, 1:] if start_up > 0 else np.zeros((1, columns - 1))
    apart = (paths[:, -1, :-1] - paths[:, -1, 1:]) - before
    apart = np.maximum(apart.mean(axis=0), 0.0) + apart.std(axis=0)
    off = np.minimum(np.sqrt(2 * apart), math.log(2)) * np.exp(-np.maximum(before.mean(axis=0), 0.0))
    sums = np.where(may_mix, off, 0.0) / (2 * (n_batches - start_up))
    return np.asarray(np.maximum(np.append(sums, 0.0), np.append(0.0, sums)))


def _left_behind(increments: FloatArray) -> int:
    """Return the batches after which columns next to each other have kept their order, of (n_chains, n_batches, k).

    Where one has overtaken the other, their difference fell before it rose; of those that are apart at the end.
    """
    difference = (increments[:, :, :-1] - increments[:, :, 1:]).mean(axis=0)
    if not difference.size:
        return 0
    path = np.cumsum(difference, axis=0)
    lowest = path.argmin(axis=0)
    rises = path[-1] - path.min(axis=0)
    steps = difference.std(axis=0) * math.sqrt(len(difference))
    apart = (path.min(axis=0) < 0) & (rises > _SEPARATED * steps)
    return int(2 * (lowest[apart].max() + 1)) if apart.any() else 0


def _errors(series: FloatArray, n_pieces: NDArray[np.int64]) -> FloatArray:
    """Return the standard errors of means of (n_chains, n_batches, k), each from so many pieces of every chain."""
    errors = np.empty(series.shape[2])
    for n in np.unique(n_pieces):
        errors[n_pieces == n] = standard_errors(grouped(series[:, :, n_pieces == n], int(n)))
    return errors


def _scales(mean: FloatArray, k: int) -> FloatArray:
    """Return what tolerances are relative to: exponents, or where those are near 0 the spacing to their neighbours."""
    with np.errstate(invalid="ignore"):
        spacing = np.abs(np.diff(mean, prepend=math.inf, append=math.inf))
    spacing = np.minimum(spacing[:-1], spacing[1:])[:k]
    size = np.abs(mean[:k])
    scales = np.where(np.isfinite(spacing), np.maximum(size, spacing), size)
    return np.asarray(np.where(np.isneginf(mean[:k]), 0.0, scales))
