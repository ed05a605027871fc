"""Populations: the moment exponent Lambda(p) of a K that does not fall into blocks, by weighted walkers.

The core advances populations of walkers with weights norm^p (`kernels/populations.hpp`) and gives,
at the end of every batch and for every metric M,

    X_M = sum_j W_j |s_j|_M^p / sum_j W_j,    E_M = sum_j W_j |s_j|_M^p (h_M(s_j) - 1) / sum_j W_j.

Of infinitely many walkers E_M / X_M is exp Lambda(p) - 1 for every metric: differences between metrics are control
variates, and the best combination follows from the data (`statistics.control_variates`). In the metric of order p,
E[growth^(p-2) A^T M A] = rho M, |s|_M^p is nearly the eigenfunction of the moments; it comes from the mean-square
operator with examples weighted by the growth that they may bring.

A finite population is drawn towards itself, a bias of order 1 / size: a population that has grown more than others in
the recent past stands for more of the mean than it is given. So each is weighted by its growth over a window of time,

    G_t = prod_{u in (t - L, t]} (total weight after batch u over that before),

    exp Lambda(p) - 1 = sum_t G_t E_M,t / sum_t G_t X_M,t,    over all populations,

which makes them one population as large as all together, as far as what happened before the window no longer matters
(C. J. Umrigar, M. P. Nightingale and K. J. Runge, J. Chem. Phys. 99, 1993, for diffusion Monte Carlo). Windows double
as long as that hardly costs variance; what the last doubling has changed goes into the error bar, and what the window
has changed in all is the measured bias.

Steps are plain where a single one hardly changes weights, and tilted, drawn in proportion to growth^p, elsewhere. The
companions that tell how fast chains forget their starts (`statistics.mixing`) take tilted steps as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast import memory
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.streams import COMPANIONS
from sgdstab_fast.exact.moments import ExactMoments
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.moments.starts import (
    SCOUT_SHARE,
    SCOUTS,
    apart,
    hardly_feed,
    kind_of_each,
    leading_kinds,
    next_to,
    one_by_one,
    rivals,
    seeing_all,
    sums_of,
)
from sgdstab_fast.moments.windows import COSTLY, LONGEST_WINDOW, PIECES
from sgdstab_fast.results.chains import Chains, PopulationRecords, VectorRecords
from sgdstab_fast.simulation.looks import looks_back
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.run import Run, run
from sgdstab_fast.simulation.starts import initial_vectors
from sgdstab_fast.simulation.task import Task, advance
from sgdstab_fast.simulation.vectors import MOST_BETWEEN_NORMALISATIONS, companions_task, vectors_task
from sgdstab_fast.statistics.anchored import AnchoredGrowth, start_up_batches
from sgdstab_fast.statistics.control_variates import combined
from sgdstab_fast.statistics.estimates import Estimate, unknown
from sgdstab_fast.statistics.means import standard_errors
from sgdstab_fast.statistics.mixing import LEAST_COMPANIONS, N_COMPANIONS, Mixing, first_resolved
from sgdstab_fast.systems.growth import LARGEST_DIMENSION, Growth
from sgdstab_fast.systems.sgd import LinearizedSGD, SingleExampleSGD
from sgdstab_fast.systems.single_steps import is_nearly_singular
from sgdstab_fast.systems.system import overflow_safe_steps

_METRIC_TOLERANCE = 1e-4
_OF_EXACT = 8  # numbers, in N^2, of the dominant second moment and of what makes metrics
_MOST_WEIGHTED, _GRID = 3.0, 0.5  # theta of metrics
LEAST_SHARE = 0.5  # of effective walkers
_PROBES = 64  # vectors that show how a step spreads weights
_SPREAD = 0.1  # relative variance of weights over N plain steps, beyond which tilted ones are worth their time
_RARE = 1e-3  # the same at negative orders, where rare shrinking steps count
_LEAST_LENGTH, _LEAST_STEPS = 12, 200  # of a run, times N and in all, at the default size
_SETTLING, _LEAST_SETTLING = 100, (400, 2000)  # steps before a tolerance may stop a run: times N, and between
START_UP = 8  # at least one batch in so many is cut off
_SLOWEST = 2.0  # relaxation times of a run, where they cannot be measured
_TILTED_SIZE, LEAST_SIZE = 128, 16  # walkers of a population, by default
_COMPANION_SIZE = 16
_SCOUT_LENGTH, _LEAST_SCOUT = 10, 512  # steps, times N and in all
_NOISE = 0.1  # of other directions next to gradients, where they may all lead to one another
_FRESH = 32  # tilted steps after which the core forms products of all of K again
ROUNDING = 256 * float(np.finfo(float).eps)  # of sums over walkers
_DISAGREE = 5.0  # standard errors: what metrics say apart from each other
_LEAST_BATCHES = 32  # of a population


@dataclass(frozen=True)
class Moment:
    """Lambda(p) of one block, by populations."""

    estimate: Estimate
    population_bias: float
    """What windows have changed: the bias of a single population, as measured."""
    effective_walkers: float
    """(sum W)^2 / sum W^2 of a population, on average."""


class MomentMetrics:
    """The metrics for moments of a system, kept from order to order."""

    def __init__(self, system: SingleExampleSGD, exact: ExactMoments) -> None:
        self.system, self._exact = system, exact
        self._known: dict[float, tuple[FloatArray, FloatArray]] = {}

    def at(self, order: float) -> Growth:
        """Return the metrics for a moment: the norm of K, that of constant mean squared growth and others like it."""
        system = self.system
        if system.dimension > LARGEST_DIMENSION:
            return system.growth_in_norm
        amplification = system.amplification
        thetas = [0.0]
        if amplification.max() > 1:
            # theta = 1 - p/2 weighs a step by growth^(p-2); its neighbours on a grid that orders share do as well.
            own = float(np.clip(1 - order / 2, -_MOST_WEIGHTED, _MOST_WEIGHTED)) / _GRID
            near = [math.floor(own) * _GRID, math.ceil(own) * _GRID]
            thetas = list(dict.fromkeys([0.0, *near] if order > 2 else [0.0, 0.5, 1.0, *near]))
        n_unknown = len(set(thetas) - self._known.keys())
        numbers = len(thetas) + n_unknown + _OF_EXACT * (n_unknown > 0)  # all of them once more for the core
        size = BYTES_OF_DOUBLE * system.dimension**2
        memory.require("a moment", {f"{len(thetas)} metrics of walkers": numbers * size})
        found = [self._metric(theta, amplification) for theta in thetas]
        return system.growth_with_norms(found, self._exact.mean_square.covariance)

    @cached_property
    def apart(self) -> FloatArray:
        """Directions that hardly feed the dominant second moment, (n, dimension)."""
        return apart(self.system, self._square)

    @cached_property
    def feeding(self) -> NDArray[np.intp]:
        """Examples whose gradients do feed it."""
        gradients = self.system.rows_of_k.moved(np.arange(self.system.n_examples))
        return np.flatnonzero(~hardly_feed(self.system, gradients, self._square))

    @property
    def _square(self) -> FloatArray | None:
        return self._exact.mean_square.metric if self.system.dimension <= LARGEST_DIMENSION else None

    def _metric(self, theta: float, amplification: FloatArray) -> tuple[FloatArray, FloatArray]:
        if theta not in self._known:
            metric = self._exact.mean_square.metric
            if theta != 0:
                weights = (amplification / amplification.max()) ** -theta
                metric = self.system.mean_square_metric(weights, _METRIC_TOLERANCE)
            if len(self.apart) > 0:
                metric = seeing_all(self.system, metric)
            self._known[theta] = self.system.metric_with_norms(metric)
        return self._known[theta]


@dataclass(frozen=True)
class _Walkers:
    """Walkers weighted by norm^p of one system, with streams of their own for every order."""

    system: SingleExampleSGD
    order: float
    growth: Growth
    options: Options
    first_chain: int
    feeding: NDArray[np.intp]
    """Examples whose gradients feed the dominant second moment; none where it is of what no example moves much."""
    kinds: FloatArray
    """Directions that hardly do, (n, dimension), next to which populations start as well."""

    def starts(self, shape: tuple[int, int], *, tilted: bool = False) -> FloatArray:
        """Return the vectors that walkers start from, in the shape of (populations, walkers) and (dimension,).

        Half of those of the usual kind are next to the gradients of examples in tilted steps of an order p > 0.
        """
        system, key, size = self.system, self.options.seed.key, shape[1]
        states = 2 * BYTES_OF_DOUBLE * math.prod(shape) * system.dimension
        memory.require("a moment", {f"{shape[0]} populations (n_chains) of {size} vectors (population)": states})
        first_chain = self.first_chain * size
        vectors = initial_vectors(system, self.growth.covariance, key, math.prod(shape), 1, first_chain)[:, 0]
        vectors = vectors.reshape(*shape, system.dimension)
        if self.order < 0:
            return sums_of(system, vectors, system.slow_directions(1).T)
        if tilted and len(self.feeding) > 0:
            half = size // 4 * 2
            vectors[:, :half] = next_to(system, vectors[:, :half], self._gradients(shape[0], half), _NOISE)
        return one_by_one(system, vectors, self.kinds)

    def _gradients(self, n_populations: int, size: int) -> FloatArray:
        """Return gradients of examples for walkers: half of those whose steps weigh most, half of all in turn.

        Next to them steps on an example repeat themselves, and moments far from p = 2 may be carried by other examples
        than the second moment is, which walkers hardly reach from one another. Not at negative orders: what a step
        shrinks again and again is exceptional, and its moments are not those of the product's norm.
        """
        feeding = self.feeding
        strongest = feeding[np.argsort(-self.order * self.system.log_determinants[feeding], kind="stable")]
        count, rest = size // 2, size - size // 2
        examples = np.empty((n_populations, size), dtype=np.intp)
        examples[:, :count] = strongest[np.arange(count) % len(feeding)]
        examples[:, count:] = feeding[np.arange(n_populations * rest).reshape(n_populations, rest) % len(feeding)]
        return self.system.rows_of_k.moved(examples)

    def with_kinds_of(self, directions: FloatArray) -> tuple[_Walkers, int]:
        """Return walkers of the kinds that may carry the moment, and the steps that scouts took."""
        if self.order < 0 or len(directions) == 0:
            return self, 0
        shape = len(directions), SCOUTS
        most = self.options.budget.max_steps // (SCOUT_SHARE * math.prod(shape))
        n_steps = min(max(_SCOUT_LENGTH * self.system.n_examples, _LEAST_SCOUT), most)
        n_batches, options = _LEAST_BATCHES if n_steps >= _LEAST_BATCHES else 0, self.options.child_of_key(0)
        vectors = replace(self, options=options, first_chain=0).starts(shape)
        chains = Chains(
            key=options.seed.key,
            states=walkers_from(next_to(self.system, vectors, directions[:, None])),
            steps_per_batch=max(n_steps // _LEAST_BATCHES, 1),
            records=PopulationRecords.empty(len(directions), 0),
            n_walkers=SCOUTS,
        )
        chains = advance(
            chains, self.task(chains.steps_per_batch, tilted=True, evaluate=False), n_batches, options.workers
        )
        return replace(self, kinds=directions[rivals(self.order, chains.records.log_growth)]), chains.n_steps

    @property
    def spread(self) -> float:
        """The relative variance of growth^p over one plain step, in the norm of K, of the kind that varies most."""
        system = self.system.in_own_units()
        eta = system.learning_rate
        vectors = self.starts((_PROBES, 1))[:, 0]
        w = vectors @ system.rows.T
        q = np.einsum("cj,cj->c", vectors, system.rows_of_k.images(vectors, w))
        log_growth = np.log(np.maximum(1 - eta * (2 - eta * system.diagonal) * w**2 / q[:, None], 1e-30)) / 2
        log_powers = self.order * log_growth
        powers = np.exp(log_powers - log_powers.max(axis=1, keepdims=True))
        spreads = (powers**2).mean(axis=1) / powers.mean(axis=1) ** 2 - 1
        kinds = kind_of_each(_PROBES, 1 + len(self.kinds))
        return max(float(spreads[kinds == kind].mean()) for kind in range(1 + len(self.kinds)))

    def task(self, n_steps: int, *, tilted: bool, n_passive: int = 0, evaluate: bool = True) -> Task[PopulationRecords]:
        """Return what advances them."""
        return population_task(
            self.system, self.order, self.growth, n_steps, tilted=tilted, n_passive=n_passive, evaluate=evaluate
        )

    def chains(self, size: int, spent: int, *, tilted: bool) -> Chains[PopulationRecords]:
        """Return populations of a size to start with, and companions."""
        system, options = self.system, self.options
        most = options.budget.max_steps - spent
        n_companions = min(N_COMPANIONS, most - options.n_chains * size)
        n_companions = n_companions if n_companions >= LEAST_COMPANIONS else 0
        most //= options.n_chains * size + n_companions * (_COMPANION_SIZE if tilted else 1)
        steps = max(4, system.n_examples // 2) if tilted else max(8, system.n_examples)
        steps = min(steps, max(1, most // _LEAST_BATCHES))
        key, first = options.seed.key, self.first_chain + COMPANIONS.start
        together = _COMPANION_SIZE if tilted else 1
        pairs = initial_vectors(system, self.growth.covariance, key, n_companions * together, 2, first)
        pairs = pairs.reshape(n_companions, together, 2, system.dimension)
        pairs[:, :, 0] = one_by_one(system, pairs[:, :, 0], self.kinds)
        companions: Chains[Any] = Chains(
            key=key,
            states=walkers_from(pairs.reshape(n_companions, together, -1))
            if tilted
            else np.ascontiguousarray(pairs[:, 0]),
            steps_per_batch=steps,
            records=PopulationRecords.empty(n_companions, 0) if tilted else VectorRecords.empty(n_companions, 2, 0),
            first_chain=first,
            n_walkers=together,
        )
        size_of_steps = min(1.0, abs(self.order)) * min(1.0, system.learning_rate * float(system.diagonal.mean()))
        return Chains(
            key=key,
            states=walkers_from(self.starts((options.n_chains, size), tilted=tilted)),
            steps_per_batch=steps,
            records=PopulationRecords.empty(options.n_chains, self.growth.size),
            first_chain=self.first_chain,
            n_walkers=size,
            spacing=steps,
            n_examples=system.n_examples,
            rounding=ROUNDING * size_of_steps,
            pilot_steps=spent,
            companions=companions if n_companions > 0 else None,
        )


def simulate_moment(
    metrics: MomentMetrics, order: float, options: Options, size: int | None, first_chain: int, scale: float
) -> tuple[Run[PopulationRecords], Moment]:
    """Estimate Lambda(p) at one order p, with populations of `size` walkers.

    A relative tolerance is relative to abs(Lambda(p)) or `scale`, whichever is larger. Every order has streams of its
    own.
    """
    system, options = metrics.system, replace(options, seed=options.seed.at_order(order))
    walkers = _Walkers(system, order, metrics.at(order), options, first_chain, metrics.feeding, metrics.apart[:0])
    walkers, spent = walkers.with_kinds_of(metrics.apart)
    least_steps = int(np.clip(_SETTLING * system.n_examples, *_LEAST_SETTLING))
    moment = Moment(unknown(1), math.nan, math.nan)

    def estimate(some: Chains[PopulationRecords]) -> Estimate:
        nonlocal moment  # that of the last look
        moment = estimate_moment(some, 1 + len(walkers.kinds))
        found = replace(moment.estimate, scales=np.maximum(np.abs(moment.estimate.mean), scale))
        if some.n_batches * some.steps_per_batch < least_steps:
            found = replace(found, bias_allowance=None, top_drift=math.inf)  # not to be stopped by a tolerance
        return found

    tilted = walkers.spread * system.n_examples > (_SPREAD if order > 0 else _RARE)
    if size is None:
        # Long runs of few walkers rather than short ones of many.
        longest = options.budget.max_steps // (options.n_chains * max(_LEAST_LENGTH * system.n_examples, _LEAST_STEPS))
        size = int(np.clip(longest, LEAST_SIZE, _TILTED_SIZE)) if tilted else LEAST_SIZE
    chains = walkers.chains(size, spent, tilted=tilted)
    steps = chains.steps_per_batch
    companion_task: Task[Any] = companions_task(system, vectors_task(system, system.no_growth))
    if tilted:
        companion_task = walkers.task(steps, tilted=True, n_passive=1, evaluate=False)
    task = walkers.task(steps, tilted=tilted)
    return run(chains, task, estimate, options, companion_task=companion_task, label="moments"), moment


def population_task(
    system: LinearizedSGD,
    order: float,
    growth: Growth,
    steps_per_batch: int = _FRESH,
    *,
    tilted: bool,
    n_passive: int = 0,
    evaluate: bool = True,
) -> Task[PopulationRecords]:
    """Return what advances populations; tilted steps use the second metric, or the norm of K alone.

    A passive vector beside those that weights go by tells how chains mix.
    """
    n, d = system.rows.shape
    gauge = None
    seconds_per_step = 1.2e-8 + 1.5e-10 * d + 6e-8 / steps_per_batch  # measured, on one thread
    if tilted:
        rows = system.rows_of_k
        gauge = arguments.Gauge(rows.gram, None, None, rows.diagonal)
        if len(growth.matrices) > 0:
            metric, diagonal = growth.matrices[0], growth.metrics.diagonals[1]
            gauge = arguments.Gauge(rows.gram, rows.couplings(metric), metric, diagonal)
        seconds_per_step = 4e-8 + 2.2e-9 * n + 2.5e-10 * n * d / min(steps_per_batch, _FRESH)
    if evaluate:
        seconds_per_step += growth.seconds_per_step(steps_per_batch)
    evaluated = growth if evaluate else system.no_growth
    return Task(
        function="advance_populations",
        steps=system.vectors_call().steps,
        metrics=arguments.PopulationMetrics(evaluated.metrics.matrices, evaluated.metrics.diagonals, gauge),
        options=arguments.PopulationOptions(
            order=order,
            renormalise_every=min(overflow_safe_steps(system.log_determinants), MOST_BETWEEN_NORMALISATIONS),
            careful=is_nearly_singular(system.log_determinants),
            least_share=LEAST_SHARE,
            n_passive=n_passive,
        ),
        records=PopulationRecords,
        seconds_per_step=seconds_per_step,
        chains_per_item=1,
    )


def walkers_from(vectors: FloatArray) -> FloatArray:
    """Return walkers of weight 1 with the given vectors, (n_populations, size, n_vectors * dimension)."""
    # In units of the largest entry, exactly: squares of large ones would be infinite.
    vectors = np.ldexp(vectors, -np.frexp(np.abs(vectors).max(axis=2, initial=0.0, keepdims=True))[1])
    norms = np.linalg.norm(vectors, axis=2, keepdims=True)
    return np.ascontiguousarray(np.concatenate([vectors / norms, np.zeros((*vectors.shape[:2], 2))], axis=2))


def estimate_moment(chains: Chains[PopulationRecords], n_kinds: int = 1) -> Moment:
    """Estimate Lambda(p) from populations that started as so many kinds."""
    log_growth, effective, norms, excess, _ = chains.records
    lost = np.isnan(log_growth).any() or not np.isfinite(norms).all()
    # A step annihilates all that it is taken on; at a negative order that is infinite growth.
    annihilated = np.isinf(log_growth).any() or np.isposinf(excess).any()
    if chains.n_batches == 0 or (not annihilated and (lost or not np.isfinite(excess).all())):
        return Moment(unknown(1), math.nan, math.nan)
    if annihilated:
        limit = -math.inf if np.isneginf(log_growth).any() else math.inf
        found = replace(unknown(1), mean=np.array([limit]), standard_error=np.zeros(1), bias_allowance=0.0, mixed=True)
        return Moment(found, 0.0, math.nan)
    kinds, leading = kind_of_each(chains.n_chains, n_kinds), np.arange(n_kinds) == 0
    mixing = _mixing(chains, leading)
    start_up = _start_up(mixing, chains)
    each_alone = [
        _weighted_growth(log_growth[kinds == kind], norms[kinds == kind], excess[kinds == kind], 0, start_up)[0]
        for kind in range(n_kinds)
    ]
    leading, missed = leading_kinds([series[:, start_up:] for series in each_alone])
    mixing, kept = _mixing(chains, leading), leading[kinds]
    start_up = _start_up(mixing, chains)
    log_growth, effective, norms, excess = (each[kept] for each in (log_growth, effective, norms, excess))
    windows = [0]
    while 2 * windows[-1] + 1 <= LONGEST_WINDOW * (chains.n_batches - start_up):
        windows.append(max(1, 2 * windows[-1]))
    series, means = zip(
        *(_weighted_growth(log_growth, norms, excess, window, start_up) for window in windows), strict=True
    )
    errors = np.array([mean.std(ddof=1) for mean in means])
    if not np.isfinite(errors).all():
        return Moment(unknown(1), math.nan, math.nan)
    chosen = int(np.flatnonzero(errors <= COSTLY * errors.min())[-1])
    other = means[chosen - 1] if chosen > 0 else means[min(1, len(means) - 1)]
    unsettled = abs(float((means[chosen] - other).mean()))
    bias = float((means[0] - (means[chosen] if chosen > 0 else other)).mean())
    # In the stationary law all metrics have the same mean: where they do not, something has not been seen, and the
    # combination may be off by as many standard errors as they are.
    apart = series[chosen][:, start_up:].mean(axis=1) - means[chosen][:, None]
    noise = standard_errors(apart) + chains.rounding
    off = np.abs(apart.mean(axis=0))
    disagreement = float(np.divide(off, noise, out=np.where(off > 0, math.inf, 0.0), where=noise > 0).max())
    disagreement = disagreement if disagreement > _DISAGREE else 0.0
    unsettled = math.hypot(unsettled, missed, disagreement * float(errors[chosen]) / math.sqrt(len(apart)))
    # Walkers that never mix have values of their own, and populations are means over them.
    spread = math.sqrt(chains.n_walkers) * float(errors[chosen])
    settled = series[chosen][:, start_up:]
    anchored = AnchoredGrowth(settled, chains.steps_per_batch, mixing, chains.rounding_of_growth)
    found = anchored.estimate(spread=spread)
    growth = 1 + float(found.mean[0])
    if not growth > 0:
        return Moment(unknown(1), math.nan, math.nan)
    found = replace(
        found,
        start_up=start_up + found.start_up,
        mean=np.log1p(found.mean),
        standard_error=np.hypot(found.standard_error, unsettled) / growth,
        bias_allowance=math.hypot(found.bias_allowance or 0.0, unsettled) / growth,
        mixed=found.mixed and disagreement == 0,
    )
    return Moment(found, bias / growth, float(effective[:, start_up:].mean()))


def _start_up(mixing: Mixing, chains: Chains[PopulationRecords]) -> int:
    """Return how many batches to cut off, some of them always.

    How populations settle among directions that all lie close to an eigenfunction's maximum does not show in how fast
    vectors approach each other.
    """
    return max(start_up_batches(mixing, chains.n_batches, chains.steps_per_batch), chains.n_batches // START_UP)


def _mixing(chains: Chains[PopulationRecords], leading: NDArray[np.bool_]) -> Mixing:
    """Return how companions of the kinds that lead mix."""
    companions = chains.companions
    if companions is None:
        return Mixing(math.nan, 0.0, 0)
    its = leading[kind_of_each(companions.n_chains, len(leading))]
    weighted = companions.n_walkers > 1
    if not weighted:
        log_growth = companions.records.log_growth[its]
    else:
        separation = companions.records.separation[its]
        log_growth = np.stack([separation, np.zeros(separation.shape)], axis=2)
    mixing = first_resolved(log_growth, companions.steps_per_batch, looks_back(companions))
    if weighted and not mixing.separated:
        # At negative orders the vectors that carry moments are those that others move away from; what populations
        # forget they then forget through selection.
        mixing = of_half_the_run(chains.n_batches * chains.steps_per_batch)
    return mixing


def of_half_the_run(n_steps: int) -> Mixing:
    """Return mixing with a relaxation time of half the run, to allow for where it was not measured."""
    return Mixing(_SLOWEST / n_steps, math.inf, n_steps)


def _weighted_growth(
    log_growth: FloatArray, norms: FloatArray, excess: FloatArray, window: int, start_up: int
) -> tuple[FloatArray, FloatArray]:
    """Return what has the mean exp Lambda(p) - 1 in every metric, of shape (n_chains, n_batches, n_metrics).

    Also what populations say on average, metrics combined, of shape (n_chains,).

    It is the ratio sum G E / sum G X, linear in what each population and batch contributes, about one value for all
    metrics, the best known: what is left of second order does not cancel when metrics are combined.
    """
    n_batches = log_growth.shape[1]
    total = np.cumsum(log_growth - log_growth[:, start_up:].mean(), axis=1)
    total = np.concatenate([np.zeros((len(total), 1)), total], axis=1)
    log_weights = total[:, 1:] - total[:, np.maximum(np.arange(1, n_batches + 1) - window, 0)]
    weights = np.exp(log_weights - log_weights[:, start_up:].max()) if window > 0 else np.ones(log_weights.shape)
    numerator, denominator = weights[:, :, None] * excess, weights[:, :, None] * norms
    scale = denominator[:, start_up:].mean(axis=(0, 1))
    ratio: Any = numerator[:, start_up:].mean(axis=(0, 1)) / scale
    for _ in range(2):
        series = ratio + (numerator - ratio * denominator) / scale
        means = combined(series[:, start_up:], PIECES).mean(axis=1)
        ratio = float(means.mean())
    return np.asarray(series), np.asarray(means)
