"""Theories of the edge for a loss written in PyTorch: eigenvectors and responses by Lanczos' iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.nonlinear.oscillations import (
    FLAT,
    AtMinimum,
    GDOscillation,
    at_minimum,
    oscillation,
    require_minimum,
    require_stationary,
)
from sgdstab_fast.nonlinear.torch_loss import TorchLoss
from sgdstab_fast.results.warnings import warn
from sgdstab_fast.systems.decomposition import largest_axes

Times = Callable[[FloatArray], FloatArray]
"""What multiplies a vector with the Hessian."""

_DENSE = 256  # parameters of which all eigenvectors are computed
_MOST_VECTORS, _MOST_NUMBERS = 2000, 2e8  # of a Krylov basis
_TOLERANCE = 1e-10  # of the response, relative


def gd_oscillation_from_torch(loss: Callable[[Any], Any], parameters: Any, learning_rate: float) -> GDOscillation:
    """Say whether gradient descent on a PyTorch loss oscillates around a minimum beyond the edge, or leaves.

    Parameters
    ----------
    loss : callable
        Of the parameters, in the form in which they are given here: returns a tensor of one number, the loss of all
        examples. With a module, ``torch.func.functional_call`` makes one.
    parameters : tensor, or list or dict of tensors
        Those at the minimum, in float64; they are not changed.
    learning_rate : float
        eta, near 2 over the largest eigenvalue of the Hessian.

    Returns
    -------
    GDOscillation
        As from `gd_oscillation`; of a manifold of minima its `flat_curvature` is not known. Eigenvalues of the Hessian
        below 1e-11 of the largest count as 0.

    Raises
    ------
    ValueError, TypeError
        If the gradient is not zero, the Hessian has a negative eigenvalue, or higher derivatives of automatic
        differentiation are not right, as those of fused layer norms.

    Warns
    -----
    AccuracyWarning
        As `gd_oscillation` does; if the response H^+ g is not known well.

    References
    ----------
    R. Mulayoff and S. U. Stich, COLT 2026, arXiv 2602.14789, theorem 1.

    Examples
    --------
    >>> import torch
    >>> import sgdstab_fast as sf
    >>> found = sf.nonlinear.gd_oscillation_from_torch(
    ...     lambda p: (p["x"] * p["y"] - 1) ** 2 / 2,
    ...     {"x": torch.tensor(1.0).double(), "y": torch.tensor(1.0).double()},
    ...     1.1,
    ... )
    >>> found.verdict, round(found.criterion, 9)
    ('stable cycle', 24.0)
    """
    eta = validation.positive_number(learning_rate, "learning_rate")
    model = TorchLoss(loss, parameters)
    theta = model.theta
    gradient, times = model.gradient(theta), model.hessian_at(theta)
    parts = _all_axes(times, model.size) if model.size <= _DENSE else None
    values, axes = parts if parts is not None else _top_axes(times, model.size)
    largest, v = float(values[-1]), axes[:, -1]
    require_stationary(gradient, max(largest, 0.0), max(float(np.linalg.norm(theta)), 1.0))
    require_minimum(float(values[0]), largest)
    g, k = model.third(theta, v), model.fourth(theta, v)
    if parts is None:
        found = _response(times, g, k, largest)._replace(
            eigenvalue=largest, eigenvector=v, gap=largest - float(values[-2])
        )
    else:
        found = at_minimum(values, axes, g, k)
    return oscillation(found, eta, "automatic differentiation")


def _all_axes(times: Times, size: int) -> tuple[FloatArray, FloatArray]:
    """Return all eigenvalues, ascending, and eigenvectors."""
    matrix = np.stack([times(each) for each in np.eye(size)])
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    return values, axes


def _top_axes(times: Times, size: int) -> tuple[FloatArray, FloatArray]:
    """Return the lowest eigenvalue and the two largest, and their eigenvectors."""
    values, axes = largest_axes(times, size, 2)
    # Of what is left of the largest eigenvalue the largest is that of the lowest one.
    shift = abs(float(values[-1]))
    low, lowest = largest_axes(lambda v: shift * v - times(v), size, 1)
    return np.append(shift - low, values), np.column_stack([lowest, axes])


def _response(times: Times, g: FloatArray, k: float, largest: float) -> AtMinimum:
    """Return what `at_minimum` does from the Krylov space of g: Lanczos' iteration, with all vectors orthogonal."""
    length = float(np.linalg.norm(g))
    if length == 0:
        return at_minimum(np.array([largest]), np.zeros((g.size, 1)), g, k)
    most = int(min(g.size, _MOST_VECTORS, max(_MOST_NUMBERS / g.size, 2)))
    basis, diagonal, beside = np.empty((most, g.size)), np.empty(most), np.empty(most)
    basis[0], looked_at = g / length, 8
    for m in range(1, most + 1):
        rest = times(basis[m - 1])
        diagonal[m - 1] = basis[m - 1] @ rest
        for _ in range(2):
            rest = rest - basis[:m].T @ (basis[:m] @ rest)
        beside[m - 1] = np.linalg.norm(rest)
        is_last = m == most or beside[m - 1] <= FLAT * largest
        if is_last or m == looked_at:
            looked_at = m + max(8, m // 4)
            tridiagonal = np.diag(diagonal[:m]) + np.diag(beside[: m - 1], 1) + np.diag(beside[: m - 1], -1)
            values, vectors = np.linalg.eigh(tridiagonal)
            inverse = np.where(values > FLAT * largest, 1 / np.where(values > FLAT * largest, values, 1.0), 0.0)
            residual = beside[m - 1] * abs(float(vectors[-1] @ (inverse * vectors[0])))
            if is_last or residual <= _TOLERANCE:
                break
        basis[m] = rest / beside[m - 1]
    if residual > _TOLERANCE and beside[m - 1] > FLAT * largest:
        warn(f"after {m} products with the Hessian H^+ g is known to {residual:.1g} only: so is the criterion")
    return at_minimum(values, basis[:m].T @ vectors, g, k)
