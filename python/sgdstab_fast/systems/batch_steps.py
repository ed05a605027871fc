"""Steps of SGD in all generality: rows of K, the law of the batches and the optimiser's recurrence.

    z' = (F (x) I) z - e_1 (x) (eta/|S|) sum_{u in S} sum_{i in u} e_i K_i . (h^T (x) I) z          (gram coordinates)

with f_i f_i . in place of e_i K_i . in factor coordinates; `laws` has the batches S, `recurrence` F and h. Written in
blocks of the state, the determinant of a step is det(F)^d det(I - (eta/|S|) g K_SS), g = h^T F^-1 e_1, so that the sum
of all exponents is d log abs det F plus the mean of a determinant of the batch's size (0 for heavy ball, where g = 0).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sgdstab_fast._core.functions import Coordinates, FloatArray
from sgdstab_fast.operators.matrices import MatrixMoments, SecondMomentsOfMatrices
from sgdstab_fast.operators.second_moments import SecondMoments, mean_square_threshold, second_moments
from sgdstab_fast.systems.recurrence import Recurrence
from sgdstab_fast.systems.sampling import IntArray, Law
from sgdstab_fast.systems.system import RANDOM_SHARE, Call, ExactExponents, GrowthCall, Outcomes, of_products

_EPS = float(np.finfo(float).eps)
_MOST_DETERMINANTS = 2**22  # multiplications
_LARGEST_PRODUCT = 1024  # dimension of matrices that are multiplied through an epoch
_LARGEST_DIMENSION = 1024  # with metrics
_FLOOR = 1e-6  # of the norm of K in other metrics
_LOWER = 0.7  # the learning rate of the second metric, relative
_TRIAL_SHARE, _LEAST_TRIALS, _MOST_TRIALS = 1 / 16, 8, 256
_CACHE_LINE, _MOST_COPIED = 64, 2**22  # bytes; numbers
SMALL = 2**16  # numbers in the matrices of all epochs: more of them are not gone through for Lambda(2)


@dataclass(frozen=True, eq=False)
class SampledSteps:
    """What one step does, in the coordinates of its rows."""

    rows: FloatArray
    """K or F, shape (n_rows, r)."""
    coordinates: Coordinates
    learning_rate: float
    law: Law
    recurrence: Recurrence

    @property
    def dimension(self) -> int:
        """Of the state: levels times r."""
        return int(self.recurrence.levels * self.rows.shape[1])

    @cached_property
    def gram(self) -> FloatArray:
        """K, shape (n_rows, n_rows)."""
        return self.rows if self.coordinates == "gram" else self.rows @ self.rows.T

    @cached_property
    def eigenvalues(self) -> FloatArray:
        """Of K, ascending: those that are not 0."""
        if self.coordinates == "gram":
            return np.asarray(np.maximum(np.linalg.eigvalsh(self.rows), 0.0))
        return np.asarray(np.linalg.svd(self.rows, compute_uv=False)[::-1] ** 2)

    @property
    def largest_unit(self) -> float:
        """The largest trace of a unit's part of K: no batch step is longer than eta times that."""
        diagonal = np.einsum("ij,ij->i", self.rows, self.rows) if self.coordinates == "factor" else self.rows.diagonal()
        return float(np.bincount(self.law.units_of_rows(len(self.rows)), diagonal, self.law.n_units).max())

    @property
    def step_sizes(self) -> FloatArray:
        """Bounds of the logarithms of what a step does to lengths: growth, and by volume shrinkage."""
        largest = self.learning_rate * self.largest_unit
        memory = float(np.abs(self.recurrence.free).sum()) if not self.recurrence.is_plain else 1.0
        growth = math.log(max(memory + float(np.abs(self.recurrence.readout).sum()) * largest, 1.0 + 1e-12))
        return np.array([growth, max(-self.recurrence.log_determinant, 1e-12)])

    @property
    def arguments(self) -> dict[str, Any]:
        """What the core is told."""
        return {
            "rows": self._aligned_rows,
            "coordinates": self.coordinates,
            "learning_rate": self.learning_rate,
            "free": self.recurrence.free,
            "readout": self.recurrence.readout,
            "log_determinant": self.recurrence.log_determinant,
            "feedback": self.recurrence.feedback,
            **self.law.core_arguments,
        }

    @cached_property
    def _aligned_rows(self) -> FloatArray:
        """The rows, from an address that is a multiple of a cache line, while they are not many.

        Loads that cross lines cost as much as two. Bits do not depend on addresses.
        """
        if self.law.is_single or self.rows.size > _MOST_COPIED or self.rows.ctypes.data % _CACHE_LINE == 0:
            return self.rows
        return aligned(self.rows)

    def vectors_call(self) -> Call:
        """Return what advances vectors."""
        work = (self.rows_per_step + 3 * (self.recurrence.levels - 1)) * self.rows.shape[1]
        return Call("advance_sampled_vectors", self.arguments, 2e-8 + 3e-9 * self.rows_per_step + 1e-10 * work)

    @property
    def rows_per_step(self) -> float:
        """Rows of a batch, on average."""
        return self.law.batch_size * len(self.rows) / self.law.n_units

    def growth_call(self, metrics: list[FloatArray]) -> GrowthCall:
        """Return what evaluates growth."""
        n, d, size = len(self.rows), self.dimension, len(metrics)
        n_trials = self._n_trials if size and self.law.batch_size > 1 else 0
        arguments = {
            "metrics": np.array(metrics).reshape(size, d, d),
            "couplings": np.array([self._coupling(metric) for metric in metrics]).reshape(size, n, n),
            "probabilities": self.law.unit_probabilities,
            "n_trials": n_trials,
        }
        products = n * self.rows.shape[1] + size * (2 * d * d + 3 * n * n)
        trials = n_trials * size * self.rows_per_step**2
        return GrowthCall(arguments, size * (3 if n_trials else 1), 1e-7 + 6e-11 * products + 1.6e-9 * trials)

    @property
    def _n_trials(self) -> int:
        """Batches to draw: they may take as long as the products of an evaluation do, and cut whole permutations."""
        affordable = _TRIAL_SHARE * len(self.rows) ** 2 / self.rows_per_step**2
        whole = max(self.law.n_units // self.law.batch_size, 1)
        wanted = int(np.clip(affordable, _LEAST_TRIALS, _MOST_TRIALS))
        return max(wanted // whole, 1) * whole if wanted > whole else wanted

    def _coupling(self, metric: FloatArray) -> FloatArray:
        """Return the inner products of the directions that rows move, in a metric."""
        r = self.rows.shape[1]
        first = metric[:r, :r]
        return first if self.coordinates == "gram" else np.asarray(self.rows @ first @ self.rows.T)

    def norm(self) -> FloatArray:
        """Return the metric of parameter space, of present and past displacement alike."""
        form = self.rows if self.coordinates == "gram" else np.eye(self.rows.shape[1])
        return np.asarray(np.kron(np.eye(self.recurrence.levels), form), dtype=float)

    def metrics(self, tolerance: float) -> tuple[list[FloatArray], FloatArray | None]:
        """Return the norm of K, mean-square metrics here and at a lower learning rate, and those for rare steps."""
        if self.dimension > _LARGEST_DIMENSION:
            return [], None
        if not self.law.is_independent:  # starts as if it were
            found = replace(self, law=replace(self.law, sampling="iid")).solved(tolerance)
            return [], found.covariance if _is_of_use(found) else None
        norm = self.norm()
        found = self.solved(tolerance)
        further = [found, replace(self, learning_rate=_LOWER * self.learning_rate).solved(tolerance)]
        growth = self._growth_of_units()
        if self.law.batch_size == 1 and growth.max() > 1:
            weights = self.law.unit_probabilities / growth
            held_down = replace(self, law=replace(self.law, probabilities=weights / weights.sum()))
            further.append(held_down.solved(tolerance))
        of_use = [_with_floor(each.metric, norm) for each in further if _is_of_use(each)]
        return [norm, *of_use], found.covariance if _is_of_use(found) else None

    def _growth_of_units(self) -> FloatArray:
        """Return max(1, (1 - eta trace K_uu)^2) for every unit: how much a step on it may multiply squared norms."""
        traces = np.bincount(self.law.units_of_rows(len(self.rows)), self.gram.diagonal(), self.law.n_units)
        return np.asarray(np.maximum(1.0, (1 - self.learning_rate * traces) ** 2))

    def solved(self, tolerance: float = 1e-11) -> SecondMoments:
        """Return second moments under a law of independent batches."""
        members, offsets = self._units()
        return second_moments(
            self.rows,
            self.coordinates,
            self.learning_rate,
            self.law.noise,
            self.law.n_units,
            members,
            offsets,
            self.law.probabilities,
            self.recurrence.free,
            self.recurrence.readout,
            tolerance=tolerance,
        )

    def threshold(self) -> tuple[float, float]:
        """Return the learning rate at which Lambda(2) = 0 under a law of independent batches, and its error."""
        members, offsets = self._units()
        return mean_square_threshold(
            self.rows,
            self.coordinates,
            self.law.noise,
            self.law.n_units,
            members,
            offsets,
            self.law.probabilities,
            self.recurrence.free,
            self.recurrence.readout,
        )

    def _units(self) -> tuple[IntArray, IntArray]:
        if self.law.offsets.size:
            return self.law.members, self.law.offsets
        return np.arange(len(self.rows)), np.arange(len(self.rows) + 1)

    def second_moments(self, tolerance: float) -> SecondMoments | SecondMomentsOfMatrices | None:
        """Return second moments, of the matrices of epochs where batches depend on each other and these are few."""
        if self.law.is_independent or self.law.is_full:
            return self.solved(tolerance)
        outcomes = self.outcomes(SMALL)
        if outcomes is None:
            return None
        found = MatrixMoments(outcomes.matrices, outcomes.probabilities).second_moments
        exponent = found.exponent / outcomes.n_steps
        return replace(found, exponent=exponent, error=found.error / outcomes.n_steps, growth=math.expm1(exponent))

    def exact_exponents(self) -> ExactExponents | None:
        """Return the exponents where all steps, or all epochs, are the same."""
        if self.law.is_full:
            curvatures = self.learning_rate * self.eigenvalues / self.law.n_units
            radii = np.array([np.abs(np.linalg.eigvals(self.recurrence.along(c))) for c in curvatures]).ravel()
            with np.errstate(divide="ignore"):
                logs = np.log(np.where(radii < 8 * _EPS, 0.0, radii))
            error = 8 * _EPS * (1 + float(curvatures.max())) / max(float(radii.max()), _EPS)
            return ExactExponents(np.sort(logs)[::-1], "every step is a full step", error, of_powers=True)
        if self.law.is_deterministic and self.dimension <= _LARGEST_PRODUCT:
            _, batches = next(self.law.batches())
            return of_products(*self._scaled_product(batches), len(batches))
        return None

    def sum_of_exponents(self) -> float:
        """Return E log abs det of a step; NaN where there are too many batches."""
        law, free = self.law, float(self.rows.shape[1] * self.recurrence.log_determinant)
        feedback = self.recurrence.feedback
        if abs(feedback) < 1e-14:
            return free
        if law.is_full:
            determinants = 1 - feedback * self.learning_rate * self.eigenvalues / law.n_units
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
        if law.n_batches * self.rows_per_step**3 > _MOST_DETERMINANTS:
            return math.nan
        total = 0.0
        for probability, batches in law.batches():
            for batch in batches:
                rows = np.concatenate([law.rows(unit) for unit in batch])
                step = self.learning_rate / len(batch) * self.recurrence.feedback
                minor = np.eye(len(rows)) - step * self.gram[np.ix_(rows, rows)]
                total += probability / len(batches) * _log_determinant(minor)
        return total

    def outcomes(self, most: int) -> Outcomes | None:
        """Return all matrices of steps, or of epochs."""
        law, size = self.law, self.dimension**2
        if law.n_batches * size > most:
            return None
        found = [(probability, self._product(batches), len(batches)) for probability, batches in law.batches()]
        probabilities, matrices, n_steps = zip(*found, strict=True)
        every = np.array(matrices)
        return Outcomes(every, np.array(probabilities), n_steps[0]) if np.isfinite(every).all() else None

    def _product(self, batches: list[tuple[int, ...]]) -> FloatArray:
        """Return the matrix of steps on batches of units, in order."""
        product, log_scale = self._scaled_product(batches)
        with np.errstate(over="ignore"):
            return np.asarray(product * np.exp(log_scale))

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
        r, free = self.rows.shape[1], self.recurrence.free
        levels = frame.reshape(self.recurrence.levels, r, -1)
        read = np.tensordot(self.recurrence.readout, levels, axes=1)
        image = np.tensordot(free, levels, axes=1)
        rows = np.concatenate([self.law.rows(unit) for unit in batch]) if batch else np.empty(0, dtype=np.int64)
        moved = self.learning_rate / len(batch) * (self.rows[rows] @ read)
        if self.coordinates == "gram":
            np.subtract.at(image[0], rows, moved)
        else:
            image[0] -= self.rows[rows].T @ moved
        return np.asarray(image.reshape(frame.shape))

    def slow_directions(self, directions: FloatArray) -> FloatArray:
        """Return directions of displacements, (r, k), as states that have been there for long."""
        levels = self.recurrence.levels
        return np.asarray(np.tile(directions, (levels, 1)) / math.sqrt(levels))

    @property
    def random_share(self) -> float:
        """How much of starts near slow directions is random.

        A velocity is carried over 1/(1 - b) steps: it is to move no farther than the displacement's random part.
        """
        rates = np.abs(1 - np.linalg.eigvals(self.recurrence.free))
        slowest = float(rates[rates > _EPS].min(initial=1.0))
        return RANDOM_SHARE * min(1.0, slowest**2)

    def digest(self) -> bytes:
        """Return what tells one law and optimiser from another."""
        law, parts = self.law, [self.recurrence.free, self.recurrence.readout, self.law.offsets, self.law.members]
        parts += [] if law.probabilities is None else [law.probabilities]
        text = f"{law.sampling}-{law.batch_size}".encode()
        return hashlib.sha256(text + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()


def _is_of_use(found: SecondMoments) -> bool:
    """Say whether forms are numbers, not lost to steps or powers beyond floating point."""
    return bool(np.isfinite(found.metric).all() and np.isfinite(found.covariance).all())


def aligned(array: FloatArray) -> FloatArray:
    """Return a copy that begins at a cache line."""
    memory = np.empty(array.nbytes + _CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    copy: FloatArray = memory[start : start + array.nbytes].view(np.float64).reshape(array.shape)
    copy[...] = array
    return copy


def _log_determinant(matrix: FloatArray) -> float:
    """Return log abs det; -inf if it is 0 to rounding."""
    if not matrix.size:
        return 0.0
    if len(matrix) == 1:
        entry = abs(float(matrix[0, 0]))
        return math.log(entry) if entry > 2 * np.finfo(float).eps else -math.inf
    singular_values = np.linalg.svd(matrix, compute_uv=False)
    if singular_values[-1] <= 4 * np.finfo(float).eps * singular_values[0]:
        return -math.inf
    return float(np.log(singular_values).sum())


def _with_floor(metric: FloatArray, norm: FloatArray) -> FloatArray:
    """Mix in a little of the norm of K, so that no direction has a norm of 0 or below."""
    scale = float(np.trace(metric)) / float(np.trace(norm))
    return np.ascontiguousarray(metric + _FLOOR * scale * norm)
