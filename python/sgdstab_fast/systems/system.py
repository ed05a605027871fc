"""What estimators ask of a system: the interface that `LinearizedSGD` and `MatrixEnsemble` implement.

A system is a random product of matrices: independent draws, or draws that repeat from epoch to epoch, of d x d matrices
that the core knows how to apply. Everything here is data for the core and exact facts; loops, statistics and verdicts
are the estimators', and the same for every system.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np

from sgdstab_fast._core.functions import FloatArray

RANDOM_SHARE = 1e-3  # of starts near slow directions
_LOST = 1e-10  # eigenvalues, relative to the norm of a product, that rounding may have made
LARGEST_ENUMERATION = 2**24  # numbers in all matrices of a law


class Call(NamedTuple):
    """A function of the core and what the system tells it; estimators add states, streams and counts."""

    name: str
    arguments: dict[str, Any]
    seconds_per_step: float
    """Measured, on one thread."""


class GrowthCall(NamedTuple):
    """What `vectors_call` also needs to evaluate anchored growth in some metrics."""

    arguments: dict[str, Any]
    n_columns: int
    """Results, which all have the exponent as their mean."""
    seconds: float
    """Time of an evaluation of one vector."""


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
    reason: str
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


class System(ABC):
    """A random product of matrices."""

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
    @abstractmethod
    def sum_of_exponents(self) -> float:
        """E log abs det A in nats per step; NaN where it is not known without simulation."""

    @property
    @abstractmethod
    def step_sizes(self) -> FloatArray:
        """Logarithms of how much single steps change lengths, or a bound: how often vectors must be rescaled."""

    @property
    def n_draws(self) -> int:
        """Steps that anchored growth is a mean over, as far as some may be lost to cancellation; 0 if none is."""
        return 0

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

    @property
    def is_plain(self) -> bool:
        """Whether a step is I - eta e_i e_i^T K with i uniform, for which some estimators have more to say."""
        return False

    @abstractmethod
    def vectors_call(self) -> Call:
        """Return what advances vectors."""

    @abstractmethod
    def frames_call(self) -> Call:
        """Return what advances frames."""

    @abstractmethod
    def growth_call(self, metrics: list[FloatArray]) -> GrowthCall:
        """Return what evaluates growth in metrics, each of shape (d, d) and positive definite; none for no growth."""

    @abstractmethod
    def metrics(self, tolerance: float) -> tuple[list[FloatArray], FloatArray | None]:
        """Return metrics for anchored growth, none if it has none, and a covariance to start from."""

    @abstractmethod
    def second_moments(self, tolerance: float) -> QuadraticForms | None:
        """Return Lambda(2) and its forms; None where it is not known without simulation."""

    @abstractmethod
    def parts(self) -> list[System]:
        """Return the systems of blocks that do not feel each other, in steps of the whole; itself if there are none."""

    @abstractmethod
    def slow_directions(self, k: int) -> FloatArray:
        """Return unit vectors to start from, shape (d, at most k)."""

    @abstractmethod
    def exact_exponents(self) -> ExactExponents | None:
        """Return exponents that are known, the largest among them; None if it takes simulation."""

    @abstractmethod
    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices, if they have at most so many entries together."""


def of_products(product: FloatArray, log_scale: float, n_steps: int) -> ExactExponents | None:
    """Return the exponents of one matrix, exp(log_scale) times `product`, that is n_steps steps.

    None if rounding may have made even the largest. They are the logarithms of the sizes of its eigenvalues; those that
    rounding of the product may have made are left out. The error is a first-order one for an eigenvalue that is not
    defective.
    """
    sizes = np.sort(np.abs(np.linalg.eigvals(product)))[::-1]
    norm = float(np.linalg.norm(product, 2))
    if sizes[0] == 0 or norm == 0:
        return ExactExponents(np.full(1, -np.inf), "all products vanish", 0.0, of_powers=True)
    if sizes[0] <= _LOST * norm:
        return None
    known = sizes > _LOST * norm
    error = 8 * float(np.finfo(float).eps) * (len(sizes) * norm / float(sizes[0]) + abs(log_scale)) / n_steps
    logs = (np.log(sizes[known]) + log_scale) / n_steps
    return ExactExponents(logs, "all products are powers of one matrix", error, of_powers=True)


def overflow_safe_steps(log_determinants: FloatArray) -> int:
    """Return how many steps squared norms surely survive.

    log abs(1 - eta K_ii) bounds what a step does to the norm of K, which the Euclidean one follows up to a factor; over
    n random steps its sum stays below n mean + 10 sqrt(n) rms + max. Doubles overflow at e^709; squares of what stays
    below e^300 are safe. A singular step leaves rounding, e^-40.
    """
    size = np.abs(np.maximum(log_determinants, -40))
    mean, rms, largest = size.mean(), math.sqrt((size**2).mean()), size.max()
    if largest == 0:
        return 2**20
    budget = max(300 - largest, largest)
    # n mean + 10 sqrt(n) rms = budget, solved for sqrt(n)
    root = (-10 * rms + math.sqrt(100 * rms**2 + 4 * mean * budget)) / (2 * mean)
    return int(np.clip(max(root**2, budget / largest), 1, 2**20))
