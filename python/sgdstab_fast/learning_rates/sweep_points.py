"""Curves of stability maps, point by point: lambda at one learning rate after the other.

Every learning rate has the same streams, so that neighbours have similar errors. Errors of differences between
neighbours are those of independent ones all the same, which they are not above.

A first round tells of what size lambda is, next to a zero that of neighbours; learning rates that miss the tolerance
then share the steps that are left.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.curves.zeros import scales
from sgdstab_fast.exact.full_batches import extreme_eigenvalues, gd_exponent, gd_threshold
from sgdstab_fast.exact.mean_square import mean_square_exponent
from sgdstab_fast.exact.zeros import LARGEST_RANK, exact_zero, mean_square_zero
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.exponents.results import LyapunovExponent
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import after
from sgdstab_fast.results.storage import storable
from sgdstab_fast.results.warnings import collected
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.statistics.means import standard_errors
from sgdstab_fast.systems.sgd import LinearizedSGD

_FIRST_STEPS = 2**20  # of a learning rate
_LEAST_ROUND, _ROUNDS = 64, 4  # steps of a chain that are worth another round, and rounds


@storable
@dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """What a system, or a block of its K, does at every learning rate: arrays of shape (L,)."""

    exponents: FloatArray
    """-inf for a block that cannot have the largest."""
    standard_errors: FloatArray
    degrees_of_freedom: NDArray[np.int64]
    effective_sample_size: FloatArray
    derivatives: FloatArray
    derivative_standard_errors: FloatArray
    mixed: NDArray[np.bool_]
    mean_square: FloatArray
    mean_square_errors: FloatArray
    mean_square_threshold: float
    lowest: FloatArray
    """What lambda is not below,"""
    highest: FloatArray
    """and not above, for certain."""
    bounds: tuple[float, float]
    """Of the first zero of lambda."""
    extreme_eigenvalues: tuple[float, float]
    """The smallest and the largest of K."""
    gd_exponents: FloatArray | None = None
    """mu; None for a block."""
    gd_threshold: float = math.nan
    n_steps: int = 0
    stopped_by: str = "closed form"


def curve_of_points(
    system: LinearizedSGD, rates: FloatArray, make_known: Callable[[Curve], None], options: Options
) -> Curve:
    """Return the curve of any system; of an interrupted one that of the points that it has come to."""
    systems = [system.with_learning_rate(float(rate)) for rate in rates]
    mean_square, mean_square_errors, threshold = _mean_square(system, systems)
    zero, extremes, edge = exact_zero(system), extreme_eigenvalues(system), gd_threshold(system)
    gd = np.array([gd_exponent(each) for each in systems])
    bounds = (0.0, math.inf) if math.isnan(threshold) else (threshold, math.inf)

    def of(found: list[LyapunovExponent]) -> Curve:
        n = len(found)
        lowest, highest = np.array([each.bounds for each in found]).T
        highest = np.fmin(highest, mean_square[:n] / 2 + mean_square_errors[:n])
        exponents = np.minimum([each.exponent for each in found], np.maximum(highest, lowest))
        errors = np.array([each.standard_error for each in found])
        if system.is_full:  # to the last bit
            exponents = gd[:n].copy()
        slopes, slope_errors = derivatives_of(
            rates[:n], [np.array([value]) if math.isfinite(value) else None for value in exponents], errors
        )
        return Curve(
            exponents=exponents,
            standard_errors=errors,
            degrees_of_freedom=np.array([each.degrees_of_freedom for each in found]),
            effective_sample_size=np.array([each.effective_sample_size for each in found]),
            derivatives=slopes,
            derivative_standard_errors=slope_errors,
            mixed=np.array([each.mixed for each in found]),
            mean_square=mean_square[:n],
            mean_square_errors=mean_square_errors[:n],
            mean_square_threshold=threshold,
            lowest=lowest,
            highest=np.maximum(highest, lowest),
            bounds=bounds if zero is None else (zero, zero),
            extreme_eigenvalues=extremes,
            gd_exponents=gd[:n],
            gd_threshold=edge,
            n_steps=sum(each.n_steps for each in found),
            stopped_by=_stopped_by(options, exponents, errors, found),
        )

    return of(_exponents(systems, options, lambda found: make_known(of(found))))


def _stopped_by(options: Options, exponents: FloatArray, errors: FloatArray, found: list[LyapunovExponent]) -> str:
    if all(each.stopped_by == "closed form" for each in found):
        return "closed form"
    stopped_by = options.budget.stopped_by(scales(exponents), errors)
    return options.cut_short_by if stopped_by == "max_steps" else stopped_by


def _exponents(
    systems: list[LinearizedSGD], options: Options, make_known: Callable[[list[LyapunovExponent]], None]
) -> list[LyapunovExponent]:
    """Return lambda of every system, with common random numbers, and make known what there is."""
    budget, n_steps, number = options.budget, 0, itertools.count()

    def simulated(
        system: LinearizedSGD, max_steps: int, atol: float, resume: LyapunovExponent | None
    ) -> LyapunovExponent:
        spent = 0 if resume is None else resume.n_steps
        report = options.progress if callable(options.progress) else None
        its = replace(
            options.child().within(max_steps + spent, atol=atol),
            n_chains=min(options.n_chains, max_steps) if resume is None else options.n_chains,
            progress=None if report is None else after(report, n_steps - spent, budget.max_steps),
        )
        with collected():  # the map warns of what is missed in the end
            return its.once(
                f"reading {next(number)} at {system.learning_rate!r}",
                lambda its: estimate_exponent(system, its, resume),
            )

    found: list[LyapunovExponent] = []
    for index, system in enumerate(systems):
        share = max((budget.max_steps - n_steps) // (len(systems) - index), 1)
        share = min(share, _FIRST_STEPS)
        try:
            found.append(simulated(system, share, budget.atol, None))
        except Stopped:
            if not found:
                raise
            return found
        n_steps += found[-1].n_steps
        make_known(found)
    for _ in range(_ROUNDS):
        exponents = np.array([each.exponent for each in found])
        errors = np.array([each.standard_error for each in found])
        sizes = scales(exponents)
        simulated_at = np.array([each.chains is not None for each in found])
        missing = np.flatnonzero(~budget.met(sizes, errors) & ~np.isnan(exponents) & (errors > 0) & simulated_at)
        for count, index in enumerate(missing.tolist()):
            share = (budget.max_steps - n_steps) // (missing.size - count)
            if options.is_cut:
                return found
            if share < _LEAST_ROUND * options.n_chains:
                continue
            goal = max(budget.atol, budget.rtol * float(sizes[index]) if budget.rtol > 0 else 0.0)
            before = found[index].n_steps
            found[index] = simulated(systems[index], share, goal, found[index])
            n_steps += found[index].n_steps - before
    return found


def _mean_square(system: LinearizedSGD, systems: list[LinearizedSGD]) -> tuple[FloatArray, FloatArray, float]:
    """Return Lambda(2), its numerical errors and its zero, NaN where they take simulation or too long."""
    nothing = np.full(len(systems), np.nan)
    if system.rank > LARGEST_RANK:
        return nothing, nothing, math.nan
    zero = mean_square_zero(system)
    threshold = math.nan if zero is None else zero[0]
    if not system.has_mean_square:
        return nothing, nothing, threshold
    found = [mean_square_exponent(each) for each in systems]
    return np.array([each.exponent for each in found]), np.array([each.error for each in found]), threshold


def derivatives_of(
    rates: FloatArray, means: list[FloatArray | None], errors_of_means: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return derivatives with standard errors from the means of chains, (n_chains,) for every learning rate.

    Of the parabola through a learning rate and its two neighbours. Without means of single chains errors come from
    those of the means, as if they were independent.
    """
    values, errors = np.full(rates.shape, np.nan), np.full(rates.shape, np.nan)
    for index in range(1, rates.size - 1):
        left, middle, right = means[index - 1 : index + 2]
        if left is None or middle is None or right is None:
            continue
        below, above = rates[index] - rates[index - 1], rates[index + 1] - rates[index]
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = (below / above * (right - middle) + above / below * (middle - left)) / (below + above)
        values[index] = slopes.mean()
        if errors_of_means is not None:
            with np.errstate(over="ignore"):
                weights = np.array([above / below, below / above - above / below, below / above]) / (below + above)
            its, used = errors_of_means[index - 1 : index + 2], weights != 0
            errors[index] = math.hypot(*(weights[used] * its[used]))  # which may be infinite
        else:
            errors[index] = standard_errors(slopes)
    return values, errors
