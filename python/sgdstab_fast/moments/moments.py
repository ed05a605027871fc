"""Moment Lyapunov exponents Lambda(p) = lim (1/n) log E |A_{i_n} .. A_{i_1} v|^p at any real order p.

What is special to SGD on single examples is in `moments.single_examples`, all other systems are in
`moments.any_system`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import SLOPE
from sgdstab_fast.exponents.exponent import estimate_exponent
from sgdstab_fast.moments.any_system import GeneralMoments
from sgdstab_fast.moments.facts import CONTRADICTED, SURE, Facts, held_against, held_against_each_other
from sgdstab_fast.moments.populations import LEAST_SIZE
from sgdstab_fast.moments.results import MomentExponents, OrderMoment, sorted_values, values_at
from sgdstab_fast.moments.single_examples import PlainMoments
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import after, reporter
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import INTERRUPTED
from sgdstab_fast.results.warnings import collected, warn
from sgdstab_fast.simulation.keywords import RunKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.systems.sgd import plain_of
from sgdstab_fast.systems.system import System, require_system

METHODS = ("auto", "population")
_LARGEST_LOGARITHM = 400.0  # of what one step may multiply a weight by
_SLOPE_SHARE, _LEAST_SLOPE_STEPS = 16, 1000  # of the budget of an order, for lambda; and of a chain
_ANNIHILATION = 30.0  # minus the log of what rounding leaves of a vector


@run_options(rtol=1e-3, max_steps=20_000_000, n_chains=32, least_chains=8)
def moment_exponent(
    system: System,
    p: Any,
    *,
    method: str = "auto",
    population: int | None = None,
    **keywords: Unpack[RunKeywords],
) -> MomentExponents:
    """Find moment Lyapunov exponents Lambda(p) = lim (1/n) log E |A_{i_n} .. A_{i_1} v|^p.

    Lambda is convex with Lambda(0) = 0 and Lambda'(0) = lambda; p-th moments of displacements die out if
    Lambda(p) < 0. Orders that can be computed are: 0, 2, even orders of not too many examples or matrices, most in two
    dimensions, and all where every step, or every epoch, is the same. Others are simulated by populations of weighted
    walkers, with error bars.

    Parameters
    ----------
    system : LinearizedSGD or MatrixEnsemble
        What a step does.
    p : float or array_like
        Orders, of either sign. Every order has streams of its own, whatever the others are.
    method : {"auto", "population"}, optional
        ``"population"`` simulates what could be computed too, but for p = 0 and one dimension: for comparison.
    rtol, atol : float, optional
        Tolerances for the standard error: relative to abs(Lambda(p)) or min(abs(p), 2) abs(Lambda(2)) / 2, whichever is
        larger, and absolute in nats per step.
    max_steps : int, optional
        Steps of all walkers together, for each order.
    n_chains : int, optional
        Independent populations, at least 8.
    population : int, optional
        Walkers of a population, at least 2; by default 128 of single examples, or 16 where weights hardly spread,
        and else 64, or fewer for small budgets.
    **keywords
        Where they run: see `RunKeywords`.

    Returns
    -------
    MomentExponents
        Nats per step, not divided by p. For p < 0, inf where products of steps annihilate every displacement; far below
        0 the moments of a displacement, which populations follow, may be larger than those of the operator norm. Its
        `rate_function`, `tail_index`, `clt_variance` and `plot` tell what follows for the finite-time exponent.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, or powers at an order are beyond floating point.

    Warns
    -----
    AccuracyWarning
        If a tolerance was not met within `max_steps`, or populations were not seen to forget their starts.

    References
    ----------
    Chemnitz & Engel 2025, definition A.2 and propositions A.3 and A.4.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> system = sf.LinearizedSGD([[1, -0.5], [-0.5, 1]], 0.5)
    >>> moments = sf.moment_exponent(system, [-1, 1, 4])
    >>> print(moments.exponents.round(6))
    [ 0.138856 -0.133531 -0.474139]
    >>> round(moments.rate_function(-0.12), 9)
    0.019627212
    """
    require_system(system)
    validation.choice(method, "method", METHODS)
    orders = validation.orders(p, "p")
    options = options_of(moment_exponent, keywords, method="population")
    size = None if population is None else validation.integer(population, "population", low=2, high=2**20)
    return moments_at(system, orders, options, size, computed=method == "auto", scalar=np.ndim(p) == 0)


def moments_at(
    system: System,
    orders: FloatArray,
    options: Options,
    size: int | None = None,
    *,
    computed: bool = True,
    scalar: bool = False,
) -> MomentExponents:
    """Do what `moment_exponent` says, of one order or of several."""
    system = system.in_own_units()
    _refuse_overflow(system, orders, scalar=scalar)
    budget = options.budget
    walkers = options.n_chains * (LEAST_SIZE if size is None else size)
    if budget.max_steps < walkers:
        raise ValueError(f"max_steps must be at least n_chains * population ({walkers}), not {budget.max_steps!r}")
    family = moment_family(system, computed=computed)
    for_slope = max(budget.max_steps // _SLOPE_SHARE, 1)
    for_each = budget.max_steps - for_slope if budget.max_steps - for_slope >= walkers else budget.max_steps
    with reporter(options.progress, budget.max_steps * orders.size, "moments") as report:
        found = list[OrderMoment]()
        for index, order in enumerate(orders.tolist()):
            its_report = after(report, index * budget.max_steps, orders.size * budget.max_steps)
            try:
                found.append(family.at(order, replace(options.within(for_each), progress=its_report), size))
            except Stopped:
                if not found:
                    raise
                break
            options.make_known(_result(system, family, orders[: len(found)], found, options, is_cut=True))
        is_cut, slope_steps = len(found) < orders.size, 0
        orders = orders[: len(found)]  # an interrupted run knows those that it has come to
        if any(each.n_steps > 0 for each in found):
            slope, slope_steps = _slope(system, options.within(for_slope))
            facts = Facts(np.empty(0), np.empty(0), np.empty(0), slope)
            found = [held_against(each, order, facts) for order, each in zip(orders.tolist(), found, strict=True)]
            found = held_against_each_other(orders.tolist(), found)
    _warn_of_trouble(orders, found, budget)
    return _result(system, family, orders, found, options, slope_steps, is_cut=is_cut)


def _result(
    system: System,
    family: PlainMoments | GeneralMoments,
    orders: FloatArray,
    found: list[OrderMoment],
    options: Options,
    slope_steps: int = 0,
    *,
    is_cut: bool,
) -> MomentExponents:
    """Return the exponents of all orders, or of those that a run which was cut has come to."""
    last = max(
        found,
        key=lambda each: (each.stopped_by == INTERRUPTED, each.n_steps > 0, not each.within_tolerance, each.error),
    )
    return MomentExponents(
        p=orders,
        exponents=np.array([each.exponent for each in found]),
        standard_errors=np.array([each.standard_error for each in found]),
        numerical_errors=np.array([each.numerical_error for each in found]),
        population_biases=np.array([each.population_bias for each in found]),
        effective_sample_size=np.array([each.effective_sample_size for each in found]),
        effective_walkers=np.array([each.effective_walkers for each in found]),
        degrees_of_freedom=np.array([each.degrees_of_freedom for each in found]),
        methods=tuple(each.method for each in found),
        reasons=tuple(each.reason for each in found),
        within_tolerance=np.array([each.within_tolerance for each in found]),
        mixed=np.array([each.mixed for each in found]),
        n_steps=slope_steps + sum(each.n_steps for each in found),
        n_chains=options.n_chains if last.n_steps > 0 else 0,
        population=max(each.population for each in found),
        stopped_by=INTERRUPTED if is_cut else last.stopped_by,
        steps_per_epoch=system.steps_per_epoch,
        provenance=provenance(options.seed, "moments", system),
        largest_amplification=family.largest_amplification,
        # Lambda(2) beside them may take long, and an interrupted run is answered at once.
        known=sorted_values(values_at(orders, found)) if is_cut else family.known(orders, found),
        known_of_parts=tuple(family.known_of_parts(with_mean_square=not is_cut)),
    )


def moment_family(system: System, *, computed: bool = True) -> PlainMoments | GeneralMoments:
    """Return what knows Lambda(p) of one system at any order, computed where that is allowed and possible."""
    plain = plain_of(system)
    return GeneralMoments(system, computed=computed) if plain is None else PlainMoments(plain, computed=computed)


def _slope(system: System, options: Options) -> tuple[tuple[float, float], int]:
    """Return what lambda = Lambda'(0) surely lies between, and the steps that this took."""
    unknown = (-math.inf, math.inf), 0
    if options.budget.max_steps < options.n_chains * _LEAST_SLOPE_STEPS:
        return unknown
    try:
        with collected():
            found = estimate_exponent(system, replace(options.child(SLOPE), progress=None, method="anchored"))
    except Stopped:
        return unknown
    reach = SURE * found.standard_error
    if not math.isfinite(found.exponent) or not math.isfinite(reach):
        return unknown[0], found.n_steps
    return (found.exponent - reach, found.exponent + reach), found.n_steps


def _refuse_overflow(system: System, orders: FloatArray, *, scalar: bool) -> None:
    """Refuse orders at which one step multiplies weights by what floating point does not hold."""
    singular = np.isneginf(system.step_sizes)
    logs = np.abs(np.where(singular, 0.0, system.step_sizes))
    for index, order in enumerate(orders.tolist()):
        # What rounding leaves of a vector counts at negative orders only.
        log_weight = abs(order) * max(float(logs.max()), _ANNIHILATION if order < 0 and singular.any() else 0.0)
        if log_weight > _LARGEST_LOGARITHM:
            name = "p" if scalar else f"p[{index}]"
            raise ValueError(
                f"{name} is beyond floating point: at {order!r} one step changes norm^p by up to e^{log_weight:.4g}, "
                f"more than e^{_LARGEST_LOGARITHM:g}"
            )


def _warn_of_trouble(orders: FloatArray, found: list[OrderMoment], budget: Budget) -> None:
    """Warn, once for each kind, of what the result's attributes flag."""

    def at(wanted: Callable[[OrderMoment], bool]) -> str:
        some = [f"{order:g}" for order, each in zip(orders.tolist(), found, strict=True) if wanted(each)]
        return ", ".join(some[:6]) + (", .." if len(some) > 6 else "")

    if lost := at(lambda each: math.isnan(each.exponent)):
        warn(f"the run overflowed: Lambda(p) is unknown at p = {lost}")
    if missed := at(lambda each: each.reason == CONTRADICTED):
        warn(
            f"populations contradict what computed orders, single steps, lambda or convexity leave to p = {missed}: "
            "errors reach as far as these allow; raise population and max_steps"
        )
    if unmixed := at(lambda each: not each.mixed and not each.within_tolerance and each.reason != CONTRADICTED):
        warn(
            f"populations were not seen to forget their starts at p = {unmixed}: standard errors allow for it; raise "
            "max_steps"
        )
    short = at(lambda each: not each.within_tolerance and each.stopped_by != INTERRUPTED)
    if budget.has_tolerance and short:
        warn(f"max_steps={budget.max_steps} ended the simulation at p = {short} short of {budget.wanted}")
