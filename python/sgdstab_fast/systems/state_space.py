"""The state space of SGD: displacements in the coordinates of rows of K, at every level of the optimiser's memory.

Here is what K, the law of the batches and the optimiser say before any step is taken; `batch_steps` has the steps.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from sgdstab_fast._core.arguments import Coordinates, FloatArray
from sgdstab_fast.systems.recurrence import Recurrence, momentum_of, uses_nesterov
from sgdstab_fast.systems.rows import Rows
from sgdstab_fast.systems.sampling import IntArray, Law
from sgdstab_fast.systems.system import RANDOM_SHARE, Part, Shares, System, first_and_last

_EPS = float(np.finfo(float).eps)


class StateSpace(System):
    """The states of SGD."""

    outcome: str = "example"
    slow_directions_last: bool = True
    is_full: bool
    is_deterministic: bool
    is_independent: bool
    is_grouped: bool
    has_parts_by_outcome: bool

    def _set_up(self, rows: Rows, learning_rate: float, law: Law, recurrence: Recurrence) -> None:
        self._rows, self._learning_rate, self._law, self._recurrence = rows, learning_rate, law, recurrence
        self.is_full, self.is_deterministic, self.is_independent = law.is_full, law.is_deterministic, law.is_independent
        self.is_grouped, self.has_parts_by_outcome = bool(law.offsets.size), law.is_independent and law.batch_size == 1

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Examples N, batch size B and learning rate eta; momentum and how batches are drawn where not the usual."""
        law, momentum = self.law, momentum_of(self.recurrence)
        found: dict[str, Any] = {"n_examples": law.n_units, "batch_size": law.batch_size}
        found["learning_rate"] = self.learning_rate
        if not self.recurrence.is_plain:
            found |= {"levels": self.recurrence.levels} if math.isnan(momentum) else {"momentum": momentum}
        found |= {"nesterov": True} if uses_nesterov(self.recurrence) and "momentum" in found else {}
        found |= {"sampling": law.sampling} if law.sampling != "iid" else {}
        return found | ({"importance_sampling": True} if law.probabilities is not None else {})

    @property
    def rows_of_k(self) -> Rows:
        """What is known of K, whatever the steps."""
        return self._rows

    @property
    def rows(self) -> FloatArray:
        """K (N x N) in gram coordinates, F (N x dimension) in factor coordinates."""
        return self._rows.array

    @property
    def coordinates(self) -> Coordinates:
        """``"gram"`` or ``"factor"``."""
        return self._rows.coordinates

    @property
    def learning_rate(self) -> float:
        """Step size eta."""
        return self._learning_rate

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return self.law.batch_size

    @property
    def law(self) -> Law:
        """How batches are drawn."""
        return self._law

    @property
    def recurrence(self) -> Recurrence:
        """What the optimiser does besides taking gradient steps."""
        return self._recurrence

    @property
    def slow_cutoff(self) -> float:
        """The eigenvalue of K, relative to the largest, below which directions were left out; 0 if none were."""
        return self._rows.slow_cutoff

    @property
    def n_examples(self) -> int:
        """Number of examples N, of which several rows of K may belong to each."""
        return self.law.n_units

    @property
    def dimension(self) -> int:
        """Number of Lyapunov exponents: the rank of K, or twice that with momentum."""
        return int(self.recurrence.levels * self.rank)

    @property
    def rank(self) -> int:
        """The rank of K."""
        return self._rows.rank

    @property
    def steps_per_epoch(self) -> float:
        """N / B, rounded up where epochs are: their last batch may be smaller."""
        return self.n_examples / self.batch_size if self.law.is_independent else self.law.steps_per_epoch

    @property
    def diagonal(self) -> FloatArray:
        """K_ii, one for each row."""
        return self._rows.diagonal

    @property
    def rounding(self) -> float:
        """What rounding of K v may do to the growth of a step."""
        return float(np.finfo(float).eps) * min(1.0, self.learning_rate * float(self.diagonal.mean()))

    @property
    def grain(self) -> int:
        """Steps after which draws begin anew."""
        return 1 if self.law.is_independent else self.law.steps_per_epoch

    @property
    def _units(self) -> IntArray:
        """The example of every row."""
        return self.law.units_of_rows(len(self._rows))

    def norm(self) -> FloatArray:
        """Return the metric of parameter space, of present and past displacement alike."""
        return np.asarray(np.kron(np.eye(self.recurrence.levels), self._rows.norm), dtype=float)

    def isometric_vectors(self, vectors: FloatArray) -> FloatArray:
        """Return vectors in coordinates that are isometric to parameter space, s = F^T a of every level; same shape."""
        if self.recurrence.levels == 1:
            return self._rows.isometric(vectors)
        return self._rows.isometric(vectors.reshape(-1, self.rank)).reshape(vectors.shape)

    def from_isometric_vectors(self, vectors: FloatArray) -> FloatArray:
        """Return vectors in the coordinates of the system, from isometric ones; same shape."""
        return self._rows.from_isometric(vectors)

    def squared_amplitudes(self, covariance: FloatArray) -> FloatArray:
        """Return the second moments of what single rows have of displacements."""
        return np.maximum(self._rows.squared_norms(covariance[: self.rank, : self.rank]), 0.0)

    def correlated(self, axes: IntArray, covariance: FloatArray) -> FloatArray:
        """Return what states of a second moment are, given what their displacements have of single rows."""
        return self._rows.in_own_units[0].moved_images(axes, covariance[: self.rank])

    @property
    def n_random(self) -> int:
        """One for every row."""
        return len(self._rows)

    def displacements(self, numbers: FloatArray) -> FloatArray:
        """Return sums of gradients, times numbers, which have been where they are for long."""
        return np.tile(self._rows.displacements(numbers), self.recurrence.levels)

    @property
    def random_share(self) -> float:
        """How much of starts near slow directions is random.

        A velocity is carried over 1/(1 - b) steps: it is to move no farther than the displacement's random part.
        """
        rates = np.abs(1 - np.linalg.eigvals(self.recurrence.free))
        slowest = float(rates[rates > _EPS].min(initial=1.0))
        return RANDOM_SHARE * min(1.0, slowest**2)

    def lengths(self, vectors: FloatArray) -> FloatArray:
        """Return the lengths of states, sqrt(a . K a) or sqrt(s . s) over all levels, shape (n,) of (n, dimension)."""
        if self.recurrence.levels > 1:
            return np.asarray(np.linalg.norm(self.isometric_vectors(vectors), axis=1))
        return np.asarray(np.sqrt(np.maximum(self._rows.squared_lengths(vectors), 0.0)))

    def embedding(self, part: Part[System]) -> FloatArray:
        """Return P, shape (dimension of the part, dimension): v P is a vector of the whole."""
        embedding, levels = self._rows.embedding(part.rows), self.recurrence.levels
        return embedding if levels == 1 else np.asarray(np.kron(np.eye(levels), embedding), dtype=np.float64)

    def in_the_whole(self, part: Part[System], form: FloatArray) -> FloatArray:
        """Return a form of a part, and zero elsewhere, in the coordinates of the whole."""
        embedding = np.kron(np.eye(self.recurrence.levels), self._rows.embedding(part.rows).T)
        return np.asarray(embedding @ form @ embedding.T)

    def shares(self) -> Shares | None:
        """Return what says which examples directions consist of: of displacements alone, without memory."""
        if self.recurrence.levels > 1:
            return None
        units = self._units if self.law.offsets.size else None
        return Shares(self._rows.shares_root, units, self.law.n_units)

    def extremes(self, most: int) -> FloatArray:
        """Return eigenvectors of K and gradients of the largest examples, which have been where they are for long."""
        gradients = self._rows.gradients
        directions = np.linalg.svd(gradients, full_matrices=False)[2]
        largest = gradients[np.argsort(-self.diagonal, kind="stable")[:most]]
        displacements = np.concatenate([first_and_last(directions, most), largest])
        return np.tile(displacements, self.recurrence.levels)

    def unit_curvatures(self) -> FloatArray | None:
        """Return `example_curvatures`; None with memory."""
        return self.example_curvatures() if self.recurrence.is_plain else None

    def example_curvatures(self) -> FloatArray:
        """Return eta lambda_max(K_uu) for every example u, or eta K_uu if it has one row."""
        if not self.law.offsets.size:
            return self.learning_rate * self.diagonal
        units = [self.law.rows(unit) for unit in range(self.law.n_units)]
        return self.learning_rate * np.array(
            [np.linalg.eigvalsh(self._rows.gram_of(rows))[-1] if rows.size else 0.0 for rows in units]
        )

    def example_of(self, part: Part[System]) -> int:
        """Return the first example of a part."""
        return int(self._units[part.rows[0]])
