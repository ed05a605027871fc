"""Full-batch gradient descent, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast.decomposition import spectral_decomposition
from sgdstab_fast.systems import LinearizedSGD


def gd_exponent(gram: Any, learning_rate: float | None = None) -> float:
    """Return the exponent of full-batch gradient descent, mu = max_j log abs(1 - eta kappa_j / N).

    Parameters
    ----------
    gram : array_like, shape (N, N), or LinearizedSGD
        Neural-tangent Gram matrix K with non-zero eigenvalues kappa_j; see `LinearizedSGD`. Of a system, its K.
    learning_rate : float, optional
        Step size eta > 0; by default that of the system, if gram is one.

    Returns
    -------
    float
        mu in nats per step; below 0, gradient descent can converge to the minimum. -inf if one step annihilates
        every displacement.

    Raises
    ------
    ValueError, TypeError
        As `LinearizedSGD` does.

    References
    ----------
    Chemnitz & Engel 2025, equation 2.18.

    Examples
    --------
    >>> import sgdstab_fast as sf
    >>> round(sf.gd_exponent([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], 0.3), 12)
    -0.07796154147
    """
    if learning_rate is None and isinstance(gram, LinearizedSGD):
        learning_rate = gram.learning_rate
    learning_rate = validation.positive_number(learning_rate, "learning_rate")
    system = gram if isinstance(gram, LinearizedSGD) else LinearizedSGD(gram, learning_rate)
    x = learning_rate / system.n_examples * spectral_decomposition(system).eigenvalues
    # The convex abs(1 - x) is largest at an end of the spectrum.
    ends = np.array([x[0], x[-1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(ends < 0.5, np.log1p(-ends), np.log(np.abs(1 - ends)))
        logs[np.abs(1 - ends) <= 8 * np.finfo(float).eps] = -np.inf
    return float(logs.max())
