"""The Lyapunov spectrum: the k largest exponents, by frames with periodic orthonormalisation.

V_n = A_n .. A_1 V_0 = Q_n R_n .. R_1, and exponent j is the mean of log (R_n)_jj per step (Benettin et al. 1980). Steps
are taken in blocks by matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.seeds import Seed, seed_of
from sgdstab_fast._core.streams import FRAME_INFLUENCES
from sgdstab_fast.exact.exponents import known_exponents
from sgdstab_fast.exponents.exponent import METHODS, estimate_exponent
from sgdstab_fast.exponents.frames import (
    LEAST_PER_BATCH,
    columns_of,
    first_frames,
    frames_task,
    in_coordinates_of_frames,
    orthonormalised_every,
)
from sgdstab_fast.exponents.rare import RareOutcomesOfFrames, warn_of_rare
from sgdstab_fast.exponents.results import LyapunovSpectrum
from sgdstab_fast.exponents.volumes import spectrum_in_logarithms
from sgdstab_fast.results.chains import Chains, FrameRecords
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.printed import with_error
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.results.warnings import collected, warn
from sgdstab_fast.simulation.keywords import ChainKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.simulation.outcome import (
    closed_form_attributes,
    common_attributes,
    require_own,
    resumed,
)
from sgdstab_fast.simulation.run import Run, run
from sgdstab_fast.simulation.starts import spread_of_frames
from sgdstab_fast.simulation.task import Task
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.frames import KnownVolume, frame_means
from sgdstab_fast.systems.system import ExactExponents, System, require_system

# Vectors that check the largest exponent: chains, a share of steps, up to a dimension, standard errors that count.
_CHECK, _CHECK_CHAINS, _CHECK_SHARE, _LARGEST_CHECK, _SURELY = 4, 64, 4, 512, 4.0
_SUM_RULE = 1e-6  # an error, relative to the sum, to warn about


@run_options(n_chains=8, most_chains=2**20, goes_on_from="LyapunovSpectrum")
def lyapunov_spectrum(
    system: System,
    k: int | None = None,
    *,
    method: str = "anchored",
    rtol: float = 1e-2,
    atol: float = 0.0,
    tolerance_for: int | Sequence[int] | None = None,
    max_steps: int | None = None,
    **keywords: Unpack[ChainKeywords],
) -> LyapunovSpectrum:
    """Estimate the k largest Lyapunov exponents, with error bars.

    Columns of the frames start from slow directions, are put in the order in which they are seen to grow, and two more
    than asked for show what may come before the last. Error bars allow for frames that have not settled: for columns
    that are not seen to keep their places within a chain (`statistics.frames`). Exponents that are nearly equal part
    only as n^-1/2; sums over groups of them are known better than single ones. `lyapunov_exponent` handles the top one.

    Stops at the first look at which every exponent asked for has a standard error of at most ``rtol`` times its own
    magnitude or, where it is near 0, the distance to its nearer neighbour; or of at most ``atol``; or after
    ``max_steps``.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
    k : int, optional
        How many exponents, 1 to ``system.dimension``; all by default. A few leading ones take far less time than all.
    method : {"anchored", "average"}, optional
        Whether to use anchored growth for the leading 32 of k exponents, up to a dimension of 512, of SGD on single
        examples. It sharpens the top one as it does for `lyapunov_exponent`, others by little to an order of magnitude.
    rtol, atol : float, optional
        Tolerances for the standard errors: relative to each exponent, as above, and absolute in nats per step.
    tolerance_for : int or sequence of int, optional
        Which exponents are to meet a tolerance: the leading so many, or those with these indices, from 0 on; all k by
        default. The error bars of the others are what they are then.
    max_steps : int, optional
        Steps of all chains together, rounded to whole batches; by default 2e11 / (k * dimension) but at most 5e7,
        a minute or so, and at least 2000 * N.
    n_chains : int, optional
        Independent chains of one frame each.
    resume : path or LyapunovSpectrum, optional
        A checkpoint, or an earlier result for the same system, to go on from, as for `lyapunov_exponent`.
    **keywords
        Where they run: see `ChainKeywords`.

    Returns
    -------
    LyapunovSpectrum
        Nats per step, largest first. Exact, without steps, where all products are powers of one matrix: full batches,
        and one order for ever as long as rounding allows. Exponents of directions that singular steps (eta K_ii = 1)
        destroy are -inf.

    Warns
    -----
    AccuracyWarning
        If no tolerance was met within `max_steps`, columns were still out of order, or the sum rule is violated.

    References
    ----------
    Chemnitz & Engel 2025, theorem 2.1; G. Benettin, L. Galgani, A. Giorgilli and J.-M. Strelcyn, Meccanica 15, 1980.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> spectrum = sf.lyapunov_spectrum(system, rtol=1e-3, rng=1)
    >>> spectrum.exponents.round(2).tolist()
    [-0.14, -0.56]
    >>> spectrum.sum_rule_error < 1e-12
    True
    """
    require_system(system)
    k = validation.integer(system.dimension if k is None else k, "k", high=system.dimension)
    if max_steps is None:
        max_steps = max(min(int(2e11 / (k * system.dimension)), 50_000_000), int(2000 * system.steps_per_epoch))
    validation.choice(method, "method", METHODS)
    asked = _asked(tolerance_for, k)
    options = options_of(lyapunov_spectrum, keywords, method=method, rtol=rtol, atol=atol, max_steps=max_steps)
    resume: LyapunovSpectrum | None = options.recorder.earlier
    if resume is not None:
        require_own(resume, LyapunovSpectrum, system)
        if resume.exponents.size != k:
            raise ValueError(f"resume must have {k} exponents, not {resume.exponents.size}")
        options = replace(options, seed=seed_of(resume.provenance))
    system = system.balanced()
    known = _exact(system, method) if resume is None or resume.chains is None else None
    if known is not None and known.exponents.size >= k:
        return _known(system, k, known, options.seed)
    if resume is None or resume.chains is None:
        in_logarithms = spectrum_in_logarithms(system, k, options, asked)
        if in_logarithms is not None:
            return in_logarithms
    method = method if resume is None else str(resume.provenance["method"])
    columns = columns_of(system, k)
    if resume is None:
        run_provenance = provenance(options.seed, method, system)
        system, chains, period = first_frames(system, k, options, anchored=method == "anchored")
    else:
        chains, run_provenance = resumed(resume, LyapunovSpectrum, system, (system.dimension, columns))
        period = resume.period
        system = in_coordinates_of_frames(system, columns, period)
    estimate = RareOutcomesOfFrames(
        system, options, lambda chains: _estimate(chains, asked, system), FRAME_INFLUENCES.start
    )
    task = orthonormalised_every(period, system, frames_task(system, k, anchored=method == "anchored"), columns)

    def make_known(so_far: Run[FrameRecords]) -> None:
        with collected():  # what it falls short of is said at the end
            options.make_known(_result(system, replace(so_far, stopped_by=INTERRUPTED), period, run_provenance))

    done, n_steps = _confirmed(system, chains, task, estimate, options, make_known)
    _warn(options.budget, done)
    warn_of_rare(done, options.budget)
    return replace(_result(system, done, period, run_provenance), n_steps=n_steps)


def _exact(system: System, method: str) -> ExactExponents | None:
    """Return exponents that need no simulation, as far as they are known."""
    if system.dimension == 1:
        return known_exponents(system)
    return None if method == "average" else system.exact_exponents()


def _known(system: System, k: int, known: ExactExponents, seed: Seed) -> LyapunovSpectrum:
    """Return exponents that need no simulation, those of products that are powers of one matrix."""
    exponents, complete = known.exponents[:k], k == system.dimension
    with np.errstate(over="ignore"):
        errors = known.error * np.exp(np.minimum(exponents[0] - exponents, 40)) if np.isfinite(exponents[0]) else 0.0
    total = float(exponents.sum()) if complete else None
    return LyapunovSpectrum(
        exponents=exponents,
        standard_errors=np.where(np.isfinite(exponents), errors, 0.0),
        effective_sample_size=np.full(k, math.inf),
        period=0,
        sum_of_exponents=total,
        sum_rule_error=0.0 if complete else None,
        **closed_form_attributes(system, seed),
    )


def _result(system: System, done: Run[FrameRecords], period: int, run_provenance: Any) -> LyapunovSpectrum:
    """Return the exponents, largest first, and whether all of them together are what determinants make them."""
    estimate, of_each = done.estimate, done.estimate.of_exponents
    assert of_each is not None
    complete = estimate.mean.size == system.dimension
    sum_rule_error = _sum_rule_error(done, system.sum_of_exponents) if complete else None
    if sum_rule_error is not None and not sum_rule_holds(sum_rule_error, estimate.mean):
        done = replace(done, stopped_by=done.stopped_by if done.stopped_by == INTERRUPTED else "max_steps")
        warn(f"the sum rule is off by {sum_rule_error:.1e} per step: rounding has spoilt the lowest exponents")
    order = np.argsort(-estimate.mean, kind="stable")
    attributes = common_attributes(done, system, run_provenance)
    attributes["degrees_of_freedom"] = of_each.degrees_of_freedom[order]
    return LyapunovSpectrum(
        exponents=estimate.mean[order],
        standard_errors=estimate.standard_error[order],
        effective_sample_size=estimate.effective_sample_size[order],
        period=period,
        sum_of_exponents=system.sum_of_exponents if complete else None,
        sum_rule_error=sum_rule_error,
        **attributes,
    )


def sum_rule_holds(error: float, exponents: FloatArray) -> bool:
    """Return whether all exponents together are what determinants make them, but for rounding that does not matter."""
    return error <= _SUM_RULE * max(1.0, float(np.abs(exponents[np.isfinite(exponents)]).sum()))


def _asked(tolerance_for: Any, k: int) -> NDArray[np.bool_]:
    """Return which of k exponents are to meet a tolerance."""
    if tolerance_for is None:
        return np.ones(k, bool)
    asked = np.zeros(k, bool)
    if np.ndim(tolerance_for) == 0:
        asked[: validation.integer(tolerance_for, "tolerance_for", high=k)] = True
    else:
        for index in tolerance_for:
            asked[validation.integer(index, "tolerance_for", low=0, high=k - 1)] = True
    if not asked.any():
        raise ValueError("tolerance_for must name an exponent")
    return asked


def _estimate(chains: Chains[FrameRecords], asked: NDArray[np.bool_], system: System) -> Estimate:
    records = chains.records
    spread = spread_of_frames(chains.start, chains.states) if records.growth.shape[2] == 0 else None
    total, volume = system.sum_of_exponents, None
    if np.isfinite(total) and np.isfinite(records.log_determinants).all():
        volume = KnownVolume(records.log_determinants, total, asked.size == system.dimension)
    estimate = frame_means(
        records.log_growth,
        records.growth,
        chains.steps_per_batch,
        asked.size,
        starts_last=system.slow_directions_last,
        spread=spread,
        volume=volume,
    )
    scales = np.full(asked.size, math.nan) if estimate.scales is None else estimate.scales
    return replace(estimate, scales=np.where(asked, scales, math.inf))


def _confirmed(
    system: System,
    chains: Chains[FrameRecords],
    task: Task[FrameRecords],
    estimate: Callable[[Chains[FrameRecords]], Estimate],
    options: Options,
    make_known: Callable[[Run[FrameRecords]], None],
) -> tuple[Run[FrameRecords], int]:
    """Run until tolerances are met, and the largest exponent is what chains of vectors from elsewhere make it.

    With the steps of all of this; a share of the budget is kept for vectors.

    Beyond the edge in mean square, rare bursts of fast directions may carry lambda, and frames that start from slow
    ones do not know of them for long. Vectors start in the dominant second moment, where they are. What those have
    found more, error bars allow for where the budget ends. A run that was cut goes on after the checks that it had come
    to.
    """
    most, number, before, missed = options.budget.max_steps, 0, 0, 0.0
    while (known := options.recorder.get(options.asked(f"check {number}"))) is not None:
        (before, missed), number = known, number + 1

    def further(chains: Chains[FrameRecords], n_steps: int) -> Run[FrameRecords]:
        """Go to four times so many steps, if there may be more, and from there on until tolerances are met."""
        it = run(chains, task, estimate, options.within(min(4 * n_steps, most), rtol=0.0, atol=0.0))
        return it if it.chains.n_steps == n_steps else run(it.chains, task, estimate, options)

    if number > 0:
        done = further(chains, before)
    else:
        done = run(chains, task, estimate, options.within(most - most // (1 + _CHECK_SHARE)))
    if done.stopped_by == INTERRUPTED:
        return (_allowing_for(missed, done, options.budget) if missed > 0 else done), done.chains.n_steps
    make_known(done)
    if number == 0 and done.stopped_by == "max_steps":  # chains that are resumed go on as if they had not been checked
        try:
            charged, difference, error = _checked(system, done, options)
        except Stopped:
            return replace(done, stopped_by=INTERRUPTED), done.chains.n_steps
        missed, n_steps = difference if difference > _SURELY * error else 0.0, charged.chains.n_steps
        if _is_one_sample_each(done):  # how far such chains are off all together, they do not show
            missed = max(difference - error, 0.0)
        return (_allowing_for(missed, done, options.budget) if missed > 0 else done), n_steps
    while done.converged:
        try:
            done, difference, error = _checked(system, done, options)
        except Stopped:
            return replace(done, stopped_by=INTERRUPTED), done.chains.n_steps
        if difference <= _SURELY * error:
            return done, done.chains.n_steps
        missed, before = difference, done.chains.n_steps
        options.recorder.keep(done.chains)
        options.recorder.put(options.asked(f"check {number}"), (before, missed))
        number, done = number + 1, further(done.chains, before)
    return (_allowing_for(missed, done, options.budget) if missed > 0 else done), done.chains.n_steps


def _checked(system: System, done: Run[FrameRecords], options: Options) -> tuple[Run[FrameRecords], float, float]:
    """Return the run, with the steps of this, by how much faster vectors grow, and what chance makes of that."""
    spent = done.chains.n_steps
    n_steps = min(spent // _CHECK_SHARE, options.budget.max_steps - spent)
    if (
        system.dimension > _LARGEST_CHECK
        or n_steps < _CHECK_CHAINS * LEAST_PER_BATCH
        or not system.slow_directions_last
    ):
        return done, 0.0, 0.0
    with collected():
        found = estimate_exponent(
            system, replace(options.child(_CHECK).within(n_steps), n_chains=_CHECK_CHAINS, progress=None)
        )
    if found.stopped_by == INTERRUPTED:
        raise Stopped
    chance = math.sqrt(max(found.standard_error**2 - found.bias_allowance**2, 0.0))
    best = int(np.argmax(done.estimate.mean))
    difference = found.exponent - float(done.estimate.mean[best])
    error = math.hypot(chance, float(done.estimate.standard_error[best]))
    charged = replace(done.chains, pilot_steps=done.chains.pilot_steps + found.n_steps)
    return replace(done, chains=charged), difference, error


def _is_one_sample_each(done: Run[FrameRecords]) -> bool:
    """Say whether chains are too short, of the largest exponent, to be more than one independent sample each."""
    estimate = done.estimate
    assert estimate.of_exponents is not None
    degrees_of_freedom = estimate.of_exponents.degrees_of_freedom[np.argmax(estimate.mean)]
    return bool(degrees_of_freedom < done.chains.n_chains)


def _allowing_for(missed: float, done: Run[FrameRecords], budget: Budget) -> Run[FrameRecords]:
    """Return the run with error bars that allow for a direction that comes before all others."""
    estimate = done.estimate
    assert estimate.of_exponents is not None
    wider = replace(
        estimate,
        standard_error=np.hypot(estimate.standard_error, missed),
        of_exponents=estimate.of_exponents._replace(
            bias_allowance=np.hypot(estimate.of_exponents.bias_allowance, missed)
        ),
    )
    done = replace(done, estimate=wider)
    if done.stopped_by == INTERRUPTED or budget.met(done.sizes, wider.standard_error).all():
        return done
    return replace(done, stopped_by="max_steps")


def _warn(budget: Budget, done: Run[FrameRecords]) -> None:
    """Warn of what the run falls short of, and say what to do."""
    estimate = done.estimate
    mean, error = estimate.mean, estimate.standard_error
    if np.isnan(mean).any():
        warn("the run overflowed: an exponent is unknown")
    if budget.has_tolerance and done.stopped_by == "max_steps":
        short = np.flatnonzero(~budget.met(done.sizes, error))
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = short[np.argmax(error[short] / done.sizes[short])]
        asked, place = int(np.isfinite(done.sizes).sum()), 1 + int((mean > mean[worst]).sum())
        allowance = estimate.of_exponents.bias_allowance[worst] if estimate.of_exponents is not None else 0.0
        why = ", most of it for what frames that have not settled may cost" if allowance > error[worst] / 2 else ""
        freedom = estimate.degrees_of_freedom
        if estimate.of_exponents is not None:
            freedom = int(estimate.of_exponents.degrees_of_freedom[worst])
        known = with_error(mean[worst], error[worst], freedom)
        warn(
            f"max_steps={budget.max_steps} ended the run with {short.size} of {asked} exponents short of "
            f"{budget.wanted}, number {place} at {known}{why}: raise max_steps, "
            "or ask for less (k, tolerance_for, rtol or atol)"
        )
    elif not estimate.mixed:
        warn("columns of the frames are still out of order: error bars allow for it, more steps would turn them")


def _sum_rule_error(done: Run[FrameRecords], sum_of_exponents: float) -> float | None:
    """Return the largest difference per step of sum_j log R_jj and sum log abs det A_i, over chains; None if unknown.

    The initial frame's own volume is in the first batch, which therefore does not count. What a pass gets wrong about
    the volume the next one corrects, so the difference is that of the whole path.
    """
    records = done.chains.records
    log_growth, log_determinant = records.log_growth[:, 1:], records.log_determinants[:, 1:]
    mean = done.estimate.mean
    if np.isnan(mean).any():
        return math.nan
    if np.isneginf(mean).any() or np.isneginf(sum_of_exponents):
        return None if np.isneginf(mean).any() and np.isneginf(sum_of_exponents) else math.inf
    if log_growth.size == 0:
        return None
    error = np.abs((log_growth.sum(axis=2) - log_determinant).sum(axis=1)).max()
    return float(error / (log_determinant.shape[1] * done.chains.steps_per_batch))
