"""Coupling: two directions under the same steps, and how fast they come together.

Steps Phi contract the distance d of directions, the sine of the angle in parameter space, when they bring s and s'
together more often than not. Le Page's gap is the statement that for some alpha in (0, 1] and n

    E (d(Phi s, Phi s') / d(s, s'))^alpha < 1    for all s, s'

(Chemnitz & Engel 2025, lemma 3.10), at a rate that tends to alpha (lambda_2 - lambda_1) as alpha -> 0. With s and q
orthonormal, s' = cos(t) s + sin(t) q, and the triangular factor R of Phi [s, q],

    d(Phi s, Phi s') / d(s, s') = R_22 / |Phi s'|    ->  R_22 / R_11    as t -> 0,

both of which are products over steps and lose no digits however close the two come.

The distance of the law of s_n from the stationary one, in Wasserstein's sense, is at most the mean distance of s_n from
a stationary chain under the same steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast._core.streams import STARTS
from sgdstab_fast.directions.path import relaxation_rate
from sgdstab_fast.results.chains import Ending
from sgdstab_fast.results.printed import with_error
from sgdstab_fast.results.storage import Savable
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.continuation import continued
from sgdstab_fast.simulation.starts import normals
from sgdstab_fast.statistics.means import Measured, left_out_in_turn, mean_of
from sgdstab_fast.systems.system import System

_SHARE = 0.25  # of the distance of independent directions
_STARTS, _FEWEST_STARTS, _FEWEST_CHAINS = 18, 9, 8
_MOST_STEPS = 2e8
_STAGES, _FORGOTTEN = 16, 0.25  # in which starts are followed, until they are well below that share
_GROUPS = 8  # of chains, left out in turn
_LONGEST = 20.0  # relaxation times
_SAME = 1e-12  # a distance
_ONE_DIRECTION = 1e-6  # a distance, of chains that may not have come quite as near


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HolderContraction(Savable):
    """E (d(Phi s, Phi s') / d(s, s'))^alpha over n steps, as `ProjectiveChain.holder_contraction` returns it.

    Arrays have the shape (n_alpha,).
    """

    alpha: FloatArray
    """Hoelder exponents."""
    n: int
    """Steps."""
    log_near: FloatArray
    """The logarithm of the mean over infinitely close pairs; -inf where all of them meet."""
    near_relative_errors: FloatArray
    """The standard error of that mean over it."""
    log_far: FloatArray
    """The logarithm of the mean over independent pairs."""
    far_relative_errors: FloatArray
    """The standard error of that mean over it."""
    effective_pairs: FloatArray
    """(sum W)^2 / sum W^2 of what the means are over, the smaller of both kinds: where it is small, rare pairs that
    separate carry the mean, and errors are not to be relied on."""
    n_pairs: int
    """Pairs of either kind."""

    def __repr__(self) -> str:
        shown = [
            f"rate({alpha:g})={with_error(rate, error, max(pairs - 1, 1))}"
            for alpha, rate, error, pairs in zip(
                self.alpha[:4], self.rates[:4], self.standard_errors[:4], self.effective_pairs[:4], strict=True
            )
        ]
        more = f", … {len(self.alpha) - 4} more" if len(self.alpha) > 4 else ""
        return f"HolderContraction(n={self.n}, {', '.join(shown)}{more}, best_alpha={self.best_alpha:g})"

    @property
    def near(self) -> FloatArray:
        """The mean over infinitely close pairs."""
        return np.asarray(np.exp(self.log_near))

    @property
    def near_standard_errors(self) -> FloatArray:
        """Of `near`."""
        return self.near * self.near_relative_errors

    @property
    def far(self) -> FloatArray:
        """The mean over independent pairs."""
        return np.asarray(np.exp(self.log_far))

    @property
    def far_standard_errors(self) -> FloatArray:
        """Of `far`."""
        return self.far * self.far_relative_errors

    @property
    def worst(self) -> FloatArray:
        """The larger of `near` and `far`."""
        return np.maximum(self.near, self.far)

    @property
    def rates(self) -> FloatArray:
        """Log of the mean over near pairs, per step: nats, -inf where pairs meet. Below 0 where distances contract.

        Near pairs are those that tell: whatever is far apart comes near, and prefactors of far pairs fade only as 1/n.
        Over alpha, and for alpha -> 0, they are the contraction rate.
        """
        return self.log_near / self.n

    @property
    def standard_errors(self) -> FloatArray:
        """Of `rates`."""
        return self.near_relative_errors / self.n

    @property
    def far_rates(self) -> FloatArray:
        """Log of the mean over far pairs, per step."""
        return self.log_far / self.n

    @property
    def far_rate_standard_errors(self) -> FloatArray:
        """Of `far_rates`."""
        return self.far_relative_errors / self.n

    @property
    def best_alpha(self) -> float:
        """Of those given, the alpha at which distances contract fastest."""
        return float(self.alpha[int(np.argmin(np.maximum(self.log_near, self.log_far)))])

    @property
    def gap(self) -> float:
        """1 - exp(rate) at `best_alpha`: 1 if everything is forgotten in n steps, 0 or below if nothing contracts."""
        return -math.expm1(float(np.maximum(self.log_near, self.log_far).min()) / self.n)


def holder_contraction(system: System, ending: Ending, alpha: ArrayLike, n: int, n_pairs: int) -> HolderContraction:
    """Do what `ProjectiveChain.holder_contraction` says."""
    orders = validation.orders(alpha, "alpha")
    for order in orders[(orders <= 0) | (orders > 1)]:
        raise ValueError(f"alpha must lie in (0, 1], not {float(order)!r}")
    n, n_pairs = validation.integer(n, "n"), validation.integer(n_pairs, "n_pairs")
    n_windows = math.ceil(n_pairs / ending.chains.n_chains)
    if system.dimension == 1:
        near = far = np.full((2 * (ending.chains.n_chains // 2), n_windows), -math.inf)
    else:
        near, far = _log_ratios(system, ending, n, n_windows)
    near_mean, near_error, near_size = _means_of_powers(near, orders)
    far_mean, far_error, far_size = _means_of_powers(far.reshape(len(far) // 2, -1), orders)
    return HolderContraction(
        alpha=orders,
        n=n,
        log_near=near_mean,
        near_relative_errors=near_error,
        log_far=far_mean,
        far_relative_errors=far_error,
        effective_pairs=np.minimum(near_size, far_size),
        n_pairs=near.size,
    )


def _log_ratios(system: System, ending: Ending, n: int, n_windows: int) -> tuple[FloatArray, FloatArray]:
    """Return log d(Phi s, Phi s') / d(s, s') of near and far pairs, shape (n_chains, n_windows) each.

    Windows follow one another along chains, in coordinates in which lengths are those of parameter space. Far partners
    are the directions of two chains at the time; of an odd number of chains the last has none.
    """
    isometric = system.isometric()
    frames = _orthonormal(system.directions(ending.chains.states))
    path = continued(isometric, ending, frames, n_windows, n)
    starts = np.concatenate([frames[:, :1], path.directions[:, :-1]], axis=1)
    n_far = len(starts) - len(starts) % 2
    partners = starts[np.arange(n_far) ^ 1]  # chains in pairs, which are independent of one another
    far, apart = np.empty((n_far, n_windows)), np.ones((n_far, n_windows), bool)
    for window in range(n_windows):
        other = partners[:, window]
        apart[:, window] = _distance(starts[:n_far, window], other) > _SAME
        pairs = _orthonormal(np.stack([starts[:n_far, window], other], axis=1))
        together = continued(isometric, ending, pairs, 1, n, first_batch=window).log_growth[:, 0, 1]
        alone = continued(isometric, ending, other[:, None], 1, n, first_batch=window).log_growth[:, 0, 0]
        far[:, window] = _difference(together, alone)
    near = _difference(path.log_growth[:, :, 1], path.log_growth[:, :, 0])
    if isometric.dimension > 2:
        return near, np.where(apart, far, near[:n_far])  # where there is one direction only, no pair is far
    determinants = _log_determinants(system, ending, len(starts), n, n_windows)
    if determinants is None:
        return near, far
    # In the plane R_11 R_22 is the determinant; a singular step brings all directions together.
    far[np.isneginf(determinants[:n_far])] = -math.inf
    return _difference(determinants, 2 * path.log_growth[:, :, 0]), far


def _difference(logarithms: FloatArray, others: FloatArray) -> FloatArray:
    """Return log(x / y), -inf where x or y is 0."""
    with np.errstate(invalid="ignore"):
        # What is annihilated has no direction: no distance is left to it.
        return np.where(np.isneginf(logarithms) | np.isneginf(others), -math.inf, logarithms - others)


def _log_determinants(system: System, ending: Ending, n_chains: int, n: int, n_windows: int) -> FloatArray | None:
    """Return log abs det of the steps that chains take in each window, shape (n_chains, n_windows), if it is known."""
    own, found = ending.chains, np.empty((n_chains, n_windows))
    for chain, window in np.ndindex(found.shape):
        known = system.log_determinant_of_path(own.key, own.first_chain + chain, own.next_step + window * n, n)
        if known is None:
            return None
        found[chain, window] = known
    return found


def _orthonormal(pairs: FloatArray) -> FloatArray:
    """Return pairs of vectors, (n_chains, 2, dimension), made orthonormal."""
    return np.asarray(np.linalg.qr(pairs.transpose(0, 2, 1))[0].transpose(0, 2, 1))


def _means_of_powers(log_ratios: FloatArray, orders: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log means of exp(alpha log_ratios), relative errors from the means of chains, and effective numbers."""
    logarithms, errors, sizes = [], [], []
    largest = float(log_ratios.max())
    for order in orders:
        if largest == -math.inf:
            logarithms.append(-math.inf)
            errors.append(0.0)
            sizes.append(math.inf)
            continue
        powers = np.exp(order * (log_ratios - largest))
        of_chains = powers.mean(axis=1)
        mean, error = mean_of(of_chains)
        logarithms.append(order * largest + math.log(mean))
        errors.append(error / mean)
        sizes.append(float(powers.sum()) ** 2 / float((powers**2).sum()))
    return np.array(logarithms), np.array(errors), np.array(sizes)


def mixing_time(system: System, ending: Ending, contraction_rate: float) -> Measured:
    """Return the steps after which the worst of many starts is forgotten."""
    if system.dimension == 1:
        return Measured(0.0, 0.0)
    if not contraction_rate < 0:
        return Measured(math.inf, 0.0)
    chains, spacing = ending.chains, system.whole_epochs(ending.resolution)
    relaxation = 1 / relaxation_rate(system, contraction_rate)
    longest = math.ceil(min(_LONGEST * relaxation, _MOST_STEPS / (_FEWEST_STARTS * _FEWEST_CHAINS)))
    affordable = int(_MOST_STEPS / longest)
    n_chains = min(max(affordable // _STARTS, _FEWEST_CHAINS), chains.n_chains)
    n_starts = min(max(affordable // n_chains, _FEWEST_STARTS), _STARTS)
    n_batches = int(np.clip(math.ceil(longest / spacing), 8, 1024))
    spacing = system.whole_epochs(max(spacing, math.ceil(longest / n_batches)))
    starts = [np.repeat(start[None, None], n_chains, axis=0) for start in _starts(system, chains.key, n_starts)]
    states = [chains.states[:n_chains, :1], *starts]
    stages: list[Any] = []
    unrelated: list[float] = []
    done, stage = 0, math.ceil(n_batches / _STAGES)
    while done < n_batches and not (stages and _mean_of_worst(stages[-1]).max() < _FORGOTTEN * _SHARE * unrelated[-1]):
        size = min(stage, n_batches - done)
        distances: list[FloatArray] = []
        for i, state in enumerate(states):
            path = continued(system, ending, state, size, spacing, first_batch=done).directions
            states[i] = path[:, -1:].copy()
            if i == 0:
                stationary = system.directions(path)
            else:
                distances.append(_distance(stationary, system.directions(path)))
        stages.append(np.ma.masked_invalid(distances))
        unrelated.append(float(_distance(stationary, np.roll(stationary, 1, axis=0)).mean()))
        done += size
        if not unrelated[-1] > _ONE_DIRECTION:
            warn("stationary directions are all one: no share of their distance tells when a start is forgotten")
            return Measured(math.inf, 0.0)
    # (n_starts, n_chains, n_batches); a start that a singular step annihilates has no direction any more.
    worst = np.ma.masked_invalid(np.concatenate([stage.filled(np.nan) for stage in stages], axis=2))
    level = _SHARE * float(np.mean(unrelated))
    found = _crossing(_mean_of_worst(worst), level, spacing)
    error = left_out_in_turn(lambda kept: _crossing(_mean_of_worst(worst[:, kept]), level, spacing), n_chains, _GROUPS)
    if not math.isfinite(error) or not math.isfinite(found):
        warn(f"the worst of {n_starts} starts was not forgotten within {done * spacing} steps")
        return Measured(math.inf, 0.0)
    return Measured(found, error)


def _mean_of_worst(distances: Any) -> Any:
    """Return the mean over chains of distances (n_starts, n_chains, n_batches), of the worst start: (n_batches,)."""
    return distances.mean(axis=1).max(axis=0)


def _crossing(distances: FloatArray, level: float, spacing: int) -> float:
    """Return the steps after which distances, every `spacing` steps from `spacing` on, stay at or below the level."""
    above = np.flatnonzero(distances > level)
    first = int(above[-1]) + 1 if above.size else 0
    return float(spacing * (first + 1)) if first < len(distances) else math.inf


def _distance(s: FloatArray, other: FloatArray) -> FloatArray:
    """Return the sine of the angle between unit vectors, accurate when it is small."""
    along = np.einsum("...d,...d->...", s, other)
    nearest = s - np.where(along < 0, -1.0, 1.0)[..., None] * other
    half = np.einsum("...d,...d->...", nearest, nearest) / 2  # 1 - cos
    return np.asarray(np.sqrt(np.clip(half * (2 - half), 0.0, 1.0)))


def _starts(system: System, key: StreamKey, n: int) -> list[FloatArray]:
    """Return starts in the coordinates of the system: eigenvectors of K, gradients of the largest, and random ones.

    With memory, all but the random ones have been where they are for long. Of an ensemble, eigenvectors of the mean of
    A^T A, and what the largest matrices stretch most.
    """
    third = n // 3
    random = normals(key, third, (system.dimension,), STARTS.start)
    return list(system.from_isometric_vectors(np.concatenate([system.extremes(third), random])))
