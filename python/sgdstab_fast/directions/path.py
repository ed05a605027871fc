"""Paths of the projective chain: parts in lambda, shares of directions, and sigma^2 by two routes.

Chains are recorded every so many steps; what the next step does to the directions recorded is known for all its
outcomes where these can be listed (`systems.next_steps`). With weights c_m, of sum 1, of the metrics,
X = log of prod_m |v|_m^c_m grows by l_i = sum_m c_m l_i^m in a step with outcome i, by g(s) = sum_i p_i l_i on average,
and

    sigma^2 = E sum_i p_i l_i^2 - lambda^2 + 2 sum_{k >= 1} Cov(X_1 - X_0, g(s_k)).

Where g hardly varies, neither do the covariances. Summed over the steps of a batch, they are those of its growth with g
at the ends of that batch and of later ones: nothing is lost by recording every so many steps only. Where outcomes are
those of an epoch, that is the step; sigma^2 is per step of SGD all the same.

Without outcomes there is the variance of the growth over long blocks alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.statistics.control_variates import fit
from sgdstab_fast.statistics.means import Measured, mean_of
from sgdstab_fast.systems.next_steps import NextSteps
from sgdstab_fast.systems.system import System

_PIECES = 4  # of a chain, to fit slopes to
_RELAXATIONS = 3.0  # relaxation times over which covariances are summed
_BLOCK_RELAXATIONS, _MOST_BLOCKS = 10.0, 16  # of batch means: length, and number a chain
_WORK = 2**16  # numbers looked at together


class Path(NamedTuple):
    """Chains after their start-up, of n_batches batches each."""

    by_outcome: FloatArray
    """Means over pieces of p_i l_i in parameter-space norm, shape (n_chains, n_pieces, n)."""
    growth: FloatArray
    """Means over pieces of g in all metrics, shape (n_chains, n_pieces, n_metrics)."""
    shares: FloatArray
    """Means over chains of the examples' shares, shape (n_chains, N); N is 0 where they are not defined."""
    steps: FloatArray
    """Growth over each batch, in the combination of metrics, shape (n_chains, n_batches)."""
    expected: FloatArray
    """g of that combination at the end of each batch, of the same shape; of width 0 without outcomes."""
    squares: FloatArray
    """The mean squared growth of the next step, over outcomes and batches, shape (n_chains,)."""


def path_of(
    system: System, following: NextSteps | None, matrices: FloatArray, chains: Chains[VectorRecords], start_up: int
) -> Path:
    """Look at all directions recorded after the start-up; `matrices` are the metrics but the first."""
    n_chains, n_batches, _ = chains.records.directions.shape
    # The first batch kept only shows where the next one starts.
    n_pieces = min(_PIECES, n_batches - start_up - 1)
    kept = start_up + (n_batches - start_up - 1) % n_pieces
    log_growth, growth, directions = (record[:, kept:] for record in chains.records)
    pieces = (n_pieces, (n_batches - kept - 1) // n_pieces)
    shares = _Shares(system, n_chains)
    if following is None:
        return _without_outcomes(system, log_growth, directions, shares)
    every = [None, *matrices]
    if growth.shape[2] != len(every) or chains.coarseness > 1:  # the columns are not the metrics', or not of the end
        growth = _expected(following, directions, every)
    n_batches, n = n_batches - kept, len(following.weights)
    record_of_growth = growth
    growth = growth[:, 1:].reshape(n_chains, *pieces, len(every)).mean(axis=2)
    weights = fit(growth.reshape(-1, len(every)))
    expected = record_of_growth @ weights
    by_outcome, squares = np.empty((n_chains, n_pieces, n)), np.zeros(n_chains)
    heights = np.zeros((n_chains, n_batches))
    together = max(1, _WORK // following.work)
    ends = [0, *(1 + pieces[1] * np.arange(1, n_pieces + 1))]
    for chain, piece in np.ndindex(n_chains, n_pieces):
        total = np.zeros(n)
        for first in range(ends[piece], ends[piece + 1], together):
            its = slice(first, min(first + together, ends[piece + 1]))
            vectors = directions[chain, its]
            combination = np.zeros((len(vectors), n))
            for metric, weight, found in zip(every, weights, following.growth(vectors, every), strict=True):
                combination += weight * found.log_growth
                with np.errstate(invalid="ignore", divide="ignore"):  # of norms that are rounding
                    heights[chain, its] += weight / 2 * np.log(found.squared_norms)
                if metric is None:
                    total += found.log_growth[1 if first == 0 else 0 :].sum(axis=0)
            squares[chain] += np.einsum("ni,ni->", combination * following.weights, combination)
            shares.add(chain, vectors)
        by_outcome[chain, piece] = following.weights * total / (pieces[1] * n)
    return Path(
        by_outcome,
        growth,
        shares.means(n_batches),
        log_growth[:, 1:, 0] + np.diff(heights, axis=1),
        expected[:, 1:],
        squares / (n_batches * n),
    )


def _without_outcomes(system: System, log_growth: FloatArray, directions: FloatArray, shares: _Shares) -> Path:
    """Look at growth and shares alone."""
    n_chains, n_batches, d = directions.shape
    for chain in range(n_chains):
        shares.add(chain, directions[chain])
    heights = np.log(system.lengths(directions.reshape(-1, d)).reshape(n_chains, n_batches))
    nothing = np.empty((n_chains, 1, 0))
    steps = log_growth[:, 1:, 0] + np.diff(heights, axis=1)
    return Path(nothing, nothing, shares.means(n_batches), steps, nothing[:, 0], np.empty(0))


def _expected(following: NextSteps, directions: FloatArray, every: list[FloatArray | None]) -> FloatArray:
    """Return g in metrics at all directions, shape (n_chains, n_batches, n_metrics)."""
    n_chains, n_batches, _ = directions.shape
    found = np.empty((n_chains, n_batches, len(every)))
    together = max(1, _WORK // following.work)
    probabilities = following.weights / len(following.weights)
    for chain, first in np.ndindex(n_chains, -(-n_batches // together)):
        its = slice(first * together, (first + 1) * together)
        for m, growth in enumerate(following.growth(directions[chain, its], every)):
            found[chain, its, m] = growth.log_growth @ probabilities
    return found


class _Shares:
    """Sums of the shares of examples in directions."""

    def __init__(self, system: System, n_chains: int) -> None:
        found = system.shares()
        n = 0 if found is None else found.n_examples
        self._root = None if found is None else found.root
        self._membership = None if found is None or found.units is None else np.eye(n)[found.units]
        self._sums = np.zeros((n_chains, n))

    def add(self, chain: int, vectors: FloatArray) -> None:
        """Add those of vectors of a chain."""
        if self._root is None:
            return
        parts = (vectors @ self._root) ** 2
        if self._membership is not None:
            parts = parts @ self._membership
        self._sums[chain] += (1 / parts.sum(axis=1)) @ parts

    def means(self, n: int) -> FloatArray:
        """Return means over n directions, shape (n_chains, N)."""
        return self._sums / n


def from_autocovariances(path: Path, spacing: int, n_steps: int, exponent: float, gap: float) -> Measured:
    """sigma^2 from the variance of a step and its covariances with what is expected of later ones.

    An outcome takes n_steps.
    """
    n_batches = path.steps.shape[1]
    deviation, expected = path.steps - spacing * exponent, path.expected - n_steps * exponent
    window = min(math.ceil(_RELAXATIONS / (gap * spacing)) if gap > 0 else n_batches, n_batches // 4)
    # Of the growth of each batch with what is expected at its end and at the ends of the next ones.
    sums = np.concatenate([np.zeros((len(expected), 1)), np.cumsum(expected, axis=1)], axis=1)
    following = sums[:, window + 1 :] - sums[:, : n_batches - window]
    covariances = (deviation[:, : n_batches - window] * following).mean(axis=1)
    spread = path.squares - (n_steps * exponent) ** 2
    if n_steps > 1:
        # E (l - n lambda)^2, in which an error of lambda is squared
        spread = spread - 2 * n_steps * exponent * expected.mean(axis=1)
    found = mean_of((spread + 2 * covariances) / n_steps)
    return found._replace(value=max(found.value, 0.0))


def from_batch_means(path: Path, spacing: int, gap: float) -> Measured:
    """sigma^2 from the variance of the growth over long blocks."""
    n_chains, n_batches = path.steps.shape
    relaxations = gap * n_batches * spacing
    n_blocks = int(np.clip(relaxations / _BLOCK_RELAXATIONS, 1, min(_MOST_BLOCKS, n_batches)))
    length = n_batches // n_blocks
    blocks = path.steps[:, n_batches - n_blocks * length :].reshape(n_chains * n_blocks, length).sum(axis=1)
    squares = (blocks - blocks.mean()) ** 2 / (length * spacing)
    return mean_of(squares)._replace(value=float(squares.sum() / (len(squares) - 1)))


def relaxation_rate(system: System, contraction_rate: float) -> float:
    """Return the rate at which directions forget where they started; 0 if they do not.

    Where lambda_2 is -inf, a singular step forgets everything.
    """
    if contraction_rate == -math.inf:
        return system.probability_of_singular_steps()
    return max(-contraction_rate, 0.0)
