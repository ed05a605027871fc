"""Moments of systems of any kind: batches, data orders, optimisers with memory, random matrices.

Every order goes the cheapest way that gives it: computed (`exact.moments`), or else simulated by
populations of weighted walkers (`moments.weighted_vectors`), each with streams of its own, in the metric of
second moments. Where batches depend on each other, weights are looked at after whole epochs, and Lambda(p) is that of a
step.

Blocks of K draw from the same batches. For p > 0, where the norm goes with the largest of the blocks' norms,

    max_b |Phi_b|^p  <=  |Phi|^p  <=  const sum_b |Phi_b|^p,    Lambda(p) = max_b Lambda_b(p).

At negative orders the norm is small where all blocks are, and the whole is simulated as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast._core.streams import first_of_block
from sgdstab_fast.curves.envelope import Points
from sgdstab_fast.curves.joint import joint_exponent_of_numbers
from sgdstab_fast.exact.exponents import known_exponents
from sgdstab_fast.exact.moments import ExactMomentsOfSteps, value_at, with_nodes
from sgdstab_fast.moments.facts import facts_beside, held_against
from sgdstab_fast.moments.resampling import Advance
from sgdstab_fast.moments.results import OrderMoment, largest_of, sorted_values, values_at
from sgdstab_fast.moments.starts import SCOUT_SHARE, SCOUTS, apart, next_to, one_by_one, rivals, sums_of
from sgdstab_fast.moments.weighted_vectors import LEAST_BATCHES, scouts, walker_moment
from sgdstab_fast.operators.matrices import LARGEST_MATRIX, ExactMoment
from sgdstab_fast.results.chains import Chains, VectorRecords
from sgdstab_fast.simulation.continuation import advance_windows
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import initial_vectors
from sgdstab_fast.simulation.vectors import vectors_task
from sgdstab_fast.statistics.mixing import N_COMPANIONS
from sgdstab_fast.systems.growth import LARGEST_DIMENSION
from sgdstab_fast.systems.system import QuadraticForms, System

Start = Callable[[tuple[int, int]], FloatArray]
"""(n_populations, size) -> vectors (n_populations, size, dimension), of any length."""
_LEAST_SIZE, _SIZE = 8, 64  # walkers of a population, by default
_LENGTH, _LENGTH_IN_EPOCHS = 400, 100  # of a run, steps and epochs, from which on populations are of that size
_METRIC_TOLERANCE = 1e-4
_SECONDS_PER_THREAD = 2e-4  # of a call of the core: less is not worth starting one
_FEW = 2**20  # numbers in all matrices
_SCOUT_BATCHES, _SCOUT_STEPS = 128, 8  # of a batch
_ROUNDING = 1e-12  # of what multiplies no length


class GeneralMoments:
    """Lambda(p) of one system at any order."""

    def __init__(self, system: System, *, computed: bool = True) -> None:
        self._system, self._computed = system, computed
        self._whole = ExactMomentsOfSteps(system)
        self._apart: dict[int, FloatArray] = {}
        if self._whole.exponent is not None:
            self._blocks, self._exact = [system], [self._whole]
            self._points: list[dict[float, OrderMoment]] = [{}]
            return
        self._blocks = [part.system for part in system.parts()]
        self._exact = [self._whole if block is system else ExactMomentsOfSteps(block) for block in self._blocks]
        self._points = [{} for _ in self._blocks]

    @property
    def largest_amplification(self) -> float:
        """A bound of what a step may multiply lengths by, in some norm."""
        if self._whole.exponent is not None:
            bound = math.exp(min(self._whole.exponent[0], 700.0))
        else:
            bound = self._system.largest_amplification()
        return 1.0 if abs(bound - 1) <= _ROUNDING else bound

    def least_steps_per_chain(self, n_chains: int) -> int:
        """Return the steps that a simulation needs, by the number of populations."""
        return _LEAST_SIZE * LEAST_BATCHES * self._system.grain * (n_chains + min(N_COMPANIONS, n_chains)) // n_chains

    def at(self, order: float, options: Options, size: int | None) -> OrderMoment:
        """Return Lambda(p), simulated with populations of `size` walkers if it cannot be computed."""
        if order < 0 and self._numbers is not None:
            value, error = joint_exponent_of_numbers(order, *self._numbers)
            return _computed(ExactMoment(value, error, "closed form"))
        found = self._at(order, options, size)
        if found.n_steps == 0:
            return found
        dimension = max(block.dimension for block in self._blocks)
        facts = facts_beside(order, dimension, LARGEST_MATRIX, self.exact_at)
        return held_against(found, order, facts, self._bounds(order))

    @cached_property
    def _numbers(self) -> tuple[FloatArray, FloatArray] | None:
        """Logarithms of what outcomes multiply blocks by, and probabilities, where blocks are numbers; else None."""
        if len(self._blocks) == 1 or any(block.dimension > 1 for block in self._blocks):
            return None
        found = self._system.balanced().outcomes(_FEW)
        if found is None or found.n_steps > 1:
            return None
        diagonals = np.einsum("ijj->ij", found.matrices)
        if np.count_nonzero(found.matrices) > np.count_nonzero(diagonals):
            return None
        with np.errstate(divide="ignore"):
            return np.log(np.abs(diagonals)), found.probabilities

    def _bounds(self, order: float) -> tuple[float, float]:
        """Return what Lambda(p) lies between by what single steps do, and at negative orders by what blocks do.

        There the norm of the whole is no smaller than that of a block, so that its Lambda(p) is no larger.
        """
        if order > 0:
            lows, highs = zip(*(exact.bounds(order) for exact in self._exact), strict=True)
            return max(lows), max(highs)
        low, high = self._whole.bounds(order)
        return low, high if len(self._blocks) == 1 else min(high, *(value_at(exact, order) for exact in self._exact))

    def exact_at(self, order: float) -> OrderMoment | None:
        """Return Lambda(p) at an order that is not negative; None where that takes simulation for some block."""
        known = [each for each in (exact.at(order) for exact in self._exact) if each is not None]
        if len(known) < len(self._exact):
            return None
        return _computed(max(known, key=lambda each: each.exponent))

    def _at(self, order: float, options: Options, size: int | None) -> OrderMoment:
        if order == 0:
            return OrderMoment(0.0, "closed form")
        if order < 0 and len(self._blocks) > 1:
            found = self._whole.at(order) if self._computed else None
            return _computed(found) if found is not None else self._simulated(0, order, options, size, whole=True)
        computed = [self._known_of_block(index, order) for index in range(len(self._blocks))]
        each = [one for one in computed if one is not None]
        # Of several blocks, those that cannot be the largest are left out.
        least = max((one.exponent - one.error for one in each), default=-math.inf)
        bounds = {index: self._upper_bound(index, order) for index, one in enumerate(computed) if one is None}
        contenders = [index for index in sorted(bounds, key=lambda index: -bounds[index]) if bounds[index] >= least]
        its = options.within(options.budget.max_steps // max(len(contenders), 1))
        for index, one in enumerate(computed):
            if one is not None and math.isfinite(one.exponent):
                self._points[index][order] = one
        for index in contenders:
            self._points[index][order] = self._simulated(index, order, its, size)
            each.append(self._points[index][order])
        return largest_of(each)

    def known_of_parts(self, *, with_mean_square: bool = True) -> list[Points]:
        """Return what is known of each block, as far as it was found on the way; none of one block."""
        if len(self._blocks) == 1:
            return []
        for index, its in enumerate(self._points if with_mean_square else ()):
            square = self._known_of_block(index, 2.0)
            if square is not None and math.isfinite(square.exponent):
                its.setdefault(2.0, square)
        return [sorted_values(values_at(np.array(list(its)), list(its.values()))) for its in self._points]

    def known(self, orders: FloatArray, found: list[OrderMoment]) -> Points:
        """Return orders, values and errors of what is known of Lambda, ascending, and the whole curve where cheap."""
        values = values_at(orders, found)
        exponents = [known_exponents(block) for block in self._blocks]
        if all(each is not None and each.exponents[0] == -math.inf for each in exponents):
            return np.zeros(1), np.zeros(1), np.zeros(1)  # lambda is -inf, and Lambda jumps at p = 0
        if self._computed and len(self._blocks) == 1 and self._exact[0].everywhere:
            with_nodes(values, self._exact[0], grows=self.largest_amplification > 1)
        elif self._computed and 2.0 not in values:
            mean_square = self.exact_at(2.0)
            if mean_square is not None and math.isfinite(mean_square.exponent):
                values[2.0] = mean_square.exponent, mean_square.error
        return sorted_values(values)

    def _known_of_block(self, index: int, order: float) -> OrderMoment | None:
        """Return a block's moment, if it is computed."""
        deterministic = self._exact[index].exponent is not None
        if not (self._computed or self._blocks[index].dimension == 1 or deterministic):
            return None
        found = self._exact[index].at(order)
        return None if found is None else _computed(found)

    def _upper_bound(self, index: int, order: float) -> float:
        """Return what a block's moment cannot exceed: the chord of the convex Lambda from 0 to 2, below p = 2."""
        if len(self._blocks) == 1 or not 0 < order <= 2:
            return math.inf
        return order / 2 * value_at(self._exact[index], 2.0) + _ROUNDING

    def _simulated(
        self, index: int, order: float, options: Options, size: int | None, *, whole: bool = False
    ) -> OrderMoment:
        """Return a block's moment, or that of all together, by walkers."""
        place = f"p = {order!r} of block {index}"
        return options.once(place, lambda its: self._by_walkers(index, order, its, size, whole=whole))

    def _by_walkers(
        self, index: int, order: float, options: Options, size: int | None, *, whole: bool = False
    ) -> OrderMoment:
        system = self._system if whole else self._blocks[index]
        exact = self._whole if whole else self._exact[index]
        forms = None if whole else exact.forms
        seed, grain = options.seed.at_order(order), system.grain
        first_chain = first_of_block(index)
        if size is None:
            length = max(_LENGTH, _LENGTH_IN_EPOCHS * grain) * (options.n_chains + min(N_COMPANIONS, options.n_chains))
            size = int(np.clip(options.budget.max_steps // length, _LEAST_SIZE, _SIZE))
        metric, covariance, exponent = _metric(system, forms, whole=whole)
        start, spent = _start(system, seed.key, covariance, first_chain), 0
        scale = 0.0 if exponent is None else min(abs(order), 2) * abs(exponent) / 2
        kinds = np.empty((0, system.dimension))
        if order > 0:
            if index not in self._apart:
                self._apart[index] = apart(system, metric)
            kinds, spent = _kinds(system, self._apart[index], order, options, start, metric)
        else:
            start = _sums(system, start)
        found = walker_moment(
            _advance(system, seed.key, first_chain, options),
            one_by_one(system, start((options.n_chains, size)), kinds),
            order,
            n_kinds=1 + len(kinds),
            budget=options.within(options.budget.max_steps - spent).budget,
            seed=seed,
            steps_unit=grain,
            scale=scale,
            metric=metric,
            mean_square=exponent,
            floor=system.norm(),
            progress=options.progress if callable(options.progress) else None,
            recorder=options.recorder,
        )
        return replace(found, n_steps=found.n_steps + spent)


def _computed(found: ExactMoment) -> OrderMoment:
    reason = "products of steps annihilate every displacement" if math.isinf(found.exponent) else ""
    return OrderMoment(found.exponent, found.method, numerical_error=found.error, reason=reason)


def _metric(
    system: System, forms: QuadraticForms | None, *, whole: bool
) -> tuple[FloatArray | None, FloatArray | None, float | None]:
    """Return the metric that weights are taken in, a covariance to start from, and Lambda(2) if it is that metric's."""
    if forms is not None and math.isfinite(forms.exponent):
        return forms.metric, forms.covariance, forms.exponent
    if whole or system.dimension > LARGEST_DIMENSION:
        return None, None, None
    found = system.independent_second_moments(_METRIC_TOLERANCE)
    return (found.metric, found.covariance, None) if found is not None and found.converged else (None, None, None)


def _advance(system: System, key: StreamKey, first_chain: int, options: Options) -> Advance:
    """Return what advances walkers through the core."""
    task = vectors_task(system, system.no_growth)

    def advance_walkers(vectors: FloatArray, first_step: int, n_steps: int) -> tuple[FloatArray, FloatArray]:
        chains = Chains(
            key=key,
            states=np.array(vectors, order="C"),  # chains move theirs; walkers that die stay
            steps_per_batch=n_steps,
            records=VectorRecords.empty(len(vectors), 1, 0),
            first_chain=first_chain,
            first_step=first_step,
        )
        seconds = task.seconds_per_step * len(vectors) * n_steps
        n_threads = int(np.clip(seconds / _SECONDS_PER_THREAD, 1, options.workers.n_threads))
        shared = replace(task, chains_per_item=-(-len(vectors) // n_threads))
        chains = advance_windows(chains, shared, 1, replace(options.workers, n_threads=n_threads))
        return chains.states, chains.records.log_growth[:, 0, 0]

    return advance_walkers


def _start(system: System, key: StreamKey, covariance: FloatArray | None, first_chain: int) -> Start:
    """Return what populations start from: vectors with the dominant second moment."""

    def vectors(shape: tuple[int, int]) -> FloatArray:
        found = initial_vectors(system, covariance, key, math.prod(shape), 1, first_chain)
        return found.reshape(*shape, system.dimension)

    return vectors


def _sums(system: System, start: Start) -> Start:
    """Return what walkers of negative orders start from: sums with the slowest direction."""
    return lambda shape: sums_of(system, start(shape), system.slow_directions(1).T)


def _kinds(
    system: System, apart: FloatArray, order: float, options: Options, start: Start, metric: FloatArray | None
) -> tuple[FloatArray, int]:
    """Return directions of kinds that may carry a moment, (n, dimension), and the steps that scouts took."""
    if len(apart) == 0:
        return apart, 0
    shape, seed = (len(apart), SCOUTS), options.seed.at_order(order).child_of_key(0)
    most = options.budget.max_steps // (SCOUT_SHARE * math.prod(shape) * _SCOUT_BATCHES * system.grain)
    n_steps = min(_SCOUT_STEPS, most) * system.grain
    advance, n_batches = _advance(system, seed.key, 0, options), _SCOUT_BATCHES if n_steps > 0 else 0
    vectors = next_to(system, start(shape), apart[:, None])
    log_growth = scouts(advance, order, vectors, n_batches, n_steps, seed, metric, system.norm())
    return apart[rivals(order, log_growth)], math.prod(shape) * n_batches * n_steps
