"""Stability maps: lambda, Lambda(2) and mu on a grid of learning rates, for batches of some sizes and some momenta.

For batches of one without momentum all learning rates advance together (`learning_rates.panels`); the other curves are
in `learning_rates.sweep_points`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import first_of_block
from sgdstab_fast.curves.zeros import AGREEING, first_zero, scales
from sgdstab_fast.exact.full_batches import extreme_eigenvalues, gd_exponents
from sgdstab_fast.exact.mean_square_family import MeanSquareFamily
from sgdstab_fast.exact.zeros import bounds_of_zero
from sgdstab_fast.learning_rates.panels import anchors_for, combined_growth, estimates, family_of, joined, run_panels
from sgdstab_fast.learning_rates.results import Edges, StabilityMap
from sgdstab_fast.learning_rates.sweep_points import Curve, curve_of_points, derivatives_of
from sgdstab_fast.results.chains import Chains, PanelRecords
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import after, reporter
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import EXACT, INTERRUPTED, SHORT
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.simulation.keywords import RunKeywords, Unpack, options_of, run_options
from sgdstab_fast.simulation.options import Budget, Options
from sgdstab_fast.statistics.estimates import Estimate
from sgdstab_fast.statistics.largest import leading
from sgdstab_fast.systems.from_gram import variant_of
from sgdstab_fast.systems.recurrence import momentum_of, uses_nesterov
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.single_steps import log_abs_one_minus
from sgdstab_fast.systems.system import Part

_ROUNDING = 8 * float(np.finfo(float).eps)  # an error that small meets every tolerance
_NOTEWORTHY = 1e-2  # a relative standard error


@run_options(rtol=1e-2, max_steps=10_000_000, n_chains=64)
def sweep(
    gram: Any,
    learning_rates: Any,
    batch_sizes: Any = None,
    momenta: Any = None,
    *,
    sampling: str | None = None,
    nesterov: bool | None = None,
    groups: Any = None,
    probabilities: Any = None,
    step_scaling: str | None = None,
    scale: float | None = None,
    **keywords: Unpack[RunKeywords],
) -> StabilityMap:
    """Map stability over learning rates: lambda with error bars, Lambda(2) and mu, and the edges between them.

    There is a curve for every batch size and momentum. All learning rates are driven by the same streams of examples,
    so that curves are smooth; for batches of one without momentum a whole curve costs much less than its points one by
    one. Runs until every standard error is at most `rtol` times the size of lambda there (or at a neighbour of the
    other sign, next to a zero), or at most `atol`, or up to `max_steps`.

    Parameters
    ----------
    gram : array_like, shape (N, N), or LinearizedSGD
        Neural-tangent Gram matrix K; see `LinearizedSGD`. Of a system, its K, batches and momentum.
    learning_rates : array_like, shape (L,)
        Step sizes eta > 0, increasing.
    batch_sizes : sequence of int, optional
        Examples per step, increasing. By default that of the system, or 1.
    momenta : sequence of float, optional
        Heavy-ball or Nesterov momenta in [0, 1), increasing. By default that of the system, or 0.
    sampling, nesterov
        As for `LinearizedSGD`, for all curves; by default those of the system.
    groups, probabilities, step_scaling, scale
        As for `LinearizedSGD`; not with a system, which has its own.
    max_steps : int, optional
        Steps of all streams together. Every curve may take an equal share of them. Of batches of one without momentum
        every learning rate takes all of the curve's; of others it takes those of its own.
    n_chains : int, optional
        Independent streams.
    **keywords
        Tolerances, and where they run: see `RunKeywords`.

    Returns
    -------
    StabilityMap
        Arrays of shape (curves, learning rates), nats per step, all momenta of the first batch size before the next;
        ``.plot()``, ``.to_dict()``. Lambda(2), and its edge, are NaN for K of rank above 2048 (1024, but for
        batches of one without momentum), where they would cost more than all the rest, and where they have no
        closed form.

    Warns
    -----
    AccuracyWarning
        If some learning rates miss the tolerance, or their chains were not seen to mix and the standard errors, which
        allow for it, are not small all the same.

    References
    ----------
    Chemnitz & Engel 2025, equations 2.12 and 2.18, definition A.2 and lemma 3.10.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> gram = [[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]]
    >>> result = sf.sweep(gram, [0.2, 0.3, 0.4, 0.5], rng=1)
    >>> result.exponents[0] < 0
    array([ True,  True,  True, False])
    >>> round(result.edges[0].mean_square, 6)
    0.420522
    >>> of_batches = sf.sweep(gram, [0.2, 0.5, 0.8, 1.1], [1, 2, 4], rng=1)
    >>> [round(edges.mean_square, 6) for edges in of_batches.edges]
    [0.420522, 0.811851, 1.333333]
    """
    rates = validation.increasing(learning_rates, "learning_rates")
    options = options_of(sweep, keywords)
    asked = options.budget
    if asked.has_tolerance:
        options = options.within(atol=max(asked.atol, _ROUNDING))
    options.budget.steps_per_chain(options.n_chains)
    of_k = {"groups": groups, "probabilities": probabilities, "step_scaling": step_scaling, "scale": scale}
    systems = _systems(gram, float(rates[0]), batch_sizes, momenta, sampling, nesterov, of_k)
    systems[0].with_learning_rate(float(rates[-1]))  # refused here if too large

    def make_known(curves: Sequence[Curve]) -> None:
        options.make_known(_map_of(systems, rates, curves, options, is_cut=True))

    curves = _curves(systems, rates, options, make_known)
    is_cut = len(curves) < len(systems) or curves[0].exponents.size < rates.size
    found = _map_of(systems, rates, curves, options, is_cut=is_cut)
    _warn_of_trouble(found, asked)
    return found


def _map_of(
    systems: Sequence[LinearizedSGD], rates: FloatArray, curves: Sequence[Curve], options: Options, *, is_cut: bool
) -> StabilityMap:
    """Return the map of all curves; an interrupted call has fewer of them, or learning rates."""
    systems, rates = systems[: len(curves)], rates[: curves[0].exponents.size]
    return StabilityMap(
        learning_rates=rates,
        batch_sizes=np.array([system.batch_size for system in systems], dtype=np.int64),
        momenta=np.array([momentum_of(system.recurrence) for system in systems]),
        sampling=systems[0].law.sampling,
        nesterov=any(uses_nesterov(system.recurrence) for system in systems),
        exponents=np.array([curve.exponents for curve in curves]),
        standard_errors=np.array([curve.standard_errors for curve in curves]),
        degrees_of_freedom=np.array([curve.degrees_of_freedom for curve in curves]),
        effective_sample_size=np.array([curve.effective_sample_size for curve in curves]),
        derivatives=np.array([curve.derivatives for curve in curves]),
        derivative_standard_errors=np.array([curve.derivative_standard_errors for curve in curves]),
        mean_square_exponents=np.array([curve.mean_square for curve in curves]),
        mean_square_errors=np.array([curve.mean_square_errors for curve in curves]),
        bounds=np.array([[curve.lowest for curve in curves], [curve.highest for curve in curves]]),
        gd_exponents=np.array([curve.gd_exponents for curve in curves]),
        edges=tuple(_edges(curve, rates) for curve in curves),
        within_tolerance=np.array(
            [options.budget.met(scales(curve.exponents), curve.standard_errors) for curve in curves]
        ),
        mixed=np.array([curve.mixed for curve in curves]),
        n_steps=sum(curve.n_steps for curve in curves),
        n_chains=options.n_chains,
        stopped_by=INTERRUPTED if is_cut else _stopped_by([curve.stopped_by for curve in curves]),
        steps_per_epoch=np.array([system.steps_per_epoch for system in systems]),
        provenance=provenance(options.seed, "anchored", systems[0]),
    )


def _systems(
    gram: Any, rate: float, batch_sizes: Any, momenta: Any, sampling: Any, nesterov: Any, of_k: dict[str, Any]
) -> list[LinearizedSGD]:
    """Return the systems of all curves."""
    sizes: list[int | None] = [None]
    if batch_sizes is not None:
        increasing = validation.increasing(batch_sizes, "batch_sizes").tolist()
        sizes = [validation.integer(size, "batch_sizes") for size in increasing]
    values: list[float | None] = [None] if momenta is None else [*_momenta(momenta)]
    first = variant_of(gram, rate, sizes[0], sampling=sampling, **of_k)  # K is looked at once
    return [
        variant_of(first, rate, size, momentum=value, nesterov=None if value == 0 and len(values) > 1 else nesterov)
        for size in sizes
        for value in values
    ]


def _momenta(momenta: Any) -> list[float]:
    found = validation.orders(momenta, "momenta").tolist()
    for index, value in enumerate(found):
        if not 0 <= value < 1:
            raise ValueError(f"momenta[{index}] must lie in [0, 1), not {value!r}")
        if index and value <= found[index - 1]:
            raise ValueError(f"momenta must increase, but momenta[{index}] is {value!r} after {found[index - 1]!r}")
    return list(found)


def _curves(
    systems: list[LinearizedSGD],
    rates: FloatArray,
    options: Options,
    make_known: Callable[[Sequence[Curve]], None],
) -> list[Curve]:
    """Return all curves, each from its share of the budget, and make those known that there are."""
    if len(systems) == 1 and _finder(systems[0]) is _plain_curve:
        return [_plain_curve(systems[0], rates, lambda curve: make_known([curve]), options)]
    share = max(options.budget.max_steps // len(systems), options.n_chains)
    each, curves = options.within(share), list[Curve]()
    with reporter(options.progress, options.budget.max_steps, f"{rates.size} learning rates") as report:
        for system in systems:
            before = sum(curve.n_steps for curve in curves)
            its = replace(each, progress=after(report, before, options.budget.max_steps))

            def with_it(curve: Curve) -> None:
                if not curves or curve.exponents.size == rates.size:
                    make_known([*curves, curve])

            try:
                curve = its.once(f"curve {len(curves)}", partial(_finder(system), system, rates, with_it))
            except Stopped:
                if not curves:
                    raise
                break
            if curves and curve.exponents.size < rates.size:
                break
            curves.append(curve)
            make_known(curves)
            if curve.stopped_by == INTERRUPTED:
                break
    return curves


def _finder(
    system: LinearizedSGD,
) -> Callable[[LinearizedSGD, FloatArray, Callable[[Curve], None], Options], Curve]:
    """Return what finds the curve: all learning rates at once, or point by point."""
    return _plain_curve if system.is_plain else curve_of_points


def _stopped_by(reasons: list[str]) -> str:
    """Return what stopped the curves: what is furthest from an exact one of them."""
    return max(reasons, key=["closed form", "rtol", "atol", *SHORT].index)


def _plain_curve(
    system: LinearizedSGD, rates: FloatArray, make_known: Callable[[Curve], None], options: Options
) -> Curve:
    """Return the curve of a plain system, with that of full batches; of an interrupted one what is computed."""

    def with_full_batches(curve: Curve) -> Curve:
        extremes, n = curve.extreme_eigenvalues, system.n_examples
        return replace(curve, gd_exponents=gd_exponents(extremes, rates, n), gd_threshold=2 * n / extremes[1])

    return with_full_batches(_curve(system, rates, lambda curve: make_known(with_full_batches(curve)), options))


def _curve(system: LinearizedSGD, rates: FloatArray, make_known: Callable[[Curve], None], options: Options) -> Curve:
    """Return the curve of a system: that of K, or the largest of those of its blocks."""
    blocks = system.parts()
    # Means of all exponents of blocks, which their largest are not below.
    means = [
        log_abs_one_minus(np.multiply.outer(rates, block.system.diagonal)).mean(axis=1) / block.system.dimension
        for block in blocks
    ]
    families = [family_of(block.system) for block in blocks]
    curves = [
        _exactly(block.system, family, rates, mean) for block, family, mean in zip(blocks, families, means, strict=True)
    ]
    contenders = _contenders(blocks, curves, means)
    shares = np.array([block.share for block in blocks])
    if contenders:
        make_known(_without_lambda(curves[0] if blocks[0].share == 1 else _largest(curves, shares)))
    its = options.for_parts(len(contenders))
    for index in contenders:
        its_own = its.within(atol=its.budget.atol / blocks[index].share)
        curves[index] = _simulated(curves[index], blocks[index], families[index], rates, its_own)
    return curves[0] if blocks[0].share == 1 else _largest(curves, shares)


def _without_lambda(curve: Curve) -> Curve:
    """Return what is computed of a curve whose exponents are not known yet."""
    unknown = np.full(curve.exponents.shape, np.nan)
    return replace(
        curve,
        exponents=unknown,
        standard_errors=np.full(unknown.shape, math.inf),
        degrees_of_freedom=np.ones(unknown.shape, np.int64),
        effective_sample_size=np.zeros(unknown.shape),
        derivatives=unknown,
        derivative_standard_errors=unknown,
        mixed=np.zeros(unknown.shape, bool),
        stopped_by=INTERRUPTED,
    )


def _exactly(system: LinearizedSGD, family: MeanSquareFamily | None, rates: FloatArray, means: FloatArray) -> Curve:
    """Return what is known of a block without simulation: lambda in one dimension, where it is the mean of all."""
    nothing = np.full(rates.shape, np.nan)
    mean_square, errors = (nothing, nothing) if family is None else family.exponents(rates)
    reflecting = np.array([system.with_learning_rate(rate).reflects for rate in rates.tolist()])
    mean_square, errors = (
        np.where(reflecting, 0.0, mean_square),
        errors + np.where(reflecting, np.abs(mean_square), 0.0),
    )
    lowest, shortening = means - _ROUNDING, rates * system.diagonal.max() <= 2
    curve = Curve(
        exponents=np.full(rates.shape, -np.inf),
        standard_errors=np.zeros(rates.shape),
        degrees_of_freedom=np.full(rates.shape, EXACT),
        effective_sample_size=np.full(rates.shape, math.inf),
        derivatives=nothing,
        derivative_standard_errors=nothing,
        mixed=np.ones(rates.shape, bool),
        mean_square=mean_square,
        mean_square_errors=errors,
        mean_square_threshold=math.nan if family is None else family.threshold()[0],
        lowest=lowest,
        highest=np.maximum(np.fmin(mean_square / 2 + errors, np.where(shortening, 0.0, math.inf)), lowest),
        bounds=bounds_of_zero(system, family),
        extreme_eigenvalues=extreme_eigenvalues(system) if family is None else family.extreme_eigenvalues,
    )
    if system.dimension > 1:
        return curve
    finite = np.isfinite(means)
    with np.errstate(divide="ignore"):
        slopes = -(system.diagonal / (1 - np.multiply.outer(rates, system.diagonal))).mean(axis=1)
    return replace(
        curve,
        exponents=means,
        standard_errors=np.where(finite, 4 * np.finfo(float).eps * np.abs(means), 0.0),
        derivatives=np.where(finite, slopes, np.nan),
        derivative_standard_errors=np.where(finite, 0.0, np.nan),
    )


def _contenders(blocks: Sequence[Part[LinearizedSGD]], curves: list[Curve], means: list[FloatArray]) -> list[int]:
    """Return the blocks to simulate: of more than one dimension, and possibly the largest exponent somewhere.

    An exponent lies between the mean of all of its block and Lambda(2)/2.
    """
    shares = np.array([block.share for block in blocks])[:, None]
    highest = shares * np.array([curve.mean_square / 2 + curve.mean_square_errors for curve in curves])
    possible = np.isnan(highest) | (highest + _ROUNDING >= (shares * np.array(means)).max(axis=0))
    simulated = np.array([block.system.dimension > 1 for block in blocks])
    return np.flatnonzero(possible.any(axis=1) & simulated).tolist()


def _simulated(
    curve: Curve,
    block: Part[LinearizedSGD],
    family: MeanSquareFamily | None,
    rates: FloatArray,
    options: Options,
) -> Curve:
    """Add to a block's curve what is simulated, within its bounds."""
    anchors = anchors_for(block.system, family, rates)

    def bounded(chains: Chains[PanelRecords]) -> Estimate:
        each = estimates(chains, anchors, rates.size, curve.highest)
        found = [its.within(*bounds) for its, *bounds in zip(each, curve.lowest, curve.highest, strict=True)]
        return replace(joined(found), details=found)

    done = run_panels(
        block.system,
        family,
        rates,
        anchors,
        options,
        first_of_block(block.index),
        bounded,
        f"{rates.size} learning rates",
    )
    found: list[Estimate] = done.estimate.details
    answered_at_once = done.stopped_by == INTERRUPTED
    of_chains = [
        combined_growth(done.chains, anchors, index, each).mean(axis=1)
        if np.isfinite(each.mean[0]) and not answered_at_once
        else None
        for index, each in enumerate(found)
    ]
    derivatives, errors = derivatives_of(rates, of_chains)
    return replace(
        curve,
        exponents=done.estimate.mean,
        standard_errors=done.estimate.standard_error,
        degrees_of_freedom=np.array([each.degrees_of_freedom for each in found]),
        effective_sample_size=done.estimate.effective_sample_size,
        derivatives=derivatives,
        derivative_standard_errors=errors,
        mixed=np.array([each.mixed for each in found]),
        n_steps=done.chains.n_steps,
        stopped_by=done.stopped_by,
    )


def _largest(curves: list[Curve], shares: FloatArray) -> Curve:
    """Return the curve of the whole from those of blocks, each of which gets its share of the steps."""
    exponents = np.array([share * curve.exponents for share, curve in zip(shares, curves, strict=True)])
    errors = np.array([share * curve.standard_errors for share, curve in zip(shares, curves, strict=True)])
    leaders, standard_errors = zip(*map(leading, exponents.T, errors.T), strict=True)
    columns = np.arange(exponents.shape[1])

    def of_leader(values: Any) -> Any:
        return np.array(values)[list(leaders), columns]

    growth = np.array([share * np.expm1(curve.mean_square) for share, curve in zip(shares, curves, strict=True)])
    dominant = np.nanargmax(np.where(np.isnan(growth), -np.inf, growth), axis=0)
    unknown = np.isnan(growth).any(axis=0)
    simulated = [curve for curve in curves if curve.n_steps > 0]
    # The curve is exact only if all of it is.
    last = max(simulated, key=lambda curve: curve.stopped_by in SHORT, default=curves[0])
    return Curve(
        exponents=of_leader(list(exponents)),
        standard_errors=np.array(standard_errors),
        degrees_of_freedom=of_leader([curve.degrees_of_freedom for curve in curves]),
        effective_sample_size=of_leader([curve.effective_sample_size for curve in curves]),
        derivatives=of_leader([share * curve.derivatives for share, curve in zip(shares, curves, strict=True)]),
        derivative_standard_errors=of_leader(
            [share * curve.derivative_standard_errors for share, curve in zip(shares, curves, strict=True)]
        ),
        mixed=np.all([curve.mixed for curve in curves], axis=0),
        mean_square=np.where(unknown, np.nan, np.log1p(growth[dominant, columns])),
        mean_square_errors=np.array([curve.mean_square_errors for curve in curves])[dominant, columns],
        lowest=np.max([share * curve.lowest for share, curve in zip(shares, curves, strict=True)], axis=0),
        highest=np.max([share * curve.highest for share, curve in zip(shares, curves, strict=True)], axis=0),
        mean_square_threshold=min(curve.mean_square_threshold for curve in curves) if not unknown.any() else math.nan,
        bounds=(min(curve.bounds[0] for curve in curves), min(curve.bounds[1] for curve in curves)),
        extreme_eigenvalues=(
            min(curve.extreme_eigenvalues[0] for curve in curves),
            max(curve.extreme_eigenvalues[1] for curve in curves),
        ),
        n_steps=sum(curve.n_steps for curve in curves),
        stopped_by=last.stopped_by,
    )


def _edges(curve: Curve, rates: FloatArray) -> Edges:
    # lambda <= Lambda(2) / 2, which knows its sign exactly, but not where lambda has its zero.
    exponents, (low, high) = np.fmin(curve.exponents, curve.mean_square / 2), curve.bounds
    exponents = curve.exponents if np.isnan(curve.exponents).all() else exponents
    zero = first_zero(rates, exponents, curve.standard_errors, bounds=curve.bounds)
    value, error = zero.value, zero.error if math.isfinite(zero.value) else math.nan
    if high <= low * (1 + AGREEING):
        value, error = high, 0.0
    return Edges(
        gd=curve.gd_threshold,
        mean_square=curve.mean_square_threshold,
        almost_sure=min(max(value, low), high) if math.isfinite(value) else math.nan,
        almost_sure_standard_error=error,
    )


def _warn_of_trouble(found: StabilityMap, budget: Budget) -> None:
    """Warn of learning rates at which lambda is lost, or less accurate than asked for."""
    lost = np.isnan(found.exponents)
    sizes = np.array([scales(exponents) for exponents in found.exponents])
    if lost.any():
        warn(f"the run overflowed at {_listed(found, lost)}: lambda is unknown there")
    missed = ~lost & ~budget.met(sizes, found.standard_errors) & (found.standard_errors > 2 * _ROUNDING)
    if budget.has_tolerance and missed.any() and found.stopped_by != INTERRUPTED:
        warn(f"max_steps={budget.max_steps} ended the run short of {budget.wanted} at {_listed(found, missed)}")
    matters = found.standard_errors > np.maximum(max(budget.rtol, _NOTEWORTHY) * sizes, _ROUNDING)
    unmixed = missed & ~found.mixed & matters
    if unmixed.any():
        warn(
            "the chains are too short to see them mix, and standard errors allow for what they may not have seen, "
            f"at {_listed(found, unmixed)}"
        )


def _listed(found: StabilityMap, where: NDArray[np.bool_]) -> str:
    """Count learning rates of curves, and name a few."""
    several = len(found.edges) > 1
    names = [
        f"{found.learning_rates[index]:.4g}" + (f" ({found.names[row]})" if several else "")
        for row, index in np.argwhere(where)[:4]
    ]
    more = ", …" if where.sum() > 4 else ""
    of = "points" if several else "learning rates"
    return f"{where.sum()} of {where.size} {of}: {', '.join(names)}{more}"
