"""Steps on single examples, drawn uniformly and independently, without memory: A_i = I - eta e_i e_i^T K.

What is special about them: the determinant of a step is 1 - eta K_ii, a block of K alone is again such a system whose
steps are a share of the whole's, and growth is evaluated in metrics of which the core knows the norm of K.

`operators.mean_square` has the map in the eigenbasis of K = U diag(w) U^T and solves for its eigenvector
S = [sqrt(w_a w_b) Z_ab]; displacements have the coordinates sqrt(w) U^T a there, or V^T s with F = U diag(sqrt w) V^T.
So in gram coordinates M = U [w_a w_b Z_ab] U^T and C = U Z U^T, and both are V S V^T in factor coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from sgdstab_fast import memory
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray, StreamKey
from sgdstab_fast._core.functions import core
from sgdstab_fast.memory import BYTES_OF_DOUBLE
from sgdstab_fast.operators.mean_square import MeanSquareOperator, MeanSquareSolution
from sgdstab_fast.operators.strips import strips
from sgdstab_fast.operators.uniform_noise import uniform_noise
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.batch_steps import BatchSteps
from sgdstab_fast.systems.decomposition import SpectralDecomposition
from sgdstab_fast.systems.growth import (
    LARGEST_DIMENSION,
    MEAN_SQUARE,
    TOLERANCE,
    UNIFORM_NOISE,
    CloserBound,
    Growth,
    GrowthChoice,
    half_at_most,
    tolerance_of,
)
from sgdstab_fast.systems.next_steps import NextExamples, NextSteps
from sgdstab_fast.systems.rows import IntArray, Rows
from sgdstab_fast.systems.sampling import Law
from sgdstab_fast.systems.system import (
    MEAN_SQUARE_TOLERANCE,
    Call,
    ExactExponents,
    MeanSquare,
    Part,
    QuadraticForms,
    System,
)

# 1 - eta K_ii within rounding of 0: the step is singular.
_SINGULAR = 2 * np.finfo(float).eps
# Fewer examples than this, some of them with abs(1 - eta K_ii) below that: a few steps may shrink a whole vector as
# much.
_FEW_EXAMPLES, _NEARLY_SINGULAR = 32, 1e-2
_INTERMITTENCY = (0.5, 1.0)  # theta, beyond the edge, where some abs(1 - eta K_ii) > 1
# How much of the norm of K is mixed in, relative to the least and to the largest M_ii / K_ii.
_FLOOR, _ROUNDING_FLOOR = 1e-6, 1e-12
# Below this log abs(1 - eta K_ii), growth of volumes, which is as the square of 1 - eta K_ii, drowns in rounding.
_LOST = math.log(1e-3)
_LEAST_WEIGHT = 1e-150  # of an example in second moments
MOST_APPLICATIONS = 1000  # of the mean-square operator
_OF_BOUND = 1e-3  # tolerance: the error of Lambda(2) goes with its square
_OF_METRICS, _OF_INVERSE = 14, 6  # matrices
_MOST_IN_A_STEP = 30.0  # log abs(1 - eta K_ii) of orthogonal steps
_LARGEST_EXACT = 512  # dimension up to which the dominant second moment itself costs little
_LARGEST_INVERSE = 4096  # dimension up to which an inverse pays
_SECONDS_OF_PRODUCT = 3e-11  # of matrices, a multiply-add
_PRODUCTS, _PRODUCTS_OF_INVERSE, _PRODUCTS_OF_BOUND = 40, 4, 15  # that making growth, and a bound, take as long as
_LARGEST_OF_FRAMES = 512  # dimension in which growth of frames is evaluated: it takes a dozen matrices more


class SingleSteps(BatchSteps):
    """What one step on a single example does."""

    # Anchored growth knows all of them, and they do not nearly commute.
    counts_own_growth = steps_may_commute = False

    @cached_property
    def log_determinants(self) -> FloatArray:
        """Log abs(1 - eta K_ii), shape (N,); -inf where the step is singular."""
        return log_abs_one_minus(self.learning_rate * self.diagonal)

    @property
    def step_sizes(self) -> FloatArray:
        """Logarithms of what steps do to volumes, and to lengths in one dimension."""
        return self.log_determinants

    @property
    def sum_of_exponents(self) -> float:
        """(1/N) sum_i log abs(1 - eta K_ii)."""
        return float(self.log_determinants.mean())

    @property
    def is_nearly_singular(self) -> bool:
        """Whether a few steps may shrink a whole vector by many orders."""
        return is_nearly_singular(self.log_determinants)

    def largest_amplification(self) -> float:
        """Return max_i abs(1 - eta K_ii)."""
        return math.exp(float(self.log_determinants.max()))

    def vectors_call(self) -> Call:
        """Return what advances vectors."""
        steps = arguments.SingleSteps(self._rows.for_vectors, self.learning_rate)
        return Call(steps, 1e-8 + 1.3e-10 * self.rank, self.is_nearly_singular)

    def frames_call(self) -> Call:
        """Return what advances frames."""
        return Call(self._for_core(self._rows.for_core), 0.0, log_determinants=self.log_determinants)

    def with_orthogonal_steps(self) -> System | None:
        """Return the system in isometric coordinates, unless steps destroy or stretch directions altogether."""
        moderate = float(np.abs(self.log_determinants).max()) <= _MOST_IN_A_STEP
        return self.isometric() if moderate else None

    def exact_exponents(self) -> ExactExponents | None:
        """Return those of reflections; of other steps they take simulation."""
        return self._zeros_of_reflections()

    def slow_directions(self, k: int) -> FloatArray:
        """Return the directions that the mean step shrinks least, slowest first."""
        return self._rows.slow_directions(k, self.learning_rate / len(self._rows))

    def next_steps(self) -> NextSteps:
        """Return the examples that may come next."""
        return NextExamples(self._rows, self.learning_rate)

    def probability_of_singular_steps(self) -> float:
        """Return the share of examples whose step is singular."""
        return float(np.isneginf(self.log_determinants).mean())

    def log_determinant_of_path(self, key: StreamKey, chain: int, first_step: int, n_steps: int) -> float:
        """Return the sum over the examples that the chain draws."""
        examples = core.examples(
            key=key, chain=chain, first_step=first_step, n_steps=n_steps, n_examples=self.law.n_units
        )
        return float(self.log_determinants[examples].sum())

    def _laws_of_parts(self) -> Iterator[tuple[Law, float]]:
        """Yield the law of each block alone, and its share of the steps."""
        for rows in self._rows.components:
            yield Law(rows.size), rows.size / len(self._rows)

    def mean_square(self, decomposition: SpectralDecomposition | None = None) -> MeanSquare:
        """Return Lambda(2), from the part of K of each block; metric and covariance are zero elsewhere."""
        return mean_square(self._rows, self.learning_rate, decomposition)

    @cached_property
    def amplification(self) -> FloatArray:
        """max(1, (1 - eta K_ii)^2), by which steps may multiply squared norms, shape (N,)."""
        return np.asarray(np.maximum(1.0, (1 - self.learning_rate * self.diagonal) ** 2))

    @property
    def no_growth(self) -> Growth:
        """No metrics."""
        rank = self.rank
        return self.growth_with(np.empty((0, rank, rank)), np.empty((0, len(self._rows))))

    @property
    def growth_in_norm(self) -> Growth:
        """The norm of K alone."""
        return self.growth_with(np.empty((0, self.rank, self.rank)), self.diagonal[None])

    def growth_with(self, matrices: FloatArray, diagonals: FloatArray, covariance: FloatArray | None = None) -> Growth:
        """Return growth in the norm of K and further metrics, and the squared norms of what steps move in all."""
        n, d, size = diagonals.shape[1], matrices.shape[1], len(diagonals)
        return Growth(
            matrices=matrices,
            metrics=arguments.SingleMetrics(matrices, diagonals),
            size=size,
            seconds_per_evaluation=float(1e-7 + 5e-11 * (n * d + matrices.size) + 1e-9 * size * n),
            n_steps=n if size > 0 else 0,
            cancellation=cancellation_of(self.log_determinants),
            covariance=covariance,
        )

    def growth_with_norms(
        self, with_norms: list[tuple[FloatArray, FloatArray]], covariance: FloatArray | None
    ) -> Growth:
        """Return growth in the norm of K and metrics with squared norms, as `metric_with_norms` returns them."""
        matrices, squared_norms = zip(*with_norms, strict=True)
        return self.growth_with(np.array(matrices), np.array([self.diagonal, *squared_norms]), covariance)

    def growth(self, known: QuadraticForms | None = None) -> Growth:
        """Return growth in the norm of K, the metric of constant mean squared growth, and those for rare steps."""
        if self.dimension > LARGEST_DIMENSION:
            return self.growth_in_norm
        metrics = {"metrics, which method='average' does without": _OF_METRICS * BYTES_OF_DOUBLE * self.dimension**2}
        memory.require("anchored growth", metrics)
        if known is None:
            parts = self._rows.decompose()
            operator = operator_of(parts, self.learning_rate, len(self._rows))
            found = operator.solve(tolerance_of(self.dimension), MOST_APPLICATIONS)
            metric, covariance = forms_of(parts, found.moment)
            bound = half_at_most(found.exponent, found.error)
        else:
            metric, covariance = known.metric, known.covariance
            bound = half_at_most(known.exponent, known.error)
        every = [self.metric_with_norms(metric), *self.intermittency_metrics()]
        return replace(self.growth_with_norms(every, covariance), upper_bound=bound)

    def growth_choices(self, known: QuadraticForms | None = None) -> list[GrowthChoice]:
        """Return growth in the metric of uniform noise and in that of constant mean squared growth, as far as they pay.

        The former alone costs a tenth, and serves as well as long as no steps are rare and large.
        """
        seconds = 0.0 if known is not None else self._seconds_of(_PRODUCTS)
        exact = GrowthChoice(MEAN_SQUARE, lambda: self.growth(known), seconds)
        if known is not None or self.dimension <= _LARGEST_EXACT:
            return [exact]
        if self.dimension > _LARGEST_INVERSE:
            return [GrowthChoice("norm of K", lambda: self.growth_in_norm)]
        seconds = self._seconds_of(_PRODUCTS_OF_INVERSE)
        uniform = GrowthChoice(UNIFORM_NOISE, lambda: self.growth_of_uniform_noise, seconds)
        return [uniform, exact] if self.dimension <= LARGEST_DIMENSION else [uniform]

    def _seconds_of(self, n_products: int) -> float:
        return n_products * _SECONDS_OF_PRODUCT * float(self.dimension) ** 3

    @cached_property
    def _mean_square_bound(self) -> float:
        """Half of Lambda(2), to a tolerance that costs little, and its error."""
        operator = operator_of(self._rows.decompose(), self.learning_rate, len(self._rows))
        found = operator.solve(_OF_BOUND, MOST_APPLICATIONS)
        return half_at_most(found.exponent, found.error)

    @property
    def growth_of_uniform_noise(self) -> Growth:
        """Growth in the norm of K and in the metric that noise has which is alike on all examples."""
        metrics = {"a metric, which method='average' does without": _OF_INVERSE * BYTES_OF_DOUBLE * self.dimension**2}
        memory.require("anchored growth", metrics)
        rows, n, rate = self._rows, len(self._rows), self.learning_rate
        try:
            noise = uniform_noise(rows.form, rows.slowest, rate, float(self.diagonal.sum()), n)
        except np.linalg.LinAlgError:  # of a K whose slowest directions are within rounding of not being there
            return self.growth_in_norm
        metric, covariance = rows.forms_of_uniform_noise(noise)
        bound = -rate / n * noise.rate(rate, self.diagonal, rows.squared_norms(metric))
        growth = self.growth_with_norms([self.metric_with_norms(metric)], covariance)
        closer = CloserBound(lambda: self._mean_square_bound, self._seconds_of(_PRODUCTS_OF_BOUND))
        return replace(
            growth,
            upper_bound=bound if bound < 0 else math.inf,
            closer_bound=closer if self.dimension <= LARGEST_DIMENSION else None,
        )

    def intermittency_metrics(self) -> list[tuple[FloatArray, FloatArray]]:
        """Return the metrics, and their squared norms, that hold rare steps down; none where no step grows."""
        return [
            self.metric_with_norms(self.mean_square_metric(self.amplification**-theta, TOLERANCE))
            for theta in (_INTERMITTENCY if self.amplification.max() > 1 else ())
        ]

    def mean_square_metric(self, weights: FloatArray | None, tolerance: float) -> FloatArray:
        """Return the metric of constant mean squared growth, with weights of examples."""
        return mean_square_metric(self._rows, self.learning_rate, weights, tolerance=tolerance)

    def metric_with_norms(self, metric: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return a metric that is safely positive definite, and the squared norms of what steps move in it.

        A little of the norm of K is mixed in, so that no direction has a norm of 0 or below; M_ii <= K_ii.
        """
        diagonal = self.diagonal
        active = diagonal > 0
        ratios = self._rows.squared_norms(metric)[active] / diagonal[active]
        floor = max(_FLOOR * float(ratios.min()), _ROUNDING_FLOOR * float(ratios.max()))
        metric = metric / float(ratios.max())
        self._rows.add_norm(metric, floor / float(ratios.max()))
        return metric, self._rows.squared_norms(metric)

    def growth_of_part(self, part: Part[System], embedding: FloatArray) -> tuple[Growth, Growth]:
        """Return growth in the metrics of a block alone, for the block and for the whole."""
        own = part.system.growth() if part.system.dimension > 1 else part.system.no_growth
        diagonals = np.zeros((max(own.size, 1), len(self._rows)))
        diagonals[0] = self.diagonal
        diagonals[1:, part.rows] = own.metrics.diagonals[1:]
        return own, self.growth_with(embedding.T @ own.matrices @ embedding, diagonals)

    def frame_metrics(self) -> arguments.FrameMetrics:
        """Return the norm of K and, if it does not fall apart, others."""
        if float(self.log_determinants.min()) <= _LOST or self.dimension > _LARGEST_OF_FRAMES:
            return arguments.FrameMetrics()
        others = self.growth().matrices if len(self._rows.components) == 1 else self.no_growth.matrices
        roots, gradients, images, diagonals = [], [], [], []
        try:
            for matrix in (self._rows.norm, *others):
                root = np.linalg.cholesky(matrix)
                roots.append(root.T)
                gradients.append(np.linalg.solve(root, self.rows.T).T)
                images.append(self._rows.moved_times(root))
                diagonals.append(self._rows.squared_norms(matrix))
        except np.linalg.LinAlgError:
            return arguments.FrameMetrics()
        return arguments.FrameMetrics(
            roots=np.array(roots),
            gradients=np.array(gradients),
            images=np.array(images),
            diagonals=np.array(diagonals),
        )


def cancellation_of(log_determinants: FloatArray) -> float:
    """Return the mean of 1 / f, where f >= min(1, (1 - eta K_ii)^2) is what a step leaves of a squared norm."""
    with np.errstate(over="ignore"):
        return float(np.exp(-2 * np.minimum(log_determinants, 0.0)).mean())


def mean_square(rows: Rows, learning_rate: float, decomposition: SpectralDecomposition | None) -> MeanSquare:
    """Return Lambda(2) of steps on single rows of K; `decomposition` is that of K, if known.

    Where K falls into blocks, metric and covariance are those of the block that attains it, and zero elsewhere.
    """
    blocks: list[IntArray] = list(rows.components)
    alone = np.array([block[0] for block in blocks if block.size == 1], dtype=np.intp)
    if alone.size > 1:
        # A block of one example multiplies by 1 - eta k: the one of largest second moment stands for all.
        steps = learning_rate * rows.diagonal[alone]
        blocks = [alone[[(steps * (steps - 2)).argmax()]], *(block for block in blocks if block.size > 1)]
    best: tuple[MeanSquareSolution, SpectralDecomposition, IntArray] | None = None
    n_applications = n_iterations = 0
    highest, converged = -np.inf, True
    for block in blocks:
        known = decomposition if block.size == len(rows) else None
        parts = rows.decompose(block) if known is None else known
        solution = operator_of(parts, learning_rate, len(rows)).solve(MEAN_SQUARE_TOLERANCE, MOST_APPLICATIONS)
        n_applications += solution.n_applications
        n_iterations += solution.n_iterations
        highest = max(highest, solution.exponent + solution.error)
        converged = converged and solution.stopped_by != "max_applications"
        if best is None or solution.growth > best[0].growth:
            best = solution, parts, block
    assert best is not None  # K is not zero
    solution, parts, block = best
    # Where a block is not known well, it may be the dominant one.
    error = solution.error if converged else max(solution.error, highest - solution.exponent)
    if not converged:
        warn(
            f"the mean-square exponent {solution.exponent:.6g} may be off by {error:.1g}: the iteration did not "
            f"converge in {MOST_APPLICATIONS} products"
        )
    metric, covariance = forms_of(parts, solution.moment)
    if parts.directions is None and block.size < len(rows):
        metric, covariance = (_embedded(form, block, rows.rank) for form in (metric, covariance))
    return MeanSquare(
        exponent=solution.exponent,
        error=error,
        residual=solution.residual,
        converged=converged,
        metric=metric,
        covariance=covariance,
        n_applications=n_applications,
        n_iterations=n_iterations,
        stopped_by=solution.stopped_by if converged else "max_applications",
    )


def mean_square_metric(
    rows: Rows, learning_rate: float, example_weights: FloatArray | None = None, *, tolerance: float = 1e-3
) -> FloatArray:
    """Return the metric of S -> (1/N) sum_i omega_i A_i S A_i^T, for a K that does not fall into blocks.

    `tolerance` is for the Perron vector. Whatever it is, the metric is symmetric, and positive definite up to rounding.
    """
    rows, n = rows.in_own_units
    learning_rate = math.ldexp(learning_rate, n)
    if example_weights is not None:
        example_weights = np.maximum(example_weights, _LEAST_WEIGHT)
    parts = rows.decompose(weights=example_weights)
    operator = operator_of(parts, learning_rate, len(rows), example_weights)
    return metric_of(parts, operator.solve(tolerance, MOST_APPLICATIONS).moment, example_weights)


def operator_of(
    parts: SpectralDecomposition,
    learning_rate: float,
    n_examples: int,
    example_weights: FloatArray | None = None,
) -> MeanSquareOperator:
    """Return the operator of K, or of a block of some of N examples, at a learning rate, with weights of examples."""
    return MeanSquareOperator(
        parts.vectors,
        parts.eigenvalues,
        learning_rate,
        n_examples,
        example_weights=example_weights,
    )


def forms_of(parts: SpectralDecomposition, moment: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return metric and covariance of a moment."""
    covariance = covariance_of(parts, moment)
    return (metric_of(parts, moment) if parts.directions is None else covariance.copy()), covariance


def metric_of(
    parts: SpectralDecomposition, moment: FloatArray, example_weights: FloatArray | None = None
) -> FloatArray:
    """Return the metric of a moment in the system's coordinates, the largest diagonal entry 1."""
    if parts.directions is not None:  # isometric coordinates, in which both forms are the same
        return covariance_of(parts, moment)
    rates = parts.eigenvalues / parts.eigenvalues[-1]
    frame = parts.vectors if example_weights is None else parts.vectors / np.sqrt(example_weights)[:, None]
    return _normalised(frame, moment * rates * rates[:, None])


def covariance_of(parts: SpectralDecomposition, moment: FloatArray) -> FloatArray:
    """Return the covariance of a moment in the system's coordinates, the largest diagonal entry 1."""
    if parts.directions is not None:
        roots = np.sqrt(parts.eigenvalues / parts.eigenvalues[-1])
        return _normalised(parts.directions, moment * roots * roots[:, None])
    return _normalised(parts.vectors, moment)


def _normalised(frame: FloatArray, middle: FloatArray) -> FloatArray:
    """Return frame middle frame^T, exactly symmetric, with largest diagonal entry 1; the middle is symmetric."""
    form = np.empty((len(frame),) * 2)
    for rows, columns in strips(len(frame)):
        strip = (frame[rows] @ middle) @ frame[columns].T
        own = strip[:, : len(strip)]
        own[:] = (own + own.T) / 2
        form[rows, columns], form[columns, rows] = strip, strip.T
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where all of it is below floating point
        form /= form.diagonal().max()
    return form


def _embedded(form: FloatArray, block: IntArray, n: int) -> FloatArray:
    whole = np.zeros((n, n))
    whole[np.ix_(block, block)] = form
    return whole


def is_nearly_singular(log_determinants: FloatArray) -> bool:
    """Say whether a few steps may shrink a whole vector by many orders, given log abs(1 - eta K_ii)."""
    return log_determinants.size < _FEW_EXAMPLES and float(log_determinants.min()) < math.log(_NEARLY_SINGULAR)


def log_abs_one_minus(x: FloatArray) -> FloatArray:
    """Return log abs(1 - x), accurate for small x; -inf where 1 - x is zero to rounding."""
    with np.errstate(divide="ignore"):
        logs = np.where(np.abs(x) < 0.5, np.log1p(-np.minimum(x, 0.5)), np.log(np.abs(1 - x)))
    return np.where(np.abs(1 - x) <= _SINGULAR, -np.inf, logs)
