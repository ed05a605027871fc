"""Metrics for anchored growth, the vectors to start from, and what an evaluation costs.

In a metric M with E[A^T M A] = rho M the mean squared growth of the next step is the constant rho, whatever the vector,
and the mean log growth g_M is nearly constant. Where single steps grow a lot, beyond the edge of stability, that mean
is carried by rare steps; the same equation with examples weighted by max(1, (1 - eta K_ii)^2)^-theta holds them down.
The metrics for theta = 0, 1/2 and 1 and the norm of K are used together (`statistics.control_variates`).

Vectors with the dominant second moment C, E[A C A^T] = rho C, start nearly stationary. At small learning rates C is
almost of rank one, and the direction of a normal vector with covariance C then depends on how large its main component
happens to be. So that component q . v is set to its root mean square, and the rest of the vector with it,

    v <- v + C q (s - q . v) / s^2,    s^2 = q . C q,    q the dominant eigenvector of C.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sgdstab_fast._core.functions import FloatArray
from sgdstab_fast.exact.mean_square import MeanSquareExponent
from sgdstab_fast.systems.mean_square_forms import mean_square_metric
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import GrowthCall, System

# Beyond this dimension the decompositions cost more than a run with the norm of K alone.
LARGEST_DIMENSION = 2048
_INTERMITTENCY = (0.5, 1.0)  # theta, beyond the edge, where some abs(1 - eta K_ii) > 1
_TOLERANCE = 1e-4  # of metrics: they may be far off, and then leave more variance
# How much of the norm of K is mixed in, relative to the least and to the largest M_ii / K_ii.
_FLOOR, _ROUNDING_FLOOR = 1e-6, 1e-12


@dataclass(frozen=True, eq=False)
class Metrics:
    """The metrics that growth is evaluated in, the norm of K first, and the covariance to start from."""

    matrices: FloatArray
    """All but the first, shape (n_metrics - 1, dimension, dimension)."""
    diagonals: FloatArray
    """Squared norms of the steps' directions, M_ii or f_i . M f_i, shape (n_metrics, N)."""
    covariance: FloatArray | None
    """Dominant second moment, shape (dimension, dimension); None where it is not computed."""
    call: GrowthCall | None = None
    """How the system evaluates growth in them, if that is not how plain ones do."""

    @property
    def size(self) -> int:
        """Number of results of an evaluation: one for each metric, or more (`systems.system.GrowthCall`)."""
        return len(self.diagonals) if self.call is None else self.call.n_columns

    @property
    def arguments(self) -> dict[str, Any]:
        """What the core is told."""
        if self.call is not None:
            return self.call.arguments
        return {"metrics": self.matrices, "diagonals": self.diagonals}

    @property
    def seconds_per_evaluation(self) -> float:
        """Time of one evaluation of one vector, measured on one thread."""
        if self.call is not None:
            return self.call.seconds
        n, d = self.diagonals.shape[1], self.matrices.shape[1]
        return float(1e-7 + 5e-11 * (n * d + self.matrices.size) + 1e-9 * self.size * n)


def no_metrics(system: System) -> Metrics:
    """Return the empty set: growth is then not evaluated."""
    nothing = np.empty((0, system.dimension, system.dimension)), np.empty((0, 0)), None
    if not isinstance(system, LinearizedSGD) or not system.is_plain:
        return Metrics(*nothing, call=system.growth_call([]))
    return Metrics(nothing[0], np.empty((0, system.n_examples)), None)


def growth_metrics(system: System, mean_square: MeanSquareExponent | None = None) -> Metrics:
    """Return the metrics for a system that does not fall into blocks; `mean_square` is its result, if known."""
    if not isinstance(system, LinearizedSGD) or not system.is_plain:
        matrices, covariance = system.metrics(_TOLERANCE)
        return replace(no_metrics(system), covariance=covariance, call=system.growth_call(matrices))
    if system.dimension > LARGEST_DIMENSION:
        return Metrics(no_metrics(system).matrices, system.diagonal[None], None)
    if mean_square is None:
        metric, covariance = mean_square_metric(system, tolerance=_TOLERANCE)
    else:
        metric, covariance = mean_square.metric, mean_square.covariance
    with_norms = [metric_with_norms(system, metric), *intermittency_metrics(system, _TOLERANCE)]
    return Metrics(
        np.array([metric for metric, _ in with_norms]),
        np.array([system.diagonal, *(squared_norms for _, squared_norms in with_norms)]),
        covariance,
    )


def intermittency_metrics(system: LinearizedSGD, tolerance: float) -> list[tuple[FloatArray, FloatArray]]:
    """Return the metrics, and their squared norms, that hold rare steps down; none where no step grows."""
    amplification = largest_growth(system)
    return [
        metric_with_norms(system, mean_square_metric(system, amplification**-theta, tolerance=tolerance)[0])
        for theta in (_INTERMITTENCY if amplification.max() > 1 else ())
    ]


def largest_growth(system: LinearizedSGD) -> FloatArray:
    """Return max(1, (1 - eta K_ii)^2), by which steps may multiply squared norms, shape (N,)."""
    return np.asarray(np.maximum(1.0, (1 - system.learning_rate * system.diagonal) ** 2))


def metric_with_norms(system: LinearizedSGD, metric: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a metric that is safely positive definite, and the squared norms of the steps' directions in it."""
    metric = _with_floor(system, metric)
    return metric, _squared_norms(system, metric)


def frame_arguments(system: LinearizedSGD, metrics: Metrics | None) -> dict[str, FloatArray]:
    """Return what the core needs for the growth of frames in the norm of K and in the metrics' matrices M = L L^T.

    That is L^T, K L^-T, L and M_ii in gram coordinates, and L^T, F L^-T, F L and f_i . M f_i in factor coordinates; of
    shape (0, ...) without metrics, or if one is singular to rounding.
    """
    n, d = system.rows.shape
    factor = system.coordinates == "factor"
    roots, gradients, images, diagonals = [], [], [], []
    if metrics is not None:
        norm_of_k = np.eye(d) if factor else system.rows
        try:
            for matrix in (norm_of_k, *metrics.matrices):
                root = np.linalg.cholesky(matrix)
                roots.append(root.T)
                gradients.append(np.linalg.solve(root, system.rows.T).T)
                images.append(system.rows @ root if factor else root)
                diagonals.append(_squared_norms(system, matrix))
        except np.linalg.LinAlgError:
            return frame_arguments(system, None)
    count = len(roots)
    return {
        "roots": np.array(roots).reshape(count, d, d),
        "gradients": np.array(gradients).reshape(count, n, d),
        "images": np.array(images).reshape(count, n, d),
        "diagonals": np.array(diagonals).reshape(count, n),
    }


def _squared_norms(system: LinearizedSGD, metric: FloatArray) -> FloatArray:
    if system.coordinates == "gram":
        return metric.diagonal().copy()
    return np.asarray(np.einsum("ij,ij->i", system.rows @ metric, system.rows))


def _with_floor(system: LinearizedSGD, metric: FloatArray) -> FloatArray:
    """Mix in a little of the norm of K, so that no direction has a norm of 0 or below; scale to M_ii <= K_ii."""
    active = system.diagonal > 0
    ratios = _squared_norms(system, metric)[active] / system.diagonal[active]
    floor = max(_FLOOR * float(ratios.min()), _ROUNDING_FLOOR * float(ratios.max()))
    metric = metric / float(ratios.max())
    floor /= float(ratios.max())
    if system.coordinates == "gram":
        metric += floor * system.rows
    else:
        metric[np.diag_indices_from(metric)] += floor
    return metric
