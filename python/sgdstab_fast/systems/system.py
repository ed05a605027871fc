"""What estimators ask of a system: the interface that `LinearizedSGD` and `MatrixEnsemble` implement.

A system is a random product of matrices: independent draws, or draws that repeat from epoch to epoch, of d x d matrices
that the core knows how to apply. Everything here is data for the core and exact facts; loops, statistics and verdicts
are the estimators', and the same for every system.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from sgdstab_fast._core.arguments import FloatArray, FrameMetrics, Steps, StreamKey
from sgdstab_fast.operators.matrices import MatrixMoments
from sgdstab_fast.results.storage import storable
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.decomposition import SpectralDecomposition
from sgdstab_fast.systems.growth import MEAN_SQUARE, Growth, GrowthChoice
from sgdstab_fast.systems.next_steps import NextSteps
from sgdstab_fast.systems.recurrence import Recurrence
from sgdstab_fast.systems.rows import IntArray, Rows

RANDOM_SHARE = 1e-3  # of starts near slow directions
_LOST = 1e-10  # eigenvalues, relative to the norm of a product, that rounding may have made
LARGEST_ENUMERATION = 2**24  # numbers in all matrices of a law
_FEW_NUMBERS, MEAN_SQUARE_TOLERANCE = 2**20, 1e-11  # of second moments; the exponent's error is quadratic in it


class Call(NamedTuple):
    """What the core is told of steps; estimators add states, streams and options."""

    steps: Steps
    seconds_per_step: float
    """Of a vector, measured on one thread; 0 for frames."""
    careful: bool = True
    """Whether steps of vectors are taken one by one: a few may shrink one by many orders."""
    log_determinants: FloatArray | None = None
    """Of the step on each example, or of each matrix; None where batches have others."""


class Outcomes(NamedTuple):
    """All matrices that `n_steps` steps may multiply by."""

    matrices: FloatArray
    """Shape (n, d, d)."""
    probabilities: FloatArray
    """Shape (n,)."""
    n_steps: int


class ExactExponents(NamedTuple):
    """Exponents that need no simulation."""

    exponents: FloatArray
    """Largest first; only those that are known to rounding."""
    error: float
    """Numerical error of the largest."""
    of_powers: bool = False
    """Whether all products are powers of one matrix."""


class QuadraticForms(Protocol):
    """The dominant eigenvalue of second moments and its eigenvectors: E[A^T M A] = rho M, E[A C A^T] = rho C."""

    @property
    def exponent(self) -> float:
        """Log rho, in nats per step."""

    @property
    def error(self) -> float:
        """Its numerical error."""

    @property
    def residual(self) -> float:
        """Of the eigenvector."""

    @property
    def converged(self) -> bool:
        """Whether the iteration did."""

    @property
    def metric(self) -> FloatArray:
        """M, shape (d, d)."""

    @property
    def covariance(self) -> FloatArray:
        """C, shape (d, d)."""


@dataclass(frozen=True, eq=False)
class MeanSquare:
    """Lambda(2) of a whole system, and how it was found."""

    exponent: float
    error: float
    residual: float
    converged: bool
    metric: FloatArray
    covariance: FloatArray
    n_applications: int = 0
    n_iterations: int = 0
    stopped_by: str = "residual"


class FullBatches(NamedTuple):
    """Steps on all examples, the mean of those on batches."""

    rows: Rows
    n_examples: int
    learning_rate: float
    recurrence: Recurrence


class Shares(NamedTuple):
    """Which examples directions consist of."""

    root: FloatArray
    """R, shape (dimension, n_rows): the squares of R^T v are shares of the rows."""
    units: IntArray | None
    """The example of every row; None where each row is one."""
    n_examples: int


AnySystem = TypeVar("AnySystem", bound="System", covariant=True)


@storable
@dataclass(frozen=True, eq=False)
class Part(Generic[AnySystem]):
    """A part of a system, which has some of its exponents: a block of K, a diagonal block of matrices; or the whole."""

    index: int
    """Its number, by which its streams differ from those of others."""
    system: AnySystem
    """Its own system."""
    share: float
    """Of the steps: n/N where it is that of n of N examples alone; 1 where others stand in its law as idle steps."""
    rows: IntArray
    """Which rows of K it has."""


class System(ABC):
    """A random product of matrices.

    What a system does not know it answers with None. What is common to most is answered here: steps that are
    independent draws, of matrices in Euclidean coordinates.
    """

    outcome = "matrix"
    """What steps draw, as columns and axes call it."""
    is_full = False
    """Whether every step is that of a full batch."""
    has_parts_by_outcome = True
    """Whether lambda has a part for every outcome of a step."""
    is_independent = True
    """Whether steps do not depend on those before."""
    is_deterministic = False
    """Whether all steps of SGD, or all its epochs, are the same."""
    counts_own_growth = True
    """Whether what chains grow by themselves is a result beside anchored growth: where that does not know all."""
    steps_may_commute = True
    """Whether steps may nearly commute, so that frames keep their angles until rounding has grown."""
    is_direct_sum = True
    """Whether parts are subspaces that do not feel each other: else diagonal blocks of a block-triangular form."""
    slow_directions_last = False
    """Whether frames that start from the slow directions of the mean step keep them, unless faster ones pass."""
    is_grouped = False
    """Whether several rows of K may belong to one example."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """d, the number of Lyapunov exponents."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> float:
        """Steps in the unit of time that `per_epoch` counts in."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """By which a result knows its system."""

    @property
    def setting(self) -> Mapping[str, Any]:
        """What a step is, in few numbers: what results, and the titles of their plots, say about their system."""
        return {"dimension": self.dimension}

    @property
    @abstractmethod
    def sum_of_exponents(self) -> float:
        """E log abs det A in nats per step; NaN where it is not known without simulation."""

    @property
    @abstractmethod
    def step_sizes(self) -> FloatArray:
        """Logarithms of how much single steps change lengths, or a bound: how often vectors must be rescaled."""

    @property
    def largest_elongation(self) -> float:
        """About the most that the logarithm of the ratio of two vectors' lengths changes by per step, in the mean.

        Every direction together shrinks by sum log abs(1 - eta K_ii) over the steps; a single one by that in one
        dimension, and by about 4 / dimension of it at the most in many.
        """
        return float(np.abs(np.maximum(self.step_sizes, -40)).mean()) * min(1.0, 4 / self.dimension)

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return 1

    @property
    def reflects(self) -> bool:
        """Whether every step is a reflection in parameter space, or none: Lambda(p) = 0, and so are all exponents."""
        return False

    @property
    def rounding(self) -> float:
        """What rounding may do to anchored growth, metrics combined."""
        return 4096 * float(np.finfo(float).eps)

    @property
    def rows_per_step(self) -> float:
        """Products with vectors that a step takes; d, of dense matrices."""
        return float(self.dimension)

    @property
    def random_share(self) -> float:
        """How much of starts near slow directions is random."""
        return RANDOM_SHARE

    @property
    def grain(self) -> int:
        """Steps after which draws begin anew: 1 where they are independent."""
        return 1

    def whole_epochs(self, n_steps: int) -> int:
        """Return n_steps rounded up to whole epochs, where draws repeat within them."""
        return -(-n_steps // self.grain) * self.grain

    @abstractmethod
    def vectors_call(self) -> Call:
        """Return what advances vectors."""

    @abstractmethod
    def frames_call(self) -> Call:
        """Return what advances frames."""

    def with_orthogonal_steps(self) -> System | None:
        """Return the same system in coordinates in which steps are known that leave full frames orthogonal, if any."""
        return None

    @abstractmethod
    def growth(self, known: QuadraticForms | None = None) -> Growth:
        """Return in which metrics growth is evaluated, and how; `known` are the forms of second moments, if known."""

    def growth_choices(self, known: QuadraticForms | None = None) -> list[GrowthChoice]:
        """Return in which metrics growth may be evaluated, those first that take the least time to make."""
        return [GrowthChoice(MEAN_SQUARE, lambda: self.growth(known))]

    @property
    @abstractmethod
    def no_growth(self) -> Growth:
        """How growth is not evaluated."""

    def frame_metrics(self) -> FrameMetrics:
        """Return the metrics that the growth of frames is evaluated in, of none where the core does not know how."""
        return FrameMetrics()

    @abstractmethod
    def slow_directions(self, k: int) -> FloatArray:
        """Return unit vectors to start from, shape (d, at most k)."""

    def squared_amplitudes(self, covariance: FloatArray) -> FloatArray:
        """Return the second moments of what single axes, or examples, have of directions."""
        return covariance.diagonal()

    def correlated(self, axes: IntArray, covariance: FloatArray) -> FloatArray:
        """Return what directions of a second moment are, given what they have of single axes: (n, dimension)."""
        return covariance[axes]

    def confined(self, vectors: FloatArray, others: FloatArray) -> FloatArray:
        """Return vectors (n, dimension) without what no product takes to where it takes most of `others`."""
        return vectors

    @property
    def n_random(self) -> int:
        """Normal numbers that a random displacement is made of."""
        return self.dimension

    def displacements(self, numbers: FloatArray) -> FloatArray:
        """Return random displacements, (n, dimension), from normal numbers (n, n_random)."""
        return numbers

    def fast_directions(self, k: int) -> FloatArray:
        """Return unit vectors that share little with slow directions, shape (d, at most k); none if not known."""
        return np.empty((self.dimension, 0))

    @abstractmethod
    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices, if they have at most so many entries together."""

    def rare_outcomes(self, probability: float) -> Outcomes | None:
        """Return all outcomes of a step, in isometric coordinates, if some are rarer than that; None if none is."""
        return None

    @abstractmethod
    def next_steps(self) -> NextSteps | None:
        """Return the outcomes of the next step, or epoch; None if there are too many."""

    @abstractmethod
    def exact_exponents(self) -> ExactExponents | None:
        """Return exponents that are known, the largest among them; None if it takes simulation."""

    @abstractmethod
    def second_moments(self, tolerance: float) -> QuadraticForms | None:
        """Return Lambda(2) and its forms; None where it is not known without simulation."""

    def independent_second_moments(self, tolerance: float) -> QuadraticForms | None:
        """Return them as if batches were independent; None where that means nothing."""
        return None

    def matrix_moments(self, most: int) -> tuple[MatrixMoments, int] | None:
        """Return moments of all matrices, if they have at most so many entries, and the steps that a matrix takes."""
        found = self.outcomes(most)
        return None if found is None else (MatrixMoments(found.matrices, found.probabilities), found.n_steps)

    @property
    def has_mean_square(self) -> bool:
        """Whether Lambda(2) is computed without simulation."""
        return True

    def mean_square(self, decomposition: SpectralDecomposition | None = None) -> MeanSquare | None:
        """Return Lambda(2), the largest of those of the parts; None where it takes simulation.

        `decomposition` is that of K, if known; some make use of it.
        """
        parts = self.parts()
        found = [part.system.second_moments(MEAN_SQUARE_TOLERANCE) for part in parts]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return None
        index = max(range(len(known)), key=lambda index: known[index].exponent)
        best, converged = known[index], all(each.converged for each in known)
        error, forms = best.error, (best.metric, best.covariance)
        if not converged:
            error = max([error, *(each.exponent + each.error - best.exponent for each in known)])
            warn(f"the mean-square exponent {best.exponent:.6g} may be off by {error:.1g}: no convergence")
        if len(parts) > 1:
            forms = self.in_the_whole(parts[index], forms[0]), self.in_the_whole(parts[index], forms[1])
        stopped_by = "residual" if converged else "max_applications"
        return MeanSquare(best.exponent, error, best.residual, converged, *forms, stopped_by=stopped_by)

    def full_batches(self) -> FullBatches | None:
        """Return what full batches do; None of what has no batches."""
        return None

    def parts(self) -> Sequence[Part[System]]:
        """Return the parts whose exponents together are all exponents; itself if there are none."""
        return [Part(0, self, 1.0, np.empty(0, dtype=np.intp))]

    def in_own_units(self) -> System:
        """Return the same system in units in which its numbers, and products of a few, are within floating point."""
        return self

    def balanced(self) -> System:
        """Return a system with the same exponents, in coordinates whose units are alike."""
        return self.in_own_units()

    def embedding(self, part: Part[System]) -> FloatArray:
        """Return P with P P^T = 1, shape (dimension of the part, dimension): v P is a vector of the whole."""
        return np.eye(self.dimension)

    def example_of(self, part: Part[System]) -> int:
        """Return the first example of a part."""
        return 0

    def in_the_whole(self, part: Part[System], form: FloatArray) -> FloatArray:
        """Return a form of a part, and zero elsewhere, in the coordinates of the whole."""
        return form

    def growth_of_part(self, part: Part[System], embedding: FloatArray) -> tuple[Growth, Growth]:
        """Return growth in the metrics of a part, for the part and for the whole."""
        growth = part.system.growth()
        return growth, growth

    @abstractmethod
    def largest_amplification(self) -> float:
        """Return a bound of what a step may multiply lengths by, in some norm."""

    def unit_curvatures(self) -> FloatArray | None:
        """Return eta lambda_max(K_uu) for every example u, how far a step on it overshoots; None if that is not all."""
        return None

    def probability_of_singular_steps(self) -> float:
        """Return the probability that a step is singular, or one in an epoch where there are too many to look at."""
        found = self.outcomes(_FEW_NUMBERS)
        if found is None:
            return 1 / max(self.steps_per_epoch, 1.0)
        values = np.linalg.svd(found.matrices, compute_uv=False)
        singular = values[:, -1] <= self.dimension * np.finfo(float).eps * values[:, 0]
        return float(found.probabilities[singular].sum()) / found.n_steps

    def log_determinant_of_path(self, key: StreamKey, chain: int, first_step: int, n_steps: int) -> float | None:
        """Return log abs det of the steps that a chain takes from first_step on; None where steps are not known."""
        return None

    def shares(self) -> Shares | None:
        """Return what says which examples directions consist of; None if they do not consist of any."""
        return None

    def extremes(self, most: int) -> FloatArray:
        """Return isometric states far apart, at most so many slowest and fastest, and as many stretched most."""
        found, slow = self.outcomes(), self.slow_directions(self.dimension).T
        if found is None:
            return first_and_last(slow, most)
        _, values, directions = np.linalg.svd(found.matrices)
        stretched = directions[np.argsort(-values[:, 0], kind="stable")[:most], 0]
        return np.concatenate([first_and_last(slow, most), stretched])

    def norm(self) -> FloatArray | None:
        """Return the metric of parameter space; None if that is the identity."""
        return None

    def isometric(self) -> System:
        """Return the same system in coordinates in which lengths are those of parameter space."""
        return self

    def isometric_vectors(self, vectors: FloatArray) -> FloatArray:
        """Return vectors in coordinates that are isometric to parameter space; same shape."""
        return vectors

    def from_isometric_vectors(self, vectors: FloatArray) -> FloatArray:
        """Return vectors in the coordinates of the system, from isometric ones; same shape."""
        return vectors

    def lengths(self, vectors: FloatArray) -> FloatArray:
        """Return the lengths of states in parameter space, shape (n,) of (n, dimension)."""
        return np.asarray(np.sqrt(np.maximum(np.einsum("nj,nj->n", vectors, vectors), 0.0)))

    def directions(self, vectors: FloatArray) -> FloatArray:
        """Return unit vectors in isometric coordinates; same shape."""
        s = self.isometric_vectors(vectors)
        with np.errstate(invalid="ignore"):
            return np.asarray(s / np.linalg.norm(s, axis=-1, keepdims=True))


def require_system(system: Any) -> None:
    """Refuse what is not a system."""
    if not isinstance(system, System):
        how = f"not {type(system).__name__}: LinearizedSGD(gram, learning_rate, batch_size) makes one of K"
        raise TypeError(f"system must be a LinearizedSGD or a MatrixEnsemble, {how}")


def first_and_last(directions: FloatArray, third: int) -> FloatArray:
    """Return the first few of d directions, and the last."""
    d = len(directions)
    return np.asarray(directions[np.unique(np.r_[: min((third + 1) // 2, d), max(d - third // 2, 0) : d])])


def of_products(product: FloatArray, log_scale: float, n_steps: int) -> ExactExponents | None:
    """Return the exponents of one matrix, exp(log_scale) times `product`, that is n_steps steps.

    None if rounding may have made even the largest. They are the logarithms of the sizes of its eigenvalues; those that
    rounding of the product may have made are left out. The error is a first-order one for an eigenvalue that is not
    defective.
    """
    sizes = np.sort(np.abs(np.linalg.eigvals(product)))[::-1]
    norm = float(np.linalg.norm(product, 2))
    if sizes[0] == 0 or norm == 0:
        return ExactExponents(np.full(1, -np.inf), 0.0, of_powers=True)
    if sizes[0] <= _LOST * norm:
        return None
    known = sizes > _LOST * norm
    error = 8 * float(np.finfo(float).eps) * (len(sizes) * norm / float(sizes[0]) + abs(log_scale)) / n_steps
    logs = (np.log(sizes[known]) + log_scale) / n_steps
    return ExactExponents(logs, error, of_powers=True)


def overflow_safe_steps(log_determinants: FloatArray) -> int:
    """Return how many steps squared norms surely survive.

    log abs(1 - eta K_ii) bounds what a step does to the norm of K, which the Euclidean one follows up to a factor; over
    n random steps its sum stays below n mean + 10 sqrt(n) rms + max. Doubles overflow at e^709; squares of what stays
    below e^300 are safe. A singular step leaves rounding, e^-40.
    """
    size = np.abs(np.maximum(log_determinants, -40))
    mean, rms = size.mean(), math.sqrt((size**2).mean())
    if (largest := size.max()) == 0:
        return 2**20
    budget = max(300 - largest, largest)  # n mean + 10 sqrt(n) rms, solved for sqrt(n)
    root = (-10 * rms + math.sqrt(100 * rms**2 + 4 * mean * budget)) / (2 * mean)
    return int(np.clip(max(root**2, budget / largest), 1, 2**20))
