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

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.systems.recurrence import Recurrence
from sgdstab_fast.systems.rows import Rows
from sgdstab_fast.systems.sampling import Law

_CANCELLING = 1 - 2.0**-16  # a step that leaves less of a squared norm: 1 + x has lost digits
FEW_NUMBERS = 2**14  # in all matrices of batches or epochs
_NONE = (np.empty(0, np.intp), np.empty(0, np.intp))


class StepGrowth(NamedTuple):
    """What steps do to n vectors, in a metric."""

    log_growth: FloatArray
    """l_i, shape (n, N)."""
    squared_norms: FloatArray
    """q, shape (n,)."""


class NextSteps(Protocol):
    """The outcomes of the next step, or of the next epoch."""

    @property
    def weights(self) -> FloatArray:
        """Their number times their probabilities, shape (n,)."""

    @property
    def probabilities(self) -> FloatArray:
        """Of the outcomes, shape (n,)."""

    @property
    def n_steps(self) -> int:
        """Steps that an outcome takes."""

    @property
    def work(self) -> int:
        """Numbers that one direction takes."""

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds that one direction takes, a logarithm being worth so many."""

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[StepGrowth]:
        """Yield log growth in metrics, None for the norm of parameter space, of vectors (n, dimension)."""


class NextExamples:
    """Steps on single rows, all of the same probability, without memory."""

    n_steps = 1

    def __init__(self, rows: Rows, learning_rate: float) -> None:
        self._rows, self._learning_rate = rows, learning_rate
        self.weights = np.ones(len(rows))
        self.work = max(len(rows), rows.rank)

    @property
    def probabilities(self) -> FloatArray:
        """The same for all."""
        return self.weights / len(self.weights)

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds of one direction."""
        return len(self._rows) * (self._rows.rank + logarithm)

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[StepGrowth]:
        """Yield log growth in metrics."""
        return growth_by_example(self._rows, self._learning_rate, vectors, metrics)


class NextUnits:
    """Steps on single units."""

    n_steps = 1

    def __init__(
        self, rows: Rows, learning_rate: float, law: Law, recurrence: Recurrence, norm: Callable[[], FloatArray]
    ) -> None:
        self._rows, self._learning_rate, self._recurrence, self._norm = rows, learning_rate, recurrence, norm
        self._units = [law.rows(unit) for unit in range(law.n_units)]
        self._single = not law.offsets.size
        self.probabilities = law.unit_probabilities
        self.weights = law.n_units * law.unit_probabilities
        self.work = max(len(rows), recurrence.levels * rows.rank)

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds of one direction."""
        return len(self._rows) * (self._recurrence.levels * self._rows.rank + logarithm)

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[StepGrowth]:
        """Yield log growth in metrics."""
        recurrence, rank = self._recurrence, self._rows.rank
        levels = vectors.reshape(len(vectors), recurrence.levels, -1)
        read = np.einsum("l,nlr->nr", recurrence.readout, levels)
        image = np.einsum("kl,nlr->nkr", recurrence.free, levels).reshape(vectors.shape)
        moves = self._learning_rate * (read @ self._rows.array.T)
        for metric in metrics:
            form = self._norm() if metric is None else metric
            norms = np.einsum("ni,ni->n", vectors @ form, vectors)
            carried = image @ form
            rest = np.einsum("ni,ni->n", carried, image) - norms if not recurrence.is_plain else np.zeros(len(norms))
            with np.errstate(divide="ignore", invalid="ignore"):
                x = (rest[:, None] + self._changes(moves, carried[:, :rank], form)) / norms[:, None]
                log_growth = np.log1p(np.maximum(x, -1.0)) / 2
            for n, unit in np.argwhere(x < -_CANCELLING):
                after = image[n].copy()
                after[:rank] -= self._rows.moved_by(self._units[unit], moves[n, self._units[unit]])
                with np.errstate(divide="ignore"):
                    log_growth[n, unit] = np.log(max(float(after @ form @ after), 0.0) / norms[n]) / 2
            yield StepGrowth(log_growth, norms)

    def _changes(self, moves: FloatArray, carried: FloatArray, form: FloatArray) -> FloatArray:
        """Return what units change in the squared norm of the image, shape (n, N)."""
        first = form[: self._rows.rank, : self._rows.rank]
        along = self._rows.along(carried)
        if self._single:
            return np.asarray(moves * (self._rows.squared_norms(first) * moves - 2 * along))
        changes = np.zeros((len(moves), len(self._units)))
        for unit, its in enumerate(self._units):
            c = moves[:, its]
            changes[:, unit] = np.einsum("ni,ni->n", c, c @ self._rows.couplings_of(its, first) - 2 * along[:, its])
        return changes


class NextMatrices:
    """Steps, or epochs, whose matrices are listed; `isometric` takes vectors to the coordinates of parameter space."""

    def __init__(
        self,
        matrices: FloatArray,
        probabilities: FloatArray,
        n_steps: int,
        isometric: Callable[[FloatArray], FloatArray],
    ) -> None:
        self._isometric, self._matrices, self.probabilities = isometric, matrices, probabilities
        self.weights, self.n_steps = len(matrices) * probabilities, n_steps
        self.work = int(matrices.shape[0] * matrices.shape[1])

    def work_of_logarithms(self, logarithm: int) -> int:
        """Multiply-adds of one direction."""
        return int(self._matrices.size) + len(self._matrices) * logarithm

    def growth(self, vectors: FloatArray, metrics: Iterable[FloatArray | None]) -> Iterator[StepGrowth]:
        """Yield log growth in metrics."""
        images = np.einsum("iab,nb->nia", self._matrices, vectors, optimize=True)
        for metric in metrics:
            before, after = self._squares(vectors, metric), self._squares(images, metric)
            with np.errstate(divide="ignore", invalid="ignore"):
                yield StepGrowth(np.log(after / before[:, None]) / 2, before)

    def _squares(self, vectors: FloatArray, metric: FloatArray | None) -> FloatArray:
        if metric is None:
            s = self._isometric(vectors)
            return np.asarray(np.einsum("...i,...i->...", s, s))
        return np.asarray(np.maximum(np.einsum("...i,...i->...", vectors @ metric, vectors), 0.0))


def growth_by_example(
    rows: Rows, learning_rate: float, vectors: FloatArray, metrics: Iterable[FloatArray | None]
) -> Iterator[StepGrowth]:
    """Yield the log growth of the next step on each example, in metrics; None for the norm of parameter space.

    With w_i = K_i . v (gram coordinates) or f_i . v (factor coordinates) and a metric M, the step on example i
    multiplies the squared norm by 1 + x_i, as in anchored growth,

        x_i = (eta^2 w_i^2 M_ii - 2 eta w_i y_i) / q,    y = M v or F M v,    q = v . M v.

    `vectors` has the shape (n, rank), in the coordinates of the rows.
    """
    w = vectors @ rows.array.T
    steps = learning_rate * w
    for metric in metrics:
        if metric is None:
            y, images, diagonal = w, rows.images(vectors, w), rows.diagonal
        else:
            images = vectors @ metric
            y, diagonal = rows.along(images), rows.squared_norms(metric)
        norms = np.einsum("nj,nj->n", vectors, images)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = steps * (diagonal * steps - 2 * y) / norms[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_growth = np.log1p(x) / 2
        n, i = np.nonzero(x < -_CANCELLING) if x.min(initial=0.0) < -_CANCELLING else _NONE
        if n.size:
            # |A_i v|_M^2 from A_i v itself.
            step = steps[n, i][:, None]
            after = np.einsum(
                "nj,nj->n", vectors[n] - step * rows.moved(i), images[n] - step * rows.moved_images(i, metric)
            )
            with np.errstate(divide="ignore"):
                log_growth[n, i] = np.log(np.maximum(after, 0.0) / norms[n]) / 2
        yield StepGrowth(log_growth, norms)
