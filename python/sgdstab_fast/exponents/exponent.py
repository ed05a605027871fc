"""The almost-sure Lyapunov exponent lambda of SGD, by simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.seeds import seed_of
from sgdstab_fast._core.streams import INFLUENCES, first_of_block
from sgdstab_fast.exact.bounds import bounds_of
from sgdstab_fast.exact.exponents import known_exponents
from sgdstab_fast.exact.mean_square import MeanSquareExponent, mean_square_exponent
from sgdstab_fast.exponents.logarithms import IN_LOGARITHMS, DiagonalRuns, chains_and_task, diagonal_runs, task_of
from sgdstab_fast.exponents.pilots import Plan, grown
from sgdstab_fast.exponents.rare import RareOutcomes, warn_of_rare
from sgdstab_fast.exponents.results import LyapunovExponent
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.provenance import origin, provenance
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.results.warnings import collected, warn
from sgdstab_fast.simulation.keywords import RunKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.looks import FIRST_LOOK
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.outcome import (
    closed_form_attributes,
    common_attributes,
    require_own,
    resumed,
    warn_of_trouble,
)
from sgdstab_fast.simulation.run import Run, known_sign, run
from sgdstab_fast.simulation.starts import n_twins_of, starts
from sgdstab_fast.simulation.vectors import (
    companions_task,
    estimate,
    estimate_with_own_growth,
    vectors_task,
)
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.largest import leading
from sgdstab_fast.systems.growth import LARGEST_DIMENSION, Growth, GrowthChoice
from sgdstab_fast.systems.system import ExactExponents, Part, System, require_system

METHODS = ("anchored", "average")
_STEPS_PER_BATCH, _LEAST_PER_BATCH = 512, 64  # of averages; of anchored growth, where evaluations are close
_FIRST_BATCHES = 16  # that the smallest budgets are cut into
_FEWEST_STEPS = 32  # of a chain, fewer of which are all at its start
_ROUNDING = 1e-14  # of bounds


@run_options(rtol=1e-2, max_steps=100_000_000, n_chains=64, goes_on_from="LyapunovExponent")
def lyapunov_exponent(
    system: System,
    *,
    method: str = "anchored",
    sign_confidence: float | None = None,
    **keywords: Unpack[RunKeywords],
) -> LyapunovExponent:
    """Estimate the almost-sure Lyapunov exponent lambda of a system, with an error bar.

    Runs many independent chains and averages, every so many steps, the exact mean log growth of all N possible next
    steps in several metrics, among them those in which mean squared growth is constant: that has far less variance than
    the growth along the chains. Chains start nearly stationary; some
    of them have twins that take the same steps from elsewhere, and what twins gain on them bounds what they owe to
    their starts. What has not been seen in the steps taken is in the error as well.

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
        look at matrices of several thousand examples. It is what is done for random reshuffling in any case, and where
        it is there first by a model of what steps and evaluations cost, as for a rough look at an ensemble of many
        matrices: `provenance` says which it was. Diagonal matrices that others interrupt rarely are followed in
        ``"logarithms"`` in any case, where a run of them at once counts as a step.
    sign_confidence : float, optional
        With which the sign of lambda is to be known, such as 0.99; by default the sign stops nothing.
    resume : path or LyapunovExponent, optional
        A checkpoint, or an earlier result for the same system, interrupted or not, itself or in a file, to go on from;
        `max_steps` then counts its steps in, and `method`, `n_chains`, `rng`, the spacing and the batches are its own.
        It ends with the bits of an uncut run if the latter would have chosen the same spacing and batches, which small
        first budgets do not.
    **keywords
        When it stops, and its chains: see `RunKeywords`.

    Returns
    -------
    LyapunovExponent
        Nats per step. -inf, with no error, if every displacement is annihilated. Of a K that falls into blocks, and of
        matrices that are block-triangular in some basis, the largest of the blocks' exponents; of blocks of rank one it
        is known exactly.

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
    require_system(system)
    validation.choice(method, "method", METHODS)
    options = options_of(lyapunov_exponent, keywords, method=method, sign_confidence=sign_confidence)
    resume: LyapunovExponent | None = options.recorder.earlier
    if resume is not None:
        require_own(resume, LyapunovExponent, system)
        options = replace(options, seed=seed_of(resume.provenance))
    return estimate_exponent(system, options, resume)


def estimate_exponent(
    system: System,
    options: Options,
    resume: LyapunovExponent | None = None,
    mean_square: MeanSquareExponent | None = None,
    growth: Growth | None = None,
) -> LyapunovExponent:
    """Do what `lyapunov_exponent` says; `mean_square` is the system's, if known, and `growth` what to measure it in."""
    parts = [] if system.is_full else system.parts()
    if system.is_full or parts[0].system is system:
        return _simulated(system, options, resume, mean_square, 0, growth)
    return _of_parts(system, parts, options, resume)


def _of_parts(
    system: System, parts: Sequence[Part[System]], options: Options, resume: LyapunovExponent | None
) -> LyapunovExponent:
    """Return the largest of the exponents of blocks: of K, or the diagonal ones of matrices.

    An exponent lies between the mean of the block's exponents and Lambda(2)/2: blocks that cannot be the largest are
    left out.
    """
    known = resume.parts if resume is not None else {}
    if resume is not None:
        options = replace(options, seed=seed_of(resume.provenance))
    results: dict[int, LyapunovExponent] = {}
    bounds: dict[int, float] = {}
    mean_squares: dict[int, MeanSquareExponent] = {}
    messages: dict[int, list[str]] = {}
    least = -math.inf
    for index, part, share in ((part.index, part.system, part.share) for part in parts):
        least = float(np.fmax(least, share * part.sum_of_exponents / part.dimension))
        exact = known_exponents(part)
        if exact is not None:
            results[index] = _scaled(closed_form(part, options, exact), share, system)
            continue
        bounds[index] = math.inf
        if part.dimension <= LARGEST_DIMENSION and part.has_mean_square:
            found = mean_squares[index] = mean_square_exponent(part)
            bounds[index] = share * found.upper_bound / 2 + _ROUNDING
    missing = -math.inf  # of an interrupted run, what blocks that it did not come to are not above
    contenders = [index for index in sorted(bounds, key=lambda index: -bounds[index]) if bounds[index] >= least]
    its = options.for_parts(len(contenders))
    for index in contenders:
        if bounds[index] < least:
            continue
        if options.is_cut:
            missing = max(missing, bounds[index])
            continue
        share = parts[index].share
        # Of the largest, and so of no more than a lower bound of it if that is positive.
        its_own = its.within(atol=max(its.budget.atol, its.budget.rtol * max(least, 0.0)) / share)
        try:
            with collected() as messages[index]:
                result = _simulated(parts[index].system, its_own, known.get(index), mean_squares.get(index), index)
        except Stopped:
            missing = max(missing, bounds[index])
            continue
        results[index] = _scaled(result, share, system)
        least = max(least, results[index].exponent - 6 * results[index].standard_error)
    short = sorted(
        (index for index in messages if messages[index] and index in results),
        key=lambda index: -results[index].exponent,
    )
    for message in messages[short[0]] if short else []:
        others = f", and so with {len(short) - 1} more" if len(short) > 1 else ""
        warn(f"block {short[0] + 1} of {len(parts)}, in its own steps{others}: {message}")
    if missing > -math.inf and not results:
        raise Stopped
    return _with_missing(_largest(results, system), missing)


def _with_missing(found: LyapunovExponent, missing: float) -> LyapunovExponent:
    """Return the largest exponent, with an error that allows for blocks that an interrupted run did not come to."""
    if missing == -math.inf:
        return found
    error = math.hypot(found.standard_error, max(missing - found.exponent, 0.0))
    return replace(found, standard_error=error, converged=False, stopped_by=INTERRUPTED, sign=0)


def _scaled(result: LyapunovExponent, share: float, system: System) -> LyapunovExponent:
    """Return a block's result in steps of the whole system."""
    return replace(
        result,
        exponent=share * result.exponent,
        bounds=(share * result.bounds[0], share * result.bounds[1]),
        standard_error=share * result.standard_error,
        gap=share * result.gap,
        bias_allowance=share * result.bias_allowance,
        rare_allowance=share * result.rare_allowance,
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
    last = max(
        simulated.values(),
        key=lambda result: (result.stopped_by == INTERRUPTED, not result.converged, result.exponent),
        default=each[index],
    )
    return replace(
        each[index],
        bounds=(max(result.bounds[0] for result in each), max(result.bounds[1] for result in each)),
        stopped_by=last.stopped_by,
        standard_error=error,
        n_steps=sum(result.n_steps for result in each),
        converged=all(result.converged for result in each),
        mixed=all(result.mixed for result in each),
        sign=_sign([result.sign for result in each]),
        provenance={**each[index].provenance, **origin(system)},
        parts=simulated,
    )


def _sign(signs: list[int]) -> int:
    return 1 if 1 in signs else 0 if 0 in signs else -1


def _simulated(
    system: System,
    options: Options,
    resume: LyapunovExponent | None,
    mean_square: MeanSquareExponent | None,
    block: int,
    known_growth: Growth | None = None,
) -> LyapunovExponent:
    """Estimate lambda of a system whose K does not fall into blocks."""
    system = system.in_own_units() if known_growth is None else system
    known = known_exponents(system)
    if known is not None:
        return closed_form(system, options, known)
    runs = diagonal_runs(system)
    if runs is not None:
        return _in_logarithms(system, runs, options, resume, mean_square, block)
    if resume is not None and resume.chains is not None:
        anchored = resume.provenance["method"] == "anchored"
    else:
        anchored = options.method == "anchored"
    anchored = anchored and system.dimension > 1
    first_chain = first_of_block(block)
    left = options.recorder.run_from(options.seed.key, first_chain) if resume is None else resume.chains
    choices = [GrowthChoice("", lambda: system.no_growth)]
    if anchored:
        choices = system.growth_choices(mean_square)
        if known_growth is not None:
            choices = [GrowthChoice(choices[-1].metric, lambda: known_growth)]
    if left is None:
        choice, growth, plan = grown(system, options, choices, first_chain)
    else:
        # Older files know of no choice.
        only = GrowthChoice(left.metric, lambda: system.growth(mean_square) if anchored else system.no_growth)
        choice = next((each for each in choices if each.metric == left.metric), only)
        growth, plan = choice.make(), Plan(1 if left.records.growth.shape[2] > 0 else None)
    low, high = bounds_of(system, mean_square)
    bounds = low, min(high, growth.upper_bound)
    averages = anchored and growth.size > 0 and plan.spacing is None
    if averages:
        growth = replace(system.no_growth, covariance=growth.covariance, closer_bound=growth.closer_bound)
    task = vectors_task(system, growth)
    if resume is None:
        options.budget.steps_per_chain(options.n_chains)
        run_provenance = provenance(options.seed, "anchored" if growth.size > 0 else "average", system)
        chains_of = _anchored_chains if anchored and not averages else _averaged_chains
        chains = chains_of(system, options, growth, plan, first_chain) if left is None else left
        chains = replace(chains, metric=choice.metric)
    else:
        chains, run_provenance = resumed(resume, LyapunovExponent, system, (1, system.dimension))
    task = replace(
        task.with_options(spacing=chains.spacing),
        seconds_per_step=task.seconds_per_step + growth.seconds_per_step(chains.spacing),
    )
    how = estimate_with_own_growth if system.counts_own_growth else estimate

    def bounded(chains: Chains[VectorRecords]) -> Estimate:
        found, closer = how(chains, bounds[1]), growth.closer_bound
        # If the first look was not enough, and what is uncertain is what chains owe to their starts.
        if closer is None or chains.n_first_batches <= FIRST_LOOK or found.mixed:
            return found
        # Once steps have taken as long as the bound will: at worst, twice as long as with the better of the two.
        is_due = chains.n_steps * task.seconds_per_step >= closer.seconds
        if not is_due or options.budget.met(np.abs(found.mean), found.standard_error).all():
            return found
        return how(chains, min(bounds[1], closer.value()))

    with_rare = RareOutcomes(system, options, bounded, first_chain + INFLUENCES.start)
    done = run(
        chains,
        task,
        lambda chains: _if_long_enough(chains, with_rare(chains)),
        options,
        companion_task=companions_task(system, task),
    )
    warn_of_trouble(options.budget, done)
    warn_of_rare(done, options.budget)
    return _described(system, options, done, run_provenance, bounds)


def _if_long_enough(chains: Chains[VectorRecords], found: Estimate) -> Estimate:
    """Return an estimate, of infinite error if chains are too short to have forgotten anything."""
    if chains.n_batches * chains.steps_per_batch >= _FEWEST_STEPS:
        return found
    return replace(found, standard_error=np.full_like(found.standard_error, np.inf), mixed=False)


def _in_logarithms(
    system: System,
    runs: DiagonalRuns,
    options: Options,
    resume: LyapunovExponent | None,
    mean_square: MeanSquareExponent | None,
    block: int,
) -> LyapunovExponent:
    """Estimate lambda of diagonal matrices that others interrupt so rarely that numbers do not hold what they leave."""
    if resume is None or resume.chains is None:
        chains, task = chains_and_task(runs, options, first_of_block(block))
        run_provenance = provenance(options.seed, IN_LOGARITHMS, system)
    else:
        chains, run_provenance = resumed(resume, LyapunovExponent, system, resume.chains.states.shape[1:])
        task = task_of(runs)
    done = run(chains, task, estimate, options, companion_task=task)
    warn_of_trouble(options.budget, done)
    return _described(system, options, done, run_provenance, bounds_of(system, mean_square))


def _described(
    system: System,
    options: Options,
    done: Run[VectorRecords],
    run_provenance: Mapping[str, Any],
    bounds: tuple[float, float],
) -> LyapunovExponent:
    """Return the result of a run."""
    found = done.estimate
    return LyapunovExponent(
        exponent=float(np.clip(found.mean[0], *bounds)),
        bounds=bounds,
        standard_error=float(found.standard_error[0]),
        effective_sample_size=float(found.effective_sample_size[0]),
        sign=known_sign(done, options.budget.sign_confidence) if options.budget.sign_confidence is not None else 0,
        gap=found.gap,
        mixed=found.mixed,
        bias_allowance=found.bias_allowance or 0.0,
        rare_allowance=found.rare.allowance if found.rare is not None else 0.0,
        own_growth=system.counts_own_growth,
        **common_attributes(done, system, run_provenance),
    )


def _steps_of_first_batches(options: Options, plan: Plan) -> int:
    """Return the most steps of a batch of which chains and their twins have enough for a look."""
    most = (options.budget.max_steps - plan.n_steps) // (options.n_chains + n_twins_of(options))
    return max(1, most // _FIRST_BATCHES)


def _averaged_chains(
    system: System, options: Options, growth: Growth, plan: Plan, first_chain: int
) -> Chains[VectorRecords]:
    steps_per_batch = system.whole_epochs(min(_STEPS_PER_BATCH, _steps_of_first_batches(options, plan)))
    return replace(_chains(system, options, growth, steps_per_batch, first_chain), pilot_steps=plan.n_steps)


def _anchored_chains(
    system: System, options: Options, growth: Growth, plan: Plan, first_chain: int
) -> Chains[VectorRecords]:
    spacing = plan.spacing or max(1, int(system.steps_per_epoch))
    longest = _steps_of_first_batches(options, plan)
    spacing = min(spacing, longest)
    if growth.size == 0:
        spacing = system.whole_epochs(spacing)
    steps_per_batch = spacing * max(1, min(_LEAST_PER_BATCH, longest) // spacing)
    chains = _chains(system, options, growth, steps_per_batch, first_chain, spacing)
    return replace(chains, pilot_steps=plan.n_steps)


def _chains(
    system: System,
    options: Options,
    growth: Growth,
    steps_per_batch: int,
    first_chain: int,
    spacing: int = 1,
) -> Chains[VectorRecords]:
    """Return chains, and the twins of the first of them, which carry a second vector besides."""
    begin = starts(system, growth.covariance, options.seed.key, options.n_chains, first_chain)
    own = Chains(
        key=options.seed.key,
        states=begin.chains,
        steps_per_batch=steps_per_batch,
        records=VectorRecords.empty(options.n_chains, 1, growth.size),
        first_chain=first_chain,
        spacing=spacing,
        n_examples=growth.n_steps,
        rounding=system.rounding,
        cancellation=growth.cancellation,
        start=begin.slow[0] if growth.covariance is None else None,
    )
    if (n_twins := n_twins_of(options)) == 0:
        return own
    return own.with_twins(begin.twins(n_twins), VectorRecords.empty(n_twins, 2, growth.size))


def closed_form(system: System, options: Options, known: ExactExponents) -> LyapunovExponent:
    """Return the exponent that is known: in one dimension, the mean of the logarithms of the steps' sizes."""
    exponent = float(known.exponents[0])
    rounding = known.error if math.isfinite(exponent) else 0.0
    return LyapunovExponent(
        exponent=exponent,
        bounds=(exponent - 2 * rounding, exponent + 2 * rounding),
        standard_error=rounding,
        effective_sample_size=math.inf,
        sign=0 if abs(exponent) <= 2 * rounding else int(math.copysign(1, exponent)),
        gap=math.inf,
        mixed=True,
        bias_allowance=0.0,
        **closed_form_attributes(system, options.seed),
    )
