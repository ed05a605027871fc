"""Matrix ensembles: random products of any finite set of real matrices."""

from __future__ import annotations

import hashlib
import itertools
import math
from functools import cached_property
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.functions import core
from sgdstab_fast.operators.matrices import MatrixMoments
from sgdstab_fast.systems.growth import Growth
from sgdstab_fast.systems.next_steps import NextMatrices, NextSteps
from sgdstab_fast.systems.rows import aligned
from sgdstab_fast.systems.sampling import cumulative, distribution
from sgdstab_fast.systems.system import (
    LARGEST_ENUMERATION,
    Call,
    ExactExponents,
    Outcomes,
    QuadraticForms,
    System,
    of_products,
)

_LARGEST_METRIC = 128  # dimension with a mean-square metric
_FLOOR = 1e-9  # of the identity, in it
_FEW_DIMENSIONS, _FEW_MATRICES, _ELONGATION = 4, 64, 4.0
_LARGEST_ENTRY = 1e60  # and the smallest of what is not 0, so that squares of quotients are numbers


class MatrixEnsemble(System):
    """A random product of matrices, drawn independently from a finite set: x <- A_i x with probability p_i.

    Every estimator of the package takes it in place of a `LinearizedSGD`, unless it says why not. An epoch is a step.

    Parameters
    ----------
    matrices : array_like, shape (n, d, d)
        Real and finite; they may be singular.
    probabilities : array_like, shape (n,), optional
        Not negative, of sum 1; all the same by default.

    Raises
    ------
    ValueError, TypeError
        If an argument is not of that kind.

    References
    ----------
    H. Furstenberg and H. Kesten, "Products of random matrices", Ann. Math. Statist. 31, 1960.

    Examples
    --------
    Random Fibonacci numbers grow like 1.1319882..^n (D. Viswanath, 2000):

    >>> import numpy as np
    >>> import sgdstab_fast as sf
    >>> fibonacci = sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]])
    >>> result = sf.lyapunov_exponent(fibonacci, rtol=1e-3, rng=1)
    >>> print(f"{np.exp(result.exponent):.3f}")
    1.132
    """

    def __init__(self, matrices: Any, probabilities: Any = None) -> None:
        self._matrices = _checked(matrices)
        n = len(self._matrices)
        given = np.full(n, 1 / n) if probabilities is None else probabilities
        self._probabilities = distribution(given, "probabilities", n, "one for each matrix")

    @property
    def matrices(self) -> FloatArray:
        """The matrices, shape (n, d, d)."""
        return self._matrices

    @property
    def probabilities(self) -> FloatArray:
        """Of each matrix, shape (n,)."""
        return self._probabilities

    @property
    def dimension(self) -> int:
        """d, the number of Lyapunov exponents."""
        return int(self._matrices.shape[1])

    @property
    def steps_per_epoch(self) -> float:
        """1."""
        return 1.0

    @property
    def fingerprint(self) -> str:
        """A digest of matrices and probabilities, by which a result knows its system."""
        digest = hashlib.sha256(self._matrices.tobytes() + self._probabilities.tobytes()).hexdigest()
        return f"ensemble-{len(self._matrices)}x{self.dimension}-{digest[:16]}"

    @cached_property
    def log_determinants(self) -> FloatArray:
        """Log abs det of each matrix, shape (n,); -inf where it is singular to rounding."""
        values = np.linalg.svd(self._matrices, compute_uv=False)
        singular = values[:, -1] <= self.dimension * np.finfo(float).eps * values[:, 0]
        with np.errstate(divide="ignore"):
            return np.where(singular, -np.inf, np.log(values).sum(axis=1))

    @property
    def sum_of_exponents(self) -> float:
        """Sum of all Lyapunov exponents, exactly: the mean of log abs det, in nats per step."""
        drawn = self._probabilities > 0
        return float(self._probabilities[drawn] @ self.log_determinants[drawn])

    @cached_property
    def step_sizes(self) -> FloatArray:
        """Logarithms of the largest and smallest singular values."""
        values = np.linalg.svd(self._matrices, compute_uv=False)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(values[:, [0, -1]]).ravel())

    @cached_property
    def moments(self) -> MatrixMoments:
        """Moments that need no simulation."""
        return MatrixMoments(self._matrices, self._probabilities)

    @property
    def _cumulative(self) -> FloatArray | None:
        equal = (self._probabilities == self._probabilities[0]).all()
        return None if equal else cumulative(self._probabilities)

    def vectors_call(self) -> Call:
        """Return what advances vectors."""
        n, d, lanes = len(self._matrices), self.dimension, core.n_lanes
        padded = np.zeros((n, -(-d // lanes) * lanes, d))
        padded[:, :d] = self._matrices
        panels = aligned(padded.reshape(n, -1, lanes, d).transpose(0, 1, 3, 2))
        steps = arguments.MatrixSet(panels, None, self._probabilities, self._cumulative)
        return Call(steps, 1e-8 + 1e-10 * padded[0].size)

    def frames_call(self) -> Call:
        """Return what advances frames."""
        steps = arguments.MatrixSet(None, self._matrices, self._probabilities, self._cumulative)
        return Call(steps, 0.0, log_determinants=self.log_determinants)

    def _growth_in(self, metrics: list[FloatArray], covariance: FloatArray | None = None) -> Growth:
        """Return growth in metrics M = R^T R, from the norms of R A_i v."""
        n, d, size = len(self._matrices), self.dimension, len(metrics)
        log_scale = math.floor(math.log2(max(float(np.abs(self._matrices).max()), 1e-300)))
        every = np.concatenate([np.eye(d)[None], np.ldexp(self._matrices, -log_scale)])
        roots = np.array([np.linalg.cholesky(metric).T @ every for metric in metrics]).reshape(size, n + 1, d, d)
        return Growth(
            matrices=np.array(metrics[1:]).reshape(-1, d, d),
            metrics=arguments.MatrixMetrics(roots, log_scale * math.log(2)),
            size=size,
            seconds_per_evaluation=1e-7 + size * n * (1e-9 + 5e-11 * d * d),
            first=metrics[0] if metrics else None,
            covariance=covariance,
        )

    @property
    def no_growth(self) -> Growth:
        """No metrics."""
        return self._growth_in([])

    def growth(self, known: QuadraticForms | None = None) -> Growth:
        """Return growth in the Euclidean metric, that of constant mean squared growth, and what lies between."""
        identity = np.eye(self.dimension)
        if self.dimension > _LARGEST_METRIC:
            return self._growth_in([identity])
        found = self.moments.second_moments
        if not found.converged or not np.isfinite(found.metric).all():
            return self._growth_in([identity])
        metric = (found.metric + found.metric.T) / 2
        metric += max(_FLOOR, -2 * float(np.linalg.eigvalsh(metric)[0])) * identity
        values, vectors = np.linalg.eigh(metric)
        between = vectors * np.sqrt(values) @ vectors.T
        further = _elongated(self.dimension) if len(self._matrices) <= _FEW_MATRICES else []
        return self._growth_in([identity, metric, between, *further], found.covariance)

    def second_moments(self, tolerance: float) -> QuadraticForms:
        """Return Lambda(2) and its forms."""
        return self.moments.second_moments

    def matrix_moments(self, most: int) -> tuple[MatrixMoments, int]:
        """Return the moments, and 1."""
        return self.moments, 1

    def next_steps(self) -> NextSteps:
        """Return the matrices that may come next."""
        return NextMatrices(self._matrices, self._probabilities, 1, self.isometric_vectors)

    def largest_amplification(self) -> float:
        """Return the largest of the norms."""
        return float(np.linalg.norm(self._matrices[self._probabilities > 0], 2, axis=(1, 2)).max())

    def slow_directions(self, k: int) -> FloatArray:
        """Return the directions that the mean of A^T A shrinks least."""
        mean = np.einsum("n,nij,nik->jk", self._probabilities, self._matrices, self._matrices)
        return np.asarray(np.linalg.eigh(mean)[1][:, ::-1][:, :k])

    def exact_exponents(self) -> ExactExponents | None:
        """Return the exponents of a single matrix, of numbers, or of matrices that vanish."""
        drawn = self._matrices[self._probabilities > 0]
        if len(drawn) == 1 or (drawn == drawn[0]).all():
            _, shift = math.frexp(float(np.abs(drawn[0]).max()))
            return of_products(np.ldexp(drawn[0], -shift), shift * math.log(2), 1)
        if self.dimension == 1:
            total = self.sum_of_exponents
            error = 4 * float(np.finfo(float).eps) * abs(total) if math.isfinite(total) else 0.0
            return ExactExponents(np.array([total]), error)
        if self.moments.stretches is not None:
            total = self.sum_of_exponents / self.dimension
            if math.isfinite(total):
                error = 1e-14 * (1 + abs(total))
                return ExactExponents(np.full(self.dimension, total), error)
        if not drawn.any(axis=(1, 2)).all():
            return ExactExponents(np.full(self.dimension, -np.inf), 0.0)
        return None

    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices, if they have at most so many entries together."""
        return Outcomes(self._matrices, self._probabilities, 1) if self._matrices.size <= most else None

    def __repr__(self) -> str:
        n = len(self._matrices)
        weighted = "" if (self._probabilities == self._probabilities[0]).all() else ", probabilities=..."
        return f"MatrixEnsemble(n_matrices={n}, dimension={self.dimension}{weighted})"


def _elongated(dimension: int) -> list[FloatArray]:
    """Return metrics that are longer in one direction, of few dimensions: e_j, and e_i + e_j and e_i - e_j."""
    if dimension > _FEW_DIMENSIONS:
        return []
    axes = list(np.eye(dimension))
    diagonals = [(a + sign * b) / math.sqrt(2) for a, b in itertools.combinations(axes, 2) for sign in (1, -1)]
    return [np.eye(dimension) + _ELONGATION * np.outer(u, u) for u in (*axes, *diagonals)]


def _checked(matrices: Any) -> FloatArray:
    """Return matrices of one shape, square, real and finite."""
    try:
        given = list(matrices)
    except TypeError:
        raise TypeError(f"matrices must be a sequence of matrices, not {matrices!r}") from None
    if not given:
        raise ValueError("matrices must not be empty")
    found: list[FloatArray] = []
    for index, matrix in enumerate(given):
        each, _ = validation.matrix(matrix, f"matrices[{index}]")
        if each.shape[0] != each.shape[1]:
            raise ValueError(f"matrices[{index}] must be square, not of shape {each.shape}")
        largest = float(np.abs(each).max())
        if largest > _LARGEST_ENTRY or 0 < largest < 1 / _LARGEST_ENTRY:
            raise ValueError(
                f"matrices[{index}] is beyond computing with, its largest entry {largest:.3g}: scale matrices "
                "to about 1, which adds a logarithm to exponents"
            )
        if found and each.shape != found[0].shape:
            raise ValueError(
                f"matrices must have the same shape, but matrices[{index}] has {each.shape} and matrices[0] has "
                f"{found[0].shape}"
            )
        found.append(each)
    return np.ascontiguousarray(found)
