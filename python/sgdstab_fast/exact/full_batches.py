"""Full-batch gradient descent, exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sgdstab_fast import validation
from sgdstab_fast._core.arguments import FloatArray
from sgdstab_fast.operators.level_pairs import gd_exponent_of, gd_threshold_of
from sgdstab_fast.results.interruption import interruptible_if_large
from sgdstab_fast.results.progress import ProgressOption, tells
from sgdstab_fast.systems.from_gram import system_of, variant_of
from sgdstab_fast.systems.sgd import LinearizedSGD
from sgdstab_fast.systems.system import FullBatches, System


@interruptible_if_large
@tells("mu")
def gd_exponent(gram: Any, learning_rate: float | None = None, *, progress: ProgressOption = None) -> float:
    """Return the exponent of full-batch gradient descent, mu = max_j log abs(1 - eta kappa_j / N).

    Parameters
    ----------
    gram : array_like, shape (N, N), or LinearizedSGD
        Neural-tangent Gram matrix K with non-zero eigenvalues kappa_j; see `LinearizedSGD`. Of a system, its K,
        examples, momentum and the probabilities that weight the mean over examples.
    learning_rate : float, optional
        Step size eta > 0; left out with a system, which has its own.
    progress : bool or callable, optional
        True to show on standard error what is computed, or what to call with a `Progress`.

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
    system = system_of(gram)
    if system is None:
        return _exponent(variant_of(gram, validation.positive_number(learning_rate, "learning_rate")).full_batches())
    if learning_rate is not None and validation.positive_number(learning_rate, "learning_rate") != system.learning_rate:
        raise ValueError(
            f"learning_rate must be left out with a system, which has its own, {system.learning_rate!r}, not "
            f"{learning_rate!r}: take system.with_learning_rate({learning_rate!r})"
        )
    return _exponent(system.full_batches())


def full_batch_exponent(system: System) -> float:
    """Return mu of a system; NaN of one without batches."""
    full = system.full_batches()
    return math.nan if full is None else _exponent(full)


def _exponent(full: FullBatches) -> float:
    recurrence = full.recurrence
    if not recurrence.is_plain:
        one_level = recurrence.levels == 1
        eigenvalues = np.array(full.rows.extreme_eigenvalues()) if one_level else full.rows.eigenvalues[::-1].copy()
        return gd_exponent_of(eigenvalues, full.learning_rate, full.n_examples, recurrence.free, recurrence.readout)
    rates = np.array([full.learning_rate])
    return float(gd_exponents(full.rows.extreme_eigenvalues(), rates, full.n_examples)[0])


def gd_exponents(extremes: tuple[float, float], learning_rates: FloatArray, n_examples: int) -> FloatArray:
    """Return mu at every learning rate, from the smallest and the largest eigenvalue of K."""
    # The convex abs(1 - x) is largest at an end of the spectrum.
    x = np.multiply.outer(np.array(extremes), learning_rates / n_examples)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(x < 0.5, np.log1p(-x), np.log(np.abs(1 - x)))
    logs[np.abs(1 - x) <= 8 * np.finfo(float).eps] = -np.inf
    return np.asarray(logs.max(axis=0))


def gd_threshold(system: LinearizedSGD) -> float:
    """Return the smallest learning rate at which full-batch gradient descent is unstable."""
    full = system.full_batches()
    largest, recurrence = full.rows.extreme_eigenvalues()[1], full.recurrence
    if recurrence.is_plain:
        return 2 * full.n_examples / largest
    return gd_threshold_of(np.array([largest]), full.n_examples, recurrence.free, recurrence.readout)


def extreme_eigenvalues(system: LinearizedSGD) -> tuple[float, float]:
    """Return the smallest and the largest non-zero eigenvalue of K, of examples weighted by their probabilities."""
    return system.full_batches().rows.extreme_eigenvalues()
