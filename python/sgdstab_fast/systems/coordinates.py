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

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.systems.decomposition import spectral_decomposition
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import System


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
