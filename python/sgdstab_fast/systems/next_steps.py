"""Next steps: what every step that may come next does to a direction, and with which probability.

The mean over a step's outcomes i, with probabilities p_i, of l_i = log |A_i s| is the mean log growth g(s) without
noise: p_i E l_i are the parts of outcomes in lambda, and E sum_i p_i l_i^2 is what a step has of the variance.

Outcomes are the examples of a plain system; the units, groups of rows, of steps on single units, of any probabilities
and with memory; the matrices of an ensemble; and, where they are few, the batches of a step or the orders of an epoch.
A step on unit u, with rows r_i, i in u, takes the state z to y - e_1 (x) sum_i c_i d_i, y = (F (x) I) z and
c_i = eta r_i . (h^T (x) I) z, so that with d_i = e_i (gram coordinates) or r_i (factor coordinates) and a metric M

    |z'|_M^2 = |y|_M^2 - 2 sum_i c_i d_i . (M y)_1 + sum_ij c_i c_j d_i . M_11 d_j.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.systems.coordinates import isometric
from sgdstab_fast.systems.ensemble import MatrixEnsemble
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import System

_CANCELLING = 1 - 2.0**-16  # a step that leaves less of a squared norm: 1 + x has lost digits
_FEW_NUMBERS = 2**14  # in all matrices of batches or epochs


class NextSteps(Protocol):
    """The outcomes of the next step, or of the next epoch."""

    @property
    def weights(self) -> FloatArray:
        """Their number times their probabilities, shape (n,)."""

    @property
    def n_steps(self) -> int:
        """Steps that an outcome takes."""

    @property
    def work(self) -> int:
        """Numbers that one direction takes."""

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds that one direction takes, a logarithm being worth so many."""

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[Growth]:
        """Yield log growth in metrics, None for the norm of parameter space, of vectors (n, dimension)."""


def next_steps(system: System) -> NextSteps | None:
    """Return the outcomes of the next step; None if there are too many."""
    if isinstance(system, MatrixEnsemble):
        return ListedSteps(system, system.matrices, system.probabilities, 1)
    if isinstance(system, LinearizedSGD) and system.is_plain:
        return PlainSteps(system)
    if isinstance(system, LinearizedSGD) and has_single_units(system):
        return UnitSteps(system)
    found = system.outcomes(_FEW_NUMBERS)
    return None if found is None else ListedSteps(system, found.matrices, found.probabilities, found.n_steps)


def has_single_units(system: LinearizedSGD) -> bool:
    """Whether every step is on one example, independently drawn."""
    return system.law.is_independent and system.batch_size == 1


class PlainSteps:
    """Steps on single rows, all of the same probability, without memory."""

    n_steps = 1

    def __init__(self, system: LinearizedSGD) -> None:
        self._system = system
        self.weights = np.ones(system.n_examples)
        self.work = max(system.n_examples, system.dimension)

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds of one direction."""
        return self._system.n_examples * (self._system.dimension + logarithm)

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[Growth]:
        """Yield log growth in metrics."""
        return growth_by_example(self._system, vectors, metrics)


class UnitSteps:
    """Steps on single units."""

    n_steps = 1

    def __init__(self, system: LinearizedSGD) -> None:
        law = system.law
        self._system = system
        self._units = [law.rows(unit) for unit in range(law.n_units)]
        self._single = not law.offsets.size
        self.weights = law.n_units * law.unit_probabilities
        self.work = max(len(system.rows), system.dimension)

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds of one direction."""
        return len(self._system.rows) * (self._system.dimension + logarithm)

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[Growth]:
        """Yield log growth in metrics."""
        system, recurrence = self._system, self._system.recurrence
        levels = vectors.reshape(len(vectors), recurrence.levels, -1)
        read = np.einsum("l,nlr->nr", recurrence.readout, levels)
        image = np.einsum("kl,nlr->nkr", recurrence.free, levels).reshape(vectors.shape)
        moves = system.learning_rate * (read @ system.rows.T)
        for metric in metrics:
            form = system.steps.norm() if metric is None else metric
            norms = np.einsum("ni,ni->n", vectors @ form, vectors)
            carried = image @ form
            rest = np.einsum("ni,ni->n", carried, image) - norms if not recurrence.is_plain else np.zeros(len(norms))
            with np.errstate(divide="ignore", invalid="ignore"):
                x = (rest[:, None] + self._changes(moves, carried[:, : system.rank], form)) / norms[:, None]
                log_growth = np.log1p(np.maximum(x, -1.0)) / 2
            for n, unit in np.argwhere(x < -_CANCELLING):
                after = image[n].copy()
                after[: system.rank] -= self._move(moves[n], unit)
                with np.errstate(divide="ignore"):
                    log_growth[n, unit] = np.log(max(float(after @ form @ after), 0.0) / norms[n]) / 2
            yield Growth(log_growth, norms)

    def _move(self, moves: FloatArray, unit: int) -> FloatArray:
        """Return sum_i c_i d_i over the rows of a unit, shape (rank,)."""
        rows = self._units[unit]
        if self._system.coordinates == "factor":
            return np.asarray(moves[rows] @ self._system.rows[rows])
        move = np.zeros(self._system.rank)
        move[rows] = moves[rows]
        return move

    def _changes(self, moves: FloatArray, carried: FloatArray, form: FloatArray) -> FloatArray:
        """Return what units change in the squared norm of the image, shape (n, N)."""
        r, rows = self._system.rank, self._system.rows
        gram = self._system.coordinates == "gram"
        along = carried if gram else carried @ rows.T
        if self._single:
            diagonal = form.diagonal()[:r] if gram else np.einsum("ij,ij->i", rows @ form[:r, :r], rows)
            return np.asarray(moves * (diagonal * moves - 2 * along))
        changes = np.zeros((len(moves), len(self._units)))
        for unit, its in enumerate(self._units):
            block = form[np.ix_(its, its)] if gram else rows[its] @ form[:r, :r] @ rows[its].T
            c = moves[:, its]
            changes[:, unit] = np.einsum("ni,ni->n", c, c @ block - 2 * along[:, its])
        return changes


class ListedSteps:
    """Steps, or epochs, whose matrices are listed."""

    def __init__(self, system: System, matrices: FloatArray, probabilities: FloatArray, n_steps: int) -> None:
        self._system, self._matrices = system, matrices
        self.weights, self.n_steps = len(matrices) * probabilities, n_steps
        self.work = int(matrices.shape[0] * matrices.shape[1])

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds of one direction."""
        return int(self._matrices.size) + len(self._matrices) * logarithm

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[Growth]:
        """Yield log growth in metrics."""
        images = np.einsum("iab,nb->nia", self._matrices, vectors, optimize=True)
        for metric in metrics:
            before, after = self._squares(vectors, metric), self._squares(images, metric)
            with np.errstate(divide="ignore", invalid="ignore"):
                yield Growth(np.log(after / before[:, None]) / 2, before)

    def _squares(self, vectors: FloatArray, metric: FloatArray | None) -> FloatArray:
        if metric is None:
            s = isometric(self._system, vectors)
            return np.asarray(np.einsum("...i,...i->...", s, s))
        return np.asarray(np.maximum(np.einsum("...i,...i->...", vectors @ metric, vectors), 0.0))


_CANCELLING = 1 - 2.0**-16  # a step that leaves less of a squared norm: 1 + x has lost digits


_NONE = (np.empty(0, np.intp), np.empty(0, np.intp))


class Growth(NamedTuple):
    """What steps do to n vectors, in a metric."""

    log_growth: FloatArray
    """l_i, shape (n, N)."""
    squared_norms: FloatArray
    """q, shape (n,)."""


def growth_by_example(
    system: LinearizedSGD, vectors: FloatArray, metrics: Iterable[FloatArray | None]
) -> Iterator[Growth]:
    """Yield the log growth of the next step on each example, in metrics; None for the norm of parameter space.

    `vectors` has the shape (n, dimension), in the coordinates of the system.
    """
    rows, eta = system.rows, system.learning_rate
    gram = system.coordinates == "gram"
    w = vectors @ rows.T
    steps = eta * w
    for metric in metrics:
        if metric is None:
            y, images, diagonal = w, w if gram else vectors, system.diagonal
        else:
            images = vectors @ metric
            y = images if gram else images @ rows.T
            diagonal = metric.diagonal() if gram else np.einsum("ij,ij->i", rows @ metric, rows)
        norms = np.einsum("nj,nj->n", vectors, images)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = steps * (diagonal * steps - 2 * y) / norms[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_growth = np.log1p(x) / 2
        n, i = np.nonzero(x < -_CANCELLING) if x.min(initial=0.0) < -_CANCELLING else _NONE
        if n.size:
            # |A_i v|_M^2 from A_i v itself.
            step = steps[n, i][:, None]
            directions = np.eye(system.dimension)[i] if gram else rows[i]
            its_images = rows[i] if metric is None else metric[i] if gram else directions @ metric
            after = np.einsum("nj,nj->n", vectors[n] - step * directions, images[n] - step * its_images)
            with np.errstate(divide="ignore"):
                log_growth[n, i] = np.log(np.maximum(after, 0.0) / norms[n]) / 2
        yield Growth(log_growth, norms)
