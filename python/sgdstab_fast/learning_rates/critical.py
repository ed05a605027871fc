"""Critical learning rates: how large a learning rate may be.

In mean square and for full batches they have closed forms; other moments are in `learning_rates.critical_moment`. The
almost-sure one is the first zero of lambda(eta), which lies between bounds that need no simulation
(`exact.zeros`). Where they do not agree, panels of 16 learning rates, which share their streams, close in on
it: between neighbours its error is that of lambda over the slope, and the next panel, with streams of its own, spans
what is left. The error bar is that of the last one alone. K with slow directions, of which panels see next to nothing,
is for `learning_rates.slow_directions`.

Where K falls into blocks, lambda is the largest of theirs, and the first zero the smallest. All this is for steps on
single examples without momentum; of others lambda is read off at one learning rate at a time (`learning_rates.zeros`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.curves.zeros import AGREEING
from sgdstab_fast.exact.full_batches import gd_threshold
from sgdstab_fast.exact.mean_square_family import MeanSquareFamily
from sgdstab_fast.exact.zeros import bounds_of_zero, exact_zero, mean_square_zero
from sgdstab_fast.learning_rates.critical_moment import critical_moment
from sgdstab_fast.learning_rates.panel_zeros import Panel, panel_of
from sgdstab_fast.learning_rates.panels import (
    N_LANES,
    anchors_for,
    family_of,
)
from sgdstab_fast.learning_rates.readings import search_by_readings
from sgdstab_fast.learning_rates.results import CriticalLearningRate, known_rate, rate_between, warn_if_short
from sgdstab_fast.learning_rates.slow_directions import has_slow_directions, search_with_slow_directions
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import after, listening, reporter
from sgdstab_fast.results.provenance import origin, provenance
from sgdstab_fast.results.result import INTERRUPTED, SHORT
from sgdstab_fast.simulation.keywords import ChainKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.statistics.largest import leading
from sgdstab_fast.systems.from_gram import of_any_rate, steps_of
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import Part

_RTOL, _RTOL_OF_SEARCH = 2e-5, 1e-3
_MAX_STEPS, _OF_SLOW_DIRECTIONS = 200_000_000, 10_000_000_000
_CRITERIA = ("gd", "mean-square", "almost-sure")
_FINE = 8  # standard errors between neighbours at which a panel has done its work
_LEAST_CHAINS = 8  # fewer do not know their error bar well enough to stop by it
_SURE = 4.0  # standard errors
_FIRST_SHARE, _MORE = 1 / 64, 8  # of what is left of the budget, for a panel; by how much more after one that failed
_NARROWER = 0.75  # at the most, what a panel must leave of the range
_MUCH_NARROWER, _NARROW = 0.5, 0.04  # what takes new anchors, and what does not, however much narrower it gets


class _Zero(NamedTuple):
    """The system of K = 0, in which nothing moves."""

    fingerprint: str = "zero"
    setting: Mapping[str, Any] = MappingProxyType({})


@run_options(n_chains=32, least_chains=_LEAST_CHAINS)
def critical_learning_rate(
    gram: Any,
    criterion: str | float = "almost-sure",
    batch_size: int | None = None,
    *,
    sampling: str | None = None,
    groups: Any = None,
    probabilities: Any = None,
    step_scaling: str | None = None,
    scale: float | None = None,
    momentum: float | None = None,
    nesterov: bool | None = None,
    slow_cutoff: float | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_steps: int | None = None,
    start: CriticalLearningRate | None = None,
    **keywords: Unpack[ChainKeywords],
) -> CriticalLearningRate:
    """Find the largest learning rate at which a minimum is stable.

    Parameters
    ----------
    gram : array_like, shape (N, N), or LinearizedSGD
        Neural-tangent Gram matrix K; see `LinearizedSGD`. Of a system, its K, batches and momentum.
    criterion : {"almost-sure", "mean-square", "gd"} or float, optional
        In what sense: ``"almost-sure"``, the first zero of lambda; ``"mean-square"``, where Lambda(2) = 0, in closed
        form for independent batches, and for those of epochs that are few; ``"gd"``, for full batches, without momentum
        2 N over the largest eigenvalue of K; or a number p other than 0, where Lambda(p) = 0.
    batch_size, sampling, momentum, nesterov
        As for `LinearizedSGD`; by default those of the system, if gram is one.
    groups, probabilities, step_scaling, scale
        As for `LinearizedSGD`; not with a system, which has its own.
    slow_cutoff : float, optional
        Leave directions out whose eigenvalue is below slow_cutoff times the largest: the critical rate is then that of
        the fast ones, which is higher. By default that of the system, or 0: almost-sure rates are those of all
        directions, extrapolated to them where the slowest decay too slowly to be seen.
    rtol, atol : float, optional
        For the standard error of what is simulated: relative to the learning rate, and absolute. By default rtol is
        2e-5 for SGD on single examples, and 1e-3 where K has slow directions (eta kappa_min < 0.01) and for other
        systems, whose steps are not shared by learning rates.
    max_steps : int, optional
        Steps of all streams together; by default 2e8, and 1e10 for almost-sure rates where K has slow directions.
    start : CriticalLearningRate, optional
        The almost-sure rate of a K much like this one with the same batches and optimiser, as from point to point of a
        training run. Batches are looked at where it was, relative to what bounds it from below. Of K with slow
        directions one zero is found anew, and how far the rate is below that is taken over with its error, as long as
        the tolerance allows: errors then go together. Single examples without slow directions do without.
    n_chains : int, optional
        Independent streams, at least 8.
    **keywords
        Where they run: see `ChainKeywords`.

    Returns
    -------
    CriticalLearningRate
        The value, its interval, and d lambda / d eta there. Infinite for K = 0, where nothing moves.

    Warns
    -----
    AccuracyWarning
        If the tolerance was not met within `max_steps`.

    References
    ----------
    Chemnitz & Engel 2025, section 2; R. Mulayoff and T. Michaeli, "Exact Mean Square Linear Stability Analysis for
    SGD", arXiv 2306.07850, theorem 3.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    >>> round(sf.critical_learning_rate(gram, "mean-square").value, 12)
    0.420521611225
    >>> low, high = sf.critical_learning_rate(gram, rtol=1e-3, rng=1).confidence_interval(0.999)
    >>> low < 0.427 < high
    True
    >>> round(sf.critical_learning_rate(gram, "mean-square", 2, momentum=0.5).value, 12)
    0.655848135935
    """
    criterion = _criterion(criterion)
    asked = _RTOL if rtol is None else rtol
    most = _MAX_STEPS if max_steps is None else max_steps
    options = options_of(critical_learning_rate, keywords, rtol=asked, atol=atol, max_steps=most)
    options.budget.steps_per_chain(options.n_chains)
    if start is not None and not (isinstance(start, CriticalLearningRate) and start.criterion == "almost-sure"):
        raise TypeError(f"start must be an almost-sure CriticalLearningRate, not {validation.shown(start)}")
    steps = {
        "batch_size": batch_size,
        "sampling": sampling,
        "groups": groups,
        "probabilities": probabilities,
        "step_scaling": step_scaling,
        "scale": scale,
        "momentum": momentum,
        "nesterov": nesterov,
        "slow_cutoff": slow_cutoff,
    }
    system = of_any_rate(gram, **steps)
    if system is None:
        made_of = provenance(options.seed, "closed form", _Zero())
        return known_rate(math.inf, criterion, "K is zero: nothing moves", made_of)
    if start is not None and start.steps != steps_of(system):
        raise ValueError(f"start must be of the same batches and optimiser, {steps_of(system)}, not {start.steps}")
    return critical_rate_of(system, criterion, options, rtol, max_steps, start)


def critical_rate_of(
    system: LinearizedSGD,
    criterion: str | float,
    options: Options,
    rtol: float | None,
    max_steps: int | None,
    start: CriticalLearningRate | None = None,
) -> CriticalLearningRate:
    """Do what `critical_learning_rate` says, whatever learning rate the system has; `rtol`, `max_steps` as given."""
    made_of = provenance(options.seed, "closed form", system)
    if criterion == "gd":
        plain = system.recurrence.is_plain
        reason = "2 N over the largest eigenvalue of K" if plain else "full steps leave the unit circle"
        with listening(options.progress, "critical learning rate"):
            return known_rate(gd_threshold(system), criterion, reason, made_of)
    if not system.is_plain:
        if rtol is None:
            options = options.within(rtol=_RTOL_OF_SEARCH)
        return replace(_of_any_law(system, criterion, options, max_steps, start), steps=steps_of(system))
    if criterion not in ("almost-sure", "mean-square", 2.0):
        return critical_moment(system, float(criterion), options)
    if criterion != "almost-sure":
        with listening(options.progress, "critical learning rate"):
            threshold, error = min(
                MeanSquareFamily(part.system.rows_of_k, part.system.learning_rate).threshold()
                for part in system.parts()
            )
        bounds = threshold - error, threshold + error
        return known_rate(threshold, criterion, "2 over the largest eigenvalue of T", made_of, bounds=bounds)
    return replace(_almost_sure(system, options, rtol, max_steps, start), steps=steps_of(system))


def _of_any_law(
    system: LinearizedSGD,
    criterion: str | float,
    options: Options,
    max_steps: int | None,
    start: CriticalLearningRate | None,
) -> CriticalLearningRate:
    """Return critical learning rates of what is not plain, other than those of full batches."""
    made_of = provenance(options.seed, "closed form", system)
    if (zero := exact_zero(system)) is not None and (system.is_deterministic or criterion == "almost-sure"):
        what = "every step is the same" if system.is_full else "every epoch is the same"
        return known_rate(zero, criterion, what if system.is_deterministic else "lambda is known exactly", made_of)
    if criterion == "almost-sure":
        return _searched(system, options, max_steps, start)
    if criterion in ("mean-square", 2.0):
        with listening(options.progress, "critical learning rate"):
            known = mean_square_zero(system)
        if known is not None:
            value, error = known
            bounds = value - error, value + error
            return known_rate(value, criterion, "zero of Lambda(2)", made_of, bounds=bounds)
    order = 2.0 if criterion == "mean-square" else float(criterion)
    return replace(critical_moment(system, order, options), criterion=criterion)


def _searched(
    system: LinearizedSGD, options: Options, max_steps: int | None, start: CriticalLearningRate | None
) -> CriticalLearningRate:
    """Return the first zero of lambda of what is not plain."""
    bounds, parts = bounds_of_zero(system), system.parts()
    _make_known(bounds, system, options)
    if bounds[0] > 0 and len(parts) == 1 and has_slow_directions(system, bounds[0]):
        options = options.within(_OF_SLOW_DIRECTIONS if max_steps is None else options.budget.max_steps)
        found = search_with_slow_directions(parts[0], bounds, options, start)
    elif bounds[0] > 0 and _settled(bounds, options.budget):
        return _between(bounds, provenance(options.seed, "closed form", system))
    else:
        found = search_by_readings(system, bounds, options, start)
    warn_if_short(found, options.budget)
    return found


def _make_known(bounds: tuple[float, float], system: LinearizedSGD, options: Options) -> None:
    """Say what a search would return that is interrupted before it comes to anything."""
    if math.isfinite(bounds[1]):
        made_of = provenance(options.seed, "anchored", system)
        found = rate_between(bounds, "almost-sure", made_of, options.n_chains)
        options.make_known(replace(found, steps=steps_of(system)))


def _settled(bounds: tuple[float, float], budget: Budget) -> bool:
    """Say whether bounds leave no more than the tolerance."""
    low, high = bounds
    return high - low <= 2 * max(AGREEING * low, budget.rtol * low, budget.atol)


def _between(bounds: tuple[float, float], made_of: Mapping[str, Any]) -> CriticalLearningRate:
    """Return what bounds tell that leave no more than the tolerance."""
    low, high = bounds
    if high <= low * (1 + AGREEING):
        return known_rate(high, "almost-sure", "bounds from below and above agree", made_of)
    reason = "bounds leave no more than the tolerance"
    return known_rate((low + high) / 2, "almost-sure", reason, made_of, error=(high - low) / 2, bounds=bounds)


def _criterion(criterion: Any) -> str | float:
    if isinstance(criterion, str):
        return validation.choice(criterion, "criterion", _CRITERIA)
    try:
        order = validation.real_number(criterion, "criterion")
    except TypeError:
        raise TypeError(
            f"criterion must be one of {', '.join(map(repr, _CRITERIA))} or a number, not {criterion!r}"
        ) from None
    if order == 0 or math.isinf(order):
        raise ValueError(f"criterion must be a finite order other than 0, not {criterion!r}: Lambda(0) is always 0")
    return validation.order(order, "criterion")


def _almost_sure(
    system: LinearizedSGD,
    options: Options,
    rtol: float | None,
    max_steps: int | None,
    start: CriticalLearningRate | None,
) -> CriticalLearningRate:
    """Return the smallest of the first zeros of lambda of the blocks."""
    blocks = system.parts()
    families = [family_of(block.system) for block in blocks]
    bounds = [bounds_of_zero(block.system, family) for block, family in zip(blocks, families, strict=True)]
    lowest, highest = min(low for low, _ in bounds), min(high for _, high in bounds)
    _make_known((lowest, highest), system, options)
    slow = [has_slow_directions(block.system, low) for block, (low, _) in zip(blocks, bounds, strict=True)]
    if any(slow):
        most = _OF_SLOW_DIRECTIONS if max_steps is None else options.budget.max_steps
        options = options.within(most, rtol=_RTOL_OF_SEARCH if rtol is None else rtol)
    found: list[CriticalLearningRate] = []
    to_search = [
        index for index, (low, high) in enumerate(bounds) if low < highest and not _settled((low, high), options.budget)
    ]
    its = options.for_parts(len(to_search))
    with reporter(options.progress, options.budget.max_steps, "critical learning rate") as report:
        for index, (block, (low, high)) in enumerate(zip(blocks, bounds, strict=True)):
            if index in to_search:
                spent = sum(each.n_steps for each in found)
                its_own = replace(its, progress=after(report, spent, options.budget.max_steps))
                if len(blocks) > 1:  # what one of them comes to is no answer
                    its_own = its_own.at(f"block {index}")
                if slow[index]:
                    its_start = start if len(blocks) == 1 else None
                    found.append(search_with_slow_directions(block, (low, high), its_own, its_start))
                else:
                    found.append(_search(block, families[index], low, high, its_own))
            elif high == highest:
                made_of = provenance(options.seed, "closed form", system)
                its_zero = _between((low, high), made_of)
                one = block.system.dimension == 1
                found.append(replace(its_zero, reason="lambda is a mean of logarithms") if one else its_zero)
    index, error = leading(-np.array([each.value for each in found]), np.array([each.standard_error for each in found]))
    result = replace(
        found[index],
        standard_error=error,
        bounds=(lowest, highest),
        n_steps=sum(each.n_steps for each in found),
        converged=all(each.converged for each in found),
        stopped_by=INTERRUPTED if any(each.stopped_by == INTERRUPTED for each in found) else found[index].stopped_by,
        provenance={**found[index].provenance, **origin(system)},
    )
    warn_if_short(result, options.budget)
    return result


def _search(
    block: Part[LinearizedSGD], family: MeanSquareFamily | None, low: float, high: float, options: Options
) -> CriticalLearningRate:
    """Close in on the first zero of a block's lambda between learning rates, in panels that span less and less."""
    system, bounds, budget = block.system, (low, high), options.budget
    n_steps = panel = 0
    share, bend = _FIRST_SHARE, math.inf
    best: Panel | None = None
    anchors, anchored_width = anchors_for(system, family, np.linspace(low, high, N_LANES)), high - low
    while True:
        rates = np.linspace(low, high, N_LANES)
        spacing = float(rates[1] - rates[0])
        if high - low < _MUCH_NARROWER * anchored_width and anchored_width > _NARROW * low:
            anchors, anchored_width = anchors_for(system, family, rates), high - low
        tolerance = max(budget.rtol * low, budget.atol)
        left = budget.max_steps - n_steps
        # What a parabola moves goes with the square of the spacing, relative to it that is.
        last = bend * (spacing / low) ** 2 <= tolerance / 4 or share >= 1 or left < budget.part(_FIRST_SHARE)
        its = replace(budget, max_steps=left)
        if not last:
            its = replace(budget, rtol=0.0, atol=max(tolerance, spacing / _FINE), max_steps=budget.part(share, left))
        its_options = replace(
            options,
            budget=replace(its, max_steps=max(its.max_steps, options.n_chains)),
            progress=after(options.progress, n_steps, budget.max_steps) if callable(options.progress) else None,
        )
        # What a panel learns is not for the next: one that was done before the search was cut is not done again.
        branch = None if family is None else family.branch()
        at = partial(panel_of, block, branch, rates, anchors, panel)
        try:
            found = its_options.once(f"panel {panel} of block {block.index}, {low!r} to {high!r}", at)
        except Stopped:
            if best is None:
                made_of = provenance(options.seed, "anchored", system)
                return rate_between(bounds, "almost-sure", made_of, options.n_chains)
            break
        zero, n_steps, panel = found.zero, n_steps + found.n_steps, panel + 1
        bend = zero.bend / (spacing / low) ** 2
        if best is None or zero.error <= best.zero.error:
            best = found
        options.make_known(_of_panel(best, block, bounds, options, n_steps, converged=False, stopped_by=INTERRUPTED))
        out_of_steps = budget.max_steps - n_steps < options.n_chains
        if out_of_steps or found.stopped_by == INTERRUPTED:
            break
        if last and (zero.bend <= tolerance / 2 or found.stopped_by == "max_steps"):
            break
        if not low <= zero.value <= high:
            low, high = bounds  # an earlier panel was wrong
            share *= _MORE
        elif found.above - found.below <= _NARROWER * (high - low):
            low, high = found.below, found.above
            share = share if share == _FIRST_SHARE else 1.0  # the next one would take as many steps again
        else:
            share *= _MORE  # not to be resolved with so few steps
    # A last panel that did not find it again does not make what an earlier one has found worse.
    assert best is not None
    met = last and not options.is_cut and found.stopped_by not in SHORT and zero.bend <= tolerance / 2
    stopped_by = found.stopped_by if last and not options.is_cut else options.cut_short_by
    return _of_panel(best, block, bounds, options, n_steps, converged=met, stopped_by=stopped_by)


def _of_panel(
    best: Panel,
    block: Part[LinearizedSGD],
    bounds: tuple[float, float],
    options: Options,
    n_steps: int,
    *,
    converged: bool,
    stopped_by: str,
) -> CriticalLearningRate:
    """Return what a panel says."""
    value = best.zero.value
    return CriticalLearningRate(
        value=min(max(value, bounds[0]), bounds[1]) if math.isfinite(value) else value,
        standard_error=best.zero.error,
        criterion="almost-sure",
        bounds=bounds,
        derivative=block.share * best.slope,
        derivative_standard_error=block.share * best.slope_error,
        reason="first zero of lambda",
        degrees_of_freedom=best.degrees_of_freedom,
        n_steps=n_steps,
        n_chains=options.n_chains,
        converged=converged,
        stopped_by=stopped_by,
        provenance=provenance(options.seed, "anchored", block.system),
    )
