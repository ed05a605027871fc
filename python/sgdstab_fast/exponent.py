"""The top Lyapunov exponent, of full-batch gradient descent (exactly) and of SGD (by simulation)."""

from __future__ import annotations

import math
import warnings
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.results import AccuracyWarning, LyapunovExponent, provenance
from sgdstab_fast.rounds import Budget, Chains, ProgressOption, Run, overflow_safe_steps, run
from sgdstab_fast.streams import initial_states, seed_from
from sgdstab_fast.systems import LinearizedSGD

_STEPS_PER_BATCH = 512
_MAX_BATCHES = 4096  # a chain; longer budgets get longer batches
_MOST_BETWEEN_NORMALISATIONS = 256
# Fewer examples than this, some of them with abs(1 - eta K_ii) below that: a few steps may shrink a whole vector as
# much.
_FEW_EXAMPLES, _NEARLY_SINGULAR = 32, 1e-2


def gd_exponent(gram: Any, learning_rate: float) -> float:
    """Return the exponent of full-batch gradient descent, mu = max_j log abs(1 - eta kappa_j / N).

    Parameters
    ----------
    gram : array_like, shape (N, N), or LinearizedSGD
        Neural-tangent Gram matrix K with non-zero eigenvalues kappa_j; see `LinearizedSGD`. Of a system, its K.
    learning_rate : float
        Step size eta > 0.

    Returns
    -------
    float
        mu in nats per step; below 0, gradient descent can converge to the minimum. -inf if one step annihilates
        every displacement.

    Raises
    ------
    ValueError, TypeError
        As `LinearizedSGD` does.

    References
    ----------
    Chemnitz & Engel 2025, equation 2.18.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> round(sf.gd_exponent([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3), 12)
    -0.07796154147
    """
    system = gram if isinstance(gram, LinearizedSGD) else LinearizedSGD(gram, learning_rate)
    learning_rate = validation.positive_number(learning_rate, "learning_rate")
    x = learning_rate / system.n_examples * system.gram_eigenvalues()
    # The convex abs(1 - x) is largest at an end of the spectrum.
    ends = np.array([x[0], x[-1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(ends < 0.5, np.log1p(-ends), np.log(np.abs(1 - ends)))
    return float(logs.max())


def lyapunov_exponent(
    system: LinearizedSGD,
    *,
    rtol: float = 1e-2,
    atol: float = 0.0,
    max_steps: int = 100_000_000,
    n_chains: int = 64,
    rng: Any = None,
    n_threads: int | None = None,
    progress: ProgressOption = None,
    executor: Executor | None = None,
    resume: LyapunovExponent | None = None,
) -> LyapunovExponent:
    """Estimate the almost-sure Lyapunov exponent lambda of a system, with an error bar.

    Averages log growth along many independent chains, start-up removed; `sgdstab_fast.statistics` has the details.
    Stops at the first look at which the standard error is at most ``rtol * abs(lambda)`` or at most ``atol``, or
    after ``max_steps``. With ``rtol=0`` and ``atol=0`` it runs the whole budget.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does.
    rtol, atol : float, optional
        Tolerances for the standard error: relative to lambda, and absolute in nats per step. Near lambda = 0 only
        `atol` can be met.
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
        An earlier result for the same system, to go on from; `max_steps` then counts its steps in, and `n_chains`,
        `rng` and the batches are its own (first budgets of less than 8192 steps a chain make smaller batches).

    Returns
    -------
    LyapunovExponent
        Nats per step. -inf, with no error, if every displacement is annihilated.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    Warns
    -----
    AccuracyWarning
        If no tolerance was met within `max_steps`, or the chains had not left their start-up.

    References
    ----------
    Chemnitz & Engel 2025, equations 2.12 and 2.19.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> result = sf.lyapunov_exponent(system, rtol=1e-3, rng=1)
    >>> low, high = result.confidence_interval(0.999)
    >>> low < -0.1364810610335894 < high  # known exactly for this system
    True
    """
    require_system(system)
    budget = Budget.validated(rtol, atol, max_steps)
    n_threads = validation.thread_count(n_threads)
    if resume is None:
        n_chains = validation.integer(n_chains, "n_chains", high=2**31)
        most = budget.steps_per_chain(n_chains)
        seed = seed_from(rng)
        run_provenance = provenance(seed, "average", system.fingerprint)
        chains = Chains(
            key=seed.key,
            states=initial_states(seed.key, n_chains, 1, system.slow_directions(1))[:, :, 0],
            steps_per_batch=min(max(_STEPS_PER_BATCH, most // _MAX_BATCHES), max(1, most // 16)),
            records=(np.empty((n_chains, 0)),),
        )
    else:
        chains, run_provenance = resumed(resume, LyapunovExponent, system, (system.dimension,))
    arguments: dict[str, Any] = {
        "rows": system.rows,
        "coordinates": system.coordinates,
        "learning_rate": system.learning_rate,
        "renormalise_every": min(overflow_safe_steps(system.log_determinants), _MOST_BETWEEN_NORMALISATIONS),
    }
    nearly_singular = float(system.log_determinants.min()) < math.log(_NEARLY_SINGULAR)
    arguments["careful"] = system.n_examples < _FEW_EXAMPLES and nearly_singular
    done = run(
        chains,
        "advance_vectors",
        arguments,
        budget,
        seconds_per_step=1e-8 + 1.3e-10 * system.dimension,  # measured, on one thread
        n_threads=n_threads,
        progress=progress,
        executor=executor,
    )
    warn_of_trouble(budget, done)
    estimate = done.estimate
    return LyapunovExponent(
        exponent=float(estimate.mean[0]),
        standard_error=float(estimate.standard_error[0]),
        effective_sample_size=float(estimate.effective_sample_size[0]),
        **common_attributes(done, system, run_provenance),
    )


def require_system(system: Any) -> None:
    """Refuse what is not a system."""
    if not isinstance(system, LinearizedSGD):
        raise TypeError(f"system must be a LinearizedSGD, not {type(system).__name__}")


def resumed(result: Any, kind: type, system: LinearizedSGD, shape: tuple[int, ...]) -> tuple[Chains, Any]:
    """Return the chains and the provenance of an earlier result, if it is of the right kind and shape."""
    if not isinstance(result, kind):
        raise TypeError(f"resume must be a {kind.__name__}, not {type(result).__name__}")
    chains: Chains = result.chains  # type: ignore[attr-defined]
    known = result.provenance["system"]  # type: ignore[attr-defined]
    if chains.states.shape[1:] != shape or known != system.fingerprint:
        raise ValueError(
            f"resume must come from this system, {system.fingerprint} with states of shape {shape}, not from {known} "
            f"with {chains.states.shape[1:]}"
        )
    return replace(chains, states=chains.states.copy()), result.provenance  # type: ignore[attr-defined]


def warn_of_trouble(budget: Budget, done: Run) -> None:
    """Warn, once for each, of what the result's attributes flag."""
    if np.isnan(done.estimate.mean).any():
        warnings.warn("the run overflowed: an exponent is unknown", AccuracyWarning, stacklevel=3)
    if done.estimate.drifts:
        warnings.warn(
            "the chains had not left their start-up when the run ended: raise max_steps", AccuracyWarning, stacklevel=3
        )
    if budget.has_tolerance and budget.met(done.size, done.error) is None:
        warnings.warn(
            f"max_steps={budget.max_steps} ended the run at {done.size:.3g} +- {done.error:.1g} in magnitude, "
            f"above rtol={budget.rtol:g} and atol={budget.atol:g}",
            AccuracyWarning,
            stacklevel=3,
        )


def common_attributes(done: Run, system: LinearizedSGD, run_provenance: Any) -> dict[str, Any]:
    """Return what every simulated estimate says about how it came about."""
    chains, estimate = done.chains, done.estimate
    return {
        "degrees_of_freedom": estimate.degrees_of_freedom,
        "n_steps": chains.n_steps,
        "n_chains": chains.n_chains,
        "steps_per_batch": chains.steps_per_batch,
        "start_up_steps": estimate.start_up * chains.steps_per_batch,
        "chain_disagreement": estimate.chain_disagreement,
        "converged": done.stopped_by != "max_steps",
        "stopped_by": done.stopped_by,
        "drifts": estimate.drifts,
        "steps_per_epoch": system.n_examples / system.batch_size,
        "provenance": run_provenance,
        "chains": chains,
    }
