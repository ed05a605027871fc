"""Matrix ensembles: random products of any finite set of real matrices."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core import arguments
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast._core.functions import core
from sgdstab_fast.operators.invariant_subspaces import (
    DiagonalBlock,
    components,
    diagonal_blocks,
    permuted_classes,
)
from sgdstab_fast.operators.matrices import MatrixMoments
from sgdstab_fast.results.storage import store_as
from sgdstab_fast.systems.decomposition import SpectralDecomposition
from sgdstab_fast.systems.growth import Growth, half_at_most
from sgdstab_fast.systems.next_steps import NextMatrices, NextSteps
from sgdstab_fast.systems.rows import aligned
from sgdstab_fast.systems.sampling import cumulative
from sgdstab_fast.systems.system import (
    LARGEST_ENUMERATION,
    Call,
    ExactExponents,
    MeanSquare,
    Outcomes,
    Part,
    QuadraticForms,
    System,
    of_products,
)

_LARGEST_METRIC = 128  # dimension with a mean-square metric
_FLOOR = 1e-9  # of the identity, in it
_FEW_DIMENSIONS, _FEW_MATRICES, _ELONGATION = 4, 64, 4.0
_EQUILIBRATIONS = 3
_EPS = float(np.finfo(float).eps)
_CACHE, _SECONDS_BEYOND_CACHE = 2**23, 1e-7  # bytes, and what a matrix takes that has to be fetched
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

    is_direct_sum = False
    _rounding = 0.0  # error of entries, relative to the norms of what they were taken from

    def __init__(self, matrices: Any, probabilities: Any = None) -> None:
        self._matrices = _checked(matrices)
        n = len(self._matrices)
        given = np.full(n, 1 / n) if probabilities is None else probabilities
        self._probabilities = validation.distribution(given, "probabilities", n, "one for each matrix")
        self._given = validation.frozen(self._matrices)
        if not self._drawn.all():  # whatever the others are: nothing is to be made of them, and numbers stay
            self._matrices = validation.frozen(
                np.where(self._drawn[:, None, None], self._given, self._given[self._probabilities.argmax()])
            )

    @property
    def matrices(self) -> FloatArray:
        """The matrices, shape (n, d, d)."""
        return self._given

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

    @cached_property
    def fingerprint(self) -> str:
        """A digest of matrices and probabilities, by which a result knows its system."""
        digest = hashlib.sha256(self._matrices.tobytes() + self._probabilities.tobytes()).hexdigest()
        return f"ensemble-{len(self._matrices)}x{self.dimension}-{digest[:16]}"

    @cached_property
    def setting(self) -> dict[str, Any]:
        """The dimension d and the number of matrices."""
        return {"dimension": self.dimension, "n_matrices": len(self._matrices)}

    @cached_property
    def log_determinants(self) -> FloatArray:
        """Log abs det of each matrix, shape (n,); -inf where it is singular to rounding, whatever units are."""
        found, parts = log_determinants(self._matrices), self.parts()
        if len(parts) > 1:
            found[self._drawn] = np.sum([part.system.log_determinants for part in parts], axis=0)
        return found

    @property
    def _drawn(self) -> np.ndarray:
        return self._probabilities > 0

    @cached_property
    def _parts(self) -> Sequence[Part[MatrixEnsemble]]:
        matrices, probabilities = self._matrices[self._drawn], self._probabilities[self._drawn]
        blocks = [] if self._own_exponents is not None else diagonal_blocks(matrices)
        if len(blocks) < 2 and all(block.is_as_given for block in blocks):
            return [Part(0, self, 1.0, np.empty(0, dtype=np.intp))]
        return [
            Part(index, _Block(block, probabilities), 1.0, np.empty(0, dtype=np.intp))
            for index, block in enumerate(blocks)
        ]

    def parts(self) -> Sequence[Part[MatrixEnsemble]]:
        """Return the diagonal blocks of a block-triangular form of all matrices, in units that suit them."""
        return self._parts

    def balanced(self) -> MatrixEnsemble:
        """Return the direct sum of its parts: blocks above the diagonal change no exponent."""
        parts = self.parts()
        if parts[0].system is self:
            return self
        matrices = np.zeros((int(self._drawn.sum()), self.dimension, self.dimension))
        first = 0
        for part in parts:
            its = slice(first, first := first + part.system.dimension)
            matrices[:, its, its] = part.system.matrices
        other = MatrixEnsemble(matrices, self._probabilities[self._drawn])
        vars(other).update(fingerprint=self.fingerprint, setting=self.setting)  # chains go on as those of this
        return other

    @property
    def sum_of_exponents(self) -> float:
        """Sum of all Lyapunov exponents, exactly: the mean of log abs det, in nats per step."""
        return float(self._probabilities[self._drawn] @ self.log_determinants[self._drawn])

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
        seconds = 1e-8 + 1e-10 * padded[0].size + (_SECONDS_BEYOND_CACHE if padded.nbytes > _CACHE else 0.0)
        return Call(steps, seconds)

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
        growth = self._growth_in([identity, metric, between, *further], found.covariance)
        return replace(growth, upper_bound=half_at_most(found.exponent, found.error))

    def second_moments(self, tolerance: float) -> QuadraticForms:
        """Return Lambda(2) and its forms."""
        return self.moments.second_moments

    def matrix_moments(self, most: int) -> tuple[MatrixMoments, int]:
        """Return the moments, and 1."""
        return self.moments, 1

    def mean_square(self, decomposition: SpectralDecomposition | None = None) -> MeanSquare | None:
        """Return Lambda(2), the largest of those of diagonal blocks, with forms of the whole."""
        found = super().mean_square(decomposition)
        if found is None or len(self.parts()) == 1:
            return found
        whole = self.moments.second_moments
        return replace(found, residual=whole.residual, metric=whole.metric, covariance=whole.covariance)

    def probability_of_singular_steps(self) -> float:
        """Return the probability that a step is singular."""
        return float(self._probabilities[np.isneginf(self.log_determinants)].sum())

    def next_steps(self) -> NextSteps:
        """Return the matrices that may come next."""
        return NextMatrices(self._matrices, self._probabilities, 1, self.isometric_vectors)

    def largest_amplification(self) -> float:
        """Return the largest of the norms."""
        return float(np.linalg.norm(self._matrices, 2, axis=(1, 2)).max())

    def slow_directions(self, k: int) -> FloatArray:
        """Return the directions that the mean of A^T A shrinks least."""
        mean = np.einsum("n,nij,nik->jk", self._probabilities, self._matrices, self._matrices)
        return np.asarray(np.linalg.eigh(mean)[1][:, ::-1][:, :k])

    @cached_property
    def _classes(self) -> np.ndarray:
        return permuted_classes(self._matrices[self._drawn])

    def confined(self, vectors: FloatArray, others: FloatArray) -> FloatArray:
        """Return what vectors have in the class of coordinates, of those that all matrices permute, of most of others.

        Classes have the same exponents, and of several walks the largest would be seen.
        """
        members = self._classes[:, None] == np.arange(self._classes.max() + 1)
        return np.where(members.T[(others**2 @ members).argmax(axis=1)], vectors, 0.0)

    def exact_exponents(self) -> ExactExponents | None:
        """Return the exponents of a single matrix, or of blocks that all have exponents known in closed form.

        Those are numbers, matrices that scale and turn, matrices that scale and permute coordinates, and zero.
        """
        found, parts = self._own_exponents, self.parts()
        if found is not None or parts[0].system is self:
            return found
        known = [part.system.exact_exponents() for part in parts]
        each = [one.exponents for one in known if one is not None]
        if len(each) < len(known) or sum(map(len, each)) < self.dimension:
            return None
        return ExactExponents(np.sort(np.concatenate(each))[::-1], max(one.error for one in known if one is not None))

    @cached_property
    def _own_exponents(self) -> ExactExponents | None:
        """Exponents that are known without looking for blocks."""
        d, drawn, probabilities = self.dimension, self._matrices[self._drawn], self._probabilities[self._drawn]
        if len(drawn) == 1 or (drawn == drawn[0]).all():
            _, shift = math.frexp(float(np.abs(drawn[0]).max()))
            return of_products(np.ldexp(drawn[0], -shift), shift * math.log(2), 1)
        if not drawn.any(axis=(1, 2)).all():
            return ExactExponents(np.full(d, -np.inf), 0.0)
        if d == 1:
            with np.errstate(divide="ignore"):
                logs = np.log(np.abs(drawn[:, 0, 0]))
            total, off = float(probabilities @ logs), float(probabilities @ self._relative_errors(drawn))
            error = 4 * _EPS * (float(probabilities @ np.abs(logs)) + 1) + off if math.isfinite(total) else 0.0
            return ExactExponents(np.array([total]), error)
        if self.moments.stretches is not None or _permute_coordinates(drawn):
            total = float(probabilities @ log_determinants(drawn)) / d
            if math.isfinite(total):
                return ExactExponents(np.full(d, total), 1e-14 * (1 + abs(total)) + self._rounding)
        return None

    def _relative_errors(self, drawn: FloatArray) -> FloatArray:
        """Return the errors of numbers, relative: what they are given with."""
        return np.zeros(len(drawn))

    def outcomes(self, most: int = LARGEST_ENUMERATION) -> Outcomes | None:
        """Return all matrices, if they have at most so many entries together."""
        return Outcomes(self._matrices, self._probabilities, 1) if self._matrices.size <= most else None

    def rare_outcomes(self, probability: float) -> Outcomes | None:
        """Return all matrices, if some are rarer than that."""
        drawn = self._drawn
        if self._probabilities[drawn].min() >= probability:
            return None
        return Outcomes(self._matrices[drawn], self._probabilities[drawn], 1)

    def __repr__(self) -> str:
        n = len(self._matrices)
        weighted = "" if (self._probabilities == self._probabilities[0]).all() else ", probabilities=..."
        return f"MatrixEnsemble(n_matrices={n}, dimension={self.dimension}{weighted})"


class _Block(MatrixEnsemble):
    """A diagonal block of matrices, in a basis in which they are block-triangular."""

    def __init__(self, block: DiagonalBlock, probabilities: FloatArray) -> None:
        self._matrices = self._given = np.ascontiguousarray(block.matrices)
        self._probabilities = probabilities
        self._rounding, self._errors = block.rounding, block.rounding * block.norms

    @property
    def _parts(self) -> Sequence[Part[MatrixEnsemble]]:
        return [Part(0, self, 1.0, np.empty(0, dtype=np.intp))]

    def _relative_errors(self, drawn: FloatArray) -> FloatArray:
        sizes = np.abs(drawn[:, 0, 0])
        return np.where(sizes > 0, self._errors / np.where(sizes > 0, sizes, 1), 0.0)


def log_determinants(matrices: FloatArray) -> FloatArray:
    """Return log abs det of matrices, -inf where rows and columns of the same size show one to be singular."""
    log_scale, scaled = np.zeros(len(matrices)), matrices
    for _ in range(_EQUILIBRATIONS):
        for axis in (2, 1):
            _, powers = np.frexp(np.abs(scaled).max(axis=axis, keepdims=True))
            scaled = np.ldexp(scaled, -powers)
            log_scale += powers.sum(axis=(1, 2)) * math.log(2)
    values = np.linalg.svd(scaled, compute_uv=False)
    singular = values[:, -1] <= matrices.shape[1] * _EPS * values[:, 0]
    with np.errstate(divide="ignore"):
        return np.where(singular, -np.inf, np.log(values).sum(axis=1) + log_scale)


def _permute_coordinates(matrices: FloatArray) -> bool:
    """Return whether all matrices scale coordinates and permute them, and take each to every other.

    A vector along a coordinate then visits all of them alike, whatever it starts from: all exponents are equal.
    """
    entries = matrices != 0
    if (entries.sum(axis=1) != 1).any() or (entries.sum(axis=2) != 1).any():
        return False
    return len(components(matrices)) == 1


def _elongated(dimension: int) -> list[FloatArray]:
    """Return metrics that are longer in one direction, of few dimensions: e_j, and e_i + e_j and e_i - e_j."""
    if dimension > _FEW_DIMENSIONS:
        return []
    axes = list(np.eye(dimension))
    diagonals = [(a + sign * b) / math.sqrt(2) for a, b in itertools.combinations(axes, 2) for sign in (1, -1)]
    return [np.eye(dimension) + _ELONGATION * np.outer(u, u) for u in (*axes, *diagonals)]


def _checked(matrices: Any) -> FloatArray:
    """Return matrices of one shape, square, real and finite."""
    if type(matrices) is np.ndarray and matrices.ndim == 3 and matrices.dtype.kind == "f" and matrices.size:
        largest = np.abs(matrices).max(axis=(1, 2))
        in_range = (largest == 0) | ((largest >= 1 / _LARGEST_ENTRY) & (largest <= _LARGEST_ENTRY))
        if matrices.shape[1] == matrices.shape[2] and in_range.all():  # NaN is not: what is wrong is named below
            return np.array(matrices, dtype=float, order="C")
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


store_as(
    "MatrixEnsemble",
    lambda ensemble: {"matrices": ensemble.matrices, "probabilities": ensemble.probabilities},
    MatrixEnsemble,
    MatrixEnsemble,
)
