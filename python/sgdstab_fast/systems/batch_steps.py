"""Steps on batches, in all generality: rows of K, the law of the batches and the optimiser's recurrence.

    z' = (F (x) I) z - e_1 (x) (eta/|S|) sum_{u in S} sum_{i in u} e_i K_i . (h^T (x) I) z          (gram coordinates)

with f_i f_i . in place of e_i K_i . in factor coordinates; `sampling` has the batches S, `recurrence` F and h. Written
in blocks of the state, the determinant of a step is det(F)^d det(I - (eta/|S|) g K_SS), g = h^T F^-1 e_1, so that the
sum of all exponents is d log abs det F plus the mean of a determinant of the batch's size (0 for heavy ball, where
g = 0).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from sgdstab_fast import memory
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.operators.drawn_units import Decomposition, Draws
from sgdstab_fast.operators.matrices import MatrixMoments, SecondMomentsOfMatrices
from sgdstab_fast.operators.second_moments import SecondMoments, mean_square_threshold, second_moments
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.growth import TOLERANCE, Growth, half_at_most, tolerance_of
from sgdstab_fast.systems.next_steps import FEW_NUMBERS, NextMatrices, NextSteps, NextUnits
from sgdstab_fast.systems.sampling import Enumeration, IntArray, Law
from sgdstab_fast.systems.state_space import StateSpace
from sgdstab_fast.systems.system import (
    LARGEST_ENUMERATION,
    Call,
    ExactExponents,
    Outcomes,
    Part,
    QuadraticForms,
    System,
    of_products,
)

_EPS = float(np.finfo(float).eps)
_MOST_DETERMINANTS = 2**22  # multiplications
_LARGEST_PRODUCT = 1024  # dimension of matrices that are multiplied through an epoch
_LARGEST_DIMENSION = 1024  # with metrics
_OF_METRICS = 25  # matrices
_LARGEST_PRODUCT_ENTRY = 1e60  # of an epoch, whose growth is evaluated
_LARGEST_STEP = 1e30  # whose growth is evaluated in metrics: its powers would pass floating point
_KNOWN = 1e-6  # error of a threshold, relative, that needs no warning
_FLOOR = 1e-6  # of the norm of K in other metrics
_LOWER = 0.7  # the learning rate of the second metric, relative
_TRIAL_SHARE, _LEAST_TRIALS, _MOST_TRIALS = 1 / 16, 8, 256
_MOST_COPIED = 2**22  # numbers
_MOST_MINORS = 2**22  # multiplications
_CHUNK = 4096  # of them at a time
_RARE, _FEW_NUMBERS = 0.1, 2**22  # of the mean probability; in all matrices of which some are rare
_SMALL = 2**16  # numbers in the matrices of all epochs: more of them are not gone through for Lambda(2)
_REFLECTION = 1e-14  # of log abs(1 - x) for x = 2, of eta K_ii or other eigenvalues of eta K_uu


class BatchSteps(StateSpace):
    """What one step does, in the coordinates of the rows of K."""

    @property
    def largest_unit(self) -> float:
        """The largest trace of a unit's part of K: no batch step is longer than eta times that."""
        return float(np.bincount(self._units, self._rows.traces, self.law.n_units).max())

    @property
    def safe_learning_rate(self) -> float:
        """A learning rate up to which no step lengthens anything; 0 with memory, where that is not known."""
        return 2 / self.largest_unit if self.recurrence.is_plain else 0.0

    @property
    def reflects(self) -> bool:
        """Whether all eigenvalues of eta K_uu are 2 or 0, for every u: none is above 2, and no volume shrinks."""
        return self._off_reflections <= _REFLECTION

    @cached_property
    def _off_reflections(self) -> float:
        """How far off eigenvalues of eta K_uu, the largest and in the mean, are."""
        curvatures = self.unit_curvatures() if self.batch_size == 1 else None
        if curvatures is None or abs(largest := float(curvatures.max()) - 2) > _REFLECTION:
            return math.inf
        return max(abs(largest), abs(self.sum_of_exponents) * self.law.n_units / len(self._rows))

    @property
    def step_sizes(self) -> FloatArray:
        """Bounds of the logarithms of what a step does to lengths: growth, and by volume shrinkage."""
        largest = self.learning_rate * self.largest_unit
        memory = float(np.abs(self.recurrence.free).sum()) if not self.recurrence.is_plain else 1.0
        growth = math.log(max(memory + float(np.abs(self.recurrence.readout).sum()) * largest, 1.0 + 1e-12))
        return np.array([growth, max(-self.recurrence.log_determinant, 1e-12)])

    def _for_core(self, rows: arguments.Rows) -> arguments.BatchSteps:
        """Return what the core is told."""
        memory = self.recurrence
        recurrence = arguments.Recurrence(memory.free, memory.readout, memory.log_determinant, memory.feedback)
        return arguments.BatchSteps(rows, self.learning_rate, self.law.for_core, recurrence)

    def vectors_call(self) -> Call:
        """Return what advances vectors."""
        rows = self._rows.for_vectors
        if not self.law.is_single and rows.array.size <= _MOST_COPIED:
            rows = rows._replace(array=self._rows.aligned)
        work = (self.rows_per_step + 3 * (self.recurrence.levels - 1)) * self.rank
        return Call(self._for_core(rows), 2e-8 + 3e-9 * self.rows_per_step + 1e-10 * work)

    def frames_call(self) -> Call:
        """Return what advances frames."""
        return Call(self._for_core(self._rows.for_core), 0.0)

    @property
    def rows_per_step(self) -> float:
        """Rows of a batch, on average."""
        return self.law.batch_size * len(self._rows) / self.law.n_units

    def _growth_in(self, metrics: list[FloatArray], covariance: FloatArray | None = None) -> Growth:
        """Return growth in metrics, each of shape (d, d) and positive definite."""
        n, rank, d, size = len(self._rows), self.rank, self.dimension, len(metrics)
        n_trials = self._n_trials if size and self.law.batch_size > 1 else 0
        couplings = np.array([self._rows.couplings(each[:rank, :rank]) for each in metrics]).reshape(size, n, n)
        matrices = np.array(metrics).reshape(size, d, d)
        products = n * rank + size * (2 * d * d + 3 * n * n)
        trials = n_trials * size * self.rows_per_step**2
        return Growth(
            matrices=np.array(metrics[1:]).reshape(-1, d, d),
            metrics=arguments.BatchMetrics(matrices, couplings, self.law.unit_probabilities, n_trials),
            size=size * (3 if n_trials else 1),
            seconds_per_evaluation=1e-7 + 6e-11 * products + 1.6e-9 * trials,
            n_steps=n_trials or (self.n_examples if size > 0 else 0),
            cancellation=self._cancellation,
            first=metrics[0] if metrics else None,
            covariance=covariance,
        )

    @property
    def _cancellation(self) -> float:
        """1 / f at the most: of a squared norm a plain step leaves (1 - eta tr K_uu)^2 or more, u the largest unit."""
        left = 1 - self.learning_rate * self.largest_unit
        return 1 / left**2 if left > 0 and self.recurrence.is_plain else math.inf

    @property
    def _n_trials(self) -> int:
        """Batches to draw: they may take as long as the products of an evaluation do, and cut whole permutations."""
        affordable = _TRIAL_SHARE * len(self._rows) ** 2 / self.rows_per_step**2
        whole = max(self.law.n_units // self.law.batch_size, 1)
        wanted = int(np.clip(affordable, _LEAST_TRIALS, _MOST_TRIALS))
        return max(wanted // whole, 1) * whole if wanted > whole else wanted

    @property
    def no_growth(self) -> Growth:
        """No metrics."""
        return self._growth_in([])

    def growth(self, known: QuadraticForms | None = None) -> Growth:
        """Return growth in the norm of K, mean-square metrics here and at a lower learning rate, and for rare steps."""
        if self.dimension > _LARGEST_DIMENSION or self.learning_rate * self.largest_unit > _LARGEST_STEP:
            return self.no_growth
        metrics = {"metrics, which method='average' does without": _OF_METRICS * BYTES_OF_DOUBLE * self.dimension**2}
        memory.require("anchored growth", metrics)
        if not self.law.is_independent:  # starts as if it were
            found = self._solved(TOLERANCE, replace(self.law, sampling="iid"), self.learning_rate)
            return self._growth_in([], found.covariance if _is_of_use(found) else None)
        norm = self.norm()
        found = self.independent_second_moments(tolerance_of(self.dimension))
        further = [found, self._solved(TOLERANCE, self.law, _LOWER * self.learning_rate)]
        growth = self._growth_of_units()
        if self.law.batch_size == 1 and growth.max() > 1:
            weights = self.law.unit_probabilities / growth
            held_down = replace(self.law, probabilities=weights / weights.sum())
            further.append(self._solved(TOLERANCE, held_down, self.learning_rate))
        of_use = [_with_floor(each.metric, norm) for each in further if _is_of_use(each)]
        growth_in = self._growth_in([norm, *of_use], found.covariance if _is_of_use(found) else None)
        return replace(growth_in, upper_bound=half_at_most(found.exponent, found.error))

    def growth_of_part(self, part: Part[System], embedding: FloatArray) -> tuple[Growth, Growth]:
        """Return growth in the metrics of a block, for the block and for the whole."""
        own = part.system.growth()
        every = [] if own.first is None else [own.first, *own.matrices] if part.system.dimension > 1 else [own.first]
        return own, self._growth_in([np.ascontiguousarray(embedding.T @ metric @ embedding) for metric in every])

    def _growth_of_units(self) -> FloatArray:
        """Return max(1, (1 - eta trace K_uu)^2) for every unit: how much a step on it may multiply squared norms."""
        traces = np.bincount(self._units, self._rows.traces, self.law.n_units)
        return np.asarray(np.maximum(1.0, (1 - self.learning_rate * traces) ** 2))

    def independent_second_moments(self, tolerance: float) -> SecondMoments:
        """Return second moments as if batches were independent."""
        return self._solved(tolerance, self.law, self.learning_rate)

    def _solved(self, tolerance: float, law: Law, learning_rate: float) -> SecondMoments:
        free, readout = self.recurrence.free, self.recurrence.readout
        return second_moments(self._draws(law), learning_rate, free, readout, tolerance=tolerance)

    def threshold(self) -> tuple[float, float]:
        """Return the learning rate at which Lambda(2) = 0 under a law of independent batches, and its error."""
        value, error = mean_square_threshold(self._draws(self.law), self.recurrence.free, self.recurrence.readout)
        if error > _KNOWN * value:
            warn(f"the mean-square threshold {value:.6g} may be off by {error:.1g}: no convergence")
        return value, error

    def _draws(self, law: Law) -> Draws:
        n = len(self._rows)
        members, offsets = (law.members, law.offsets) if law.offsets.size else (np.arange(n), np.arange(n + 1))
        known = Decomposition(*self._rows.decompose()) if law.probabilities is None else None
        return Draws(self.rows, self.coordinates, law.noise, law.n_units, members, offsets, law.probabilities, known)

    @property
    def has_mean_square(self) -> bool:
        """Whether Lambda(2) is computed without simulation."""
        if self.law.is_independent or self.law.is_full:
            return True
        return all(part.system.outcomes(_SMALL) is not None for part in self.parts())

    def second_moments(self, tolerance: float) -> SecondMoments | SecondMomentsOfMatrices | None:
        """Return second moments, of the matrices of epochs where batches depend on each other and these are few."""
        if self.law.is_independent or self.law.is_full:
            return self.independent_second_moments(tolerance)
        outcomes = self.outcomes(_SMALL)
        if outcomes is None:
            return None
        found = MatrixMoments(outcomes.matrices, outcomes.probabilities).second_moments
        exponent = found.exponent / outcomes.n_steps
        return replace(found, exponent=exponent, error=found.error / outcomes.n_steps, growth=math.expm1(exponent))

    def exact_exponents(self) -> ExactExponents | None:
        """Return the exponents where all steps, or all epochs, are the same, or reflections."""
        if self.law.is_full:
            curvatures = self.learning_rate * self._rows.eigenvalues / self.law.n_units
            radii = np.array([np.abs(np.linalg.eigvals(self.recurrence.along(c))) for c in curvatures]).ravel()
            with np.errstate(divide="ignore"):
                logs = np.log(np.where(radii < 8 * _EPS, 0.0, radii))
            error = 8 * _EPS * (1 + float(curvatures.max())) / max(float(radii.max()), _EPS)
            return ExactExponents(np.sort(logs)[::-1], error, of_powers=True)
        if self.law.is_deterministic and self.dimension <= _LARGEST_PRODUCT:
            _, batches = next(self.law.batches())
            return of_products(*self._scaled_product(batches), len(batches))
        return self._zeros_of_reflections()

    def _zeros_of_reflections(self) -> ExactExponents | None:
        return ExactExponents(np.zeros(self.dimension), _EPS + self._off_reflections) if self.reflects else None

    @property
    def sum_of_exponents(self) -> float:
        """Sum of all Lyapunov exponents, exactly, in nats per step: the mean of log abs det A_S over batches S.

        (1/N) sum_i log abs(1 - eta K_ii) for batches of one. NaN where there are too many batches to go through.
        """
        law, free = self.law, float(self.rank * self.recurrence.log_determinant)
        feedback = self.recurrence.feedback
        if abs(feedback) < 1e-14:
            return free
        if law.is_full:
            determinants = 1 - feedback * self.learning_rate * self._rows.eigenvalues / law.n_units
            with np.errstate(divide="ignore"):
                return free + float(np.log(np.abs(determinants)).sum())
        if law.sampling == "epoch":  # every batch is a uniform subset
            sizes = [law.batch_size] * (law.n_units // law.batch_size)
            sizes += [law.n_units % law.batch_size] if law.n_units % law.batch_size else []
            of_size = {
                size: self._mean_log_determinant(replace(law, sampling="iid", batch_size=size)) for size in sizes
            }
            return free + math.fsum(of_size[size] for size in sizes) / len(sizes)
        return free + self._mean_log_determinant(law)

    def _mean_log_determinant(self, law: Law) -> float:
        single = [law.rows(unit) for unit in range(law.n_units)]
        moving = [unit for unit, rows in enumerate(single) if rows.size]
        idle, b = law.n_units - len(moving), law.batch_size
        subsets = law.sampling == "iid" and idle > 0  # of a block: what else is drawn does not matter
        sizes = range(max(b - idle, 0), min(b, len(moving)) + 1)
        n_batches = sum(math.comb(len(moving), size) for size in sizes) if subsets else law.n_batches
        if n_batches * max(self.rows_per_step, 1.0) ** 3 > _MOST_DETERMINANTS:
            return math.nan
        total = 0.0
        weighted: Iterator[tuple[float, int, IntArray]]
        if subsets:
            ways = math.comb(law.n_units, b)
            weighted = (
                (math.comb(idle, b - size) / ways, b, _joined(single, batch))
                for size in sizes
                for batch in itertools.combinations(moving, size)
            )
        else:
            weighted = (
                (probability / len(batches), len(batch), _joined(single, batch))
                for probability, batches in law.batches()
                for batch in batches
            )
        # Batches of one size are one stack.
        while chunk := list(itertools.islice(weighted, _CHUNK)):
            for size in {(n, rows.size) for _, n, rows in chunk}:
                some = [(weight, rows) for weight, n, rows in chunk if (n, rows.size) == size]
                rows = np.array([rows for _, rows in some])
                step = self.learning_rate / size[0] * self.recurrence.feedback
                # det(I - c F F^T) = det(I - c F^T F), of which the smaller one keeps the 1 beside large steps.
                gradients = self._rows.gradients[rows]
                few = self.rank < size[1]
                form = gradients.swapaxes(-1, -2) @ gradients if few else self._rows.gram_of(rows)
                minors = np.eye(min(size[1], self.rank)) - step * form
                total += float(np.array([weight for weight, _ in some]) @ _log_determinants(minors))
        return total

    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices of steps, or of epochs."""
        law, size = self.law, self.dimension**2
        if law.n_batches * max(size, law.steps_per_epoch) > most:
            return None
        known = law.enumerated()
        every = self._products(known)
        return Outcomes(every, known.probabilities, known.places.shape[1]) if np.isfinite(every).all() else None

    def rare_outcomes(self, probability: float) -> Outcomes | None:
        """Return the matrices of steps on single examples, if some are rarer than that and than most."""
        law = self.law
        if law.probabilities is None or law.batch_size > 1 or not law.is_independent:
            return None
        drawn = law.probabilities[law.probabilities > 0]
        if drawn.min() >= min(probability, _RARE * drawn.mean()):
            return None
        return self.isometric().outcomes(_FEW_NUMBERS)

    def _products(self, known: Enumeration) -> FloatArray:
        """Return the matrices of epochs; all take a step at once."""
        matrices = np.array([self._step(batch, np.eye(self.dimension)) for batch in known.batches])
        products, exponents = matrices[known.places[:, 0]], np.zeros((len(known.places), 1, 1), dtype=np.int64)
        for place in known.places[:, 1:].T:
            _, shifts = np.frexp(np.abs(products).max(axis=(1, 2), keepdims=True))
            products, exponents = matrices[place] @ np.ldexp(products, -shifts), exponents + shifts
        with np.errstate(over="ignore"):
            return np.asarray(np.ldexp(products, exponents))

    def _scaled_product(self, batches: list[tuple[int, ...]]) -> tuple[FloatArray, float]:
        """Return the same with entries of at most about 1, and the logarithm of what it was divided by."""
        product, exponent = np.eye(self.dimension), 0
        for batch in batches:
            product = self._step(batch, product)
            _, shift = math.frexp(float(np.abs(product).max()))
            product, exponent = np.ldexp(product, -shift), exponent + shift
        return product, exponent * math.log(2)

    def _step(self, batch: tuple[int, ...], frame: FloatArray) -> FloatArray:
        """Return the image of a frame, (dimension, k), under the step on a batch of units."""
        r, free = self.rank, self.recurrence.free
        levels = frame.reshape(self.recurrence.levels, r, -1)
        read = np.tensordot(self.recurrence.readout, levels, axes=1)
        image = np.tensordot(free, levels, axes=1)
        rows = np.concatenate([self.law.rows(unit) for unit in batch]) if batch else np.empty(0, dtype=np.int64)
        self._rows.move(image[0], rows, self.learning_rate / len(batch) * (self._rows.stored[rows] @ read))
        return np.asarray(image.reshape(frame.shape))

    def slow_directions(self, k: int) -> FloatArray:
        """Return the directions that the mean step shrinks least, as states that have been there for long."""
        levels = self.recurrence.levels
        directions = self._rows.slow_directions(min(k, self.rank), self.learning_rate / self.law.n_units)
        if directions.shape[1] == 1:
            directions = directions / np.linalg.norm(self._rows.slowest)
        return np.asarray(np.tile(directions, (levels, 1)) / math.sqrt(levels))

    def fast_directions(self, k: int) -> FloatArray:
        """Return the directions of largest curvature, as states that have been there for long."""
        levels = self.recurrence.levels
        return np.asarray(np.tile(self._rows.fast_directions(min(k, self.rank)), (levels, 1)) / math.sqrt(levels))

    def next_steps(self) -> NextSteps | None:
        """Return the outcomes of the next step, or epoch; None if there are too many."""
        if self.has_parts_by_outcome:
            return NextUnits(self._rows, self.learning_rate, self.law, self.recurrence, self.norm)
        found = self.outcomes(FEW_NUMBERS)
        if found is None or float(np.abs(found.matrices).max()) > _LARGEST_PRODUCT_ENTRY:
            return None
        return NextMatrices(*found, self.isometric_vectors)

    def _laws_of_parts(self) -> Iterator[tuple[Law, float]]:
        """Yield the law of each block of K, and its share of the steps."""
        for rows in self._rows.components:
            yield self.law.restricted(rows, len(self._rows)), 1.0

    def largest_curvature(self) -> float:
        """Return the largest eigenvalue that the Hessian of a batch may have, or a bound if batches are many."""
        law = self.law

        def of(batch: tuple[int, ...]) -> float:
            rows = np.concatenate([law.rows(unit) for unit in batch])
            return float(np.linalg.eigvalsh(self._rows.gram_of(rows))[-1]) / len(batch) if rows.size else 0.0

        largest = max(of((unit,)) for unit in range(law.n_units))
        if law.batch_size == 1 or law.sampling == "with_replacement":
            return largest
        rest = law.n_units % law.batch_size
        sizes = {law.batch_size, rest} if rest > 0 and not law.is_independent else {law.batch_size}
        laws = [replace(law, sampling="iid", batch_size=size) for size in sizes]
        if sum(each.n_batches for each in laws) * self.rows_per_step**3 <= _MOST_MINORS:
            return max(of(batch) for each in laws for _, batches in each.batches() for batch in batches)
        return min(largest, float(self._rows.eigenvalues[-1]) / min(sizes))

    def largest_amplification(self) -> float:
        """Return a bound of what a step may multiply lengths by.

        In coordinates isometric to parameter space a step is (F (x) I) - e_1 h^T (x) eta H, H the mean of the batch's
        parts of K, with eigenvalues between 0 and c; it is normal but for F and h, so that no step multiplies lengths
        by more than

            max(|F|, |F - eta c e_1 h^T|),  c <= max_u w_max(K_uu) (a mean is at most its terms),  c <= w_max(K) / B.
        """
        steepest = self.recurrence.along(self.learning_rate * self.largest_curvature())
        return max(float(np.linalg.norm(each, 2)) for each in (self.recurrence.free, steepest))


def _is_of_use(found: SecondMoments) -> bool:
    """Say whether forms are numbers, not lost to steps or powers beyond floating point."""
    return bool(np.isfinite(found.metric).all() and np.isfinite(found.covariance).all())


def _joined(rows: list[IntArray], units: tuple[int, ...]) -> IntArray:
    return np.concatenate([rows[unit] for unit in units]) if units else np.empty(0, dtype=np.int64)


def _log_determinants(matrices: FloatArray) -> FloatArray:
    """Return log abs det of each; -inf where it is 0 to rounding."""
    if matrices.shape[1] == 0:
        return np.zeros(len(matrices))
    with np.errstate(divide="ignore"):
        if matrices.shape[1] == 1:
            entries = np.abs(matrices[:, 0, 0])
            return np.log(np.where(entries > 2 * _EPS, entries, 0.0))
        values = np.linalg.svd(matrices, compute_uv=False)
        return np.asarray(np.log(np.where(values > 4 * _EPS * values[:, :1], values, 0.0)).sum(axis=1))


def _with_floor(metric: FloatArray, norm: FloatArray) -> FloatArray:
    """Mix in a little of the norm of K, so that no direction has a norm of 0 or below."""
    scale = float(np.trace(metric)) / float(np.trace(norm))
    return np.ascontiguousarray(metric + _FLOOR * scale * norm)
