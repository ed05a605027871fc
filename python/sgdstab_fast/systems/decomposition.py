"""K = U diag(w) U^T, with the small eigenvalues as accurate as K defines them.

At small learning rates the slowest direction decides, with an exponent in proportion to the smallest eigenvalue. The
usual eigendecomposition knows that to rounding of the largest one only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.operators.krylov import Product
from sgdstab_fast.results.progress import tell_of
from sgdstab_fast.validation import row_blocks

# Below this ratio of eigenvalues they come from a Jacobi singular value decomposition.
_ILL_CONDITIONED = 1e-10
_MOST_REFINEMENTS = 6
_TOLERANCE = 1e-10  # of Lanczos' iteration
_JACOBI_OF_ROW_SCALED, _JACOBI_VECTORS, _JACOBI_NO_VECTORS = 2, 0, 3  # scipy's codes for LAPACK's dgejsv


class SpectralDecomposition(NamedTuple):
    """K = U diag(w) U^T, and F = U diag(sqrt w) V^T in factor coordinates."""

    vectors: FloatArray
    """U, shape (N, rank)."""
    eigenvalues: FloatArray
    """w > 0, ascending, shape (rank,)."""
    directions: FloatArray | None
    """V, shape (dimension, rank); None in gram coordinates."""


def decomposition_of_gram(gram: FloatArray, axes: tuple[FloatArray, FloatArray] | None = None) -> SpectralDecomposition:
    """Decompose K; `axes` are its eigenvalues and eigenvectors, if known.

    The smallest eigenvalue, which decides at small learning rates, is accurate to rounding of K.
    """
    if axes is None:
        tell_of(f"eigenvectors of K, {len(gram)} rows")
    vectors, eigenvalues = _of_gram(gram, axes)
    eigenvalues[0] = _refined_smallest(gram, vectors, eigenvalues, is_factor=False)
    return SpectralDecomposition(vectors, eigenvalues, None)


def decomposition_of_factor(
    features: FloatArray, rank: int, singular: tuple[FloatArray, FloatArray, FloatArray] | None = None
) -> SpectralDecomposition:
    """Decompose F, of a rank; `singular` are its singular vectors and values, if known."""
    if singular is None:
        tell_of(f"eigenvectors of K, {len(features)} rows")
    vectors, eigenvalues, directions = _of_factor(features, rank, singular)
    eigenvalues[0] = _refined_smallest(features, directions, eigenvalues, is_factor=True)
    return SpectralDecomposition(vectors, eigenvalues, directions)


def _of_gram(gram: FloatArray, axes: tuple[FloatArray, FloatArray] | None) -> tuple[FloatArray, FloatArray]:
    """Return (U, w), of which w may be changed."""
    eigenvalues, vectors = np.linalg.eigh(gram) if axes is None else axes
    if eigenvalues[0] < _ILL_CONDITIONED * eigenvalues[-1]:
        # The Cholesky factor keeps the small eigenvalues of a K whose examples differ by orders of magnitude.
        try:
            accurate = _jacobi(np.asarray(np.linalg.cholesky(gram), dtype=np.float64), with_directions=False)
        except np.linalg.LinAlgError:
            accurate = None
        if accurate is not None:
            return accurate[0], accurate[1]
        eigenvalues = np.maximum(eigenvalues, np.finfo(float).eps * eigenvalues[-1])
    return vectors, eigenvalues.copy()


def _of_factor(
    features: FloatArray, rank: int, singular: tuple[FloatArray, FloatArray, FloatArray] | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (U, w, V)."""
    vectors, values, directions = np.linalg.svd(features, full_matrices=False) if singular is None else singular
    if rank == features.shape[1] and (values[-1] / values[0]) ** 2 < _ILL_CONDITIONED:
        accurate = _jacobi(features, with_directions=True)
        if accurate is not None:
            return accurate
    ascending = slice(rank - 1, None, -1)
    with np.errstate(over="ignore"):  # of what is refused a little later
        eigenvalues = values[ascending] ** 2
    return np.ascontiguousarray(vectors[:, ascending]), eigenvalues, np.ascontiguousarray(directions[ascending].T)


def _jacobi(factor: FloatArray, *, with_directions: bool) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Return (U, w, V) of factor = U diag(sqrt w) V^T, w accurate whatever the lengths of the rows; None if it fails.

    Z. Drmac and K. Veselic, "New fast and accurate Jacobi SVD algorithm", SIAM J. Matrix Anal. Appl. 29, 2008.
    """
    from scipy.linalg import lapack  # type: ignore[import-untyped]

    tell_of(f"small eigenvalues of K, {len(factor)} rows")
    values, vectors, directions, scale, _, info = lapack.dgejsv(
        factor,
        joba=_JACOBI_OF_ROW_SCALED,
        jobu=_JACOBI_VECTORS,
        jobv=_JACOBI_VECTORS if with_directions else _JACOBI_NO_VECTORS,
    )
    if info != 0 or not values[-1] > 0:
        return None
    eigenvalues = (scale[0] / scale[1] * values[::-1]) ** 2
    return np.ascontiguousarray(vectors[:, ::-1]), eigenvalues, np.ascontiguousarray(directions[:, ::-1])


def smallest_eigenvalue(gram: FloatArray) -> float:
    """Return the smallest eigenvalue of a K of full rank, by Lanczos' iteration with its inverse."""
    from scipy.linalg import cho_factor, cho_solve

    try:
        factor = cho_factor(gram, lower=True, check_finite=False)
    except np.linalg.LinAlgError:  # singular to rounding
        return float(_of_gram(gram, None)[1][0])
    values, vectors = smallest_axes(lambda x: cho_solve(factor, x, check_finite=False), len(gram), 1)
    return _refined_smallest(gram, vectors, values, is_factor=False)


def largest_axes(
    times: Product, n: int, k: int, *, start: FloatArray | None = None, n_vectors: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the k largest eigenvalues, ascending, and their vectors, (n, k), given products with a matrix (n, n).

    By Lanczos' iteration; those of a cluster that it does not tell apart are mixed. From a start that is close to the
    vectors a few basis vectors do.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # type: ignore[import-untyped]

    operator = LinearOperator((n, n), times, dtype=float)
    # Not a start that symmetries of examples may be orthogonal to.
    start = np.random.default_rng(n).normal(size=n) if start is None else start
    n_vectors = 4 * k + 32 if n_vectors is None else n_vectors
    try:
        values, vectors = eigsh(operator, k=k, which="LA", v0=start, tol=_TOLERANCE, ncv=min(n, n_vectors))
    except ArpackNoConvergence as failure:
        values, vectors = failure.eigenvalues, failure.eigenvectors
        if not values.size:
            raise
    order = np.argsort(values)
    return values[order], vectors[:, order]


def smallest_axes(solve: Product, n: int, k: int) -> tuple[FloatArray, FloatArray]:
    """Return the k smallest eigenvalues, ascending, and their vectors, (n, k), given products with the inverse."""
    values, vectors = largest_axes(solve, n, k)
    return 1 / values[::-1], vectors[:, ::-1]


def _refined_smallest(matrix: FloatArray, basis: FloatArray, eigenvalues: FloatArray, *, is_factor: bool) -> float:
    """Return the smallest eigenvalue of K, or of F^T F, to rounding of the matrix rather than of its norm.

    The Rayleigh quotient in extended precision; its error is quadratic in that of the vector, which the other
    eigenvectors correct to first order.
    """
    vector = basis[:, 0].astype(np.longdouble)
    computed, smallest = float(eigenvalues[0]), np.inf
    for _ in range(_MOST_REFINEMENTS):
        vector /= np.sqrt(vector @ vector)
        image = np.zeros_like(vector)
        for rows in row_blocks(matrix):
            part = matrix[rows].astype(np.longdouble)
            if is_factor:
                image += part.T @ (part @ vector)
            else:
                image[rows] = part @ vector
        value = vector @ image
        if not value < smallest * (1 - np.finfo(float).eps):
            break
        smallest = float(value)
        distances = eigenvalues - smallest
        # Within a cluster of eigenvalues the quotient is accurate without.
        distances[distances < 1e-3 * smallest] = np.inf
        rest = (image - value * vector).astype(float)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            vector -= basis @ (basis.T @ rest / distances)
    if not abs(smallest - computed) < 0.1 * computed:
        return computed
    return min(smallest, float(eigenvalues[-1] if len(eigenvalues) == 1 else eigenvalues[1]))
