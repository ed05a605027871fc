"""Lanczos' iteration: towards Perron vectors in a few steps, and Ritz pairs of a whole Krylov space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sgdstab_fast._core.arguments import FloatArray

Product = Callable[[FloatArray], FloatArray]
"""What multiplies a vector with a matrix."""

_MOST_STEPS = 24
_DECIDED, _TIE = 0.1, 1e-10  # share of an eigenvalue's distance from 1 that its error may be; what is no distance
_SAME = 1e-8  # vectors up to rounding
_MOST_LANCZOS_STEPS = 24
_END = 1e-11  # relative: a Krylov space that goes on with less has ended


def improved_perron_vector(
    product: Product, x: FloatArray, image: FloatArray, *, goal: float, most: int
) -> tuple[FloatArray, float, int]:
    """Improve a vector until the residual of R x = lambda x is at most a goal.

    Parameters
    ----------
    product : callable
        x -> R x.
    x : array, shape (N,)
        A unit vector to start from.
    image : array, shape (N,)
        R x.
    goal : float
        For the norm of the residual.
    most : int
        Products to make.

    Returns
    -------
    vector : array, shape (N,)
        Non-negative, as Perron vectors are.
    gap : float
        Distance to the next eigenvalue, from above; 0 if it is not known.
    n_products : int
        Products made.
    """
    basis, diagonal, beside = [x], [float(x @ image)], list[float]()
    while True:
        rest = image
        for _ in range(2):  # orthogonal to all, to rounding
            for vector in basis:
                rest = rest - (vector @ rest) * vector
        size = float(np.linalg.norm(rest))
        ritz, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        if size * abs(vectors[-1, -1]) <= goal or len(basis) > min(most, _MOST_STEPS):
            break
        beside.append(size)
        basis.append(rest / size)
        image = product(basis[-1])
        diagonal.append(float(basis[-1] @ image))
    gap = float(ritz[-1] - ritz[-2]) if len(ritz) > 1 else 0.0
    return np.abs(vectors[:, -1] @ np.array(basis)), gap, len(basis) - 1


def improved_leading_vector(
    product: Product, x: FloatArray, image: FloatArray, goal: float, most: int
) -> tuple[FloatArray, FloatArray, float, int]:
    """Return a vector closer to the leading eigenvector, its image, the gap below and the products made: Lanczos."""
    basis, images = [x], [image]
    while True:
        rest = images[-1]
        for _ in range(2):  # orthogonal to all, to rounding
            for vector in basis:
                rest = rest - (vector @ rest) * vector
        size = float(np.linalg.norm(rest))
        projected = np.array(basis) @ np.array(images).T
        ritz, vectors = np.linalg.eigh((projected + projected.T) / 2)
        if size * abs(vectors[-1, -1]) <= 0.5 * goal or len(basis) > min(most, _MOST_LANCZOS_STEPS):
            break
        basis.append(rest / size)
        images.append(product(basis[-1]))
    leading = vectors[:, -1] * (1 if vectors[0, -1] >= 0 else -1)
    x, image = leading @ np.array(basis), leading @ np.array(images)
    length = float(np.linalg.norm(x))
    gap = float(ritz[-1] - ritz[-2]) if len(ritz) > 1 else 0.0
    return x / length, image / length, gap, len(basis) - 1


def overlooked_vector(product: Product, x: FloatArray, start: FloatArray, most: int) -> tuple[FloatArray | None, int]:
    """Return a vector orthogonal to x with an eigenvalue above 1, None if there is none, and the products made.

    x is an eigenvector of eigenvalue 1. Of a map that nearly falls into blocks it may be that of one block, to
    rounding, while the largest eigenvalue is another's. The vectors start from what x leaves of one that misses none.
    """

    def deflated(vector: FloatArray) -> FloatArray:
        image = product(vector)
        return image - (x @ image) * x

    y = start - (x @ start) * x
    length = float(np.linalg.norm(y))
    if length <= _SAME * float(np.linalg.norm(start)):
        return None, 0
    y /= length
    image, n_products = deflated(y), 1
    while True:
        value = float(y @ image)
        goal = _DECIDED * max(abs(value - 1), _TIE)
        if np.linalg.norm(image - value * y) <= goal or n_products >= most:
            return (y if value > 1 + _TIE else None), n_products
        y, image, _, applied = improved_leading_vector(deflated, y, image, goal, most - n_products)
        n_products += max(applied, 1)


def ritz_pairs(
    times: Product,
    start: FloatArray,
    most: int,
    known: Callable[[FloatArray, FloatArray, float], bool],
) -> tuple[FloatArray, FloatArray]:
    """Return Ritz values and vectors (D, m) from a start by Lanczos' iteration, all of its vectors orthogonal.

    It ends where the space does, or `known` says so of Ritz values, vectors in the basis and the next coefficient.
    """
    basis, diagonal, beside = np.empty((most, start.size)), np.empty(most), np.empty(most)
    basis[0], looked_at = start / np.linalg.norm(start), 8
    for m in range(1, most + 1):
        rest = times(basis[m - 1])
        diagonal[m - 1] = basis[m - 1] @ rest
        for _ in range(2):
            rest = rest - basis[:m].T @ (basis[:m] @ rest)
        beside[m - 1] = np.linalg.norm(rest)
        ends = m == most or beside[m - 1] <= _END * float(np.abs(diagonal[:m]).max())
        if ends or m == looked_at:
            looked_at = m + max(8, m // 4)
            values, vectors = np.linalg.eigh(
                np.diag(diagonal[:m]) + np.diag(beside[: m - 1], 1) + np.diag(beside[: m - 1], -1)
            )
            if ends or known(values, vectors, float(beside[m - 1])):
                break
        basis[m] = rest / beside[m - 1]
    return values, basis[:m].T @ vectors
