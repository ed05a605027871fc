"""Systems of SGD: what `systems.system` asks, answered by their steps."""

from __future__ import annotations

import hashlib

import numpy as np

from sgdstab_fast._core.functions import Coordinates, FloatArray
from sgdstab_fast.systems.batch_steps import SMALL, BatchSteps
from sgdstab_fast.systems.decomposition import SpectralDecomposition
from sgdstab_fast.systems.growth import FrameGrowth, Growth
from sgdstab_fast.systems.next_steps import NextSteps
from sgdstab_fast.systems.recurrence import Recurrence
from sgdstab_fast.systems.sampling import Law
from sgdstab_fast.systems.single_steps import SingleSteps
from sgdstab_fast.systems.system import (
    LARGEST_ENUMERATION,
    RANDOM_SHARE,
    Call,
    ExactExponents,
    MeanSquare,
    Outcomes,
    Part,
    QuadraticForms,
    Shares,
    System,
    first_and_last,
)

_EPS = float(np.finfo(float).eps)


class SystemOfSteps(System):
    """A system whose answers are those of its steps."""

    _steps: BatchSteps
    outcome = "example"

    def _answer(self) -> None:
        """Answer what is known of steps at once."""
        law, single = self.law, isinstance(self._steps, SingleSteps)
        self.is_full, self.is_deterministic, self.is_independent = law.is_full, law.is_deterministic, law.is_independent
        self.is_grouped, self.has_parts_by_outcome = bool(law.offsets.size), self._steps.has_single_units
        # Of steps on single examples anchored growth knows all, and they do not nearly commute.
        self.counts_own_growth = self.steps_may_commute = not single

    @property
    def rows(self) -> FloatArray:
        """K (N x N) in gram coordinates, F (N x dimension) in factor coordinates."""
        return self._steps.rows.array

    @property
    def coordinates(self) -> Coordinates:
        """``"gram"`` or ``"factor"``."""
        return self._steps.rows.coordinates

    @property
    def learning_rate(self) -> float:
        """Step size eta."""
        return self._steps.learning_rate

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return self.law.batch_size

    @property
    def law(self) -> Law:
        """How batches are drawn."""
        return self._steps.law

    @property
    def recurrence(self) -> Recurrence:
        """What the optimiser does besides taking gradient steps."""
        return self._steps.recurrence

    @property
    def steps(self) -> BatchSteps:
        """What a step does, for the core."""
        return self._steps

    @property
    def is_plain(self) -> bool:
        """Whether a step is on one example, drawn uniformly and independently, without memory."""
        return isinstance(self._steps, SingleSteps)

    @property
    def n_examples(self) -> int:
        """Number of examples N, of which several rows of K may belong to each."""
        return self.law.n_units

    @property
    def dimension(self) -> int:
        """Number of Lyapunov exponents: the rank of K, or twice that with momentum."""
        return self._steps.dimension

    @property
    def rank(self) -> int:
        """The rank of K."""
        return self._steps.rows.rank

    @property
    def steps_per_epoch(self) -> float:
        """N / B, rounded up where epochs are: their last batch may be smaller."""
        return self.n_examples / self.batch_size if self.law.is_independent else self.law.steps_per_epoch

    @property
    def diagonal(self) -> FloatArray:
        """K_ii, one for each row."""
        return self._steps.rows.diagonal

    @property
    def step_sizes(self) -> FloatArray:
        """Logarithms of what steps do to lengths, or a bound."""
        return self._steps.step_sizes

    @property
    def sum_of_exponents(self) -> float:
        """Sum of all Lyapunov exponents, exactly, in nats per step: the mean of log abs det A_S over batches S.

        (1/N) sum_i log abs(1 - eta K_ii) for batches of one. NaN where there are too many batches to go through.
        """
        return self._steps.sum_of_exponents()

    @property
    def rows_per_step(self) -> float:
        """Rows of a batch, on average."""
        return self._steps.rows_per_step

    @property
    def n_draws(self) -> int:
        """N."""
        return self.n_examples

    @property
    def rounding(self) -> float:
        """What rounding of K v may do to the growth of a step."""
        return float(np.finfo(float).eps) * min(1.0, self.learning_rate * float(self.diagonal.mean()))

    @property
    def grain(self) -> int:
        """Steps after which draws begin anew."""
        return 1 if self.law.is_independent else self.law.steps_per_epoch

    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices, if they have at most so many entries together."""
        return self._steps.outcomes(most)

    def vectors_call(self) -> Call:
        """Return what advances vectors."""
        return self._steps.vectors_call()

    def frames_call(self) -> Call:
        """Return what advances frames."""
        return self._steps.frames_call()

    def growth(self, known: QuadraticForms | None = None) -> Growth:
        """Return in which metrics growth is evaluated, and how."""
        return self._steps.growth(known)

    @property
    def no_growth(self) -> Growth:
        """How growth is not evaluated."""
        return self._steps.no_growth

    def frame_growth(self, *, evaluated: bool) -> FrameGrowth:
        """Return how the growth of frames is evaluated."""
        return self._steps.frame_growth(evaluated=evaluated)

    def next_steps(self) -> NextSteps | None:
        """Return the outcomes of the next step, or epoch; None if there are too many."""
        return self._steps.next_steps()

    def second_moments(self, tolerance: float) -> QuadraticForms | None:
        """Return Lambda(2) and its forms, of a K that does not fall into blocks."""
        return self._steps.second_moments(tolerance)

    def independent_second_moments(self, tolerance: float) -> QuadraticForms:
        """Return them as if batches were independent."""
        return self._steps.solved(tolerance)

    def mean_square(self, decomposition: SpectralDecomposition | None = None) -> MeanSquare | None:
        """Return Lambda(2), the largest of those of the blocks of K."""
        own = self._steps.mean_square(decomposition)
        return super().mean_square() if own is None else own

    def example_of(self, part: Part[System]) -> int:
        """Return the first example of a part."""
        return int(self.law.units_of_rows(len(self.rows))[part.rows[0]])

    def exact_exponents(self) -> ExactExponents | None:
        """Return the exponents where every step, or every epoch, is the same."""
        return self._steps.exact_exponents()

    def largest_amplification(self) -> float:
        """Return a bound of what a step may multiply lengths by, in some norm."""
        return self._steps.largest_amplification()

    def probability_of_singular_steps(self) -> float:
        """Return it, or that of one in an epoch where there are too many to look at."""
        known = self._steps.probability_of_singular_steps()
        return super().probability_of_singular_steps() if known is None else known

    def norm(self) -> FloatArray:
        """Return the metric of parameter space."""
        return self._steps.norm()

    def isometric_vectors(self, vectors: FloatArray) -> FloatArray:
        """Return vectors in coordinates that are isometric to parameter space, s = F^T a of every level; same shape."""
        return self._steps.isometric(vectors)

    def from_isometric_vectors(self, vectors: FloatArray) -> FloatArray:
        """Return vectors in the coordinates of the system, from isometric ones; same shape."""
        return self._steps.rows.from_isometric(vectors)

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
        return np.asarray(np.sqrt(np.maximum(self._steps.rows.squared_lengths(vectors), 0.0)))

    def embedding(self, part: Part[System]) -> FloatArray:
        """Return P, shape (dimension of the part, dimension): v P is a vector of the whole."""
        embedding, levels = self._steps.rows.embedding(part.rows), self.recurrence.levels
        return embedding if levels == 1 else np.asarray(np.kron(np.eye(levels), embedding), dtype=np.float64)

    def in_the_whole(self, part: Part[System], form: FloatArray) -> FloatArray:
        """Return a form of a part, and zero elsewhere, in the coordinates of the whole."""
        embedding = np.kron(np.eye(self.recurrence.levels), self._steps.rows.embedding(part.rows).T)
        return np.asarray(embedding @ form @ embedding.T)

    def shares(self) -> Shares | None:
        """Return what says which examples directions consist of: of displacements alone, without memory."""
        if self.recurrence.levels > 1:
            return None
        units = self.law.units_of_rows(len(self._steps.rows)) if self.law.offsets.size else None
        return Shares(self._steps.rows.shares_root, units, self.law.n_units)

    def extremes(self, most: int) -> FloatArray:
        """Return eigenvectors of K and gradients of the largest examples, which have been where they are for long."""
        gradients = self._steps.rows.gradients
        directions = np.linalg.svd(gradients, full_matrices=False)[2]
        largest = gradients[np.argsort(-self._steps.rows.diagonal, kind="stable")[:most]]
        displacements = np.concatenate([first_and_last(directions, most), largest])
        return np.tile(displacements, self.recurrence.levels)

    def unit_curvatures(self) -> FloatArray | None:
        """Return eta lambda_max(K_uu) for every example u, or eta K_uu if it has one row; None with memory."""
        if not self.recurrence.is_plain:
            return None
        if not self.law.offsets.size:
            return self.learning_rate * self._steps.rows.diagonal
        gram = self._steps.rows.gram
        units = [self.law.rows(unit) for unit in range(self.law.n_units)]
        return self.learning_rate * np.array(
            [np.linalg.eigvalsh(gram[np.ix_(rows, rows)])[-1] if rows.size else 0.0 for rows in units]
        )

    @property
    def fingerprint(self) -> str:
        """A digest of K, the law, the optimiser and the learning rate, by which a result knows its system."""
        law = self.law
        parts = [self.recurrence.free, self.recurrence.readout, law.offsets, law.members, law.unit_probabilities]
        digest = hashlib.sha256(self._steps.rows.digest + np.float64(self.learning_rate).tobytes())
        digest.update(f"{law.sampling}-{law.batch_size}-{law.n_units}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
        return f"{self.coordinates}-{len(self.rows)}x{self.rank}-{digest.hexdigest()[:16]}"

    def growth_of_part(self, part: Part[System], embedding: FloatArray) -> tuple[Growth, Growth]:
        """Return growth in the metrics of a part, for the part and for the whole."""
        assert isinstance(part.system, SystemOfSteps)
        return self._steps.growth_of_part(part.system.steps, part.rows, embedding)

    @property
    def has_mean_square(self) -> bool:
        """Whether Lambda(2) is computed without simulation."""
        if self.law.is_independent or self.law.is_full:
            return True
        return all(part.system.outcomes(SMALL) is not None for part in self.parts())

    def gradients(self) -> FloatArray:
        """Return F with K = F F^T, shape (N, dimension): row i is the gradient of example i, up to a rotation."""
        return self._steps.rows.gradients

    def gram_eigenvalues(self) -> FloatArray:
        """Return the non-zero eigenvalues of K, largest first, shape (dimension,)."""
        return self._steps.rows.eigenvalues[::-1].copy()

    def slow_directions(self, k: int) -> FloatArray:
        """Return directions that the mean step I - (eta/N) K shrinks least, slowest first: (dimension, at most k).

        They are where displacements linger when the learning rate is small, hence good starts. The bottom eigenvector
        of K costs nothing here; more take an eigendecomposition, which is only made up to a dimension of 1024.
        """
        return self._steps.slow_directions(k)
