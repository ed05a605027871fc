"""Moment Lyapunov exponents Lambda(p) = lim (1/n) log E |A_{i_n} .. A_{i_1} v|^p at any real order p.

Every order goes the cheapest way that gives it: computed (`sgdstab_fast.exact_moments`), or else simulated by
populations (`sgdstab_fast.population`), each with streams of its own.

Where K falls into blocks, a block with the share s of the examples stands still in the other steps, so that it adds

    Lambda_b = log(1 - s + s exp Lambda(p) of the block alone),

and for p > 0, where the norm goes with the largest of the blocks' norms, Lambda(p) is the largest. Negative orders
involve all blocks at once (`sgdstab_fast.joint_moments`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._native import FloatArray
from sgdstab_fast.blocks import PlainBlock, plain_blocks_of, leading
from sgdstab_fast.exact_moments import ExactMoment, ExactMoments
from sgdstab_fast.joint_moments import Curve, joint_exponent
from sgdstab_fast.metrics import LARGEST_DIMENSION, Metrics
from sgdstab_fast.moment_curve import MomentCurve
from sgdstab_fast.moment_results import MomentExponents
from sgdstab_fast.one_block import BLOCK_STREAMS, How
from sgdstab_fast.population import LEAST_SIZE, MomentMetrics, simulate_moment
from sgdstab_fast.results import provenance, warn
from sgdstab_fast.rounds import Budget, ProgressOption, after, reporter
from sgdstab_fast.systems import LinearizedSGD, require_system

METHODS = ("auto", "population")
_LEAST_CHAINS = 8
_LARGEST_LOGARITHM = 400.0  # of what one step may multiply a weight by
_ANNIHILATION = 30.0  # minus the log of what rounding leaves of a vector
_SHARES = (1.0, 0.75, 0.5, 0.25)  # of a negative order, at which the curve of a block is known
_NODES = 41  # of the whole curve, where that is cheap
_LARGEST_ORDER = 64.0  # to which the curve is followed for the tail index
_EXACT = 2**31  # degrees of freedom


@dataclass(frozen=True)
class OrderMoment:
    """Lambda(p) at one order; the fields of `MomentExponents`."""

    exponent: float
    method: str
    standard_error: float = 0.0
    numerical_error: float = 0.0
    population_bias: float = 0.0
    effective_sample_size: float = math.inf
    effective_walkers: float = math.inf
    degrees_of_freedom: int = _EXACT
    reason: str = ""
    within_tolerance: bool = True
    mixed: bool = True
    n_steps: int = 0
    population: int = 0
    stopped_by: str = "closed form"

    @property
    def error(self) -> float:
        """Of either kind."""
        return math.hypot(self.standard_error, self.numerical_error)


def moment_exponent(
    system: LinearizedSGD,
    p: Any,
    *,
    method: str = "auto",
    rtol: float = 1e-3,
    atol: float = 0.0,
    max_steps: int = 20_000_000,
    n_chains: int = 32,
    population: int | None = None,
    rng: Any = None,
    n_threads: int | None = None,
    progress: ProgressOption = None,
    executor: Executor | None = None,
) -> MomentExponents:
    """Find moment Lyapunov exponents Lambda(p) = lim (1/n) log E |A_{i_n} .. A_{i_1} v|^p.

    Lambda is convex with Lambda(0) = 0 and Lambda'(0) = lambda; p-th moments of displacements die out if
    Lambda(p) < 0. Orders that can be computed are: 0, 2, even orders of not too many examples, and most of two
    examples. Others are simulated by populations of weighted walkers, from anchored growth, with error bars.

    Parameters
    ----------
    system : LinearizedSGD
        What a step does.
    p : float or array_like
        Orders, of either sign.
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
        Walkers of a population, at least 2; by default 128, or 16 where weights hardly spread.
    rng, n_threads, progress, executor
        As for `lyapunov_exponent`. Every order has streams of its own, whatever the others are.

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
    _refuse_overflow(system, orders, scalar=np.ndim(p) == 0)
    budget = Budget.validated(rtol, atol, max_steps)
    how = How.validated("population", budget, n_chains, rng, n_threads, progress, executor, least_chains=_LEAST_CHAINS)
    size = None if population is None else validation.integer(population, "population", low=2, high=2**20)
    walkers = how.n_chains * (LEAST_SIZE if size is None else size)
    if budget.max_steps < walkers:
        raise ValueError(f"max_steps must be at least n_chains * population ({walkers}), not {budget.max_steps!r}")
    family = MomentFamily(system, computed=method == "auto")
    with reporter(how.progress, budget.max_steps * orders.size, "moments") as report:
        found = [
            family.at(
                order,
                replace(how, progress=after(report, index * budget.max_steps, orders.size * budget.max_steps)),
                size,
            )
            for index, order in enumerate(orders.tolist())
        ]
    _warn_of_trouble(orders, found, budget)
    last = max(found, key=lambda each: (each.n_steps > 0, not each.within_tolerance, each.error))
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
        n_steps=sum(each.n_steps for each in found),
        n_chains=how.n_chains if last.n_steps > 0 else 0,
        population=max(each.population for each in found),
        stopped_by=last.stopped_by,
        steps_per_epoch=system.n_examples / system.batch_size,
        provenance=provenance(how.seed, "moments", system.fingerprint),
        largest_amplification=math.exp(float(system.log_determinants.max())),
        known=family.known(orders, found),
    )


class MomentFamily:
    """Lambda(p) of one system at any order."""

    def __init__(self, system: LinearizedSGD, *, computed: bool = True) -> None:
        self._system, self._computed = system, computed
        self._blocks = plain_blocks_of(system)
        self._exact = [ExactMoments(block.system) for block in self._blocks]
        self._metrics = [MomentMetrics(block.system) for block in self._blocks]

    def at(self, order: float, how: How, size: int | None) -> OrderMoment:
        """Return Lambda(p), simulated with populations of `size` walkers if it cannot be computed."""
        if order == 0:
            return OrderMoment(0.0, "closed form")
        if order < 0 and len(self._blocks) > 1:
            return self._jointly(order, how, size)
        computed = [self._known_of_block(index, order) for index in range(len(self._blocks))]
        found = [each for each in computed if each is not None]
        # Of several blocks, those that cannot be the largest are left out.
        least = max((each.exponent - each.error for each in found), default=-math.inf)
        bounds = {index: self._upper_bound(index, order) for index, each in enumerate(computed) if each is None}
        contenders = [index for index in sorted(bounds, key=lambda index: -bounds[index]) if bounds[index] >= least]
        share = max(how.budget.max_steps // max(len(contenders), 1), how.n_chains * (size or LEAST_SIZE))
        its = replace(how, budget=replace(how.budget, max_steps=share))
        found += [self._simulated_block(index, order, its, size) for index in contenders]
        if len(found) == 1:
            return found[0]
        leader, error = leading(np.array([e.exponent for e in found]), np.array([e.standard_error for e in found]))
        return replace(
            found[leader],
            standard_error=error,
            n_steps=sum(each.n_steps for each in found),
            within_tolerance=all(each.within_tolerance for each in found),
            mixed=all(each.mixed for each in found),
        )

    def known(self, orders: FloatArray, found: list[OrderMoment]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return orders, values and errors of what is known of Lambda, ascending, and the whole curve where cheap."""
        values = {
            order: (each.exponent, each.error)
            for order, each in zip(orders.tolist(), found, strict=True)
            if not math.isnan(each.exponent) and math.isfinite(each.error)
        }
        values[0.0] = 0.0, 0.0
        if all(block.system.dimension == 1 and _annihilates(block.system) for block in self._blocks):
            return np.zeros(1), np.zeros(1), np.zeros(1)  # lambda is -inf, and Lambda jumps at p = 0
        if self._computed and len(self._blocks) == 1 and self._exact[0].everywhere:
            exact, low, high = self._exact[0], min(-1.0, *values), max(2.0, *values)
            grows = float(self._system.log_determinants.max()) > 0
            while grows and high < _LARGEST_ORDER and _value(exact, high) < 0:
                high *= 2
            low = low if math.isfinite(_value(exact, low)) else 0.0
            for node in ((low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, _NODES))).tolist():
                at_node = exact.at(node)
                if at_node is not None and math.isfinite(at_node.exponent):
                    values.setdefault(node, (at_node.exponent, at_node.error))
        elif self._computed and self._system.dimension <= LARGEST_DIMENSION and 2.0 not in values:
            mean_square = self.mean_square
            if mean_square is not None and math.isfinite(mean_square.exponent):
                values[2.0] = mean_square.exponent, mean_square.error
        order = np.array(sorted(values))
        return order, np.array([values[each][0] for each in order]), np.array([values[each][1] for each in order])

    @property
    def mean_square(self) -> OrderMoment | None:
        """Lambda(2), computed; None if it was not found for every block."""
        each = [self._whole(block, exact.at(2.0)) for block, exact in zip(self._blocks, self._exact, strict=True)]
        known = [one for one in each if one is not None]
        return max(known, key=lambda one: one.exponent) if len(known) == len(each) else None

    def _known_of_block(self, index: int, order: float) -> OrderMoment | None:
        """Return a block's part in steps of the whole, if it is computed."""
        block, exact = self._blocks[index], self._exact[index]
        if self._computed or block.system.dimension == 1:
            return self._whole(block, exact.at(order))
        return None

    def _simulated_block(self, index: int, order: float, how: How, size: int | None) -> OrderMoment:
        """Return a block's part in steps of the whole, simulated."""
        block, metrics = self._blocks[index], self._metrics[index].at(order)
        found = self._simulated(block.system, order, metrics, how, size, index, self._exact[index])
        if block.share == 1 or not math.isfinite(found.exponent):
            return found
        value = _idle(block.share, found.exponent)
        slope = block.share * math.exp(found.exponent - value)
        return replace(
            found,
            exponent=value,
            standard_error=slope * found.standard_error,
            population_bias=slope * found.population_bias,
        )

    def _whole(self, block: PlainBlock, moment: ExactMoment | None) -> OrderMoment | None:
        """Return what a block's moment, computed, is in steps of the whole."""
        if moment is None:
            return None
        reason = "a step annihilates every displacement" if math.isinf(moment.exponent) else ""
        return OrderMoment(
            _idle(block.share, moment.exponent), moment.method, numerical_error=moment.error, reason=reason
        )

    def _simulated(
        self,
        system: LinearizedSGD,
        order: float,
        metrics: Metrics,
        how: How,
        size: int | None,
        index: int,
        exact: ExactMoments,
    ) -> OrderMoment:
        mean_square = exact.at(2.0)
        scale = min(abs(order), 2) * abs(mean_square.exponent) / 2 if mean_square is not None else 0.0
        done, moment = simulate_moment(system, order, metrics, how, size, index * BLOCK_STREAMS, scale)
        estimate = moment.estimate
        exponent = float(estimate.mean[0])
        reason = "products of steps annihilate every displacement" if math.isinf(exponent) else ""
        return OrderMoment(
            exponent=exponent,
            method="population",
            standard_error=float(estimate.standard_error[0]),
            population_bias=moment.population_bias,
            effective_sample_size=float(estimate.effective_sample_size[0]),
            effective_walkers=moment.effective_walkers,
            degrees_of_freedom=estimate.degrees_of_freedom,
            reason=reason,
            within_tolerance=done.stopped_by != "max_steps",
            mixed=estimate.mixed,
            n_steps=done.chains.n_steps,
            population=done.chains.n_walkers,
            stopped_by=done.stopped_by,
        )

    def _upper_bound(self, index: int, order: float) -> float:
        """Return what a block's part cannot exceed: a step on i multiplies norms by at most max(1, abs(1 - eta K_ii)).

        Below p = 2 the chord of the convex Lambda from 0 to 2 is a bound as well.
        """
        block = self._blocks[index]
        if len(self._blocks) == 1:
            return math.inf
        growth = np.exp(order * np.maximum(block.system.log_determinants, 0))
        bound = math.log(float(growth.mean()))
        if order <= 2 and block.system.dimension <= LARGEST_DIMENSION:
            bound = min(bound, order / 2 * _value(self._exact[index], 2.0))
        return _idle(block.share, bound) + 1e-12

    def _jointly(self, order: float, how: How, size: int | None) -> OrderMoment:
        """Return Lambda(p) of several blocks at a negative order, from the curves of each from p to 0."""
        curves: list[Curve] = []
        shares: list[float] = []
        errors: list[float] = []
        simulated: list[OrderMoment] = []
        for index, (block, exact) in enumerate(zip(self._blocks, self._exact, strict=True)):
            if exact.everywhere and (self._computed or block.system.dimension == 1):
                at_order = exact.at(order)
                if at_order is None or math.isinf(at_order.exponent):
                    continue  # annihilated sooner or later: the others are the norm
                curves.append(exact.with_slope)
                errors.append(at_order.error)
            else:
                curve, moments = self._curve(index, order, how, size)
                curves.append(_with_slope(curve))
                nodes = np.array([part * order for part in np.linspace(0, 1, 33)])
                errors.append(float(curve.value_standard_error(nodes).max()))
                simulated += moments
            shares.append(block.share)
        if not curves:
            return OrderMoment(math.inf, "closed form", reason="products of steps annihilate every displacement")
        exponent, weights = joint_exponent(order, curves, shares)
        error = float(np.linalg.norm(weights * np.array(errors)))
        if not any(moment.n_steps for moment in simulated):
            return OrderMoment(exponent, "closed form", numerical_error=max(error, 1e-13 * abs(exponent)))
        return replace(
            max(simulated, key=lambda moment: (not moment.within_tolerance, moment.error)),
            exponent=exponent,
            method="population",
            standard_error=error,
            n_steps=sum(moment.n_steps for moment in simulated),
            mixed=all(moment.mixed for moment in simulated),
        )

    def _curve(self, index: int, order: float, how: How, size: int | None) -> tuple[MomentCurve, list[OrderMoment]]:
        """Return Lambda of one block, in steps of its own, from p to 0, and what it is made of."""
        block, exact = self._blocks[index], self._exact[index]
        parts = [share * order for share in _SHARES]
        share = how.budget.max_steps // (len(parts) * len(self._blocks))
        its = replace(how, budget=replace(how.budget, max_steps=max(share, how.n_chains * (size or LEAST_SIZE))))
        found = []
        for part in parts:
            computed = exact.at(part) if self._computed else None
            if computed is None:
                found.append(
                    self._simulated(block.system, part, self._metrics[index].at(part), its, size, index, exact)
                )
            else:
                found.append(OrderMoment(computed.exponent, computed.method, numerical_error=computed.error))
        kept = [(part, each.exponent, each.error) for part, each in zip(parts, found, strict=True)]
        kept = [point for point in kept if not any(map(math.isnan, point))]
        nodes = np.array([*kept, (0.0, 0.0, 0.0), (2.0, _value(exact, 2.0), 0.0)])
        return MomentCurve.fit(*nodes.T), found


def _with_slope(curve: MomentCurve) -> Curve:
    return lambda order: (float(curve.value(order)), float(curve.derivative(order)))


def _value(exact: ExactMoments, order: float) -> float:
    found = exact.at(order)
    return math.inf if found is None else found.exponent


def _annihilates(system: LinearizedSGD) -> bool:
    return bool(np.isneginf(system.log_determinants).any())


def _idle(share: float, exponent: float) -> float:
    """Return log(1 - share + share exp(exponent))."""
    if share == 1 or exponent == math.inf:
        return exponent
    return math.log1p(share * math.expm1(exponent))


def _refuse_overflow(system: LinearizedSGD, orders: FloatArray, *, scalar: bool) -> None:
    """Refuse orders at which one step multiplies weights by what floating point does not hold."""
    singular = np.isneginf(system.log_determinants)
    logs = np.abs(np.where(singular, 0.0, system.log_determinants))
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
    if unmixed := at(lambda each: not each.mixed and not each.within_tolerance):
        warn(
            f"populations were not seen to forget their starts at p = {unmixed}: standard errors allow for it; raise "
            "max_steps"
        )
    if budget.has_tolerance and (short := at(lambda each: not each.within_tolerance)):
        warn(
            f"max_steps={budget.max_steps} ended the simulation at p = {short} short of rtol={budget.rtol:g} and "
            f"atol={budget.atol:g}"
        )
