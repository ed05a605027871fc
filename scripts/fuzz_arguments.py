"""Random arguments of the public interface, for `fuzz.py`: likely ones that make sense, and sometimes any at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sgdstab_fast as sf

DOCUMENTED = (ValueError, TypeError)
Rng = np.random.Generator


def number(rng: Rng, usual: float, *, odd: float = 0.1) -> Any:
    """Return a number that is likely near the usual one, or anything at all."""
    if rng.random() > odd:
        return float(usual * rng.lognormal(0.0, 0.5))
    anything: list[Any] = [0, -1.0, math.nan, math.inf, 1e300, 1e-300, 5e-324, 10**400, "x", None, True]
    anything += [1 + 1j, [1.0], np.float32(0.3)]
    return anything[rng.integers(len(anything))]


def array(rng: Rng, *shape: int, odd: float = 0.1) -> Any:
    """Return numbers of a shape, of any scale; perhaps some that are no use, or of another shape."""
    found = rng.standard_normal(shape)
    kind = rng.integers(8) if rng.random() < odd else -1
    if kind == 0:
        found *= 10.0 ** rng.integers(-300, 300)
    if kind == 1:
        found[...] = 0
    if kind == 2:
        found = np.round(found)
    if kind == 3 and found.size:
        found.flat[rng.integers(found.size)] = [math.nan, math.inf, 1e308, 5e-324][rng.integers(4)]
    if kind == 4:
        found = found[:-1]
    if kind == 5:
        found = found.astype(np.float32)
    return (
        [found.tolist(), found.astype(object), found.astype(complex), "x", None][rng.integers(5)]
        if kind == 6
        else found
    )


def gram(rng: Rng) -> Any:
    """Return a matrix that is likely a Gram matrix, of any rank and scale."""
    n = int(rng.integers(1, 9))
    factor = rng.standard_normal((n, int(rng.integers(1, 10))))
    kind = rng.integers(13)
    if kind == 0:
        factor[:, rng.integers(factor.shape[1])] *= 10.0 ** rng.integers(-8, 8)
    if kind == 1:
        factor[rng.integers(n)] = factor[rng.integers(n)]
    if kind == 2:
        factor[rng.integers(n)] = 0
    matrix = factor @ factor.T / factor.shape[1]
    if kind == 3:
        matrix = np.eye(n) * rng.integers(1, 4)
    if kind == 4:
        matrix = np.kron(np.eye(2), matrix)
    if kind == 5:
        matrix = matrix.astype(np.float32)
    if kind == 6:
        matrix[rng.integers(n), rng.integers(n)] = [math.nan, math.inf, -1.0, 1e308][rng.integers(4)]
    if kind == 7:
        matrix = matrix[: max(n - 1, 0)]
    if kind == 8:
        matrix = matrix * 10.0 ** rng.integers(-300, 300)
    if kind == 9:
        outputs = int(rng.integers(1, 3))
        return sf.gram.from_jacobian(rng.standard_normal((n, outputs, 4)), targets=None)
    return matrix


def size_of(matrix: Any) -> float:
    """Return the largest entry, which learning rates go by."""
    matrix = np.asarray(matrix)
    return max(float(np.nanmax(np.abs(matrix), initial=1e-300)), 1e-300) if matrix.size else 1.0


def rate(rng: Rng, matrix: Any, *, odd: float = 0.05) -> Any:
    """Return a learning rate that is likely near what decides stability."""
    return number(rng, rng.choice([0.1, 0.5, 1.0, 1.5, 2.0]) / size_of(matrix), odd=odd)


def laws(rng: Rng, n: int) -> dict[str, Any]:
    """Return how batches of n examples are drawn and steps are taken, by keywords; by default for half of the calls."""
    how: dict[str, Any] = {}
    if rng.random() < 0.4:
        how["batch_size"] = int(rng.integers(1, 5))
    if rng.random() < 0.2:
        how["sampling"] = str(rng.choice(["iid", "with_replacement", "epoch", "cyclic"]))
    if rng.random() < 0.2:
        how["momentum"] = number(rng, 0.5, odd=0.2)
    if rng.random() < 0.1:
        how["nesterov"] = True
    if rng.random() < 0.1 and n % 2 == 0:
        how["groups"] = np.arange(n) // 2
    if rng.random() < 0.05:
        how["probabilities"] = rng.dirichlet(np.ones(n)) if n else []
        how["step_scaling"] = str(rng.choice(["unbiased", "equal"]))
    if rng.random() < 0.05:
        how["scale"] = number(rng, 1.0)
    return how


def system(rng: Rng) -> Any:
    """Return a system, of any kind."""
    if rng.random() < 0.15:
        matrices = rng.standard_normal((int(rng.integers(1, 4)), *[int(rng.integers(1, 4))] * 2))
        matrices = np.round(matrices) if rng.random() < 0.3 else matrices
        return sf.MatrixEnsemble(matrices, rng.dirichlet(np.ones(len(matrices))) if rng.random() < 0.2 else None)
    if rng.random() < 0.1:
        features = array(rng, int(rng.integers(1, 7)), int(rng.integers(1, 5)))
        try:
            size = size_of(np.square(np.asarray(features, dtype=float)).sum(axis=-1))
        except DOCUMENTED:
            size = 1.0
        return sf.LinearizedSGD.from_factor(
            features, number(rng, 1 / size), **laws(rng, np.shape(features)[0] if np.ndim(features) else 0)
        )
    matrix = gram(rng)
    how = laws(rng, len(matrix))
    if rng.random() < 0.03:
        how["slow_cutoff"] = number(rng, 1e-2)
    found = sf.LinearizedSGD(matrix, rate(rng, matrix), **how)
    if rng.random() < 0.03:
        levels = int(rng.integers(1, 3))
        found = found.with_recurrence(sf.Recurrence(array(rng, levels, levels), array(rng, levels)))
    return found


def options(rng: Rng) -> dict[str, Any]:
    """Return options of a run, which ends soon."""
    found: dict[str, Any] = {"rtol": number(rng, 0.1, odd=0.05), "max_steps": int(10 ** rng.uniform(2.3, 4.3))}
    if rng.random() < 0.2:
        found["n_chains"] = int(rng.integers(1, 40))
    if rng.random() < 0.1:
        found["atol"] = number(rng, 0.01)
    found["rng"] = int(rng.integers(2**32))
    found["n_threads"] = int(rng.integers(1, 3))
    return found
