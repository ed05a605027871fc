"""One block: lambda of a system whose K does not fall into blocks, by chains."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast._core.seeds import Seed, initial_states, seed_from
from sgdstab_fast.exact.full_batches import gd_exponent
from sgdstab_fast.results.results import LyapunovExponent, MeanSquareExponent, provenance
from sgdstab_fast.simulation.outcome import closed_form_attributes, common_attributes, resumed, warn_of_trouble
from sgdstab_fast.simulation.run import (
    Budget,
    Chains,
    Kernel,
    ProgressOption,
    grid_of_looks,
    known_sign,
    overflow_safe_steps,
    run,
)
from sgdstab_fast.statistics.control_variates import anchored_means, combined
from sgdstab_fast.statistics.estimates import Estimate, batch_means
from sgdstab_fast.statistics.mixing import LEAST_COMPANIONS, N_COMPANIONS, Mixing, first_resolved
from sgdstab_fast.systems.growth import Metrics, growth_metrics, initial_vectors, no_metrics
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import ExactExponents, System

_STEPS_PER_BATCH = 512  # of averages
_MAX_BATCHES = 4096  # a chain; longer budgets get longer batches
MOST_BETWEEN_NORMALISATIONS = 256
_MOST_CHAINS = 2**24
# The chains of one block of K, its companions and its pilot draw from streams of their own.
BLOCK_STREAMS, COMPANION_STREAMS, _PILOT_STREAMS = 2**34, 2**32, 2**33
_PILOT_CHAINS, _PILOT_EVALUATIONS, _PILOT_GROUPS, _PILOT_SHARE = 64, 32, 4, 1 / 16
_NOISE = 0.1  # of an autocorrelation
_SEPARATIONS = 4.0  # standard errors of a gap
_LONGEST_SPACING = 16  # times N
_VECTORS_PER_EVALUATION, _VECTORS_PER_ITEM = 16, 4  # of the core's work items


@dataclass(frozen=True)
class How:
    """The arguments of an estimate, checked."""

    method: str
    budget: Budget
    n_chains: int
    seed: Seed
    n_threads: int
    progress: ProgressOption
    executor: Executor | None

    @classmethod
    def validated(
        cls,
        method: str,
        budget: Budget,
        n_chains: Any,
        rng: Any,
        n_threads: Any,
        progress: ProgressOption,
        executor: Executor | None,
        *,
        least_chains: int = 1,
    ) -> How:
        """Check what the user passed."""
        return cls(
            method=method,
            budget=budget,
            n_chains=validation.integer(n_chains, "n_chains", low=least_chains, high=_MOST_CHAINS),
            seed=seed_from(rng),
            n_threads=validation.thread_count(n_threads),
            progress=progress,
            executor=executor,
        )


def simulate(
    system: System,
    how: How,
    resume: LyapunovExponent | None,
    mean_square: MeanSquareExponent | None,
    block: int,
) -> LyapunovExponent:
    """Estimate lambda of a system whose K does not fall into blocks."""
    known = known_exponents(system)
    if known is not None:
        return closed_form(system, how, known)
    if resume is not None and resume.chains is not None:
        anchored = resume.provenance["method"] == "anchored"
    else:
        anchored = how.method == "anchored"
    anchored = anchored and system.dimension > 1
    metrics = growth_metrics(system, mean_square) if anchored else no_metrics(system)
    kernel, companion_kernel = vectors_kernel(system, metrics), vectors_kernel(system, no_metrics(system))
    if resume is None:
        how.budget.steps_per_chain(how.n_chains)
        run_provenance = provenance(how.seed, "anchored" if anchored else "average", system.fingerprint)
        first = block * BLOCK_STREAMS
        chains = (
            _anchored_chains(system, how, metrics, kernel, first) if anchored else _averaged_chains(system, how, first)
        )
    else:
        chains, run_provenance = resumed(resume, LyapunovExponent, system, (1, system.dimension))
    done = run(
        chains,
        replace(
            kernel,
            arguments={**kernel.arguments, "spacing": chains.spacing},
            seconds_per_step=kernel.seconds_per_step + metrics.seconds_per_evaluation / chains.spacing,
        ),
        estimate if system.is_plain else estimate_with_own_growth,
        how.budget,
        companion_kernel=companion_kernel,
        n_threads=how.n_threads,
        progress=how.progress,
        executor=how.executor,
    )
    warn_of_trouble(how.budget, done)
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
    log_growth, growth, _ = chains.records
    if growth.shape[2] == 0:
        return batch_means(log_growth, chains.steps_per_batch)
    return _anchored(chains, growth / (chains.steps_per_batch // chains.spacing))


def estimate_with_own_growth(chains: Chains) -> Estimate:
    """Estimate lambda from anchored growth and that of the chains themselves, which has the same mean.

    Where steps are large and batches are drawn for an evaluation, that of all steps may say as much as the expected one
    of a few.
    """
    log_growth, growth, _ = chains.records
    own = log_growth[:, :, :1] / chains.steps_per_batch
    if not np.isfinite(own).all():
        return estimate(chains)
    if growth.shape[2] == 0:
        if chains.companions is None:
            return batch_means(log_growth, chains.steps_per_batch)
        return _anchored(chains, own, telescoping=True)
    anchored = growth / (chains.steps_per_batch // chains.spacing)
    return _anchored(chains, np.concatenate([anchored, own], axis=2))


def _anchored(chains: Chains, growth: FloatArray, *, telescoping: bool = False) -> Estimate:
    """Estimate lambda from growth per step in columns of the same mean.

    Growth along a chain adds up to that of one vector's length, `telescoping`: before directions have mixed it grows at
    a rate between exponents that are no farther apart than companions let them be, but for what its first and last
    batch may add.
    """
    mixing = Mixing(math.nan, 0.0, 0)
    if chains.companions is not None:
        looks = grid_of_looks(chains.companions.n_batches)
        mixing = first_resolved(chains.companions.records[0], chains.steps_per_batch, looks)
    spread = None
    if telescoping and math.isfinite(mixing.gap) and mixing.separation != 0:
        apart = abs(mixing.gap) * (1 + _SEPARATIONS / abs(mixing.separation))
        spread = apart + float(np.ptp(growth)) / growth.shape[1]
    return anchored_means(growth, chains.steps_per_batch, mixing, chains.n_examples, chains.rounding, spread)


def vectors_kernel(system: System, metrics: Metrics) -> Kernel:
    """Return the kernel that advances chains of vectors, and evaluates growth in the metrics."""
    call = system.vectors_call()
    return Kernel(
        name=call.name,
        states="vectors",
        arguments={
            **call.arguments,
            **metrics.arguments,
            "renormalise_every": min(overflow_safe_steps(system.step_sizes), MOST_BETWEEN_NORMALISATIONS),
            "spacing": 1,
            "record": False,
        },
        seconds_per_step=call.seconds_per_step,
        chains_per_item=_VECTORS_PER_EVALUATION if metrics.size > 0 else _VECTORS_PER_ITEM,
    )


def no_records(n_chains: int, k: int, n_metrics: int, recorded: int = 0) -> tuple[FloatArray, ...]:
    """Return the records of log growth, anchored growth and directions before any batch."""
    return np.empty((n_chains, 0, k)), np.empty((n_chains, 0, n_metrics)), np.empty((n_chains, 0, recorded))


def _averaged_chains(system: System, how: How, first_chain: int) -> Chains:
    most = how.budget.steps_per_chain(how.n_chains)
    share = system.random_share
    states = initial_states(how.seed.key, how.n_chains, 1, system.slow_directions(1), first_chain, share)
    steps_per_batch = min(max(_STEPS_PER_BATCH, most // _MAX_BATCHES), max(1, most // 16))
    steps_per_batch = _whole(system, steps_per_batch)
    return Chains(
        key=how.seed.key,
        states=np.ascontiguousarray(states.transpose(0, 2, 1)),
        steps_per_batch=steps_per_batch,
        records=no_records(how.n_chains, 1, 0),
        first_chain=first_chain,
    )


def _whole(system: System, n_steps: int) -> int:
    """Return the number of steps rounded up to whole epochs, where batches depend on each other."""
    return -(-n_steps // system.grain) * system.grain


def _anchored_chains(system: System, how: How, metrics: Metrics, kernel: Kernel, first_chain: int) -> Chains:
    n_companions = min(N_COMPANIONS, how.budget.max_steps - how.n_chains)
    n_companions = n_companions if n_companions >= LEAST_COMPANIONS else 0
    spacing, pilot_steps = max(1, int(system.steps_per_epoch)), 0
    if metrics.size > 0:
        spacing, pilot_steps = _spacing(system, how, metrics, kernel, first_chain)
    most = (how.budget.max_steps - pilot_steps) // (how.n_chains + n_companions)
    spacing = min(spacing, max(1, most // 16))
    if metrics.size == 0:
        spacing = _whole(system, spacing)
    steps_per_batch = spacing * max(1, most // (spacing * _MAX_BATCHES))

    def chains(n_chains: int, k: int, first: int, n_metrics: int) -> Chains:
        states = initial_vectors(system, metrics, how.seed.key, n_chains, k, first)
        if not system.is_plain:  # what chains grow by themselves counts from the start
            states /= np.linalg.norm(states, axis=2, keepdims=True)
        return Chains(
            key=how.seed.key,
            states=states,
            steps_per_batch=steps_per_batch,
            records=no_records(n_chains, k, n_metrics),
            first_chain=first,
        )

    return replace(
        chains(how.n_chains, 1, first_chain, metrics.size),
        spacing=spacing,
        n_examples=system.n_draws,
        rounding=system.rounding,
        pilot_steps=pilot_steps,
        companions=chains(n_companions, 2, first_chain + COMPANION_STREAMS, 0) if n_companions > 0 else None,
    )


def _spacing(system: System, how: How, metrics: Metrics, kernel: Kernel, first_chain: int) -> tuple[int, int]:
    """Return how many steps to take between evaluations, and the steps spent on finding out.

    An evaluation costs as much as many steps, and successive ones are correlated. With the autocorrelation rho measured
    at multiples of the shortest spacing T_0, the time to a given variance is, for T = m T_0, proportional to
    (evaluation + T steps) (1 + 2 sum_j rho(j m T_0)).
    """
    shortest = max(1, int(system.steps_per_epoch) // 2)
    pilot_steps = _PILOT_CHAINS * _PILOT_EVALUATIONS * shortest
    if pilot_steps > _PILOT_SHARE * how.budget.max_steps:
        return 4 * shortest, 0
    first = first_chain + _PILOT_STREAMS
    pilot = Chains(
        key=how.seed.key,
        states=initial_vectors(system, metrics, how.seed.key, _PILOT_CHAINS, 1, first),
        steps_per_batch=shortest,
        records=no_records(_PILOT_CHAINS, 1, metrics.size),
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

    longest = max(int(_LONGEST_SPACING * system.steps_per_epoch), 64)
    candidates = [shortest * 2**doublings for doublings in range(64) if shortest * 2**doublings <= longest]
    return min(candidates, key=time_to_variance), pilot_steps


def known_exponents(system: System) -> ExactExponents | None:
    """Return exponents that take no simulation, of a system that does not fall into blocks."""
    exact = system.exact_exponents()
    if exact is not None and isinstance(system, LinearizedSGD) and system.law.is_full:
        return exact._replace(exponents=np.array([gd_exponent(system)]))
    total = system.sum_of_exponents if exact is None and system.dimension == 1 else math.nan
    if not math.isnan(total):
        error = 4 * float(np.finfo(float).eps) * abs(total) if math.isfinite(total) else 0.0
        return ExactExponents(np.array([total]), "steps are numbers", error)
    return exact


def closed_form(system: System, how: How, known: ExactExponents) -> LyapunovExponent:
    """Return the exponent that is known: in one dimension, the mean of the logarithms of the steps' sizes."""
    exponent = float(known.exponents[0])
    rounding = known.error if math.isfinite(exponent) else 0.0
    return LyapunovExponent(
        exponent=exponent,
        standard_error=rounding,
        effective_sample_size=math.inf,
        sign=0 if abs(exponent) <= 2 * rounding else int(math.copysign(1, exponent)),
        gap=math.inf,
        mixed=True,
        bias_allowance=0.0,
        **closed_form_attributes(system, how.seed),
    )
