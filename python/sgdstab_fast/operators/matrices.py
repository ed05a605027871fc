"""Moment exponents of random products of dense matrices, where they need no simulation.

Matrices A_1, ..., A_m, d x d, are drawn with probabilities q_i, and

    Lambda(p) = lim (1/n) log E |A_{i_n} ... A_{i_1}|^p

    p = 0                   0
    all products vanish     -inf for p > 0, inf for p < 0
    |A_i v| = c_i |v|       log sum_i q_i c_i^p: one dimension, orthogonal matrices
    m = 1                   p log rho(A)
    p = 2, 4, ..            log rho(E[A^(x)p]) on symmetric tensors, of which there are C(d+p-1, p) dimensions
    p = 1, 3, ..            the same, if S A_i S >= 0 entrywise for all i, up to signs of A_i, with S = diag(+-1)
    d = 2, few matrices     transfer operator on the projective line (`operators.projective_line`)

In the orthonormal basis |n> of occupation numbers, n_1 + ... + n_d = p, and with a_j |n> = sqrt(n_j) |n - e_j>,

    A^(x)p |n> = sum_j A_jk a_j^T A^(x)(p-1) |n - e_k> / sqrt(n_k)    for any k with n_k > 0.

E[A^(x)p] is formed while it is small. Otherwise T -> E[B T B^T] is iterated, with B = A^(x)p/2: its spectral radius is
the same, since |B| = |A|^(p/2). For p = 2 that is E[A T A^T].

These maps M have a cone, of moments E[s^(x)p] or of non-negative tensors. So rho is an eigenvalue, none has a larger
real part, and as z falls to rho (z - M)^-1 takes points inside the cone to an eigenvector in it. Where steps are small
M - 1 is formed. Coordinates are scaled until rows and columns of max_i |A_i| are alike, and its entries about 1.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.operators.projective_line import ProjectiveLine
from sgdstab_fast.operators.tensors import LARGEST_TENSOR, occupation_ladder, tensor_dimension

LARGEST_ORDER = 64
LARGEST_MATRIX = 800
"""Dimension of the largest space of tensors on which E[A^(x)p] is formed."""
_MOST_WORK = 2e9  # multiplications in E[B T B^T]
_CHUNK = 4_000_000  # numbers
_MOST_IN_THE_PLANE = 2**11  # matrices; every pair of their directions is compared
_LARGEST_UNIT = 2  # powers of 2 that entries may be away from 1
_ROUNDING = 1e-14  # of lengths that a matrix preserves
_SMALL_STEPS = 0.5  # p E|A - 1| below which M - 1 is formed
_ABOVE, _MOST_SOLVES = 1e-8, 40  # z - rho relative to the spectrum, and resolvents
_BASIS, _TOLERANCES, _MOST_RESTARTS, _LAST_RESORT = 60, (1e-13, 1e-9), 40, 300  # Arnoldi, and powers if it fails
_ACCURATE = 1e-6
_EPS = float(np.finfo(float).eps)


@dataclass(frozen=True)
class ExactMoment:
    """Lambda(p), computed."""

    exponent: float
    error: float
    """Estimated numerical error."""
    method: str
    """How it was computed."""


@dataclass(frozen=True, eq=False)
class SecondMomentsOfMatrices:
    """Lambda(2), and the forms that a step multiplies by exp Lambda(2)."""

    exponent: float
    """Lambda(2) = log rho; -inf if all products vanish."""
    growth: float
    """rho - 1, also where that is small."""
    error: float
    """Estimated numerical error of the exponent."""
    residual: float
    """|E[A^T M A] - rho M| / |rho M| or |E[A C A^T] - rho C| / |rho C|, the larger one, in scaled coordinates."""
    converged: bool
    """Whether the error is at most 1e-6, relative to the exponent or to 2e-3 times the size of a step."""
    metric: FloatArray
    """M, positive semi-definite, its largest diagonal entry 1; shape (d, d)."""
    covariance: FloatArray
    """C, likewise."""


class MatrixMoments:
    """Moments of products of given matrices at any order; what takes long is kept from order to order.

    Parameters
    ----------
    matrices : array_like, shape (m, d, d)
        A_i, which may be singular.
    probabilities : array_like, shape (m,)
        q_i >= 0, of sum 1.

    Raises
    ------
    ValueError
        If shapes do not fit, or numbers are not finite, or not probabilities.
    """

    def __init__(self, matrices: ArrayLike, probabilities: ArrayLike) -> None:
        matrices, probabilities = np.array(matrices, dtype=float), np.array(probabilities, dtype=float)
        shape = matrices.shape
        if len(shape) != 3 or shape[1] != shape[2] or 0 in shape or probabilities.shape != shape[:1]:
            raise ValueError("matrices must have the shape (m, d, d), and probabilities the shape (m,)")
        if not (np.isfinite(matrices).all() and (probabilities >= 0).all() and abs(probabilities.sum() - 1) < 1e-9):
            raise ValueError("matrices must be finite, and probabilities non-negative and of sum 1")
        drawn = probabilities > 0
        self._given, which = np.unique(matrices[drawn], axis=0, return_inverse=True)
        self._probabilities = np.bincount(which.ravel(), probabilities[drawn]) / probabilities.sum()
        self._dimension = shape[1]
        self._matrices, self._log_scale, self._units, self._has_signs = _scaled(self._given)
        sizes = np.minimum(np.linalg.norm(self._matrices - np.eye(shape[1]), axis=(1, 2)), 1)
        self._step = 1.0 if self._log_scale else float(self._probabilities @ sizes)
        self._found: dict[int, _Eigenvalue | None] = {}

    @property
    def everywhere(self) -> bool:
        """Whether all orders are cheap, so that the whole curve is known."""
        grows = len(self._given) == 1 or (self._plane is not None and self._plane.has_cone)
        return self.stretches is not None or (grows and not self._vanishes)

    def at(self, order: float) -> ExactMoment | None:
        """Return Lambda(p); None if it takes simulation."""
        if order == 0:
            return ExactMoment(0.0, 0.0, "closed form")
        if self._vanishes or (order < 0 and not self._given.any(axis=(1, 2)).all()):
            return ExactMoment(-math.copysign(math.inf, order), 0.0, "closed form")
        if self.stretches is not None:
            logs, error = self.stretches
            value, _ = _mean_of_powers(logs, self._probabilities, order)
            return ExactMoment(value, abs(order) * error + 4 * _EPS * abs(value), "closed form")
        if len(self._given) == 1:
            return ExactMoment(order * self.radius[0], abs(order) * self.radius[1], "closed form")
        if order in range(1, LARGEST_ORDER + 1) and (order % 2 == 0 or self._has_signs):
            tensors = self._eigenvalue(int(order))
            exponent, error = (math.nan, math.inf) if tensors is None else tensors.exponent(order, self._log_scale)
            if self._is_accurate(exponent, error, order):
                return ExactMoment(exponent, error, "mean square" if order == 2 else "symmetric tensors")
        found = None if self._plane is None else self._plane.exponent(order)
        return ExactMoment(found.exponent, found.error, "transfer operator") if found and found.converged else None

    def with_slope(self, order: float) -> tuple[float, float]:
        """Return Lambda(p) and Lambda'(p), where all orders are known `everywhere`; elsewhere perhaps NaN."""
        if self.stretches is not None:
            return _mean_of_powers(self.stretches[0], self._probabilities, order)
        if self._vanishes or (len(self._given) > 1 and self._plane is None):
            return math.nan, math.nan
        if len(self._given) == 1 or self._plane is None:
            return order * self.radius[0], self.radius[0]
        found = self._plane.exponent(order)
        return found.exponent, found.derivative

    @cached_property
    def second_moments(self) -> SecondMomentsOfMatrices:
        """Lambda(2), its metric and its covariance, in any dimension, though perhaps not converged."""
        if self._vanishes:
            kernels = (_form(_kernel(given)) for given in (self._given.swapaxes(1, 2), self._given))
            return SecondMomentsOfMatrices(-math.inf, -1.0, 0.0, 0.0, True, *kernels)
        found = self._eigenvalue(2) or self._iterated(2)
        exponent, error = found.exponent(2, self._log_scale)
        shifted = found.base and not self._log_scale
        scale = self._units[:, None] * self._units
        return SecondMomentsOfMatrices(
            exponent=exponent,
            growth=found.growth if shifted else math.expm1(exponent) if exponent < 700 else math.inf,
            error=error,
            residual=found.residual / (found.growth + found.base),
            converged=self._is_accurate(exponent, error, 2),
            metric=_form(_as_matrix(found.left, self._dimension) / scale),
            covariance=_form(_as_matrix(found.right, self._dimension) * scale),
        )

    def _is_accurate(self, exponent: float, error: float, order: float) -> bool:
        return error <= _ACCURATE * max(abs(exponent), 1e-3 * order * self._step)

    def _eigenvalue(self, order: int) -> _Eigenvalue | None:
        """Return the spectral radius of E[A^(x)p]; None if that takes too long."""
        if order not in self._found:
            size, work = tensor_dimension(self._dimension, order), tensor_dimension(self._dimension, order // 2) ** 3
            iterable = order % 2 == 0 and size <= LARGEST_TENSOR and 2 * len(self._given) * work <= _MOST_WORK
            found = self._dense if size <= LARGEST_MATRIX else self._iterated if iterable else None
            self._found[order] = None if found is None else found(order)
        return self._found[order]

    def _moves(self, order: int) -> tuple[FloatArray, int]:
        """Return A_i - b and b, which is 1 where steps are small."""
        base = int(order * self._step < _SMALL_STEPS)
        return self._matrices - base * np.eye(self._dimension), base

    def _dense(self, order: int) -> _Eigenvalue:
        """From E[A^(x)p] - b."""
        moves, base = self._moves(order)
        ladder = occupation_ladder(self._dimension, order)
        below, indices = (tensor_dimension(self._dimension, max(order - n, 0)) for n in (1, 2)), ladder[2]
        chunk = max(1, _CHUNK // (self._dimension * math.prod(below)))
        matrix: Any = 0
        for i in range(0, len(moves), chunk):
            powers = _powers(moves[i : i + chunk], base, order - 1, ladder)
            matrix = matrix + _mean_raised(
                moves[i : i + chunk], powers, base, self._probabilities[i : i + chunk], ladder, order
            )
        inside = (indices[::2] == indices[1::2]).all(axis=0) if order % 2 == 0 else np.ones(indices.shape[1])
        return _dense_eigenvalue(matrix, base, inside.astype(float))

    def _iterated(self, order: int) -> _Eigenvalue:
        """From T -> E[B T B^T] - b T."""
        moves, base = self._moves(order)
        powers = (
            moves if order == 2 else _powers(moves, base, order // 2, occupation_ladder(self._dimension, order // 2))
        )
        return _iterated_eigenvalue(powers, base, self._probabilities)

    @cached_property
    def stretches(self) -> tuple[FloatArray, float] | None:
        """Stretches: log c_i and their error, if |A_i v| = c_i |v| for all i."""
        d, (given, log_unit) = self._dimension, _to_unit(self._given)
        products = given.swapaxes(1, 2) @ given
        squares = np.einsum("iaa->i", products) / d
        deviations = np.abs(products - squares[:, None, None] * np.eye(d)).max(axis=(1, 2))
        off = float((deviations / np.where(squares > 0, squares, 1)).max())
        if d > 1 and off > min(d * _ROUNDING, 1e-3 * self._step):
            return None
        with np.errstate(divide="ignore"):
            logs = log_unit + (np.log(np.abs(given[:, 0, 0])) if d == 1 else np.log(squares) / 2)
        return np.where((np.abs(logs) < d * _ROUNDING) & (d > 1), 0.0, logs), _EPS + off

    @cached_property
    def _vanishes(self) -> bool:
        """Whether all products of d matrices are 0: images of images of ... lose dimensions until none is left."""
        d, largest = self._dimension, float(np.linalg.norm(self._matrices, axis=(1, 2)).max())
        rounding = 8 * d * _EPS * largest
        if (np.abs(np.trace(self._matrices, axis1=1, axis2=2)) > rounding).any():
            return False
        basis = np.eye(d)
        while basis.size:
            images = np.moveaxis(self._matrices @ basis, 0, 1).reshape(d, -1)
            left, sizes, _ = np.linalg.svd(images, full_matrices=False)
            rank = int((sizes > rounding).sum())
            if rank >= basis.shape[1]:
                return False
            basis = left[:, :rank]
        return True

    @cached_property
    def radius(self) -> tuple[float, float]:
        """The exponent log rho(A) of the only matrix, and its error."""
        from scipy.linalg import eig  # type: ignore[import-untyped]

        values, lefts, rights = eig(self._matrices[0], left=True)
        chosen = int(np.abs(values).argmax())
        rho, overlap = float(abs(values[chosen])), float(abs(np.vdot(lefts[:, chosen], rights[:, chosen])))
        error = 4 * _EPS * float(np.linalg.norm(self._matrices[0])) / (max(overlap, _EPS) * rho)
        return math.log(rho) + self._log_scale, error + 2 * _EPS * (1 + abs(self._log_scale))

    @cached_property
    def _plane(self) -> ProjectiveLine | None:
        few = self._dimension == 2 and len(self._given) <= _MOST_IN_THE_PLANE
        return ProjectiveLine(self._given, self._probabilities) if few else None


@dataclass(frozen=True, eq=False)
class _Eigenvalue:
    """The spectral radius rho of a map M with a cone."""

    growth: float
    """rho - b."""
    base: int
    """b."""
    error: float
    residual: float
    left: FloatArray
    right: FloatArray

    def exponent(self, order: float, log_scale: float) -> tuple[float, float]:
        """Return Lambda(p) of matrices in another scale, and its error."""
        rho, offset = self.growth + self.base, order * log_scale
        if rho <= 0:
            return math.nan, math.inf
        value = math.log1p(self.growth) if self.base else math.log(self.growth)
        return value + offset, self.error / rho + 2 * _EPS * (abs(value) + abs(offset))


def _mean_of_powers(logs: FloatArray, probabilities: FloatArray, order: float) -> tuple[float, float]:
    """Return log sum_i q_i exp(p logs_i) and its derivative; a log may be -inf."""
    if not np.isfinite(logs).all() and order <= 0:
        return (0.0 if order == 0 else math.inf), -math.inf
    powers = order * logs if order else np.zeros(len(logs))
    largest = float(powers.max())
    if math.isinf(largest):
        return largest, math.nan
    weights = probabilities * np.exp(powers - largest)
    slope = float(weights @ np.where(weights > 0, logs, 0.0) / weights.sum())
    if np.abs(powers).max() < 0.5:
        return math.log1p(float(probabilities @ np.expm1(powers))), slope
    return largest + math.log(float(weights.sum())), slope


def _to_unit(matrices: FloatArray) -> tuple[FloatArray, float]:
    """Return matrices of entries about 1 or below, and the logarithm of their unit."""
    largest = float(np.abs(matrices).max())
    power = round(math.log2(largest)) if largest > 0 else 0
    power = power if abs(power) > _LARGEST_UNIT else 0
    return np.ldexp(matrices, -power), math.log(2) * power


def _scaled(matrices: FloatArray) -> tuple[FloatArray, float, FloatArray, bool]:
    """Return D^-1 (+-A_i) D / unit, log of the unit, D, and whether signs in D make all of these non-negative."""
    from scipy.linalg.lapack import dgebal  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    units = dgebal(np.abs(matrices).max(axis=0), scale=1)[3]
    matrices, log_scale = _to_unit(matrices / units[:, None] * units)
    matrices = np.where(np.trace(matrices, axis1=1, axis2=2) < 0, -1, 1)[:, None, None] * matrices
    # Nodes (j, +) and (j, -) are linked to those of k that have the sign which A_jk asks for.
    rounding = 4 * _EPS * np.abs(matrices).max()
    same, other = (matrices > rounding).any(axis=0), (matrices < -rounding).any(axis=0)
    _, labels = connected_components(np.block([[same, other], [other, same]]), directed=False)
    plus, minus = labels.reshape(2, -1)
    signs = np.where(plus <= minus, 1, -1)
    return matrices * signs * signs[:, None], log_scale, units * signs, bool((plus != minus).all())


def _columns(ladder: Any, order: int) -> tuple[Any, Any, FloatArray]:
    """Return k and |n - e_k> for each |n> of an order, and sqrt(n_k)."""
    lower = ladder[0][order]
    _, first = np.unique(lower.indices, return_index=True)
    k, below = np.divmod(first, ladder[1][order].shape[1] // ladder[0][1].shape[0])
    return k, below, lower.data[first]


def _powers(moves: FloatArray, base: int, order: int, ladder: Any) -> FloatArray:
    """Return A_i^(x)p - b, from A_i - b; shape (m, C(d+p-1, p), C(d+p-1, p))."""
    m, d = moves.shape[:2]
    powers = np.full((m, 1, 1), 1.0 - base)
    for n in range(1, order + 1):
        k, below, factors = _columns(ladder, n)
        # A_jk S - delta_jk = (A - 1)_jk S + delta_jk (S - 1)
        full = powers + base * np.eye(powers.shape[1])
        images = np.einsum("ijn,isn->jsin", moves[:, :, k], full[:, :, below], order="C")
        images += base * np.eye(d)[:, None, None, k] * np.moveaxis(powers[:, :, below], 0, 1)
        raised = ladder[1][n] @ images.reshape(-1, m * len(k))
        powers = np.moveaxis(raised.reshape(-1, m, len(k)), 1, 0) / factors
    return powers


def _mean_raised(
    moves: FloatArray, powers: FloatArray, base: int, probabilities: FloatArray, ladder: Any, order: int
) -> FloatArray:
    """Return sum_i q_i (A_i^(x)p - b) from those of order p - 1."""
    (m, d), size = moves.shape[:2], powers.shape[1]
    k, below, factors = _columns(ladder, order)
    full = powers + base * np.eye(size)
    pairs = (probabilities[:, None] * moves.reshape(m, -1)).T @ full.reshape(m, -1)
    images = pairs.reshape(d, d, size, size)[:, k, :, below]  # (n, j, s)
    mean = np.einsum("i,ist->ts", probabilities, powers)
    images += base * np.eye(d)[k][:, :, None] * mean[below][:, None]
    return np.asarray(ladder[1][order] @ images.reshape(len(k), -1).T / factors)


def _dense_eigenvalue(matrix: FloatArray, base: int, inside: FloatArray) -> _Eigenvalue:
    """Return the largest eigenvalue of M, given M - b and a point inside its cone and the dual one."""
    from scipy.linalg import eigvals, lu_solve
    from scipy.linalg.lapack import dgetrf  # lu_factor warns where it is singular

    values = eigvals(matrix)
    top, size = float(values.real.max()), float(np.linalg.norm(matrix))
    above = top + _ABOVE * float(np.abs(values - top).max()) + (100 * _EPS * size or 1.0)
    singular = 1
    while singular:  # an eigenvalue that is not simple is computed to a root of rounding, and may be met
        triangles, pivots, singular = dgetrf(above * np.eye(len(matrix)) - matrix)
        above += math.sqrt(_EPS) * (size or 1.0) if singular else 0.0
    factors = triangles, pivots
    left = right = inside / np.linalg.norm(inside)
    before = math.inf
    for _ in range(_MOST_SOLVES):
        left, right = (lu_solve(factors, x, trans=t) for x, t in ((left, 1), (right, 0)))
        result = _eigenvalue(left, right, left @ matrix, matrix @ right, base, size)
        left, right = result.left, result.right
        if not result.residual < before / 2:
            break
        before = result.residual
    # an eigenvalue that is not simple moves by more than its eigenvectors tell
    error = 4 * _EPS * size / max(float(left @ right), _EPS) + abs(result.growth - top)
    return _Eigenvalue(result.growth, base, error, result.residual, left, right)


def _iterated_eigenvalue(moves: FloatArray, base: int, probabilities: FloatArray) -> _Eigenvalue:
    """Return the largest eigenvalue of T -> E[B T B^T] on symmetric T, given B_i - b."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs  # type: ignore[import-untyped]

    m, n = moves.shape[:2]
    norm = float(probabilities @ np.linalg.norm(moves, axis=(1, 2)))
    size = (2 * base + norm) * norm
    start = _as_tensor(np.eye(n)) / math.sqrt(n)
    vectors, images, basis = [], [], min(_BASIS, start.size)
    for given in (moves.swapaxes(1, 2), moves):
        mean = 2 * base * np.einsum("i,iab->ab", probabilities, given)
        weighted = (probabilities[:, None, None] * given.swapaxes(1, 2)).reshape(m * n, n)

        def product(x: FloatArray, given: Any = given, mean: Any = mean, weighted: Any = weighted) -> FloatArray:
            """Return E[B T B^T] - b T."""
            tensor = _as_matrix(x, n)
            return _as_tensor(mean @ tensor + (given @ tensor).swapaxes(0, 1).reshape(n, m * n) @ weighted)

        # Tolerances are relative to the eigenvalue, hence not near 0.
        operator = LinearOperator((start.size,) * 2, matvec=lambda x, f=product: f(x) + size * x, dtype=float)
        vector = None
        for tolerance in _TOLERANCES:
            with suppress(ArpackNoConvergence):
                vector = eigs(operator, 1, which="LR", v0=start, ncv=basis, tol=tolerance, maxiter=_MOST_RESTARTS)[1][
                    :, 0
                ].real
                break
        if vector is None:
            vector = start
            for _ in range(_LAST_RESORT):
                vector = product(vector) + base * vector
                vector /= np.linalg.norm(vector)
        vectors.append(vector)
        images.append(product(vector))
    return _eigenvalue(vectors[0], vectors[1], images[0], images[1], base, size)


def _eigenvalue(
    left: FloatArray, right: FloatArray, left_image: FloatArray, right_image: FloatArray, base: int, size: float
) -> _Eigenvalue:
    """Return l . M r / l . r for eigenvectors of a map of some size, given (M - b)^T l and (M - b) r."""
    lengths = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    overlap, change = (float(left @ each) / lengths[0] / lengths[1] for each in (right, right_image))
    # Eigenvectors of one that is not simple may be orthogonal.
    growth = change / overlap if abs(overlap) > _EPS else float(right @ right_image) / lengths[1] ** 2
    residuals = (np.linalg.norm(left_image - growth * left), np.linalg.norm(right_image - growth * right))
    residual = max(float(part) / length for part, length in zip(residuals, lengths, strict=True))
    error = (residual + 4 * _EPS * size) / max(abs(overlap), _EPS)
    return _Eigenvalue(growth, base, error, residual, left / lengths[0], right / lengths[1])


def _kernel(matrices: FloatArray) -> FloatArray:
    """Return the projection on what all matrices annihilate."""
    from scipy.linalg import null_space

    basis = null_space(matrices.reshape(-1, matrices.shape[2]), rcond=1e-13)
    return np.asarray(basis @ basis.T)


def _as_matrix(tensor: FloatArray, dimension: int) -> FloatArray:
    """Return a symmetric tensor of order 2 in occupation numbers as a matrix."""
    j, k = np.tril_indices(dimension)
    matrix = np.empty((dimension, dimension))
    matrix[j, k] = matrix[k, j] = tensor / np.where(j == k, 1, math.sqrt(2))
    return matrix


def _as_tensor(matrix: FloatArray) -> FloatArray:
    """Return the symmetric part of a matrix in occupation numbers."""
    j, k = np.tril_indices(len(matrix))
    return np.asarray((matrix[j, k] + matrix[k, j]) / np.where(j == k, 2, math.sqrt(2)))


def _form(matrix: FloatArray) -> FloatArray:
    """Return a semi-definite matrix of largest diagonal entry 1, without rounding below 0."""
    values, vectors = np.linalg.eigh(matrix * np.sign(np.trace(matrix)))
    matrix = vectors * np.maximum(values, 0) @ vectors.T
    return np.asarray((matrix + matrix.T) / (2 * matrix.diagonal().max()))
