"""The projective chain: directions of displacements, their stationary measure, and how fast they reach it.

The direction s = v / |v|, up to its sign, of a vector v under a random product is a Markov chain on projective space.
Where the steps contract and are strongly irreducible it has one stationary measure nu (Furstenberg), is drawn to it at
a geometric rate, and log |A_{i_n} .. A_{i_1} s| obeys a central limit theorem (Le Page; Chemnitz & Engel 2025, lemma
3.10 and corollary 3.11). Under nu,

    lambda = sum_i p_i E log |A_i s|                                                          (Furstenberg's formula)
    lambda_2 - lambda_1 = the rate at which two directions under the same steps approach each other
    sigma^2 = lim (1/n) Var log |A_{i_n} .. A_{i_1} s|

Chains of two vectors each are recorded every so many steps (metrics are those of `systems.growth`, starts of
`simulation.starts`); what the next step does to the directions recorded is known for all its outcomes
(`systems.next_steps`). Differences between metrics are control variates for the parts of examples in lambda as well as
for lambda (`statistics.control_variates`); `directions.path` has sigma^2.

With momentum the chain is of states, the present displacement and the past one together. Where batches depend on each
other within epochs, it is the chain of directions at the ends of epochs.

*Blocks.* Where K falls into blocks that do not feel each other, directions end up in the block that grows fastest: the
chain of the whole system, started there.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import DIRECTION_INFLUENCES, DIRECTION_PILOTS
from sgdstab_fast.directions.leading_part import LeadingBlock, leading_block
from sgdstab_fast.directions.obstacles import (
    ANNIHILATION,
    ONE_DIRECTION,
    REFLECTIONS,
    SIMILARITIES,
    are_turning,
    why_not_mixing,
)
from sgdstab_fast.directions.path import Path, from_autocovariances, from_batch_means, path_of, relaxation_rate
from sgdstab_fast.directions.results import ProjectiveChain
from sgdstab_fast.directions.special_cases import single_direction, what_is_missing, without_direction
from sgdstab_fast.exact.regularity import Regularity, regularity_of
from sgdstab_fast.exponents.rare import RareOutcomes, warn_of_rare
from sgdstab_fast.results.chains import Chains, Ending, VectorRecords
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.printed import with_error
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.continuation import continued_directions, recording_task
from sgdstab_fast.simulation.keywords import RunKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.looks import looks_back
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.outcome import common_attributes
from sgdstab_fast.simulation.run import Run, run
from sgdstab_fast.simulation.starts import initial_vectors, normals
from sgdstab_fast.simulation.task import advance
from sgdstab_fast.simulation.vectors import MOST_BETWEEN_NORMALISATIONS
from sgdstab_fast.statistics.anchored import AnchoredGrowth
from sgdstab_fast.statistics.control_variates import adjusted
from sgdstab_fast.statistics.estimates import SETTLED_LIMIT, Estimate, batch_means, drift, unknown
from sgdstab_fast.statistics.means import Measured, mean_of, standard_errors
from sgdstab_fast.statistics.memory import LONGEST_SEGMENT, memory
from sgdstab_fast.statistics.mixing import Mixing, first_resolved
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.next_steps import NextSteps
from sgdstab_fast.systems.system import ExactExponents, System, require_system

_LEAST_STEPS, _LEAST_BATCHES = 256, 24  # of a chain
_LEAST_EPOCHS = 64
_FRUITLESS = 4  # times as many steps at most, where directions are known not to mix
_LEAST_RELAXATIONS = 60.0  # that a chain lasts before a tolerance stops it, for the sake of variances
_PILOT_BATCHES, _PILOT_EPOCHS, _MEMORY_BATCHES = 129, 33, 2048
_MEMORY_RELAXATIONS, _FINER = 3.0, 4  # autocorrelations are summed over, and how much finer than in the pilot
_WINDOW = 6.0  # autocorrelation times that lags have to cover
_COLLAPSE = 8.0  # logarithm of the angle that two vectors may lose between orthonormalisations
_MOST_RECORDED = 2**24  # numbers, of the autocorrelation
# Multiply-adds for all directions recorded; what a logarithm is worth, and what there is to do for each direction.
_AT_ONCE = 8  # an interrupted chain is looked at in so many times less detail
_MOST_WORK, _LOGARITHM, _CALLS = 2e9, 50, 200
_FINENESS = 8  # directions recorded in an autocorrelation time
_PILOT_SHARE, _MOST_PILOT_STEPS = 1 / 8, 1_250_000
_RANDOM_SHARE = 0.1  # of the second vector
_MOST_EXTRA_STEPS = 10_000_000  # under reshuffling, to measure the autocorrelation time


@run_options(rtol=0.02, max_steps=10_000_000, n_chains=32, least_chains=8)
def projective_chain(system: System, **keywords: Unpack[RunKeywords]) -> ProjectiveChain:
    """Follow the directions of displacements under SGD: which examples drive them, how they mix, how growth varies.

    With momentum directions are those of states, the present displacement and the past one together; under random
    reshuffling they are those at the ends of epochs.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
    rtol, atol : float, optional
        Tolerances for the standard errors of lambda and of the contraction rate lambda_2 - lambda_1: relative to the
        larger of both in size for the former and to itself for the latter, and absolute in nats per step.
    max_steps : int, optional
        Steps of all chains together, rounded to whole batches. A step moves two displacements. A little more is taken
        afterwards to measure the autocorrelation time.
    n_chains : int, optional
        Independent chains, at least 8.
    **keywords
        Where they run: see `RunKeywords`.

    Returns
    -------
    ProjectiveChain
        Estimates with errors; its methods draw stationary directions and simulate what else is asked for.

    Warns
    -----
    AccuracyWarning
        If directions do not mix, saying why: K falls into blocks, steps are reflections or rotations, there is but one
        direction, or products of steps annihilate everything. If no tolerance was met within `max_steps`, or chains
        were not seen to mix.

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
    return chain_of(system, options_of(projective_chain, keywords))


def chain_of(system: System, options: Options) -> ProjectiveChain:
    """Do what `projective_chain` says."""
    own = system.in_own_units()
    if own is system:
        return _chain_of(system, options)
    return replace(_chain_of(own, options.at("in units of its own")), system=system)


def _chain_of(system: System, options: Options) -> ProjectiveChain:
    budget = options.budget
    least = _LEAST_STEPS if system.grain == 1 else max(_LEAST_STEPS, _LEAST_EPOCHS * system.grain)
    if budget.max_steps < least * options.n_chains:
        raise ValueError(
            f"max_steps must be at least {least} * n_chains ({least * options.n_chains}), not {budget.max_steps!r}"
        )
    regular = regularity_of(system)
    if system.dimension == 1:
        single = single_direction(system, options, regular, ONE_DIRECTION)
        warn(f"the chain does not mix: {ONE_DIRECTION}")
        return single
    start = _start(system, options)
    reason = start.block.reason if start.block is not None else ""
    reason = reason or why_not_mixing(system, start.known, regular)
    if reason == SIMILARITIES or system.reflects or are_turning(start.known):  # of which there is nothing to wait for
        options = options.within(min(budget.max_steps, _FRUITLESS * least * options.n_chains))
        budget = options.budget
    pilot = _pilot(system, options, start)
    longest = max(1, (budget.max_steps - pilot.n_steps) // (_LEAST_BATCHES * options.n_chains))
    following = system.next_steps()
    work = (0 if following is None else following.work_of_logarithms(_LOGARITHM)) + _CALLS
    resolving = max(pilot.spacing, int(system.steps_per_epoch) // 4, int(pilot.memory / _FINENESS))
    spacing = min(system.whole_epochs(resolving), max(longest - longest % system.grain, system.grain))
    states = start.vectors(options, 0)
    chains = Chains(
        key=options.seed.key,
        states=states,
        steps_per_batch=spacing,
        records=VectorRecords.empty(options.n_chains, states.shape[1], start.growth.size, system.dimension),
        spacing=spacing,
        n_examples=start.growth.n_steps,
        rounding=system.rounding,
        cancellation=start.growth.cancellation,
        pilot_steps=pilot.n_steps,
        largest_record=int(_MOST_WORK / (work * options.n_chains)),
    )
    done = run(
        chains,
        recording_task(system, start.growth, spacing, pilot.orthonormalise_every),
        RareOutcomes(system, options, lambda chains: _estimate(system, start, chains), DIRECTION_INFLUENCES.start),
        options,
    )
    return _described(system, options, start, pilot, following, (regular, reason), done)


class _Start(NamedTuple):
    """Where chains start: metrics and vectors, of the block of K that grows fastest if there are several."""

    system: System
    """The whole, or the block."""
    own_growth: Growth
    """In the coordinates of `system`."""
    growth: Growth
    """In the coordinates of the whole."""
    block: LeadingBlock | None
    """The block, if K falls into blocks."""
    known: ExactExponents | None
    """Exponents that need no simulation."""

    @property
    def known_rate(self) -> Measured | None:
        """lambda_2 - lambda_1, where it needs none."""
        with np.errstate(invalid="ignore"):  # -inf less -inf
            if self.block is not None and self.block.exponents is not None:
                return Measured(float(np.diff(np.sort(self.block.exponents)[:-3:-1])[0]), 0.0)
            if self.known is not None and len(self.known.exponents) > 1:
                return Measured(float(np.diff(self.known.exponents)[0]), 0.0)
        return None

    def vectors(self, options: Options, first_chain: int) -> FloatArray:
        """Return two vectors for each chain, and of a block three, two in it and one anywhere.

        Shape (n_chains, k, dimension).
        """
        key, n_chains = options.seed.key, options.n_chains
        if self.block is None:
            vectors = initial_vectors(self.system, self.growth.covariance, key, n_chains, 2, first_chain)
            # At small learning rates the two slowest directions are where two vectors stay.
            slow = self.system.slow_directions(2)[:, -1]
            scale = np.linalg.norm(vectors[:, 1], axis=1, keepdims=True)
            vectors[:, 1] = slow + _RANDOM_SHARE * vectors[:, 1] / scale
            return vectors
        embedding, k = self.block.embedding, min(self.system.dimension, 2)
        own = initial_vectors(self.system, self.own_growth.covariance, key, n_chains, k, first_chain) @ embedding
        if k == len(embedding.T):
            return np.ascontiguousarray(own)
        other = normals(key, n_chains, (k + 1, embedding.shape[1]), first_chain)[:, k:]
        return np.ascontiguousarray(np.concatenate([own, other], axis=1))


def _start(system: System, options: Options) -> _Start:
    """Return where to start: the metrics of a block are those of the whole on its part."""
    block = leading_block(system, options)
    known = system.exact_exponents()
    known = known if known is not None and known.of_powers else None
    if block is None:
        growth = system.growth()
        return _Start(system, growth, growth, None, known)
    own, growth = system.growth_of_part(block.part, block.embedding)
    return _Start(block.system, own, growth, block, known)


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


def _pilot(system: System, options: Options, start: _Start) -> _Pilot:
    """Double the spacing until the window of autocorrelations is long enough, or so many steps are spent."""
    vectors = start.vectors(options, DIRECTION_PILOTS.start)
    n_steps, spacing, first_step = 0, system.grain, 0
    n_batches = _PILOT_BATCHES if system.grain == 1 else _PILOT_EPOCHS
    while True:
        pilot = Chains(
            key=options.seed.key,
            states=vectors,
            steps_per_batch=spacing,
            records=VectorRecords.empty(len(vectors), vectors.shape[1], 0, system.dimension),
            first_chain=DIRECTION_PILOTS.start,
            first_step=first_step,
        )
        task = recording_task(system, system.no_growth, spacing, spacing)
        pilot = advance(pilot, task, n_batches, options.workers)
        vectors, first_step, log_growth = pilot.states, pilot.next_step, pilot.records.log_growth
        n_steps += options.n_chains * n_batches * spacing
        with np.errstate(invalid="ignore"):
            gap = float(np.mean(log_growth[:, 1:, 0] - log_growth[:, 1:, 1])) / spacing
        found = memory(system.directions(pilot.records.directions), spacing)
        if found.resolved or 3 * n_steps > min(_PILOT_SHARE * options.budget.max_steps, _MOST_PILOT_STEPS):
            break
        spacing *= 2
    collapse = _COLLAPSE / gap if gap > 0 else math.inf
    every = int(np.clip(collapse, 1, MOST_BETWEEN_NORMALISATIONS))
    return _Pilot(spacing, every, found.resolved, found.time, n_steps)


def _estimate(system: System, start: _Start, chains: Chains[VectorRecords]) -> Estimate:
    """Estimate lambda and lambda_2 - lambda_1."""
    log_growth, growth = chains.records.log_growth, chains.records.growth
    steps = chains.steps_per_batch
    if chains.n_batches == 0:
        return unknown(2)
    if start.system.dimension == 1:  # the one direction of a block
        mixing = Mixing(math.inf, math.inf, chains.n_batches * steps)
    else:
        with np.errstate(invalid="ignore"):
            mixing = first_resolved(log_growth[:, :, :2], steps, [*looks_back(chains), chains.n_batches])
    growth = log_growth[:, :, :1] / steps if growth.shape[2] == 0 else growth / chains.coarseness
    found = AnchoredGrowth(growth, steps, mixing, chains.rounding_of_growth).estimate()
    exponent, error = float(found.mean[0]), float(found.standard_error[0])
    long_enough = mixing.resolved and mixing.gap * chains.n_batches * steps >= _LEAST_RELAXATIONS
    unsettled = 0.0 if long_enough else math.inf
    if exponent == -math.inf:  # all is annihilated
        rate, rate_error, unsettled = -math.inf, 0.0, 0.0
    elif system.dimension == 2 and not math.isnan(system.sum_of_exponents):
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
    if start.known is not None and exponent > -math.inf:
        exponent = float(start.known.exponents[0])
        error = start.known.error
        if len(start.known.exponents) > 1:
            with np.errstate(invalid="ignore"):  # -inf less -inf
                rate, rate_error = float(np.diff(start.known.exponents)[0]), 2 * error
        found, unsettled = replace(found, drift=0.0), 0.0 if long_enough else math.inf
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


def _described(
    system: System,
    options: Options,
    start: _Start,
    pilot: _Pilot,
    following: NextSteps | None,
    mixing: tuple[Regularity | None, str],
    done: Run[VectorRecords],
) -> ProjectiveChain:
    """Make the result, and warn of what it flags; `mixing` is what is known of it beforehand."""
    chains, found, (regular, reason) = done.chains, done.estimate, mixing
    annihilated = float(found.mean[0]) == -math.inf
    if annihilated:
        chains, reason = replace(chains, states=start.vectors(options, 0)), ANNIHILATION
    if chains.states.shape[1] > 2:  # the nearest to the first
        growing = np.nansum(chains.records.log_growth, axis=(0, 1))[1:]
        chains = replace(chains, states=np.ascontiguousarray(chains.states[:, [0, 1 + int(growing.argmax())]]))
    ending = Ending(chains, pilot.spacing, pilot.orthonormalise_every)
    if reason:
        warn(f"the chain does not mix: {reason}")
    else:
        _warn_of_trouble(options.budget, done)
        warn_of_rare(done, options.budget)
    without_parts, without_shares = what_is_missing(system)
    common = {
        **common_attributes(done, system, provenance(options.seed, "anchored", system)),
        "regularity": regular,
        "system": system,
        "ending": ending,
        "reason": reason,
        "without_parts": without_parts,
        "without_shares": without_shares,
    }
    if annihilated:
        return without_direction(system, common)
    rate = start.known_rate or Measured(float(found.mean[1]), float(found.standard_error[1]))
    gap = relaxation_rate(system, rate.value)
    recorded = chains
    if done.stopped_by == INTERRUPTED:  # which is answered at once
        recorded = chains.until(min(chains.n_batches, found.start_up + chains.most_batches // _AT_ONCE))
    path = path_of(system, following, start.growth.matrices, recorded, found.start_up)
    exponent, parts = _exponent_and_parts(start, following, path, found, with_parts=not without_parts)
    if reason in (REFLECTIONS, SIMILARITIES):
        rate = Measured(0.0, 0.0)
    elif system.dimension == 2 and math.isfinite(rate.value) and not math.isnan(system.sum_of_exponents):
        rate = Measured(system.sum_of_exponents - 2 * exponent.value, 2 * exponent.standard_error)
    by_route = {}
    if following is not None:
        by_route["autocovariances"] = from_autocovariances(
            path, chains.steps_per_batch, following.n_steps, exponent.value, gap
        )
    by_route["batch means"] = from_batch_means(path, chains.steps_per_batch, gap)
    if start.known is not None:
        by_route = dict.fromkeys(by_route, Measured(0.0, 0.0))
    so_far = ProjectiveChain(
        exponent=exponent.value,
        standard_error=exponent.standard_error,
        effective_sample_size=float(found.effective_sample_size[0]),
        exponent_by_example=parts.mean(axis=0),
        exponent_by_example_standard_error=standard_errors(parts),
        participation=path.shares.mean(axis=0),
        participation_standard_error=standard_errors(path.shares),
        contraction_rate=rate.value,
        contraction_rate_standard_error=rate.standard_error,
        autocorrelation_time=pilot.memory,
        autocorrelation_time_standard_error=math.inf,
        variances=by_route,
        mixed=found.mixed and not reason,
        **common,
    )
    options.make_known(replace(so_far, stopped_by=INTERRUPTED, converged=False))
    time = _autocorrelation_time(system, options, pilot, ending, found.start_up, gap)
    return replace(so_far, autocorrelation_time=time.value, autocorrelation_time_standard_error=time.standard_error)


def _autocorrelation_time(
    system: System, options: Options, pilot: _Pilot, ending: Ending, start_up: int, gap: float
) -> Measured:
    """Return it, from steps of their own that resolve it, or a lower bound with an infinite error."""
    if options.is_cut:  # which is answered at once
        return Measured(pilot.memory, math.inf)
    chains, longest = ending.chains, math.ceil(_MEMORY_RELAXATIONS / gap) if gap > 0 else 0
    if pilot.resolved:
        # Fine enough for what is forgotten at once, and lags enough for what is not.
        n_batches = _MOST_RECORDED // (2 * chains.n_chains * system.dimension)
        n_batches = min(max(n_batches, 2 * _PILOT_BATCHES), _MEMORY_BATCHES)
        n_batches = min(n_batches, max(_MOST_EXTRA_STEPS // (chains.n_chains * system.grain), 2 * _PILOT_EPOCHS))
        n_lags = min(n_batches, LONGEST_SEGMENT) // 2
        lasting = math.ceil(max(longest, _WINDOW * pilot.memory) / n_lags)
        every = system.whole_epochs(min(max(1, pilot.spacing // _FINER, lasting), pilot.spacing))
        with suppress(Stopped):
            directions = continued_directions(system, ending, n_batches, every, options.workers)
            found = memory(system.directions(directions), every, longest)
            return Measured(found.time, found.standard_error if found.resolved else math.inf)
    directions, every = chains.records.directions[:, start_up:], chains.steps_per_batch
    found = memory(system.directions(directions), every, longest)
    return Measured(found.time, found.standard_error if found.resolved else math.inf)


def _exponent_and_parts(
    start: _Start, following: NextSteps | None, path: Path, found: Estimate, *, with_parts: bool
) -> tuple[Measured, FloatArray]:
    """Return lambda, and what each outcome contributes in every chain, shape (n_chains, n), n = 0 without parts."""
    exponent, error = float(found.mean[0]), float(found.standard_error[0])
    parts = np.empty((len(path.growth), 0))
    if following is not None:
        parts = adjusted(path.by_outcome, path.growth)
        listed = parts / following.n_steps
        listed_error = mean_of(listed.sum(axis=1)).standard_error
        if with_parts or listed_error < error:
            exponent = float(listed.mean(axis=0).sum())
            error = max(error, listed_error) if with_parts or not found.mixed else listed_error
    if not with_parts:
        parts = parts[:, :0]
    if start.known is not None and math.isfinite(exponent):
        exponent, error = float(start.known.exponents[0]), start.known.error
        if following is not None and parts.shape[1] > 0:  # of one matrix, drawn under several numbers perhaps
            drawn = following.probabilities
            parts = np.tile(exponent * drawn / drawn.sum(), (len(parts), 1))
    return Measured(exponent, error), parts


def _warn_of_trouble(budget: Budget, done: Run[VectorRecords]) -> None:
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
        (exponent, rate), (error, rate_error), freedom = found.mean, found.standard_error, found.degrees_of_freedom
        known = f"lambda = {with_error(exponent, error, freedom)}"
        known += f" and a contraction rate of {with_error(rate, rate_error, freedom)}"
        warn(f"max_steps={budget.max_steps} ended the run at {known}, short of {budget.wanted}")
