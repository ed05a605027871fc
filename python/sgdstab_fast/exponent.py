"""The almost-sure Lyapunov exponent lambda of SGD, by simulation."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._native import FloatArray
from sgdstab_fast.components import IntArray, components, subsystem
from sgdstab_fast.control_variates import anchored_means, combined
from sgdstab_fast.mean_square import mean_square_exponent
from sgdstab_fast.metrics import LARGEST_DIMENSION, Metrics, growth_metrics, initial_vectors, no_metrics
from sgdstab_fast.mixing import N_COMPANIONS, Mixing, first_resolved
from sgdstab_fast.results import LyapunovExponent, MeanSquareExponent, provenance
from sgdstab_fast.rounds import (
    Budget,
    Chains,
    Kernel,
    ProgressOption,
    grid_of_looks,
    known_sign,
    overflow_safe_steps,
    run,
)
from sgdstab_fast.simulated import common_attributes, resumed, warn_of_trouble
from sgdstab_fast.statistics import Estimate, batch_means
from sgdstab_fast.streams import Seed, initial_states, seed_from
from sgdstab_fast.systems import LinearizedSGD, require_system

METHODS = ("anchored", "average")
_STEPS_PER_BATCH = 512  # of averages
_MAX_BATCHES = 4096  # a chain; longer budgets get longer batches
_MOST_BETWEEN_NORMALISATIONS = 256
# Fewer examples than this, some of them with abs(1 - eta K_ii) below that: a few steps may shrink a whole vector as
# much.
_FEW_EXAMPLES, _NEARLY_SINGULAR = 32, 1e-2
# The chains of one block of K, its companions and its pilot draw from streams of their own.
_BLOCK_STREAMS, _COMPANION_STREAMS, _PILOT_STREAMS = 2**34, 2**32, 2**33
_PILOT_CHAINS, _PILOT_EVALUATIONS, _PILOT_GROUPS, _PILOT_SHARE = 64, 32, 4, 1 / 16
_NOISE = 0.1  # of an autocorrelation
_LONGEST_SPACING = 16  # times N
_VECTORS_PER_EVALUATION, _VECTORS_PER_ITEM = 16, 4  # of the core's work items


def lyapunov_exponent(
    system: LinearizedSGD,
    *,
    method: str = "anchored",
    rtol: float = 1e-2,
    atol: float = 0.0,
    sign_confidence: float | None = None,
    max_steps: int = 100_000_000,
    n_chains: int = 64,
    rng: Any = None,
    n_threads: int | None = None,
    progress: ProgressOption = None,
    executor: Executor | None = None,
    resume: LyapunovExponent | None = None,
) -> LyapunovExponent:
    """Estimate the almost-sure Lyapunov exponent lambda of a system, with an error bar.

    Runs many independent chains and averages, every so many steps, the exact mean log growth of all N possible next
    steps in several metrics, among them those in which mean squared growth is constant: that has far less variance than
    the growth along the chains. Chains start nearly stationary; a few of them carry a second vector, from which
    lambda_1 - lambda_2 and so the time to forget the start are known.

    Stops at the first look at which

    - the standard error is at most ``rtol * abs(lambda)`` (``stopped_by="rtol"``), or
    - at most ``atol`` (``"atol"``), or
    - the sign of lambda is known with confidence ``sign_confidence``, corrected for looking repeatedly (``"sign"``),
    - or after ``max_steps`` (``"max_steps"``).

    Near lambda = 0 no relative tolerance can be met: give an `atol` or a `sign_confidence` there. With none of the three
    it runs the whole budget.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does.
    method : {"anchored", "average"}, optional
        ``"average"`` averages the log growth along the chains instead, without metrics: for comparison, and for a quick
        look at matrices of several thousand examples.
    rtol, atol : float, optional
        Tolerances for the standard error: relative to lambda, and absolute in nats per step.
    sign_confidence : float, optional
        With which the sign of lambda is to be known, such as 0.99; by default the sign stops nothing.
    max_steps : int, optional
        Steps of all chains together, rounded to whole batches.
    n_chains : int, optional
        Independent chains.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes. The same seed gives the same bits at the same SIMD level,
        whatever the threads or the executor.
    n_threads : int, optional
        Threads; all available processors by default.
    progress : bool or callable, optional
        True for a progress bar on standard error, or what to call with a `Progress`.
    executor : concurrent.futures.Executor, optional
        Where to run work items instead of threads.
    resume : LyapunovExponent, optional
        An earlier result for the same system, to go on from; `max_steps` then counts its steps in, and `method`,
        `n_chains`, `rng` and the batches are its own (first budgets of less than 8192 steps a chain make smaller batches).

    Returns
    -------
    LyapunovExponent
        Nats per step. -inf, with no error, if every displacement is annihilated. Of a K that falls into blocks, the
        largest of the blocks' exponents; of blocks of rank one it is known exactly.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    Warns
    -----
    AccuracyWarning
        If no tolerance was met within `max_steps`, or the chains had not left their start-up or were not seen to mix; the
        standard error then allows for it.

    References
    ----------
    Chemnitz & Engel 2025, equations 2.12 and 2.19 and lemma 3.10.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> result = sf.lyapunov_exponent(system, rtol=1e-4, rng=1)
    >>> low, high = result.confidence_interval(0.999)
    >>> low < -0.1364810610335894 < high  # known exactly for this system
    True
    """
    return estimate_exponent(
        system,
        method=method,
        budget=Budget.validated(rtol, atol, max_steps, sign_confidence),
        n_chains=n_chains,
        rng=rng,
        n_threads=n_threads,
        progress=progress,
        executor=executor,
        resume=resume,
    )


def estimate_exponent(
    system: LinearizedSGD,
    *,
    method: str,
    budget: Budget,
    n_chains: int,
    rng: Any,
    n_threads: int | None,
    progress: ProgressOption,
    executor: Executor | None,
    resume: LyapunovExponent | None = None,
    mean_square: MeanSquareExponent | None = None,
) -> LyapunovExponent:
    """Do what `lyapunov_exponent` says; `mean_square` is the system's, if known."""
    require_system(system)
    how = _How(
        method=validation.choice(method, "method", METHODS),
        budget=budget,
        n_chains=validation.integer(n_chains, "n_chains", high=2**31),
        seed=seed_from(rng),
        n_threads=validation.thread_count(n_threads),
        progress=progress,
        executor=executor,
    )
    if resume is not None and not isinstance(resume, LyapunovExponent):
        raise TypeError(f"resume must be a LyapunovExponent, not {type(resume).__name__}")
    blocks = components(system)
    if len(blocks) == 1 and blocks[0].size == system.n_examples:
        return _of_one_block(system, how, resume, mean_square, 0)
    return _of_blocks(system, blocks, how, resume)


@dataclass(frozen=True)
class _How:
    """The arguments of an estimate, checked."""

    method: str
    budget: Budget
    n_chains: int
    seed: Seed
    n_threads: int
    progress: ProgressOption
    executor: Executor | None


def _of_one_block(
    system: LinearizedSGD,
    how: _How,
    resume: LyapunovExponent | None,
    mean_square: MeanSquareExponent | None,
    block: int,
) -> LyapunovExponent:
    """Estimate lambda of a system whose K does not fall into blocks."""
    if system.dimension == 1:
        return _closed_form(system, how)
    if resume is not None and resume.chains is not None:
        anchored = resume.provenance["method"] == "anchored"
    else:
        anchored = how.method == "anchored"
    metrics = growth_metrics(system, mean_square) if anchored else no_metrics(system)
    kernel, companion_kernel = _kernel(system, metrics), _kernel(system, no_metrics(system))
    if resume is None:
        how.budget.steps_per_chain(how.n_chains)
        run_provenance = provenance(how.seed, how.method, system.fingerprint)
        first = block * _BLOCK_STREAMS
        chains = (
            _anchored_chains(system, how, metrics, kernel, first) if anchored else _averaged_chains(system, how, first)
        )
    else:
        chains, run_provenance = resumed(resume, LyapunovExponent, system, (1, system.dimension))
    done = run(
        chains,
        replace(kernel, arguments={**kernel.arguments, "spacing": chains.spacing}),
        estimate,
        how.budget,
        companion_kernel=companion_kernel,
        n_threads=how.n_threads,
        progress=how.progress,
        executor=how.executor,
    )
    warn_of_trouble(how.budget, done, stacklevel=4)
    found = done.estimate
    return LyapunovExponent(
        exponent=float(found.mean[0]),
        standard_error=float(found.standard_error[0]),
        effective_sample_size=float(found.effective_sample_size[0]),
        sign=known_sign(done, how.budget.sign_confidence) if how.budget.sign_confidence is not None else 0,
        gap=found.gap,
        mixed=found.mixed,
        bias_allowance=found.bias_allowance or 0.0,
        **common_attributes(done, system, run_provenance),
    )


def estimate(chains: Chains) -> Estimate:
    """Estimate lambda from chains: from anchored growth if they have recorded it, else from their own."""
    log_growth, growth = chains.records
    if growth.shape[2] == 0:
        return batch_means(log_growth, chains.steps_per_batch)
    mixing = Mixing(math.nan, 0.0, 0)
    if chains.companions is not None:
        looks = grid_of_looks(chains.companions.n_batches)
        mixing = first_resolved(chains.companions.records[0], chains.steps_per_batch, looks)
    evaluations = chains.steps_per_batch // chains.spacing
    return anchored_means(growth / evaluations, chains.steps_per_batch, mixing, chains.n_examples, chains.rounding)


def _kernel(system: LinearizedSGD, metrics: Metrics) -> Kernel:
    nearly_singular = float(system.log_determinants.min()) < math.log(_NEARLY_SINGULAR)
    return Kernel(
        name="advance_vectors",
        states="vectors",
        arguments={
            "rows": system.rows,
            "coordinates": system.coordinates,
            "learning_rate": system.learning_rate,
            "metrics": metrics.matrices,
            "diagonals": metrics.diagonals,
            "renormalise_every": min(overflow_safe_steps(system.log_determinants), _MOST_BETWEEN_NORMALISATIONS),
            "spacing": 1,
            "careful": system.n_examples < _FEW_EXAMPLES and nearly_singular,
        },
        seconds_per_step=1e-8 + 1.3e-10 * system.dimension,  # measured, on one thread
        chains_per_item=_VECTORS_PER_EVALUATION if metrics.size > 0 else _VECTORS_PER_ITEM,
    )


def _no_records(n_chains: int, k: int, n_metrics: int) -> tuple[FloatArray, FloatArray]:
    return np.empty((n_chains, 0, k)), np.empty((n_chains, 0, n_metrics))


def _averaged_chains(system: LinearizedSGD, how: _How, first_chain: int) -> Chains:
    most = how.budget.steps_per_chain(how.n_chains)
    states = initial_states(how.seed.key, how.n_chains, 1, system.slow_directions(1), first_chain)
    return Chains(
        key=how.seed.key,
        states=np.ascontiguousarray(states.transpose(0, 2, 1)),
        steps_per_batch=min(max(_STEPS_PER_BATCH, most // _MAX_BATCHES), max(1, most // 16)),
        records=_no_records(how.n_chains, 1, 0),
        first_chain=first_chain,
    )


def _anchored_chains(system: LinearizedSGD, how: _How, metrics: Metrics, kernel: Kernel, first_chain: int) -> Chains:
    n_companions = min(N_COMPANIONS, how.n_chains, how.budget.max_steps - how.n_chains)
    spacing, pilot_steps = _spacing(system, how, metrics, kernel, first_chain)
    most = (how.budget.max_steps - pilot_steps) // (how.n_chains + n_companions)
    spacing = min(spacing, max(1, most // 16))
    steps_per_batch = spacing * max(1, most // (spacing * _MAX_BATCHES))

    def chains(n_chains: int, k: int, first: int, n_metrics: int) -> Chains:
        return Chains(
            key=how.seed.key,
            states=initial_vectors(system, metrics, how.seed.key, n_chains, k, first),
            steps_per_batch=steps_per_batch,
            records=_no_records(n_chains, k, n_metrics),
            first_chain=first,
        )

    # Rounding of K v, relative to the growth of a step.
    rounding = float(np.finfo(float).eps) * min(1.0, system.learning_rate * float(system.diagonal.mean()))
    return replace(
        chains(how.n_chains, 1, first_chain, metrics.size),
        spacing=spacing,
        n_examples=system.n_examples,
        rounding=rounding,
        pilot_steps=pilot_steps,
        companions=chains(n_companions, 2, first_chain + _COMPANION_STREAMS, 0) if n_companions > 0 else None,
    )


def _spacing(system: LinearizedSGD, how: _How, metrics: Metrics, kernel: Kernel, first_chain: int) -> tuple[int, int]:
    """Return how many steps to take between evaluations, and the steps spent on finding out.

    An evaluation costs as much as many steps, and successive ones are correlated. With the autocorrelation rho measured
    at multiples of the shortest spacing T_0, the time to a given variance is, for T = m T_0, proportional to
    (evaluation + T steps) (1 + 2 sum_j rho(j m T_0)).
    """
    shortest = max(1, system.n_examples // 2)
    pilot_steps = _PILOT_CHAINS * _PILOT_EVALUATIONS * shortest
    if pilot_steps > _PILOT_SHARE * how.budget.max_steps:
        return 4 * shortest, 0
    first = first_chain + _PILOT_STREAMS
    pilot = Chains(
        key=how.seed.key,
        states=initial_vectors(system, metrics, how.seed.key, _PILOT_CHAINS, 1, first),
        steps_per_batch=shortest,
        records=_no_records(_PILOT_CHAINS, 1, metrics.size),
        first_chain=first,
    )
    by = replace(kernel, arguments={**kernel.arguments, "spacing": shortest})
    growth = pilot.advance(by, _PILOT_EVALUATIONS, how.n_threads, None).records[1]
    if not np.isfinite(growth).all():
        return 4 * shortest, pilot_steps
    series = combined(growth, _PILOT_GROUPS)
    series -= series.mean()
    lags = range(_PILOT_EVALUATIONS)
    autocovariance = np.array([(series[:, lag:] * series[:, : _PILOT_EVALUATIONS - lag]).mean() for lag in lags])
    correlation = autocovariance / autocovariance[0] if autocovariance[0] > 0 else np.zeros(_PILOT_EVALUATIONS)
    # Up to where it drowns in noise.
    correlation[int(np.argmax(correlation < _NOISE)) if (correlation < _NOISE).any() else None :] = 0

    def time_to_variance(spacing: int) -> float:
        correlated = 1 + 2 * float(correlation[spacing // shortest :: spacing // shortest].sum())
        return (metrics.seconds_per_evaluation + spacing * kernel.seconds_per_step) * correlated

    longest = max(_LONGEST_SPACING * system.n_examples, 64)
    candidates = [shortest * 2**doublings for doublings in range(64) if shortest * 2**doublings <= longest]
    return min(candidates, key=time_to_variance), pilot_steps


def _closed_form(system: LinearizedSGD, how: _How) -> LyapunovExponent:
    """In one dimension steps are numbers, 1 - eta K_ii, and lambda is the mean of the logarithms of their sizes."""
    exponent = system.sum_of_exponents
    rounding = 4 * float(np.finfo(float).eps) * abs(exponent) if math.isfinite(exponent) else 0.0
    return LyapunovExponent(
        exponent=exponent,
        standard_error=rounding,
        effective_sample_size=math.inf,
        sign=0 if abs(exponent) <= 2 * rounding else int(math.copysign(1, exponent)),
        gap=math.inf,
        mixed=True,
        bias_allowance=0.0,
        degrees_of_freedom=2**31,
        n_steps=0,
        n_chains=0,
        steps_per_batch=0,
        start_up_steps=0,
        chain_disagreement=1.0,
        converged=True,
        stopped_by="closed form",
        drifts=False,
        steps_per_epoch=system.n_examples / system.batch_size,
        provenance=provenance(how.seed, "closed form", system.fingerprint),
        chains=None,
    )


def _of_blocks(
    system: LinearizedSGD, blocks: list[IntArray], how: _How, resume: LyapunovExponent | None
) -> LyapunovExponent:
    """Return the largest of the exponents of blocks of K that do not feel each other.

    A block with n of the N examples moves in n/N of the steps, so that its exponent is n/N of that of the block alone.
    That lies between the mean of the block's exponents and Lambda(2)/2: blocks that cannot be the largest are left out.
    """
    if resume is not None and resume.provenance["system"] != system.fingerprint:
        raise ValueError(f"resume must come from this system, {system.fingerprint}, not {resume.provenance['system']}")
    known = resume.parts if resume is not None else {}
    results: dict[int, LyapunovExponent] = {}
    bounds: dict[int, float] = {}
    parts = {index: subsystem(system, block) for index, block in enumerate(blocks)}
    least = -math.inf
    for index, part in parts.items():
        share = part.n_examples / system.n_examples
        least = max(least, share * part.sum_of_exponents / part.dimension)
        if part.dimension == 1:
            results[index] = _scaled(_closed_form(part, how), share, system)
        elif part.dimension <= LARGEST_DIMENSION:
            bounds[index] = share * mean_square_exponent(part).exponent / 2
        else:
            bounds[index] = math.inf
    contenders = [index for index in sorted(bounds, key=lambda index: -bounds[index]) if bounds[index] >= least]
    n_left = len(contenders)
    budget = replace(how.budget, max_steps=max(how.budget.max_steps // max(n_left, 1), 1))
    for index in contenders:
        if bounds[index] < least:
            continue
        share = parts[index].n_examples / system.n_examples
        its = replace(how, budget=replace(budget, atol=budget.atol / share))
        result = _scaled(_of_one_block(parts[index], its, known.get(index), None, index), share, system)
        results[index] = result
        least = max(least, result.exponent - 6 * result.standard_error)
    return _largest(results, system)


def _scaled(result: LyapunovExponent, share: float, system: LinearizedSGD) -> LyapunovExponent:
    """Return a block's result in steps of the whole system."""
    return replace(
        result,
        exponent=share * result.exponent,
        standard_error=share * result.standard_error,
        gap=share * result.gap,
        bias_allowance=share * result.bias_allowance,
        time_share=share,
        steps_per_epoch=system.n_examples / system.batch_size,
    )


def _largest(results: dict[int, LyapunovExponent], system: LinearizedSGD) -> LyapunovExponent:
    """Combine blocks: the largest of m estimates that may all be it is too large by up to sqrt(2 log m) of its errors."""
    leader = max(results.values(), key=lambda result: (result.exponent, -result.standard_error))
    rivals = [
        result.standard_error
        for result in results.values()
        if result.exponent + 4 * result.standard_error >= leader.exponent - 4 * leader.standard_error
    ]
    error = max(rivals, default=leader.standard_error)
    simulated = {index: result for index, result in results.items() if result.chains is not None}
    return replace(
        leader,
        standard_error=error * math.sqrt(1 + 2 * math.log(max(len(rivals), 1))) if error > 0 else error,
        n_steps=sum(result.n_steps for result in results.values()),
        converged=all(result.converged for result in results.values()),
        mixed=all(result.mixed for result in results.values()),
        sign=_sign([result.sign for result in results.values()]),
        provenance={**leader.provenance, "system": system.fingerprint},
        parts=simulated,
    )


def _sign(signs: list[int]) -> int:
    return 1 if 1 in signs else 0 if 0 in signs else -1
