"""The projective chain: directions of displacements under SGD, their stationary measure, and how fast they reach it.

The direction s = v / |v|, up to its sign, of a displacement v under SGD is a Markov chain on projective space. Where
the steps contract and are strongly irreducible it has one stationary measure nu (Furstenberg), is drawn to it at a
geometric rate, and log |A_{i_n} .. A_{i_1} s| obeys a central limit theorem (Le Page; Chemnitz & Engel 2025, lemma
3.10 and corollary 3.11). Under nu,

    lambda = (1/N) sum_i E log |A_i s|                                                        (Furstenberg's formula)
    lambda_2 - lambda_1 = the rate at which two directions under the same steps approach each other
    sigma^2 = lim (1/n) Var log |A_{i_n} .. A_{i_1} s|

Chains of two vectors each are recorded every so many steps (`sgdstab_fast.one_block` chooses metrics and starts); what
the next step does to the directions recorded is known for all N examples (`sgdstab_fast.directions`). Differences
between metrics are control variates for the parts of examples in lambda as well as for lambda
(`sgdstab_fast.control_variates`).

*Variance.* With weights c_m, of sum 1, of the metrics, X = log of prod_m |v|_m^c_m grows by l_i = sum_m c_m l_i^m in a
step, by g(s) = (1/N) sum_i l_i on average, and

    sigma^2 = E (1/N) sum_i l_i^2 - lambda^2 + 2 sum_{k >= 1} Cov(X_1 - X_0, g(s_k)).

Where g hardly varies, neither do the covariances. Summed over the steps of a batch, they are those of its growth with g
at the ends of that batch and of later ones: nothing is lost by recording every so many steps only.

*Blocks.* Where K falls into blocks that do not feel each other, directions end up in the block that grows fastest: the
chain of the whole system, started there.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast._native import FloatArray, core
from sgdstab_fast.control_variates import adjusted, anchored_means, fit
from sgdstab_fast.directions import LONGEST_SEGMENT, growth_by_example, memory, shares_root, to_parameter_space
from sgdstab_fast.follow import Follow, Measured, recording_kernel, relaxation_rate
from sgdstab_fast.leading_block import LeadingBlock, leading_block
from sgdstab_fast.metrics import Metrics, growth_metrics, initial_vectors, no_metrics
from sgdstab_fast.mixing import Mixing, first_resolved
from sgdstab_fast.one_block import MOST_BETWEEN_NORMALISATIONS, How, no_records
from sgdstab_fast.projective_results import ProjectiveChain
from sgdstab_fast.regularity import Regularity, regularity
from sgdstab_fast.results import provenance, warn
from sgdstab_fast.rounds import Budget, Chains, ProgressOption, Run, grid_of_looks, run
from sgdstab_fast.simulated import common_attributes
from sgdstab_fast.statistics import SETTLED_LIMIT, Estimate, batch_means, drift, unknown
from sgdstab_fast.streams import normals
from sgdstab_fast.systems import LinearizedSGD, require_system

_ONE_DIRECTION = "there is only one direction"
_REFLECTIONS = "steps are reflections, which bring no directions closer"
_ANNIHILATION = "products of steps annihilate every displacement, and no direction is left"
_PIECES = 4  # of a chain, to fit slopes to
_LEAST_STEPS, _LEAST_BATCHES = 256, 24  # of a chain
_LEAST_RELAXATIONS = 60.0  # that a chain lasts before a tolerance stops it, for the sake of variances
_PILOT_BATCHES, _MEMORY_BATCHES = 129, 2048
_MEMORY_RELAXATIONS, _FINER = 3.0, 4  # autocorrelations are summed over, and how much finer than in the pilot
_WINDOW = 6.0  # autocorrelation times that lags have to cover
_PILOT_STREAMS = 2**33
_RELAXATIONS = 3.0  # relaxation times over which covariances are summed
_BLOCK_RELAXATIONS, _MOST_BLOCKS = 10.0, 16  # of batch means: length, and number a chain
_COLLAPSE = 8.0  # logarithm of the angle that two vectors may lose between orthonormalisations
_MOST_RECORDED = 2**24  # numbers
# Multiply-adds for all directions recorded; what a logarithm is worth, and what there is to do for each direction.
_MOST_WORK, _LOGARITHM, _CALLS = 2e9, 50, 200
_FINENESS = 8  # directions recorded in an autocorrelation time
_WORK = 2**16  # numbers looked at together
_PILOT_SHARE = 1 / 8
_RANDOM_SHARE = 0.1  # of the second vector


def projective_chain(
    system: LinearizedSGD,
    *,
    rtol: float = 0.02,
    atol: float = 0.0,
    max_steps: int = 10_000_000,
    n_chains: int = 32,
    rng: Any = None,
    n_threads: int | None = None,
    progress: ProgressOption = None,
    executor: Executor | None = None,
) -> ProjectiveChain:
    """Follow the directions of displacements under SGD: which examples drive them, how they mix, how growth varies.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does.
    rtol, atol : float, optional
        Tolerances for the standard errors of lambda and of the contraction rate lambda_2 - lambda_1: relative to the
        larger of both in size for the former and to itself for the latter, and absolute in nats per step.
    max_steps : int, optional
        Steps of all chains together, rounded to whole batches. A step moves two displacements. A little more is taken
        afterwards to measure the autocorrelation time.
    n_chains : int, optional
        Independent chains, at least 8.
    rng, n_threads, progress, executor
        As for `lyapunov_exponent`.

    Returns
    -------
    ProjectiveChain
        Estimates with errors; its methods draw stationary directions and simulate what else is asked for.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    Warns
    -----
    AccuracyWarning
        If directions do not mix, saying why: K falls into blocks, steps are reflections, there is but one direction, or
        products of steps annihilate everything. If no tolerance was met within `max_steps`, or chains were not seen to
        mix.

    References
    ----------
    Chemnitz & Engel 2025, lemma 3.10 and corollary 3.11. E. Le Page, "Theoremes limites pour les produits de matrices
    aleatoires", Lecture Notes in Mathematics 928, 1982.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[9, 1, 1], [1, 1, 0.5], [1, 0.5, 1]], 0.25)
    >>> chain = sf.projective_chain(system, rng=1)
    >>> int(chain.participation.argmax()), int(chain.exponent_by_example.argmax())
    (0, 0)
    >>> bool(abs(chain.exponent_by_example.sum() - chain.exponent) < 1e-14)
    True
    >>> chain.sample(1000).shape
    (1000, 3)
    """
    require_system(system)
    budget = Budget.validated(rtol, atol, max_steps)
    how = How.validated("anchored", budget, n_chains, rng, n_threads, progress, executor, least_chains=8)
    if budget.max_steps < _LEAST_STEPS * how.n_chains:
        raise ValueError(
            f"max_steps must be at least {_LEAST_STEPS} * n_chains ({_LEAST_STEPS * how.n_chains}), not {max_steps!r}"
        )
    regular = regularity(system)
    if system.dimension == 1:
        warn(f"the chain does not mix: {_ONE_DIRECTION}")
        return _single_direction(system, how, regular)
    start = _start(system, how)
    pilot = _pilot(system, how, start)
    longest = max(1, (budget.max_steps - pilot.n_steps) // (_LEAST_BATCHES * how.n_chains))
    work = system.n_examples * (system.dimension + _LOGARITHM) + _CALLS
    recorded = math.ceil(budget.max_steps * max(system.dimension / _MOST_RECORDED, work / _MOST_WORK))
    spacing = min(max(pilot.spacing, system.n_examples // 4, recorded, int(pilot.memory / _FINENESS)), longest)
    states = start.vectors(how, 0)
    chains = Chains(
        key=how.seed.key,
        states=states,
        steps_per_batch=spacing,
        records=no_records(how.n_chains, states.shape[1], start.metrics.size, system.dimension),
        spacing=spacing,
        n_examples=system.n_examples,
        rounding=float(np.finfo(float).eps) * min(1.0, system.learning_rate * float(system.diagonal.mean())),
        pilot_steps=pilot.n_steps,
    )
    kernel = recording_kernel(system, start.metrics, spacing, pilot.orthonormalise_every)
    done = run(
        chains,
        kernel,
        lambda chains: _estimate(system, start, chains),
        budget,
        n_threads=how.n_threads,
        progress=progress,
        executor=executor,
    )
    return _described(system, how, start, pilot, regular, done)


class _Start(NamedTuple):
    """Where chains start: metrics and vectors, of the block of K that grows fastest if there are several."""

    system: LinearizedSGD
    """The whole, or the block."""
    own_metrics: Metrics
    """In the coordinates of `system`."""
    metrics: Metrics
    """In the coordinates of the whole."""
    block: LeadingBlock | None
    """The block, if K falls into blocks."""

    def vectors(self, how: How, first_chain: int) -> FloatArray:
        """Return two vectors for each chain, and of a block three, two in it and one anywhere.

        Shape (n_chains, k, dimension).
        """
        key, n_chains = how.seed.key, how.n_chains
        if self.block is None:
            vectors = initial_vectors(self.system, self.metrics, key, n_chains, 2, first_chain)
            # At small learning rates the two slowest directions are where two vectors stay.
            slow = self.system.slow_directions(2)[:, -1]
            scale = np.linalg.norm(vectors[:, 1], axis=1, keepdims=True)
            vectors[:, 1] = slow + _RANDOM_SHARE * vectors[:, 1] / scale
            return vectors
        embedding, k = self.block.embedding, min(self.system.dimension, 2)
        own = initial_vectors(self.system, self.own_metrics, key, n_chains, k, first_chain) @ embedding
        if k == len(embedding.T):
            return np.ascontiguousarray(own)
        other = normals(key, n_chains, (k + 1, embedding.shape[1]), first_chain)[:, k:]
        return np.ascontiguousarray(np.concatenate([own, other], axis=1))


def _start(system: LinearizedSGD, how: How) -> _Start:
    """Return where to start."""
    block = leading_block(system, how.seed, how.n_threads, how.executor)
    if block is None:
        metrics = growth_metrics(system)
        return _Start(system, metrics, metrics, None)
    own = growth_metrics(block.system) if block.system.dimension > 1 else no_metrics(block.system)
    diagonals = np.zeros((max(own.size, 1), system.n_examples))
    diagonals[0] = system.diagonal
    diagonals[1:, block.examples] = own.diagonals[1:]
    matrices = block.embedding.T @ own.matrices @ block.embedding
    return _Start(block.system, own, Metrics(matrices, diagonals, None), block)


class _Pilot(NamedTuple):
    """What a short run says about how fast directions move."""

    spacing: int
    """Steps that resolve the autocorrelation of directions."""
    orthonormalise_every: int
    """Steps after which two vectors still span a plane."""
    resolved: bool
    """Whether that was reached."""
    memory: float
    """The autocorrelation time, as far as it was."""
    n_steps: int


def _pilot(system: LinearizedSGD, how: How, start: _Start) -> _Pilot:
    """Double the spacing until the window of autocorrelations is long enough, or a part of the budget is spent."""
    vectors = start.vectors(how, _PILOT_STREAMS)
    n_steps, spacing, first_step = 0, 1, 0
    while True:
        vectors, log_growth, _, directions = core.advance_vectors(
            **recording_kernel(system, no_metrics(system), spacing, spacing).arguments,
            vectors=vectors,
            key=how.seed.key,
            first_chain=_PILOT_STREAMS,
            first_step=first_step,
            n_batches=_PILOT_BATCHES,
            steps_per_batch=spacing,
            n_threads=how.n_threads,
        )
        first_step += _PILOT_BATCHES * spacing
        n_steps += how.n_chains * _PILOT_BATCHES * spacing
        with np.errstate(invalid="ignore"):
            gap = float(np.mean(log_growth[:, 1:, 0] - log_growth[:, 1:, 1])) / spacing
        found = memory(to_parameter_space(system, directions), spacing)
        if found.resolved or 3 * n_steps > _PILOT_SHARE * how.budget.max_steps:
            break
        spacing *= 2
    collapse = _COLLAPSE / gap if gap > 0 else math.inf
    every = int(np.clip(collapse, 1, MOST_BETWEEN_NORMALISATIONS))
    return _Pilot(spacing, every, found.resolved, found.time, n_steps)


def _estimate(system: LinearizedSGD, start: _Start, chains: Chains) -> Estimate:
    """Estimate lambda and lambda_2 - lambda_1."""
    log_growth, growth, _ = chains.records
    steps = chains.steps_per_batch
    if chains.n_batches == 0:
        return unknown(2)
    if start.system.dimension == 1:  # the one direction of a block
        mixing = Mixing(math.inf, math.inf, chains.n_batches * steps)
    else:
        with np.errstate(invalid="ignore"):
            mixing = first_resolved(log_growth[:, :, :2], steps, [*grid_of_looks(chains.n_batches), chains.n_batches])
    found = anchored_means(growth, steps, mixing, chains.n_examples, chains.rounding)
    exponent, error = float(found.mean[0]), float(found.standard_error[0])
    long_enough = mixing.resolved and mixing.gap * chains.n_batches * steps >= _LEAST_RELAXATIONS
    unsettled = 0.0 if long_enough else math.inf
    if exponent == -math.inf:  # all is annihilated
        rate, rate_error, unsettled = -math.inf, 0.0, 0.0
    elif system.dimension == 2:
        # lambda_1 + lambda_2 is known.
        rate = system.sum_of_exponents - 2 * exponent
        rate_error = 2 * error if math.isfinite(rate) else 0.0
    else:
        with np.errstate(invalid="ignore"):
            differences = log_growth[:, :, 1:] - log_growth[:, :, :1]
        approach = batch_means(differences, steps)
        nearest = int(approach.mean.argmax())
        rate, rate_error = float(approach.mean[nearest]), float(approach.standard_error[nearest])
        # The second vector has to find its own direction first.
        change, _, scaled = (part[nearest] for part in drift(differences[:, approach.start_up :]))
        if abs(scaled) > SETTLED_LIMIT:
            rate_error, unsettled = math.hypot(rate_error, float(change) / steps), max(unsettled, abs(float(scaled)))
    largest = max(abs(exponent), abs(rate) if math.isfinite(rate) else 0.0)
    return replace(
        found,
        mean=np.array([exponent, rate]),
        standard_error=np.array([error, rate_error]),
        effective_sample_size=np.repeat(found.effective_sample_size, 2),
        scales=np.array([largest, abs(rate)]),
        top_drift=unsettled,
        bias_allowance=None,
    )


class _Path(NamedTuple):
    """Chains after their start-up, of n_batches batches each."""

    growth_by_example: FloatArray
    """Means over pieces of l_i / N in parameter-space norm, shape (n_chains, n_pieces, N)."""
    growth: FloatArray
    """Means over pieces of g in all metrics, shape (n_chains, n_pieces, n_metrics)."""
    shares: FloatArray
    """Means over chains of the examples' shares, shape (n_chains, N)."""
    steps: FloatArray
    """Growth over each batch, in the combination of metrics, shape (n_chains, n_batches)."""
    expected: FloatArray
    """g of that combination at the end of each batch, of the same shape."""
    squares: FloatArray
    """The mean squared growth of the next step, over examples and batches, shape (n_chains,)."""


def _path(system: LinearizedSGD, metrics: Metrics, chains: Chains, start_up: int) -> _Path:
    """Look at all directions recorded after the start-up."""
    n_chains, n_batches, d = chains.records[2].shape
    # The first batch kept only shows where the next one starts.
    n_pieces = min(_PIECES, n_batches - start_up - 1)
    kept = start_up + (n_batches - start_up - 1) % n_pieces
    log_growth, growth, directions = (record[:, kept:] for record in chains.records)
    n_batches -= kept
    pieces = (n_pieces, (n_batches - 1) // n_pieces)
    record_of_growth = growth
    growth = growth[:, 1:].reshape(n_chains, *pieces, metrics.size).mean(axis=2)
    weights = fit(growth.reshape(-1, metrics.size))
    expected = record_of_growth @ weights
    root, every = shares_root(system), [None, *metrics.matrices]
    by_example = np.empty((n_chains, n_pieces, system.n_examples))
    shares, squares = np.zeros((n_chains, system.n_examples)), np.zeros(n_chains)
    heights = np.zeros((n_chains, n_batches))
    together = max(1, _WORK // max(system.n_examples, d))
    ends = [0, *(1 + pieces[1] * np.arange(1, n_pieces + 1))]
    for chain, piece in np.ndindex(n_chains, n_pieces):
        total = np.zeros(system.n_examples)
        for first in range(ends[piece], ends[piece + 1], together):
            its = slice(first, min(first + together, ends[piece + 1]))
            vectors = directions[chain, its]
            combination = np.zeros((len(vectors), system.n_examples))
            for metric, weight, found in zip(every, weights, growth_by_example(system, vectors, every), strict=True):
                combination += weight * found.log_growth
                heights[chain, its] += weight / 2 * np.log(found.squared_norms)
                if metric is None:
                    total += found.log_growth[1 if first == 0 else 0 :].sum(axis=0)
            squares[chain] += np.einsum("ni,ni->", combination, combination)
            parts = (vectors @ root) ** 2
            shares[chain] += (1 / parts.sum(axis=1)) @ parts
        by_example[chain, piece] = total / (pieces[1] * system.n_examples)
    return _Path(
        by_example,
        growth,
        shares / n_batches,
        log_growth[:, 1:, 0] + np.diff(heights, axis=1),
        expected[:, 1:],
        squares / (n_batches * system.n_examples),
    )


def _from_autocovariances(path: _Path, spacing: int, exponent: float, gap: float) -> Measured:
    """sigma^2 from the variance of a step and its covariances with what is expected of later ones."""
    n_batches = path.steps.shape[1]
    deviation, expected = path.steps - spacing * exponent, path.expected - exponent
    window = min(math.ceil(_RELAXATIONS / (gap * spacing)) if gap > 0 else n_batches, n_batches // 4)
    # Of the growth of each batch with what is expected at its end and at the ends of the next ones.
    sums = np.concatenate([np.zeros((len(expected), 1)), np.cumsum(expected, axis=1)], axis=1)
    following = sums[:, window + 1 :] - sums[:, : n_batches - window]
    covariances = (deviation[:, : n_batches - window] * following).mean(axis=1)
    found = _mean_of_chains(path.squares - exponent**2 + 2 * covariances)
    return found._replace(value=max(found.value, 0.0))


def _from_batch_means(path: _Path, spacing: int, gap: float) -> Measured:
    """sigma^2 from the variance of the growth over long blocks."""
    n_chains, n_batches = path.steps.shape
    relaxations = gap * n_batches * spacing
    n_blocks = int(np.clip(relaxations / _BLOCK_RELAXATIONS, 1, min(_MOST_BLOCKS, n_batches)))
    length = n_batches // n_blocks
    blocks = path.steps[:, n_batches - n_blocks * length :].reshape(n_chains * n_blocks, length).sum(axis=1)
    squares = (blocks - blocks.mean()) ** 2 / (length * spacing)
    n = len(squares)
    return Measured(float(squares.sum() / (n - 1)), float(squares.std(ddof=1)) / math.sqrt(n))


def _mean_of_chains(values: FloatArray) -> Measured:
    return Measured(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))


def _described(
    system: LinearizedSGD, how: How, start: _Start, pilot: _Pilot, regular: Regularity, done: Run
) -> ProjectiveChain:
    """Make the result, and warn of what it flags."""
    chains, found = done.chains, done.estimate
    annihilated = float(found.mean[0]) == -math.inf
    if annihilated:
        chains = replace(chains, states=start.vectors(how, 0))
    if chains.states.shape[1] > 2:  # the nearest to the first
        growing = np.nansum(chains.records[0], axis=(0, 1))[1:]
        chains = replace(chains, states=np.ascontiguousarray(chains.states[:, [0, 1 + int(growing.argmax())]]))
    follow = Follow(system, how.seed.key, chains, pilot.spacing, pilot.orthonormalise_every, how.n_threads)
    reason = start.block.reason if start.block is not None else ""
    reason = _ANNIHILATION if annihilated else reason or ("" if regular.contracting else _REFLECTIONS)
    if reason:
        warn(f"the chain does not mix: {reason}")
    else:
        _warn_of_trouble(how.budget, done)
    common = {
        **common_attributes(done, system, provenance(how.seed, "anchored", system.fingerprint)),
        "regularity": regular,
        "follow": follow,
        "reason": reason,
    }
    if annihilated:
        return _without_direction(system, common)
    rate, rate_error = float(found.mean[1]), float(found.standard_error[1])
    if start.block is not None and start.block.exponents is not None:
        rate, rate_error = float(np.diff(np.sort(start.block.exponents)[:-3:-1])[0]), 0.0
    gap = relaxation_rate(system, rate)
    longest = math.ceil(_MEMORY_RELAXATIONS / gap) if gap > 0 else 0
    if pilot.resolved:
        # Fine enough for what is forgotten at once, and lags enough for what is not.
        n_batches = _MOST_RECORDED // (2 * chains.n_chains * system.dimension)
        n_batches = min(max(n_batches, 2 * _PILOT_BATCHES), _MEMORY_BATCHES)
        n_lags = min(n_batches, LONGEST_SEGMENT) // 2
        lasting = math.ceil(max(longest, _WINDOW * pilot.memory) / n_lags)
        every = min(max(1, pilot.spacing // _FINER, lasting), pilot.spacing)
        directions = follow.directions(n_batches, every)
    else:
        directions, every = chains.records[2][:, found.start_up :], chains.spacing
    remembered = memory(to_parameter_space(system, directions), every, longest)
    memory_error = remembered.standard_error if remembered.resolved else math.inf
    path = _path(system, start.metrics, chains, found.start_up)
    parts = adjusted(path.growth_by_example, path.growth)
    exponent_by_example = parts.mean(axis=0)
    exponent = float(exponent_by_example.sum())
    root_n = math.sqrt(chains.n_chains)
    error = max(float(found.standard_error[0]), float(parts.sum(axis=1).std(ddof=1)) / root_n)
    if reason == _REFLECTIONS:
        rate, rate_error = 0.0, 0.0
    elif system.dimension == 2 and math.isfinite(rate):
        rate, rate_error = system.sum_of_exponents - 2 * exponent, 2 * error
    by_route = {
        "autocovariances": _from_autocovariances(path, chains.spacing, exponent, gap),
        "batch means": _from_batch_means(path, chains.spacing, gap),
    }
    return ProjectiveChain(
        exponent=exponent,
        standard_error=error,
        effective_sample_size=float(found.effective_sample_size[0]),
        exponent_by_example=exponent_by_example,
        exponent_by_example_standard_error=parts.std(axis=0, ddof=1) / root_n,
        participation=path.shares.mean(axis=0),
        participation_standard_error=path.shares.std(axis=0, ddof=1) / root_n,
        contraction_rate=rate,
        contraction_rate_standard_error=rate_error,
        autocorrelation_time=remembered.time,
        autocorrelation_time_standard_error=memory_error,
        variances=by_route,
        mixed=found.mixed and not reason,
        **common,
    )


def _warn_of_trouble(budget: Budget, done: Run) -> None:
    """Warn, once for each, of what the result's attributes flag."""
    found, chains = done.estimate, done.chains
    if not np.isfinite(found.mean[0]):
        warn("the run overflowed: lambda is unknown")
    elif not found.mixed:
        warn(
            f"chains of {chains.n_batches * chains.steps_per_batch} steps were not seen to mix, the two largest "
            "exponents being too close: raise max_steps"
        )
    elif budget.has_tolerance and done.stopped_by == "max_steps":
        (exponent, rate), (error, rate_error) = found.mean, found.standard_error
        warn(
            f"max_steps={budget.max_steps} ended the run at lambda = {exponent:.4g} +- {error:.1g} and a contraction "
            f"rate of {rate:.4g} +- {rate_error:.1g}, short of rtol={budget.rtol:g} and atol={budget.atol:g}"
        )


def _without_direction(system: LinearizedSGD, common: dict[str, Any]) -> ProjectiveChain:
    """Say that products of steps annihilate every displacement."""
    n = system.n_examples
    return ProjectiveChain(
        exponent=-math.inf,
        standard_error=0.0,
        effective_sample_size=math.inf,
        exponent_by_example=np.full(n, -math.inf),
        exponent_by_example_standard_error=np.zeros(n),
        participation=np.zeros(n),
        participation_standard_error=np.zeros(n),
        contraction_rate=-math.inf,
        contraction_rate_standard_error=0.0,
        autocorrelation_time=1.0,
        autocorrelation_time_standard_error=0.0,
        variances={"autocovariances": Measured(0.0, 0.0), "batch means": Measured(0.0, 0.0)},
        mixed=False,
        **common,
    )


def _single_direction(system: LinearizedSGD, how: How, regular: Regularity) -> ProjectiveChain:
    """Describe the one direction there is in one dimension, where steps are numbers."""
    logs, n = system.log_determinants, system.n_examples
    singular = np.isneginf(logs)
    variance = 0.0 if singular.any() else float(logs.var())
    chains = Chains(
        key=how.seed.key,
        states=np.ones((how.n_chains, 1, 1)),
        steps_per_batch=1,
        records=no_records(how.n_chains, 1, 0, 1),
    )
    lengths = np.abs(shares_root(system)[0]) ** 2
    exact = Measured(variance, 0.0)
    return ProjectiveChain(
        exponent=float(logs.mean()),
        standard_error=0.0,
        effective_sample_size=math.inf,
        exponent_by_example=logs / n,
        exponent_by_example_standard_error=np.zeros(n),
        participation=lengths / lengths.sum(),
        participation_standard_error=np.zeros(n),
        contraction_rate=-math.inf,
        contraction_rate_standard_error=0.0,
        autocorrelation_time=1.0,
        autocorrelation_time_standard_error=0.0,
        variances={"autocovariances": exact, "batch means": exact},
        mixed=False,
        reason=_ONE_DIRECTION,
        regularity=regular,
        follow=Follow(system, how.seed.key, chains, 1, 1, how.n_threads),
        degrees_of_freedom=2**31,
        n_steps=0,
        n_chains=0,
        steps_per_batch=0,
        start_up_steps=0,
        chain_disagreement=1.0,
        converged=True,
        stopped_by="closed form",
        drifts=False,
        steps_per_epoch=n / system.batch_size,
        provenance=provenance(how.seed, "closed form", system.fingerprint),
        chains=None,
    )
