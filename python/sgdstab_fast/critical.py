"""Critical learning rates: how large a learning rate may be.

In mean square and for full batches they have closed forms. The almost-sure one is the first zero of lambda(eta). It
lies between bounds that need no simulation,

    max(eta_ms, 2 / max_i K_ii)  <=  eta_as  <=  the first eta with (1/N) sum_i log abs(1 - eta K_ii) = 0,

since lambda <= Lambda(2) / 2, since no step grows while eta K_ii <= 2, and since lambda is at least the mean of all
exponents. Where all K_ii are equal both are 2 / K_ii: steps there are reflections, and lambda is 0. Otherwise panels of
16 learning rates, which share their streams, close in on the zero: between neighbours its error is that of lambda over
the slope, and the next panel, with streams of its own, spans what is left. The error bar is that of the last one alone.

Where K falls into blocks, lambda is the largest of theirs, and the first zero the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._native import FloatArray
from sgdstab_fast.components import components
from sgdstab_fast.exponent import leading, shared_between
from sgdstab_fast.gradient_descent import extreme_eigenvalues
from sgdstab_fast.mean_square import MeanSquareFamily
from sgdstab_fast.metrics import LARGEST_DIMENSION
from sgdstab_fast.one_block import BLOCK_STREAMS, How
from sgdstab_fast.panels import (
    N_LANES,
    Anchors,
    Zero,
    anchors_for,
    chains_for,
    combined_growth,
    estimate_at,
    estimates,
    first_zero,
    joined,
    kernel_for,
)
from sgdstab_fast.results import CriticalLearningRate, provenance, warn
from sgdstab_fast.rounds import Budget, Chains, ProgressOption, Run, run
from sgdstab_fast.statistics import Estimate
from sgdstab_fast.streams import seed_from
from sgdstab_fast.systems import LinearizedSGD, system_of

_CRITERIA = ("gd", "mean-square", "almost-sure")
_EXACT = 1e-12  # relative distance of bounds that are the same
_FINE = 8  # standard errors between neighbours at which a panel has done its work
_SURE = 4.0  # standard errors
_FIRST_SHARE, _MORE = 1 / 64, 8  # of what is left of the budget, for a panel; by how much more after one that failed
_NARROWER = 0.75  # at the most, what a panel must leave of the range
_MUCH_NARROWER, _NARROW = 0.5, 0.04  # what takes new anchors, and what does not, however much narrower it gets
_PANEL_STREAMS = 2**24  # between those of panels
_SCAN = 1.01  # ratio of learning rates tried for the upper bound


def critical_learning_rate(
    gram: Any,
    criterion: str | float = "almost-sure",
    batch_size: int = 1,
    *,
    rtol: float = 2e-5,
    atol: float = 0.0,
    max_steps: int = 200_000_000,
    n_chains: int = 32,
    rng: Any = None,
    n_threads: int | None = None,
    progress: ProgressOption = None,
    executor: Executor | None = None,
) -> CriticalLearningRate:
    """Find the largest learning rate at which a minimum is stable.

    Parameters
    ----------
    gram : array_like, shape (N, N), or LinearizedSGD
        Neural-tangent Gram matrix K; see `LinearizedSGD`. Of a system, its K.
    criterion : {"almost-sure", "mean-square", "gd"} or float, optional
        In what sense: ``"almost-sure"``, the first zero of lambda; ``"mean-square"``, where Lambda(2) = 0, in closed
        form; ``"gd"``, for full batches, 2 N over the largest eigenvalue of K; or a number p, where Lambda(p) = 0. Only
        p = 2, the mean square, works so far.
    batch_size : int, optional
        Examples per step. Only 1 works so far.
    rtol, atol : float, optional
        For the standard error of the almost-sure one: relative to the learning rate, and absolute.
    max_steps : int, optional
        Steps of all streams together.
    n_chains : int, optional
        Independent streams.
    rng, n_threads, progress, executor
        As for `lyapunov_exponent`.

    Returns
    -------
    CriticalLearningRate
        The value, its interval, and d lambda / d eta there. Infinite for K = 0, where nothing moves.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.
    NotImplementedError
        For orders p other than 2 and batch sizes other than 1.

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
    """
    criterion = _criterion(criterion)
    budget = Budget.validated(rtol, atol, max_steps)
    how = How(
        method="anchored",
        budget=budget,
        n_chains=validation.integer(n_chains, "n_chains", high=2**31),
        seed=seed_from(rng),
        n_threads=validation.thread_count(n_threads),
        progress=progress,
        executor=executor,
    )
    budget.steps_per_chain(how.n_chains)
    if not isinstance(gram, LinearizedSGD):
        gram, _ = validation.gram_matrix(gram)
        if not gram.any():
            made_of = provenance(how.seed, "closed form", f"zero-{gram.shape[0]}x{gram.shape[0]}")
            return _known(criterion, math.inf, "K is zero: nothing moves", made_of)
        system = system_of(gram, 1 / float(gram.diagonal().max()), batch_size)
    else:
        system = system_of(gram, gram.learning_rate, batch_size)
    made_of = provenance(how.seed, "closed form", system.fingerprint)
    if criterion == "gd":
        threshold = 2 * system.n_examples / extreme_eigenvalues(system)[1]
        return _known(criterion, threshold, "2 N over the largest eigenvalue of K", made_of)
    if criterion != "almost-sure":
        thresholds = [_mean_square_threshold(system.part(block)) for block in components(system)]
        return _known(criterion, min(thresholds), "2 over the largest eigenvalue of T", made_of)
    return _almost_sure(system, how)


def _criterion(criterion: Any) -> str | float:
    if isinstance(criterion, str):
        return validation.choice(criterion, "criterion", _CRITERIA)
    try:
        order = validation.real_number(criterion, "criterion")
    except TypeError:
        raise TypeError(
            f"criterion must be one of {', '.join(map(repr, _CRITERIA))} or a number, not {criterion!r}"
        ) from None
    if order != 2:
        raise NotImplementedError(f"criterion={criterion!r} is not implemented yet: of the moments, only 2 is")
    return order


def _known(criterion: str | float, value: float, reason: str, made_of: dict[str, Any]) -> CriticalLearningRate:
    return CriticalLearningRate(
        value=value,
        standard_error=0.0,
        criterion=criterion,
        bounds=(value, value),
        derivative=math.nan,
        derivative_standard_error=math.nan,
        reason=reason,
        degrees_of_freedom=2**31,
        n_steps=0,
        n_chains=0,
        converged=True,
        stopped_by="closed form",
        provenance=made_of,
    )


def _mean_square_threshold(system: LinearizedSGD) -> float:
    if system.dimension == 1:
        return 2 * float(system.diagonal.sum() / (system.diagonal**2).sum())
    return MeanSquareFamily(system).threshold()[0]


def _almost_sure(system: LinearizedSGD, how: How) -> CriticalLearningRate:
    parts = [system.part(block) for block in components(system)]
    families = [MeanSquareFamily(part) if 1 < part.dimension <= LARGEST_DIMENSION else None for part in parts]
    bounds = [_bounds(part, family) for part, family in zip(parts, families, strict=True)]
    highest = min(high for _, high in bounds)
    found: list[CriticalLearningRate] = []
    open_ones = [
        index
        for index, (low, high) in enumerate(bounds)
        if low < min(high * (1 - _EXACT), highest) and parts[index].dimension > 1
    ]
    its = shared_between(how, len(open_ones))
    for index, (part, (low, high)) in enumerate(zip(parts, bounds, strict=True)):
        if index in open_ones:
            found.append(_search(part, families[index], low, high, its, index))
        elif high == highest:
            made_of = provenance(how.seed, "closed form", system.fingerprint)
            reason = "lambda is a mean of logarithms" if part.dimension == 1 else "all steps are reflections there"
            found.append(_known("almost-sure", high, reason, made_of))
    index, error = leading(-np.array([each.value for each in found]), np.array([each.standard_error for each in found]))
    first = found[index]
    share = parts[0].n_examples / system.n_examples if len(parts) == 1 else 1.0
    result = replace(
        first,
        standard_error=error,
        bounds=(min(low for low, _ in bounds), highest),
        derivative=share * first.derivative,
        n_steps=sum(each.n_steps for each in found),
        converged=all(each.converged for each in found),
        provenance={**first.provenance, "system": system.fingerprint},
    )
    if how.budget.has_tolerance and not result.converged:
        warn(
            f"max_steps={how.budget.max_steps} ended the search at {result.value:.6g} +- {result.standard_error:.1g}, "
            f"short of rtol={how.budget.rtol:g} and atol={how.budget.atol:g}"
        )
    return result


def _bounds(system: LinearizedSGD, family: MeanSquareFamily | None) -> tuple[float, float]:
    """Return learning rates between which lambda has its first zero."""
    diagonal = system.diagonal
    low = 2 / float(diagonal.max())
    if diagonal.max() == diagonal.min():
        return low, low  # reflections
    if system.dimension == 1:
        low = max(low, _mean_square_threshold(system))
    elif family is not None:
        threshold, error = family.threshold()
        low = max(low, threshold - 2 * error)

    def mean_of_exponents(learning_rate: float) -> float:
        return float(np.log(np.maximum(np.abs(1 - learning_rate * diagonal), np.finfo(float).tiny)).mean())

    before, after = low, low
    for after in _tried(low, diagonal, every_maximum=system.dimension == 1):
        if mean_of_exponents(after) > 0:
            break
        before = after
    while before < (middle := (before + after) / 2) < after:
        before, after = (before, middle) if mean_of_exponents(middle) > 0 else (middle, after)
    return low, after


def _tried(low: float, diagonal: FloatArray, *, every_maximum: bool) -> Iterator[float]:
    """Yield increasing learning rates, from low on, until the mean of all exponents is surely positive.

    Between its singularities 1 / K_ii it is concave: with `every_maximum`, the largest of each interval is among them.
    """
    high = 2 / float(diagonal[diagonal > 0].min()) * _SCAN  # beyond which no step shrinks
    # Examples without a gradient stay as they are.
    peaks: list[float] = []
    if every_maximum:
        from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

        active = diagonal[diagonal > 0]
        singular = np.unique(np.concatenate([[low], 1 / active[1 / active > low]]))
        for left, right in pairwise(singular):
            found = minimize_scalar(
                lambda eta: -np.log(np.abs(1 - eta * active)).sum(), bounds=(left, right), method="bounded"
            )
            peaks.append(float(found.x))
    n_tried = math.ceil(math.log(high / low) / math.log(_SCAN)) + 1
    yield from np.sort(np.concatenate([np.geomspace(low, high, max(n_tried, 2)), peaks])).tolist()


def _search(
    system: LinearizedSGD, family: MeanSquareFamily | None, low: float, high: float, how: How, block: int
) -> CriticalLearningRate:
    """Close in on the first zero of lambda between learning rates, in panels that span less and less."""
    bounds, budget = (low, high), how.budget
    n_steps = panel = 0
    share, bend = _FIRST_SHARE, math.inf
    anchors, anchored_width = anchors_for(system, family, np.linspace(low, high, N_LANES)), high - low
    while True:
        rates = np.linspace(low, high, N_LANES)
        spacing = float(rates[1] - rates[0])
        if high - low < _MUCH_NARROWER * anchored_width and anchored_width > _NARROW * low:
            anchors, anchored_width = anchors_for(system, family, rates), high - low
        tolerance = max(budget.rtol * low, budget.atol)
        left = budget.max_steps - n_steps
        # The parabola is off by less than its distance from the line, which goes with the square of the spacing.
        last = bend * spacing**2 <= tolerance / 2 or share >= 1 or left < _FIRST_SHARE * budget.max_steps
        its = replace(budget, max_steps=left)
        if not last:
            its = replace(budget, rtol=0.0, atol=max(tolerance, spacing / _FINE), max_steps=math.ceil(share * left))
        its = replace(its, max_steps=max(its.max_steps, how.n_chains))
        first_chain = block * BLOCK_STREAMS + panel * _PANEL_STREAMS
        done, found = _run_panel(system, rates, anchors, replace(how, budget=its), first_chain)
        zero, n_steps, panel = found.zero, n_steps + done.chains.n_steps, panel + 1
        bend = zero.bend / spacing**2
        out_of_steps = budget.max_steps - n_steps < how.n_chains
        if out_of_steps or (last and (zero.bend <= tolerance or done.stopped_by == "max_steps")):
            break
        if found.above - found.below <= _NARROWER * (high - low):
            low, high = found.below, found.above
        else:
            share *= _MORE  # not to be resolved with so few steps
    value = zero.value
    slope, slope_error = _slope(done.chains, anchors, rates, value)
    return CriticalLearningRate(
        value=min(max(value, bounds[0]), bounds[1]) if math.isfinite(value) else value,
        standard_error=math.hypot(zero.standard_error, zero.bend),
        criterion="almost-sure",
        bounds=bounds,
        derivative=slope,
        derivative_standard_error=slope_error,
        reason="first zero of lambda",
        degrees_of_freedom=done.estimate.degrees_of_freedom,
        n_steps=n_steps,
        n_chains=how.n_chains,
        converged=last and done.stopped_by != "max_steps" and zero.bend <= tolerance,
        stopped_by=done.stopped_by if last else "max_steps",
        provenance=provenance(how.seed, "anchored", system.fingerprint),
    )


@dataclass(frozen=True)
class _Found:
    """What a panel says about the first zero of lambda."""

    zero: Zero
    below: float
    """The highest learning rate before it at which lambda is surely negative, or the lowest of all."""
    above: float
    """The lowest after it at which lambda is surely positive, or the highest of all."""
    nearest: Estimate
    """Of lambda, at the learning rate next to it."""

    @property
    def estimate(self) -> Estimate:
        """The zero as an estimate, for a run to stop by."""
        mean, error = np.array([self.zero.value]), np.array([self.zero.standard_error])
        return replace(self.nearest, mean=mean, standard_error=error)


def _run_panel(
    system: LinearizedSGD, rates: FloatArray, anchors: Anchors, how: How, first_chain: int
) -> tuple[Run, _Found]:
    chains = chains_for(system, rates, anchors, how, first_chain)
    kernel = kernel_for(system, rates, anchors)
    done = run(
        chains,
        replace(kernel, arguments={**kernel.arguments, "spacing": chains.spacing}),
        lambda some: _find_zero(rates, some, anchors).estimate,
        how.budget,
        companion_kernel=kernel_for(system, rates, None),
        n_threads=how.n_threads,
        progress=how.progress,
        executor=how.executor,
        label="critical learning rate",
    )
    return done, _find_zero(rates, done.chains, anchors)


def _find_zero(rates: FloatArray, chains: Chains, anchors: Anchors) -> _Found:
    """Look for the first zero of lambda, from the lowest learning rate up to where lambda is surely positive."""
    each: list[Estimate] = []
    for index in range(rates.size):
        each.append(estimate_at(chains, anchors, index))
        if index > 1 and each[-1].mean[0] > _SURE * each[-1].standard_error[0]:
            break
    every, seen = joined(each), rates[: len(each)]
    zero = first_zero(seen, every.mean, every.standard_error, extrapolate=True)
    surely_negative = seen[(every.mean < -_SURE * every.standard_error) & (seen < zero.value)]
    surely_positive = seen[(every.mean > _SURE * every.standard_error) & (seen > zero.value)]
    return _Found(
        zero=zero,
        below=float(max(surely_negative, default=rates[0])),
        above=float(min(surely_positive, default=rates[-1])),
        nearest=each[int(np.argmin(np.abs(seen - zero.value)))] if math.isfinite(zero.value) else each[0],
    )


def _slope(chains: Chains, anchors: Anchors, rates: FloatArray, value: float) -> tuple[float, float]:
    """Return d lambda / d eta, with its standard error: the slope of the parabola of least squares."""
    found = estimates(chains, anchors, rates.size)
    if not all(np.isfinite(each.mean[0]) for each in found) or not math.isfinite(value):
        return math.nan, math.nan
    means = np.array([combined_growth(chains, anchors, i, each).mean(axis=1) for i, each in enumerate(found)])
    scale = float(rates[-1] - rates[0])
    x = (rates - value) / scale
    slopes = np.linalg.pinv(np.array([np.ones_like(x), x, x**2]).T)[1] @ means / scale
    error = float(slopes.std(ddof=1)) / math.sqrt(slopes.size) if slopes.size > 1 else math.inf
    return float(slopes.mean()), error
