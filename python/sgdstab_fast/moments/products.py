"""Populations of products: the finite-time exponent over n steps, counted or weighted.

A walker is one product Phi_n: d vectors that start as multiples of the unit vectors of R^d; or one displacement
Phi_n v, v uniform on the unit sphere, that takes the place of the product. Likely events are counted among independent
walkers. Rare ones are met by populations in tilted steps (`moments.populations`), whose walkers have
the weights exp(p S), S = log(||Phi_n||_M / ||1||_M), where ||B||_M^2 = tr B^T M B in a metric M of nearly constant mean
squared growth. With Z_c the growth of the total weight of population c, and W_j its weights scaled to a mean of 1,

    P_c = Z_c mean_j W_j exp(-p S_j) 1{walker j meets the event},    E P_c = P,

exactly, whatever the order p, the metric, the size of populations and n. The variance is small where the mean of
log ||Phi_n||_2 under these weights is about a standard deviation short of n x, so that some of the weight meets
the event. Pilots find such a p by Newton's iteration: the slope of the mean is the variance. Populations that hardly
meet the event grow, for what they have met says little of how likely it is; where they do not meet it, walkers are
counted, which bounds the probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdstab_fast._core.arguments import FloatArray, Stream, StreamKey
from sgdstab_fast._core.streams import first_of_product_pilot
from sgdstab_fast.moments.populations import population_task
from sgdstab_fast.moments.results import FiniteTimeProbability
from sgdstab_fast.results.chains import PopulationRecords
from sgdstab_fast.results.interruption import Stopped
from sgdstab_fast.results.progress import Progress
from sgdstab_fast.results.provenance import provenance
from sgdstab_fast.results.result import INTERRUPTED, SHORT
from sgdstab_fast.simulation.options import Options
from sgdstab_fast.simulation.starts import normals
from sgdstab_fast.simulation.task import Item, Task
from sgdstab_fast.systems.growth import LARGEST_DIMENSION, Growth
from sgdstab_fast.systems.sgd import LinearizedSGD, SingleExampleSGD, require_plain

_EPS = float(np.finfo(float).eps)
_LIKELY = 0.01  # from which on events are counted
_PILOT_POPULATIONS, _LEAST_PILOT, _PILOT_WALKERS, _MOST_PILOTS, PILOT_SHARE = 8, 128, 1024, 16, 1 / 4
_FEWEST, _MOST = 0.03, 0.3  # of the weight, at the order to choose: what meets the event
_METRIC_TOLERANCE, _IDENTITY = 1e-4, 0.02  # of the metric, and how much of the identity it contains
_LONGEST_STRIDE = 4.0  # from order to order
_GROWTH, _POOR = 4, 0.5  # of populations that meet the event too rarely, and the relative error that says so
_FEW_POPULATIONS = 4.0  # effectively: what fewer have met says nothing of the mean
_FEWEST_TO_TELL = 8  # populations, of which an interrupted run tells something
_LOOKS = 32  # at the spread of weights, at least
_PIECE_SECONDS, _PIECE_DOUBLES = 0.1, 2**22  # of a call of the core
LARGEST_POPULATION = 2**23  # of its matrices' entries, by default
_ROUNDING = 64 * _EPS  # of log norms, a step


def allowance(n: int, dimension: int, threshold: float) -> float:
    """Return what rounding may do to log ||Phi_n||; a tie is not below the threshold."""
    return _ROUNDING * (n + dimension) * (1 + abs(threshold)) if math.isfinite(threshold) else 0.0


def _isometric(system: LinearizedSGD) -> LinearizedSGD:
    """Return the system in factor coordinates, which are isometric to parameter space."""
    rows = system.rows_of_k
    return system if rows.isometric_rows is rows else LinearizedSGD.from_factor(rows.gradients, system.learning_rate)


def _gauge(system: SingleExampleSGD) -> Growth:
    """Return the metric to tilt steps in; none where it would be costly, for the Euclidean norm."""
    if system.dimension > LARGEST_DIMENSION:
        return system.no_growth
    amplification = system.amplification
    weights = 1 / amplification if amplification.max() > 1 else None  # rare steps held down
    metric = system.mean_square_metric(weights, _METRIC_TOLERANCE)
    metric = metric / np.trace(metric) + _IDENTITY / system.dimension * np.eye(system.dimension)
    return system.growth_with_norms([(metric, system.rows_of_k.squared_norms(metric))], None)


@dataclass(frozen=True)
class Outcome:
    """What a simulation knows of the event."""

    method: str
    tail: str
    log_tail: float
    relative_error: float
    stopped_by: str
    n_populations: int = 0
    order: float = 0.0
    n_hits: int = 0
    population: int = 0
    n_counted: int = 0
    reason: str = ""

    def result(
        self, system: LinearizedSGD, options: Options, n: int, threshold: float, norm: str, n_steps: int
    ) -> FiniteTimeProbability:
        """Return it with the complement."""
        log_tail = min(self.log_tail, 0.0)
        log_rest = float(np.log(-np.expm1(log_tail))) if log_tail < 0 else -math.inf
        below, above = (log_tail, log_rest) if self.tail == "below" else (log_rest, log_tail)
        tail, rest = math.exp(log_tail), -math.expm1(log_tail)
        return FiniteTimeProbability(
            probability=tail if self.tail == "below" else rest,
            complement=rest if self.tail == "below" else tail,
            log_probability=below,
            log_complement=above,
            standard_error=self.relative_error * tail if math.isfinite(self.relative_error) else 0.0,
            relative_error=self.relative_error,
            n=n,
            threshold=threshold,
            tail=self.tail,
            order=self.order,
            method=self.method,
            norm=norm,
            reason=self.reason,
            n_hits=self.n_hits,
            n_counted=self.n_counted,
            n_steps=n_steps,
            n_chains=self.n_populations,
            population=self.population,
            converged=self.stopped_by not in SHORT,
            stopped_by=self.stopped_by,
            provenance=provenance(options.seed, self.method, system),
        )


@dataclass(frozen=True)
class _Products:
    """Products of some populations; all but the first of shape (n_populations, size)."""

    log_growth: FloatArray
    """log Z_c, shape (n_populations,)."""
    log_weights: FloatArray
    log_sizes: FloatArray
    """S."""
    log_norms: FloatArray
    """log ||Phi_n||_2 from below, close where few singular values are large, or all are equal."""
    below: NDArray[np.bool_]
    """Whether lambda_n is below the threshold."""


@dataclass(frozen=True)
class _Pilot:
    """What weighted walkers of some order tell: moments of log ||Phi_n||_2, and the weight below the threshold."""

    mean: float
    variance: float
    share_below: float


class Simulation:
    """Populations of products, and what they tell of the event."""

    def __init__(
        self,
        system: LinearizedSGD,
        n: int,
        threshold: float,
        options: Options,
        report: Callable[[Progress], object],
        *,
        of_vectors: bool = False,
    ) -> None:
        self.n_steps = 0
        self._of_vectors = of_vectors
        self._system = system = _isometric(system)
        self._options, self._n, self._goal, self._report = options, n, n * threshold, report
        self._limit = self._goal - allowance(n, system.dimension, threshold)
        self._growth = _gauge(require_plain(system, "finite_time_probability"))
        self._metric = self._growth.matrices[0] if self._growth.size > 0 else np.eye(system.dimension)
        self._n_populations = 0  # done, pilots not counted
        self._estimate = Progress(0, options.budget.max_steps, math.nan, math.nan)

    def estimate(self, size: int, n_walkers: int, *, may_grow: bool) -> Outcome:
        """Return what is known once the tolerance is met or all walkers are spent."""
        if self._options.method == "direct" or self._goal == -math.inf:
            return self._rounds(0.0, "below", size, n_walkers, tilted=False)
        order, tail = self._order(int(PILOT_SHARE * n_walkers))
        counts = self._options.method == "auto"
        while True:
            # Half of what is left is for what larger populations, or counting, may tell.
            left = n_walkers - self.n_steps // self._n
            larger = may_grow and 2 * _GROWTH * self._options.n_chains * size <= left
            larger = larger and _GROWTH * size * self._system.dimension**2 <= LARGEST_POPULATION
            share = left // 2 if order != 0 and (larger or counts) else left
            outcome = self._rounds(order, tail, size, share, tilted=order != 0, larger=larger)
            if outcome.stopped_by == INTERRUPTED:
                return outcome
            if outcome.stopped_by == "larger" or (larger and outcome.n_hits == 0):
                size *= _GROWTH
                continue
            poor = outcome.relative_error == math.inf
            if outcome.stopped_by != "counting" and not (counts and order != 0 and poor):
                return outcome
            # Where next to nothing is met, no longer than weighted ones took.
            spent = self.n_steps // self._n
            most = min(n_walkers - spent, spent) if poor else n_walkers - spent
            counted = self._rounds(0.0, tail, size, most, tilted=False)
            if counted.n_hits > 0 or outcome.n_hits == 0:
                return counted
            return replace(outcome, n_counted=counted.n_populations * size, stopped_by="max_steps")

    def _rounds(
        self, order: float, tail: str, size: int, n_walkers: int, *, tilted: bool, larger: bool = False
    ) -> Outcome:
        """Run populations, doubling their number, until the tolerance is met, or something else promises to be better.

        `larger` says whether larger populations may: what few of them have met tells little.
        """
        most, first_chain, recorder = max(n_walkers // size, 1), self._n_populations, self._options.recorder
        place = f"{tail} with {size} walkers of order {order!r} from {first_chain}"
        n_below, target, log_terms, log_growth = recorder.get(place) or (
            0,
            min(self._options.n_chains, most),
            np.empty(0),
            np.empty(0),
        )
        self.n_steps += log_growth.size * size * self._n
        while True:
            cut, n_done = False, log_growth.size
            try:
                for products in self._runs(order, first_chain + n_done, target - n_done, size, tilted):
                    n_below += int(products.below.sum())
                    log_growth = np.concatenate([log_growth, products.log_growth])
                    if tilted:
                        log_terms = np.concatenate([log_terms, _log_terms(products, order, tail)])
                    recorder.put(place, (n_below, target, log_terms, log_growth))
            except Stopped:
                if log_growth.size < _FEWEST_TO_TELL:
                    raise
                cut, target = True, log_growth.size
            n_done = target
            self._n_populations = first_chain + n_done
            if tilted:
                n_hits = n_below if tail == "below" else n_done * size - n_below
                outcome = self._weighted(log_terms, log_growth, order, tail, n_hits, size)
            else:
                outcome = _counted(n_below, n_done, size)
            if outcome.n_hits > 0 and outcome.relative_error <= self._options.budget.rtol:
                outcome = replace(outcome, stopped_by="rtol")
            if cut:
                return replace(outcome, stopped_by=INTERRUPTED)
            self._show(outcome)
            if outcome.stopped_by != "max_steps":
                return outcome
            if larger and outcome.relative_error > _POOR:
                return replace(outcome, stopped_by="larger")
            if n_done == most:
                return outcome
            # Near the ends of what products reach, weights may spread more than they help.
            in_doubt = tilted and self._options.method == "auto" and n_done <= most - n_done and outcome.n_hits > 0
            in_doubt = in_doubt and math.isfinite(outcome.relative_error)
            if in_doubt and 2 * math.log(outcome.relative_error) > -outcome.log_tail - math.log(n_done * size):
                return replace(outcome, stopped_by="counting")
            target = min(2 * n_done, most)

    def _weighted(
        self, log_terms: FloatArray, log_growth: FloatArray, order: float, tail: str, n_hits: int, size: int
    ) -> Outcome:
        """Estimate the probability from log P_c of independent populations."""
        outcome = Outcome("tilted", tail, -math.inf, math.inf, "max_steps", len(log_terms), order, n_hits, size)
        if np.isposinf(log_growth).any():  # annihilated at a negative order
            return replace(outcome, stopped_by="counting")
        if n_hits == 0:
            return outcome
        log_tail = _log_mean(log_terms)
        terms = np.exp(log_terms - log_tail)
        error = float(terms.std(ddof=1)) / math.sqrt(len(log_terms))
        effective = len(terms) / float((terms**2).mean())
        return replace(outcome, log_tail=log_tail, relative_error=error if effective >= _FEW_POPULATIONS else math.inf)

    def _order(self, n_walkers: int) -> tuple[float, str]:
        """Return the order to weigh walkers by, 0 if they are to be counted, and which tail is the small one."""
        per_pilot = int(np.clip(_PIECE_DOUBLES // self._system.dimension**2, _LEAST_PILOT, _PILOT_WALKERS))
        per_pilot = max(1, min(per_pilot, n_walkers // 4))
        pilots = iter(range(min(_MOST_PILOTS, n_walkers // per_pilot)))
        at_zero = self._pilot(0.0, next(pilots, 0), per_pilot)
        tail = "below" if at_zero is None or at_zero.share_below <= 1 / 2 else "above"
        sign = -1 if tail == "below" else 1
        likely = at_zero is not None and _LIKELY <= at_zero.share_below <= 1 - _LIKELY
        if at_zero is None or (likely and self._options.method == "auto"):
            return 0.0, tail
        if sign * (self._goal - at_zero.mean) <= 0 or at_zero.variance == 0:
            return 0.0, tail
        inside, beyond, best, closest = 0.0, math.nan, 0.0, math.inf
        order = (self._goal - at_zero.mean) / at_zero.variance
        for number in pilots:
            found = self._pilot(order, number, per_pilot)
            if found is None:  # walkers of infinite weight
                beyond, order = order, (inside + order) / 2
                continue
            share = found.share_below if tail == "below" else 1 - found.share_below
            distance = abs(math.log(max(share, _EPS) / math.sqrt(_FEWEST * _MOST)))
            if share == 0:  # nothing but the mean tells how far it is
                distance += max(sign * (self._goal - found.mean), 0.0)
            if distance < closest:
                best, closest = order, distance
            elif share == 0:
                break  # weights of a few walkers do not reach farther
            if _FEWEST <= share <= _MOST:
                break
            if share < _FEWEST:
                inside = order
            else:
                beyond = order
            deviation = math.sqrt(max(found.variance, _EPS**2))
            order += ((self._goal - found.mean) / deviation - sign) / deviation
            if math.isnan(beyond):
                order = sign * float(np.clip(sign * order, 1.2 * abs(inside), _LONGEST_STRIDE * abs(inside)))
            elif not min(inside, beyond) < order < max(inside, beyond):
                order = (inside + beyond) / 2
        return best, tail

    def _pilot(self, order: float, number: int, n_walkers: int) -> _Pilot | None:
        """Run a pilot; None if weights are not finite."""
        n_populations = min(_PILOT_POPULATIONS, n_walkers)
        first = first_of_product_pilot(number)
        runs = list(self._runs(order, first, n_populations, n_walkers // n_populations, order != 0))
        log_growth = np.concatenate([products.log_growth for products in runs])
        log_norms = np.concatenate([products.log_norms for products in runs])
        log_weights = np.concatenate([products.log_weights for products in runs]) + log_growth[:, None]
        finite = np.isfinite(log_norms) & np.isfinite(log_weights)
        if not np.isfinite(log_growth).all() or not finite.any():
            return None
        weights = np.exp(log_weights[finite] - log_weights[finite].max())
        mean = float(np.average(log_norms[finite], weights=weights))
        variance = float(np.average((log_norms[finite] - mean) ** 2, weights=weights))
        below = np.concatenate([products.below for products in runs])
        log_largest = log_weights.max()
        share_below = float(np.average(below, weights=np.exp(log_weights - log_largest)))
        return _Pilot(mean, variance, share_below)

    def _runs(self, order: float, first_chain: int, n_populations: int, size: int, tilted: bool) -> Iterator[_Products]:
        """Run populations, some at a time; how many does not matter to their bits."""
        system, n, options = self._system, self._n, self._options
        task = population_task(system, order, self._growth, tilted=tilted, evaluate=False)
        n_vectors = 1 if self._of_vectors else system.dimension
        seconds = task.seconds_per_step * n_vectors * size
        piece = int(np.clip(_PIECE_SECONDS / seconds, 1, n))
        batch = int(np.clip(n // _LOOKS, 1, piece)) if tilted else piece
        workers = options.workers
        affordable = (
            workers.n_threads * _PIECE_SECONDS / (seconds * n),
            _PIECE_DOUBLES / (size * system.dimension * n_vectors),
        )
        together = int(max(min(affordable), 1 if workers.executor is not None else workers.n_threads))
        items = [(first_chain + c, min(together, n_populations - c)) for c in range(0, n_populations, together)]
        fixed = (task, self._metric, self._of_vectors, options.seed.key, size, n, batch, piece, self._limit)
        products_of = partial(_products, *fixed)
        for products in workers.map(products_of, items, long=True):
            self.n_steps += products.below.size * n
            self._report(replace(self._estimate, n_steps=self.n_steps))
            yield products

    def _show(self, outcome: Outcome) -> None:
        value = math.exp(min(outcome.log_tail, 0.0))
        error = outcome.relative_error * value if value > 0 else math.nan
        value = value if outcome.tail == "below" else 1 - value
        self._estimate = Progress(self.n_steps, self._options.budget.max_steps, value, error)
        self._report(self._estimate)


def _counted(n_below: int, n_populations: int, size: int) -> Outcome:
    """Estimate the probability from counts."""
    n_walkers = n_populations * size
    tail, n_hits = ("below", n_below) if 2 * n_below <= n_walkers else ("above", n_walkers - n_below)
    share = n_hits / n_walkers
    error = math.sqrt((1 - share) / n_hits) if n_hits > 0 else math.inf
    log_tail = math.log(share) if n_hits > 0 else -math.inf
    return Outcome("direct", tail, log_tail, error, "max_steps", n_populations, n_hits=n_hits, population=size)


def _log_terms(products: _Products, order: float, tail: str) -> FloatArray:
    """Return log P_c, shape (n_populations,)."""
    hits = products.below if tail == "below" else ~products.below
    # Those annihilated have weight 0, at positive orders.
    log_sizes = np.where(np.isfinite(products.log_sizes), products.log_sizes, 0.0)
    terms = np.where(hits, products.log_weights - order * log_sizes, -np.inf)
    return np.asarray(products.log_growth + np.logaddexp.reduce(terms, axis=1) - math.log(hits.shape[1]))


def _log_mean(logs: FloatArray) -> float:
    """Return the log of a mean."""
    return float(np.logaddexp.reduce(logs)) - math.log(logs.size)


def _products(
    task: Task[PopulationRecords],
    metric: FloatArray,
    of_vectors: bool,
    key: StreamKey,
    size: int,
    n: int,
    batch: int,
    piece: int,
    limit: float,
    item: tuple[int, int],
    n_threads: int,
) -> _Products:
    """Run populations, an item of the first and how many, over n steps: what a worker is given.

    lambda_n is below the threshold where log ||Phi_n||_2 is below the limit.
    """
    d = task.steps.rows.array.shape[1]
    first_chain, n_populations = item
    starts = np.broadcast_to(np.eye(d).reshape(-1), (n_populations, size, d * d))
    log_lengths: Any = math.log(float(np.trace(metric))) / 2
    if of_vectors:
        starts = normals(key, n_populations, (size, d), first_chain)
        starts /= np.linalg.norm(starts, axis=2, keepdims=True)
        log_lengths = np.log(np.einsum("cji,ik,cjk->cj", starts, metric, starts)) / 2
    walkers = np.concatenate([starts / np.exp(log_lengths)[..., None], np.zeros((n_populations, size, 2))], axis=2)
    log_growth = np.zeros(n_populations)
    first_step = 0
    while first_step < n:
        steps = min(batch, n - first_step)
        n_batches = min(max(1, piece // batch), (n - first_step) // steps)
        walkers, records = task(Item(walkers, Stream(key, first_chain, first_step, n_batches, steps)), n_threads)
        first_step += n_batches * steps
        log_growth += records.log_growth.sum(axis=1)
    log_sizes = walkers[:, :, -1].copy()
    log_scales = log_sizes + log_lengths
    matrices = walkers[:, :, :-2].reshape(n_populations, size, -1, d)
    low, high = _log_norm_bounds(matrices, log_scales)
    below = high < limit
    open_ = (low < limit) & ~below
    exact = np.linalg.svd(matrices[open_], compute_uv=False)[:, 0]
    below[open_] = np.log(exact) + log_scales[open_] < limit
    return _Products(log_growth, walkers[:, :, -2].copy(), log_sizes, low, below | np.isneginf(log_sizes))


def _log_norm_bounds(matrices: FloatArray, log_scales: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return bounds of log ||Phi||_2, Phi = exp(log scale) matrix, from the singular values s_k of the matrix.

    sum s_k^8 / sum s_k^6 <= s_1^2 <= (sum s_k^8)^(1/4).
    """
    gram = matrices @ matrices.swapaxes(-1, -2)
    square = gram @ gram
    sixth, eighth = np.einsum("...ij,...ij->...", gram, square), np.einsum("...ij,...ij->...", square, square)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = log_scales + np.log(eighth / sixth) / 2
        high = log_scales + np.log(eighth) / 8
    annihilated = np.isneginf(log_scales)
    return np.where(annihilated, -np.inf, low), np.where(annihilated, -np.inf, high)
