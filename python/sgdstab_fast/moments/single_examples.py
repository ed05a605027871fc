"""Moments of plain SGD: Lambda(p) of single examples drawn uniformly, of blocks and all together.

Every order goes the cheapest way that gives it: computed (`exact.moments`), or else simulated by
populations (`moments.populations`), each with streams of its own.

Where K falls into blocks, a block with the share s of the examples stands still in the other steps, so that it adds

    Lambda_b = log(1 - s + s exp Lambda(p) of the block alone),

and for p > 0, where the norm goes with the largest of the blocks' norms, Lambda(p) is the largest. Negative orders
involve all blocks at once (`curves.joint`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import first_of_block
from sgdstab_fast.curves.envelope import Points
from sgdstab_fast.curves.joint import Curve, joint_exponent
from sgdstab_fast.curves.moments import MomentCurve
from sgdstab_fast.exact.moments import ExactMoments, value_at, with_nodes
from sgdstab_fast.moments.facts import LARGEST_BESIDE, facts_beside, held_against
from sgdstab_fast.moments.populations import LEAST_SIZE, MomentMetrics, simulate_moment
from sgdstab_fast.moments.results import OrderMoment, largest_of, sorted_values, values_at
from sgdstab_fast.operators.matrices import ExactMoment
from sgdstab_fast.results.result import SHORT
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.systems.growth import LARGEST_DIMENSION
from sgdstab_fast.systems.sgd import LinearizedSGD, SingleExampleSGD, require_plain
from sgdstab_fast.systems.system import Part

_SHARES = (1.0, 0.75, 0.5, 0.25)  # of a negative order, at which the curve of a block is known


class PlainMoments:
    """Lambda(p) of plain SGD at any order."""

    def __init__(self, system: SingleExampleSGD, *, computed: bool = True) -> None:
        self._system, self._computed = system, computed
        self._blocks = system.parts()
        self._exact = [ExactMoments(block.system) for block in self._blocks]
        self._points: list[dict[float, OrderMoment]] = [{} for _ in self._blocks]
        self._metrics = [
            MomentMetrics(require_plain(block.system, "moment_exponent"), exact)
            for block, exact in zip(self._blocks, self._exact, strict=True)
        ]

    @property
    def largest_amplification(self) -> float:
        """max_i abs(1 - eta K_ii)."""
        return math.exp(float(self._system.log_determinants.max()))

    def least_steps_per_chain(self, n_chains: int) -> int:
        """Return the steps that a simulation needs, by the number of populations."""
        return 1

    def at(self, order: float, options: Options, size: int | None) -> OrderMoment:
        """Return Lambda(p), simulated with populations of `size` walkers if it cannot be computed."""
        found = self._at(order, options, size)
        if found.n_steps == 0:
            return found
        dimension = max(block.system.dimension for block in self._blocks)
        return held_against(found, order, facts_beside(order, dimension, LARGEST_BESIDE, self.exact_at))

    def _at(self, order: float, options: Options, size: int | None) -> OrderMoment:
        if order == 0:
            return OrderMoment(0.0, "closed form")
        if order < 0 and len(self._blocks) > 1:
            return self._jointly(order, options, size)
        computed = [self._known_of_block(index, order) for index in range(len(self._blocks))]
        found = [each for each in computed if each is not None]
        for index, each in enumerate(computed):
            if each is not None and math.isfinite(each.exponent):
                self._points[index][order] = each
        # Of several blocks, those that cannot be the largest are left out.
        least = max((each.exponent - each.error for each in found), default=-math.inf)
        bounds = {index: self._upper_bound(index, order) for index, each in enumerate(computed) if each is None}
        contenders = [index for index in sorted(bounds, key=lambda index: -bounds[index]) if bounds[index] >= least]
        share = max(options.budget.max_steps // max(len(contenders), 1), options.n_chains * (size or LEAST_SIZE))
        its = options.within(share)
        for index in contenders:
            self._points[index][order] = self._simulated_block(index, order, its, size)
            found.append(self._points[index][order])
        return largest_of(found)

    def known(self, orders: FloatArray, found: list[OrderMoment]) -> Points:
        """Return orders, values and errors of what is known of Lambda, ascending, and the whole curve where cheap."""
        values = values_at(orders, found)
        if all(block.system.dimension == 1 and _annihilates(block.system) for block in self._blocks):
            return np.zeros(1), np.zeros(1), np.zeros(1)  # lambda is -inf, and Lambda jumps at p = 0
        if self._computed and len(self._blocks) == 1 and self._exact[0].everywhere:
            with_nodes(values, self._exact[0], grows=float(self._system.log_determinants.max()) > 0)
        elif self._computed and self._system.dimension <= LARGEST_DIMENSION and 2.0 not in values:
            mean_square = self.exact_at(2.0)
            if mean_square is not None and math.isfinite(mean_square.exponent):
                values[2.0] = mean_square.exponent, mean_square.error
        return sorted_values(values)

    def known_of_parts(self, *, with_mean_square: bool = True) -> list[Points]:
        """Return the same of each block, in steps of the whole, as far as found on the way; nothing of one block."""
        if len(self._blocks) == 1:
            return []
        for index in range(len(self._blocks) if with_mean_square else 0):
            square = self._known_of_block(index, 2.0)
            if square is not None and 2.0 not in self._points[index]:
                self._points[index][2.0] = square
        return [sorted_values(values_at(np.array(list(its)), list(its.values()))) for its in self._points]

    def exact_at(self, order: float) -> OrderMoment | None:
        """Return Lambda(p) at an order that is not negative; None where that takes simulation for some block."""
        if order == 2 and self._system.dimension > LARGEST_DIMENSION:
            return None
        each = [
            self._in_steps_of_whole(block, exact.at(order))
            for block, exact in zip(self._blocks, self._exact, strict=True)
        ]
        known = [one for one in each if one is not None]
        return max(known, key=lambda one: one.exponent) if len(known) == len(each) else None

    def _known_of_block(self, index: int, order: float) -> OrderMoment | None:
        """Return a block's part in steps of the whole, if it is computed."""
        block, exact = self._blocks[index], self._exact[index]
        if self._computed or block.system.dimension == 1:
            return self._in_steps_of_whole(block, exact.at(order))
        return None

    def _simulated_block(self, index: int, order: float, options: Options, size: int | None) -> OrderMoment:
        """Return a block's part in steps of the whole, simulated."""
        return _diluted(self._simulated(index, order, options, size), self._blocks[index].share)

    def _in_steps_of_whole(self, block: Part[LinearizedSGD], moment: ExactMoment | None) -> OrderMoment | None:
        """Return what a block's moment, computed, is in steps of the whole."""
        if moment is None:
            return None
        exponent = _idle(block.share, moment.exponent)
        reason = "a step annihilates every displacement" if math.isinf(exponent) else ""
        return OrderMoment(exponent, moment.method, numerical_error=moment.error, reason=reason)

    def _simulated(self, index: int, order: float, options: Options, size: int | None) -> OrderMoment:
        """Return a block's moment in steps of its own, simulated."""
        place = f"p = {order!r} of block {index}"
        return options.once(place, lambda its: self._by_populations(index, order, its, size))

    def _by_populations(self, index: int, order: float, options: Options, size: int | None) -> OrderMoment:
        mean_square = self._exact[index].at(2.0)
        scale = min(abs(order), 2) * abs(mean_square.exponent) / 2 if mean_square is not None else 0.0
        done, moment = simulate_moment(self._metrics[index], order, options, size, first_of_block(index), scale)
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
            within_tolerance=done.converged,
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
        with np.errstate(over="ignore"):
            growth = np.exp(order * np.maximum(block.system.log_determinants, 0))
        bound = math.log(float(growth.mean()))
        if order <= 2 and block.system.dimension <= LARGEST_DIMENSION:
            bound = min(bound, order / 2 * value_at(self._exact[index], 2.0))
        return _idle(block.share, bound) + 1e-12

    def _jointly(self, order: float, options: Options, size: int | None) -> OrderMoment:
        """Return Lambda(p) of several blocks at a negative order, from the curves of each from p to 0."""
        curves: list[Curve] = []
        errors: list[Callable[[float], Any]] = []
        shares: list[float] = []
        simulated: list[list[OrderMoment]] = []
        for index, (block, exact) in enumerate(zip(self._blocks, self._exact, strict=True)):
            if exact.everywhere and (self._computed or block.system.dimension == 1):
                at_order = exact.at(order)
                if at_order is None or math.isinf(at_order.exponent):
                    continue  # annihilated sooner or later: the others are the norm
                curves.append(exact.with_slope)
                errors.append(partial(_constant, at_order.error))
                simulated.append([])
                self._points[index][order] = _diluted(OrderMoment(at_order.exponent, at_order.method), block.share)
            else:
                curve, moments = self._curve(index, order, options, size)
                curves.append(_with_slope(curve))
                errors.append(curve.value_standard_error)
                simulated.append(moments)
            shares.append(block.share)
        if not curves:
            return OrderMoment(math.inf, "closed form", reason="products of steps annihilate every displacement")
        exponent, thetas, weights = joint_exponent(order, curves, shares)
        its = np.array([float(error(order * theta)) for error, theta in zip(errors, thetas, strict=True)])
        error = float(np.linalg.norm(weights * its))
        every = [moment for moments in simulated for moment in moments if moment.n_steps > 0]
        if not every:
            return OrderMoment(exponent, "closed form", numerical_error=max(error, 1e-13 * abs(exponent)))
        counted = [moment for moments, theta in zip(simulated, thetas, strict=True) if theta > 0 for moment in moments]
        stopped_by = options.budget.stopped_by(np.abs([exponent]), np.array([error]))
        return replace(
            max(every, key=lambda moment: (not moment.within_tolerance, moment.error)),
            exponent=exponent,
            method="population",
            standard_error=error,
            within_tolerance=stopped_by not in SHORT or all(moment.within_tolerance for moment in counted),
            stopped_by=stopped_by,
            n_steps=sum(moment.n_steps for moment in every),
            mixed=all(moment.mixed for moment in counted),
        )

    def _curve(
        self, index: int, order: float, options: Options, size: int | None
    ) -> tuple[MomentCurve, list[OrderMoment]]:
        """Return Lambda of one block, in steps of its own, from p to 0, and what it is made of."""
        block, exact = self._blocks[index], self._exact[index]
        parts = [share * order for share in _SHARES]
        share = options.budget.max_steps // (len(parts) * len(self._blocks))
        its = options.within(max(share, options.n_chains * (size or LEAST_SIZE)))
        found = []
        for part in parts:
            computed = exact.at(part) if self._computed else None
            if computed is None:
                found.append(self._simulated(index, part, its, size))
            else:
                found.append(OrderMoment(computed.exponent, computed.method, numerical_error=computed.error))
        for part, each in zip(parts, found, strict=True):
            self._points[index][part] = _diluted(each, block.share)
        kept = [(part, each.exponent, each.error) for part, each in zip(parts, found, strict=True)]
        kept = [point for point in kept if not any(map(math.isnan, point))]
        nodes = np.array([*kept, (0.0, 0.0, 0.0), (2.0, value_at(exact, 2.0), 0.0)])
        return MomentCurve.fit(*nodes.T), found


def _constant(error: float, order: float) -> float:
    return error


def _with_slope(curve: MomentCurve) -> Curve:
    return lambda order: (float(curve.value(order)), float(curve.derivative(order)))


def _annihilates(system: LinearizedSGD) -> bool:
    return bool(np.isneginf(system.log_determinants).any())


def _diluted(found: OrderMoment, share: float) -> OrderMoment:
    """Return a block's moment, of its own steps, in those of the whole, of which it takes a share."""
    if share == 1 or not math.isfinite(found.exponent):
        return found
    value = _idle(share, found.exponent)
    slope = share * math.exp(found.exponent - value)
    return replace(
        found,
        exponent=value,
        standard_error=slope * found.standard_error,
        numerical_error=slope * found.numerical_error,
        population_bias=slope * found.population_bias,
    )


def _idle(share: float, exponent: float) -> float:
    """Return log(1 - share + share exp(exponent))."""
    if share == 1 or exponent == math.inf:
        return exponent
    return math.log1p(share * math.expm1(exponent))
