"""Directions: what the next step does to a displacement, example by example, and how long directions are remembered.

With w_i = K_i . v (gram coordinates) or f_i . v (factor coordinates) and a metric M, the step on example i multiplies
the squared norm by 1 + x_i, as in anchored growth (design.md, "Anchored growth"):

    x_i = (eta^2 w_i^2 M_ii - 2 eta w_i y_i) / q,    y = M v or F M v,    q = v . M v,

and l_i = (1/2) log(1 + x_i) is its log growth. Under the stationary (Furstenberg) measure nu the mean of l_i over all
i is lambda in every metric; the mean of each l_i / N is that example's part in lambda, in the metric chosen.

Directions s are remembered through their projectors s s^T, on which the sign of s has no part. Their autocorrelation,

    rho(n) = (E (s_0 . s_n)^2 - b) / (1 - b),    b = E (s . s')^2 for independent s, s',

belongs to all functions s . B s at once, and tau = sum_n rho(n) over all n, of both signs, is the steps that are worth
one independent direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.systems.decomposition import spectral_decomposition
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import System

_CANCELLING = 1 - 2.0**-16  # a step that leaves less of a squared norm: 1 + x has lost digits
_NONE = (np.empty(0, np.intp), np.empty(0, np.intp))
_WINDOW = 5.0  # autocorrelation times over which autocorrelations are summed
LONGEST_SEGMENT = 1024  # batches whose inner products are formed together
_COMPARED = 64  # chains that are compared with one another
_GROUPS = 16  # of chains, left out in turn
_NEGLIGIBLE = 1e-13  # of 1 - b: directions do not vary beyond rounding


class Growth(NamedTuple):
    """What steps do to n vectors, in a metric."""

    log_growth: FloatArray
    """l_i, shape (n, N)."""
    squared_norms: FloatArray
    """q, shape (n,)."""


def growth_by_example(
    system: LinearizedSGD, vectors: FloatArray, metrics: Iterable[FloatArray | None]
) -> Iterator[Growth]:
    """Yield the log growth of the next step on each example, in metrics; None for the norm of parameter space.

    `vectors` has the shape (n, dimension), in the coordinates of the system.
    """
    rows, eta = system.rows, system.learning_rate
    gram = system.coordinates == "gram"
    w = vectors @ rows.T
    steps = eta * w
    for metric in metrics:
        if metric is None:
            y, images, diagonal = w, w if gram else vectors, system.diagonal
        else:
            images = vectors @ metric
            y = images if gram else images @ rows.T
            diagonal = metric.diagonal() if gram else np.einsum("ij,ij->i", rows @ metric, rows)
        norms = np.einsum("nj,nj->n", vectors, images)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = steps * (diagonal * steps - 2 * y) / norms[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            log_growth = np.log1p(x) / 2
        n, i = np.nonzero(x < -_CANCELLING) if x.min(initial=0.0) < -_CANCELLING else _NONE
        if n.size:
            # |A_i v|_M^2 from A_i v itself.
            step = steps[n, i][:, None]
            directions = np.eye(system.dimension)[i] if gram else rows[i]
            its_images = rows[i] if metric is None else metric[i] if gram else directions @ metric
            after = np.einsum("nj,nj->n", vectors[n] - step * directions, images[n] - step * its_images)
            with np.errstate(divide="ignore"):
                log_growth[n, i] = np.log(np.maximum(after, 0.0) / norms[n]) / 2
        yield Growth(log_growth, norms)


def isometric(system: System, vectors: FloatArray) -> FloatArray:
    """Return vectors in coordinates that are isometric to parameter space, s = F^T a of every level; same shape.

    Those of a matrix ensemble are Euclidean as they are.
    """
    if not isinstance(system, LinearizedSGD) or system.coordinates == "factor":
        return vectors
    if system.recurrence.levels == 1:
        return vectors @ system.gradients()
    return (vectors.reshape(-1, system.rank) @ system.gradients()).reshape(vectors.shape)


def isometric_system(system: System) -> System:
    """Return the same system in the coordinates of `isometric`."""
    return system.isometric() if isinstance(system, LinearizedSGD) else system


def to_parameter_space(system: System, vectors: FloatArray) -> FloatArray:
    """Return unit vectors in isometric coordinates; same shape."""
    s = isometric(system, vectors)
    with np.errstate(invalid="ignore"):
        return np.asarray(s / np.linalg.norm(s, axis=-1, keepdims=True))


def parameter_space_norm(system: System, vectors: FloatArray) -> FloatArray:
    """Return the lengths of states, sqrt(a . K a) or sqrt(s . s) over all levels, shape (n,) of (n, dimension)."""
    if isinstance(system, LinearizedSGD) and system.recurrence.levels > 1:
        return np.asarray(np.linalg.norm(isometric(system, vectors), axis=1))
    gram = isinstance(system, LinearizedSGD) and system.coordinates == "gram"
    images = vectors @ system.rows if isinstance(system, LinearizedSGD) and gram else vectors
    return np.asarray(np.sqrt(np.maximum(np.einsum("nj,nj->n", vectors, images), 0.0)))


def from_parameter_space(system: System, vectors: FloatArray) -> FloatArray:
    """Return vectors in the coordinates of the system, from those isometric to parameter space; same shape."""
    if not isinstance(system, LinearizedSGD) or system.coordinates == "factor":
        return vectors
    from scipy.linalg import solve_triangular  # type: ignore[import-untyped]

    flat = vectors.reshape(-1, system.rank)
    return np.asarray(solve_triangular(system.gradients(), flat.T, trans="T", lower=True).T.reshape(vectors.shape))


def shares_root(system: LinearizedSGD) -> FloatArray:
    """Return R, shape (dimension, n_rows): the squares of R^T v are each row's share of the squared length of v.

    The gradients g_i of the examples are not orthogonal; the nearest orthonormal vectors to them are the columns of
    G K^(-1/2) (P.-O. Lowdin, "On the non-orthogonality problem", J. Chem. Phys. 18, 1950), in which the displacement
    w = G a has the components K^(1/2) a. Their squares are not negative and sum to the squared length of w.
    """
    vectors, eigenvalues, directions = spectral_decomposition(system)
    if directions is None:
        return np.asarray(vectors * np.sqrt(eigenvalues) @ vectors.T)
    return np.asarray(directions @ vectors.T)


class Memory(NamedTuple):
    """How long directions are remembered."""

    time: float
    """tau, in steps."""
    standard_error: float
    """Of tau."""
    resolved: bool
    """Whether the directions given were long enough to sum over."""


def memory(directions: FloatArray, spacing: int, least_window: int = 0) -> Memory:
    """Estimate tau from directions every `spacing` steps, unit vectors (n_chains, n, dimension) in parameter space.

    Autocorrelations are summed over five times tau, and over `least_window` steps as far as lags go.
    """
    n_chains, n, _ = directions.shape
    length = min(n, LONGEST_SEGMENT)
    n_lags = max(length // 2, 1)
    products = np.zeros((n_chains, n_lags))
    # Row i of the view are the products with what follows batch i, and zeros past the end.
    squares = np.zeros((length, length + n_lags))
    row, entry = squares.strides
    following = np.lib.stride_tricks.as_strided(squares, (length, n_lags), (row + entry, entry))
    for chain, path in enumerate(directions):
        for start in range(0, n - length + 1, length):
            segment = path[start : start + length]
            squares[:, :length] = (segment @ segment.T) ** 2
            products[chain] += following.sum(axis=0)
    products /= (n // length) * (length - np.arange(n_lags))
    unrelated = np.zeros(n_chains)
    for its in np.array_split(np.arange(n_chains), math.ceil(n_chains / _COMPARED)):
        for batch in directions[its].transpose(1, 0, 2):
            squared = (batch @ batch.T) ** 2
            unrelated[its] += (squared.sum(axis=1) - squared.diagonal()) / (max(len(its) - 1, 1) * n)
    time, resolved = _summed(products.mean(axis=0), float(unrelated.mean()), spacing, least_window)
    groups = np.arange(n_chains) % min(_GROUPS, n_chains)
    without = np.array(
        [
            _summed(products[groups != g].mean(axis=0), float(unrelated[groups != g].mean()), spacing, least_window)[0]
            for g in range(groups.max() + 1)
        ]
    )
    return Memory(time, math.sqrt((len(without) - 1) * float(without.var())), resolved)


def _summed(products: FloatArray, unrelated: float, spacing: int, least_window: int) -> tuple[float, bool]:
    """Sum rho over a window of five times the sum (A. D. Sokal, 1997) or more; return tau and whether it was found."""
    if not 1 - unrelated > _NEGLIGIBLE:
        return float(spacing), True
    rho = (products - unrelated) / (1 - unrelated)
    times = spacing * (2 * np.cumsum(rho) - 1)  # rho(0) = 1 counts once
    enough = spacing * np.arange(len(rho)) >= _WINDOW * times
    window = int(enough.argmax()) if enough.any() else len(rho) - 1
    window = max(window, min(math.ceil(least_window / spacing), len(rho) - 1))
    return max(float(times[window]), 0.0), bool(enough.any())
