r"""Bounds of the mean-square threshold that need eigenvalues of N x N matrices only, of independent batches.

With H = (1/N) sum_u H_u, H_u = sum_{i in u} g_i g_i^T, p of `systems.sampling` and M = (1 - p) K / N + p Diag_u(K_uu):

    sufficient   eta <= 2 / lambda_max(M) on the range of K     (L. Wu, C. Ma and W. E, NeurIPS 2018, theorem 1)
    necessary    eta <= 2 v.Hv / ((v.Hv)^2 + p Var_u(v.H_u v))  for every |v| = 1, here the top eigenvector of H, and
                 eta <= 2 Tr H / ((1 - p) Tr H^2 + (p / N) sum_u Tr H_u^2)
                                                                (R. Mulayoff and T. Michaeli, arXiv 2306.07850,
                                                                 equations 15 and 16)

M = (N / B^2) E[P_S K P_S] over batches S, so lambda_max(M) is at most the largest lambda_max(K_SS) / B: stable batches
imply the first. With the top eigenvector of K, w U, v.H_u v = w sum_{i in u} U_i^2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.systems.sampling import Law

_FLAT = 1e-13  # of the largest eigenvalue of K: less is 0


class ThresholdBounds(NamedTuple):
    """Learning rates that the mean-square threshold lies between."""

    sufficient: float
    """It is at least that."""
    by_eigenvector: float
    """It is at most that: the variance of batches along the top eigenvector."""
    by_trace: float
    """It is at most that: mean squares of all directions."""


def threshold_bounds(gram: FloatArray, law: Law) -> ThresholdBounds:
    """Return the bounds for a K, shape (n_rows, n_rows), and independent batches of uniform examples."""
    n, p, units = law.n_units, law.noise, law.units_of_rows(len(gram))
    same = units[:, None] == units
    largest = float(np.abs(gram).max())
    gram = gram / largest  # whose squares neither overflow nor vanish
    values, vectors = np.linalg.eigh(gram)
    mean = float(values[-1]) / n
    range_of_k = vectors[:, values > _FLAT * values[-1]]
    form = (1 - p) / n * gram + p * np.where(same, gram, 0.0)
    shares = n * mean * np.bincount(units, np.square(vectors[:, -1]), n)
    squares = (1 - p) * float(np.square(values).sum()) / n**2 + p * float(np.square(gram[same]).sum()) / n
    return ThresholdBounds(
        sufficient=2 / float(np.linalg.eigvalsh(range_of_k.T @ form @ range_of_k)[-1]) / largest,
        by_eigenvector=2 * mean / (mean**2 + p * float(np.square(shares - mean).mean())) / largest,
        by_trace=2 * float(np.trace(gram)) / n / squares / largest,
    )
