"""The systems that `bits.py` makes its calls on: one of every kind.

Only what the package exports is used here, so that older revisions can make them too.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sgdstab_fast as sf

K4 = np.array([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], dtype=float)
T1 = np.array([[1, -0.5], [-0.5, 1]])
REAL = Path(__file__).parent.parent / "data" / "gram_matrices.npz"


def blocks(*matrices: Any) -> Any:
    """Return the matrix with these on its diagonal."""
    whole = np.zeros((sum(map(len, matrices)),) * 2)
    at = 0
    for matrix in matrices:
        whole[at : at + len(matrix), at : at + len(matrix)] = matrix
        at += len(matrix)
    return whole


def features(n: int, rank: int) -> Any:
    """Return gradients of n examples, rank of them independent."""
    return np.random.default_rng(n).standard_normal((n, rank)) / np.sqrt(rank)


def gram(n: int, rank: int) -> Any:
    """Return the Gram matrix of features."""
    return features(n, rank) @ features(n, rank).T


@cache
def systems() -> dict[str, Any]:
    """Return systems of every kind by name."""
    real = dict(np.load(REAL))
    iris, digits = real["iris_trained_40"], real["digits_trained_128"]
    sgd = sf.LinearizedSGD
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    heavier = sf.Recurrence(free=np.array([[1.2, -0.3], [0.5, 0.4]]), readout=np.array([1.0, 0.1]))
    return {
        "gram": sgd(K4, 0.3),
        "unstable gram": sgd(K4, 0.5),
        "two": sgd(T1, 0.5),
        "iris": sgd(iris, 1.004),
        "digits": sgd(digits, 1.063),
        "without full rank": sgd(gram(8, 3), 0.6),
        "factor": sgd.from_factor(features(6, 4), 0.7),
        "wide factor": sgd.from_factor(features(4, 9), 0.9),
        "scale": sgd(K4, 0.15, scale=2.0),
        "batch": sgd(K4, 0.5, 2),
        "large batch": sgd(digits, 1.5, 16),
        "batch of a factor": sgd.from_factor(features(7, 3), 0.8, 3),
        "with replacement": sgd(K4, 0.5, 2, sampling="with_replacement"),
        "epoch": sgd(K4, 0.3, sampling="epoch"),
        "uneven epoch": sgd(gram(5, 9), 0.7, 2, sampling="epoch"),
        "long epoch": sgd(iris, 0.8, 3, sampling="epoch", momentum=0.5),
        "cyclic": sgd(K4, 0.3, sampling="cyclic"),
        "heavy ball": sgd(K4, 0.2, momentum=0.5),
        "nesterov": sgd(K4, 0.2, 2, momentum=0.5, nesterov=True),
        "nesterov of a factor": sgd.from_factor(features(6, 3), 0.4, momentum=0.7, nesterov=True),
        "recurrence": sgd(K4, 0.2, 2).with_recurrence(heavier),
        "weight decay": sgd(K4, 0.3).with_recurrence(sf.Recurrence(np.array([[0.99]]), np.array([1.0]))),
        "groups": sgd(np.kron(K4, [[1, 0.2], [0.2, 1]]), 0.3, groups=[0, 0, 1, 1, 2, 2, 3, 3]),
        "batch of groups": sgd(np.kron(K4, [[1, 0.2], [0.2, 1]]), 0.4, 2, groups=list("aabbbccd")),
        "importance": sgd(K4, 0.3, probabilities=weights),
        "importance, equal": sgd(K4, 0.3, 2, sampling="with_replacement", probabilities=weights, step_scaling="equal"),
        "blocks": sgd(blocks(K4, T1, [[0.7]]), 0.45),
        "blocks in batches": sgd(blocks(K4, T1), 0.5, 2, momentum=0.3),
        "fibonacci": sf.MatrixEnsemble([[[0, 1], [1, 1]], [[0, 1], [1, -1]]]),
        "cone": sf.MatrixEnsemble([[[2, 1], [1, 1]], [[3, 1], [2, 1]]], [0.3, 0.7]),
        "ensemble": sf.MatrixEnsemble(np.random.default_rng(3).standard_normal((5, 3, 3)) * 0.6),
        "singular ensemble": sf.MatrixEnsemble([np.diag([1.5, 0.0]), [[0, 1], [1, 1]]]),
        "one example": sgd([[1.5]], 0.5),
        "full batch": sgd(K4, 0.5, 4),
        "full batch with momentum": sgd(K4, 0.5, 4, momentum=0.9),
        "annihilating": sgd(np.eye(2), 1.0),
        "singular step": sgd(K4, 0.25),
    }
