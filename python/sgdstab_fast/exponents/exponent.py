"""The almost-sure Lyapunov exponent lambda of SGD, by simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import seed_of
from sgdstab_fast.exact.mean_square import has_mean_square, mean_square_exponent
from sgdstab_fast.results.results import LyapunovExponent, MeanSquareExponent
from sgdstab_fast.simulation.parts import Block, blocks_of, leading, shared_between
from sgdstab_fast.simulation.run import Budget, ProgressOption
from sgdstab_fast.simulation.vectors import How, closed_form, known_exponents, simulate
from sgdstab_fast.systems.growth import LARGEST_DIMENSION
from sgdstab_fast.systems.sgd import LinearizedSGD, require_system
from sgdstab_fast.systems.system import System

METHODS = ("anchored", "average")
_ROUNDING = 1e-14  # of bounds


def lyapunov_exponent(
    system: System,
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

    Near lambda = 0 no relative tolerance can be met: give an `atol` or a `sign_confidence` there. With none of the
    three it runs the whole budget.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
    method : {"anchored", "average"}, optional
        ``"average"`` averages the log growth along the chains instead, without metrics: for comparison, and for a quick
        look at matrices of several thousand examples. It is what is done for random reshuffling in any case.
    rtol, atol : float, optional
        Tolerances for the standard error: relative to lambda, and absolute in nats per step.
    sign_confidence : float, optional
        With which the sign of lambda is to be known, such as 0.99; by default the sign stops nothing.
    max_steps : int, optional
        Steps of all chains together, rounded to whole batches.
    n_chains : int, optional
        Independent chains.
    rng : optional
        Whatever ``numpy.random.default_rng`` takes. The same seed gives the same bits at the same SIMD level and with
        the same BLAS and number of its threads, whatever `n_threads` or the executor.
    n_threads : int, optional
        Threads; all available processors by default.
    progress : bool or callable, optional
        True for a progress bar on standard error, or what to call with a `Progress`.
    executor : concurrent.futures.Executor, optional
        Where to run work items instead of threads.
    resume : LyapunovExponent, optional
        An earlier result for the same system, to go on from; `max_steps` then counts its steps in, and `method`,
        `n_chains`, `rng`, the spacing and the batches are its own. It ends with the bits of an uncut run if the latter
        would have chosen the same spacing and batches, which small first budgets do not.

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
        If no tolerance was met within `max_steps`, or the chains had not left their start-up or were not seen to mix
        and the standard error, which allows for it, is not small all the same (1% of lambda, or `rtol` if larger).

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
    system: System,
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
    validation.choice(method, "method", METHODS)
    how = How.validated(method, budget, n_chains, rng, n_threads, progress, executor)
    if resume is not None and not isinstance(resume, LyapunovExponent):
        raise TypeError(f"resume must be a LyapunovExponent, not {type(resume).__name__}")
    if isinstance(system, LinearizedSGD) and system.law.is_full and not system.is_plain:
        return simulate(system, how, resume, mean_square, 0)
    blocks = blocks_of(system)
    if len(blocks) == 1 and blocks[0].share == 1:
        return simulate(system, how, resume, mean_square, 0)
    return _of_blocks(system, blocks, how, resume)


def _of_blocks(system: System, blocks: Sequence[Block], how: How, resume: LyapunovExponent | None) -> LyapunovExponent:
    """Return the largest of the exponents of blocks of K that do not feel each other.

    An exponent lies between the mean of the block's exponents and Lambda(2)/2: blocks that cannot be the largest are
    left out.
    """
    if resume is not None and resume.provenance["system"] != system.fingerprint:
        raise ValueError(f"resume must come from this system, {system.fingerprint}, not {resume.provenance['system']}")
    known = resume.parts if resume is not None else {}
    if resume is not None:
        how = replace(how, seed=seed_of(resume.provenance))
    results: dict[int, LyapunovExponent] = {}
    bounds: dict[int, float] = {}
    mean_squares: dict[int, MeanSquareExponent] = {}
    least = -math.inf
    for index, part, share in ((block.index, block.system, block.share) for block in blocks):
        least = float(np.fmax(least, share * part.sum_of_exponents / part.dimension))
        exact = known_exponents(part)
        if exact is not None:
            results[index] = _scaled(closed_form(part, how, exact), share, system)
            continue
        bounds[index] = math.inf
        if part.dimension <= LARGEST_DIMENSION and has_mean_square(part):
            found = mean_squares[index] = mean_square_exponent(part)
            if found.converged:
                bounds[index] = share * (found.exponent + 2 * found.error) / 2 + _ROUNDING
    contenders = [index for index in sorted(bounds, key=lambda index: -bounds[index]) if bounds[index] >= least]
    its = shared_between(how, len(contenders))
    for index in contenders:
        if bounds[index] < least:
            continue
        share = blocks[index].share
        its_own = replace(its, budget=replace(its.budget, atol=its.budget.atol / share))
        result = simulate(blocks[index].system, its_own, known.get(index), mean_squares.get(index), index)
        results[index] = _scaled(result, share, system)
        least = max(least, results[index].exponent - 6 * results[index].standard_error)
    return _largest(results, system)


def _scaled(result: LyapunovExponent, share: float, system: System) -> LyapunovExponent:
    """Return a block's result in steps of the whole system."""
    return replace(
        result,
        exponent=share * result.exponent,
        standard_error=share * result.standard_error,
        gap=share * result.gap,
        bias_allowance=share * result.bias_allowance,
        time_share=share,
        steps_per_epoch=system.steps_per_epoch,
    )


def _largest(results: dict[int, LyapunovExponent], system: System) -> LyapunovExponent:
    """Combine blocks."""
    each = list(results.values())
    index, error = leading(
        np.array([result.exponent for result in each]), np.array([result.standard_error for result in each])
    )
    simulated = {index: result for index, result in results.items() if result.chains is not None}
    # The estimate is exact only if all of it is.
    last = max(simulated.values(), key=lambda result: (not result.converged, result.exponent), default=each[index])
    return replace(
        each[index],
        stopped_by=last.stopped_by,
        standard_error=error,
        n_steps=sum(result.n_steps for result in each),
        converged=all(result.converged for result in each),
        mixed=all(result.mixed for result in each),
        sign=_sign([result.sign for result in each]),
        provenance={**each[index].provenance, "system": system.fingerprint},
        parts=simulated,
    )


def _sign(signs: list[int]) -> int:
    return 1 if 1 in signs else 0 if 0 in signs else -1
