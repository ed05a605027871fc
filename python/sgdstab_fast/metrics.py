"""Metrics for anchored growth, the vectors to start from, and what an evaluation costs.

In a metric M with E[A^T M A] = rho M the mean squared growth of the next step is the constant rho, whatever the vector,
and the mean log growth g_M is nearly constant. Where single steps grow a lot, beyond the edge of stability, that mean is
carried by rare steps; the same equation with examples weighted by max(1, (1 - eta K_ii)^2)^-theta holds them down. What is
left then comes from vectors along the few examples that grow most, which metrics M + c k_j k_j^T tell apart. All of them
are used together, with the norm of K (`sgdstab_fast.control_variates`).

Vectors with the dominant second moment C, E[A C A^T] = rho C, start nearly stationary. At small learning rates C is almost
of rank one, and the direction of a normal vector with covariance C then depends on how large its main component
happens to be. So that component q . v is set to its root mean square, and the rest of the vector with it,

    v <- v + C q (s - q . v) / s^2,    s^2 = q . C q,    q the dominant eigenvector of C.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sgdstab_fast._native import FloatArray, IntArray, StreamKey
from sgdstab_fast.mean_square import mean_square_metric
from sgdstab_fast.results import MeanSquareExponent
from sgdstab_fast.streams import initial_states, normals
from sgdstab_fast.systems import LinearizedSGD

# Beyond this dimension the decompositions cost more than a run with the norm of K alone.
LARGEST_DIMENSION = 2048
_INTERMITTENCY = (0.5, 1.0, 1.5)  # theta, beyond the edge
_SPIKED, _SPIKES, _SPIKE_WEIGHTS = 1.0, 8, (0.03, 1.0)  # theta, examples, and c k_jj^2 / M_jj
_TOLERANCE = 1e-4  # of metrics: they may be far off, and then leave more variance
# How much of the norm of K is mixed in, relative to the least and to the largest M_ii / K_ii.
_FLOOR, _ROUNDING_FLOOR = 1e-6, 1e-12
_POWER_ITERATIONS = 30
_JITTER = 1e-13


@dataclass(frozen=True, eq=False)
class Metrics:
    """Metrics M + c k_j k_j^T for a list of (M, j, c), and the covariance to start from.

    A base of 0 is the norm of K, m is matrices[m - 1]; a spike of -1 is none.
    """

    system: LinearizedSGD
    matrices: FloatArray
    """Shape (n_matrices, dimension, dimension)."""
    bases: IntArray
    """M, shape (n_metrics,), ascending."""
    spikes: IntArray
    """j, shape (n_metrics,)."""
    spike_weights: FloatArray
    """c, shape (n_metrics,)."""
    covariance: FloatArray | None
    """Dominant second moment, shape (dimension, dimension); None where it is not computed."""

    @property
    def size(self) -> int:
        """Number of metrics."""
        return len(self.bases)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What the core is given."""
        n = self.system.n_examples
        columns = np.zeros((self.size, n))
        squared_norms = [self.system.diagonal, *(_squared_norms(self.system, matrix) for matrix in self.matrices)]
        diagonals = np.array([squared_norms[base] for base in self.bases]).reshape(self.size, n)
        for m in np.flatnonzero(self.spikes >= 0):
            columns[m] = _column(self.system, int(self.spikes[m]))
            diagonals[m] += self.spike_weights[m] * columns[m] ** 2
        return {
            "metrics": self.matrices,
            "bases": self.bases,
            "spikes": self.spikes,
            "spike_weights": self.spike_weights,
            "spike_columns": columns,
            "diagonals": diagonals,
        }

    @property
    def seconds_per_evaluation(self) -> float:
        """Time of one evaluation of one vector, measured on one thread."""
        n = self.system.n_examples
        products = n * self.system.dimension + self.matrices.size
        return 1e-7 + 5e-11 * products + 1e-9 * self.size * n


def no_metrics(system: LinearizedSGD) -> Metrics:
    """Return the empty set: growth is then not evaluated."""
    return _metrics(system, [], [], None)


def growth_metrics(system: LinearizedSGD, mean_square: MeanSquareExponent | None = None) -> Metrics:
    """Return the metrics for a system whose K does not fall into blocks; `mean_square` is its result, if known."""
    if system.dimension > LARGEST_DIMENSION:
        return _metrics(system, [], [(0, -1, 0.0)], None)
    if mean_square is None:
        metric, covariance = mean_square_metric(system, tolerance=_TOLERANCE)
    else:
        metric, covariance = mean_square.metric, mean_square.covariance
    amplification = np.maximum(1.0, (1 - system.learning_rate * system.diagonal) ** 2)
    if amplification.max() == 1:
        return _metrics(system, [_with_floor(system, metric)], [(0, -1, 0.0), (1, -1, 0.0)], covariance)
    matrices, metrics = [], [(0, -1, 0.0)]
    for theta in _INTERMITTENCY:
        metric, _ = mean_square_metric(system, amplification**-theta, tolerance=_TOLERANCE)
        matrices.append(_with_floor(system, metric))
        metrics.append((len(matrices), -1, 0.0))
        if theta == _SPIKED:
            sizes = _squared_norms(system, matrices[-1]) / system.diagonal**2
            growing = np.argsort(-system.diagonal, kind="stable")[:_SPIKES]
            metrics += [(len(matrices), int(j), c * float(sizes[j])) for c in _SPIKE_WEIGHTS for j in growing]
    return _metrics(system, matrices, metrics, covariance)


def _metrics(
    system: LinearizedSGD,
    matrices: list[FloatArray],
    metrics: list[tuple[int, int, float]],
    covariance: FloatArray | None,
) -> Metrics:
    return Metrics(
        system=system,
        matrices=np.array(matrices).reshape(len(matrices), system.dimension, system.dimension),
        bases=np.array([base for base, _, _ in metrics], dtype=np.int64),
        spikes=np.array([spike for _, spike, _ in metrics], dtype=np.int64),
        spike_weights=np.array([weight for _, _, weight in metrics], dtype=float),
        covariance=covariance,
    )


def _column(system: LinearizedSGD, example: int) -> FloatArray:
    """Return a column of K."""
    row = system.rows[example]
    return row if system.coordinates == "gram" else np.asarray(system.rows @ row)


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


def initial_vectors(
    system: LinearizedSGD, metrics: Metrics, key: StreamKey, n_chains: int, k: int, first_chain: int = 0
) -> FloatArray:
    """Return the vectors to start from, shape (n_chains, k, dimension); the first of each chain is nearly stationary."""
    if metrics.covariance is None:
        states = initial_states(key, n_chains, k, system.slow_directions(1), first_chain)
        return np.ascontiguousarray(states.transpose(0, 2, 1))
    covariance = metrics.covariance / metrics.covariance.diagonal().max()
    main = covariance[:, covariance.diagonal().argmax()]
    for _ in range(_POWER_ITERATIONS):
        main = covariance @ (main / np.linalg.norm(main))
    main /= np.linalg.norm(main)
    along = covariance @ main
    size = float(main @ along)
    jitter = _JITTER * np.trace(covariance) * np.eye(system.dimension)
    # Rounded, so that the last bits of a decomposition rarely matter; another build of LAPACK may still find others.
    root = np.linalg.cholesky(covariance + jitter).astype(np.float32).astype(float)
    vectors = normals(key, n_chains, (k, system.dimension), first_chain) @ root.T
    vectors[:, 0] += ((np.sqrt(size) - vectors[:, 0] @ main) / size)[:, None] * along.astype(np.float32)
    return np.ascontiguousarray(vectors)
