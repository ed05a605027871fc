"""Lambda of N in the thousands, in times of one product of matrices of that size. Goals are printed, not asserted."""

import time

import numpy as np
import pytest
import sgdstab_fast as sf
from test_bench import seconds


def arc_cosine(n):
    """The kernel of an infinitely wide ReLU layer, of points on a sphere, and 1e-3 of the identity.

    Its almost-sure critical learning rate is 2.00, where eta K_ii is.
    """
    points = np.random.default_rng(0).standard_normal((n, 16))
    points /= np.linalg.norm(points, axis=1)[:, None]
    cosine = np.clip(points @ points.T, -1, 1)
    angle = np.arccos(cosine)
    gram = (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / np.pi
    np.fill_diagonal(gram, 1 + 1e-3)
    return (gram + gram.T) / 2


@pytest.mark.filterwarnings("ignore::sgdstab_fast.AccuracyWarning")
@pytest.mark.parametrize(("n", "goal"), [(1024, 20), (2048, 10), (4096, 5)])
@pytest.mark.parametrize(("learning_rate", "allowed"), [(1.1, 1), (1.96, 2), (2.2, 2)])
def test_lambda_of_many_examples(n, goal, learning_rate, allowed):
    """From K to lambda within 1%; also just below the edge of stability, at 0.98 of it, and beyond, at 1.1."""
    gram = arc_cosine(n)
    left = np.random.default_rng(0).standard_normal((n, n))
    product = seconds(lambda: left @ gram)
    start = time.perf_counter()
    found = sf.lyapunov_exponent(sf.LinearizedSGD(gram, learning_rate), rng=1)
    elapsed = time.perf_counter() - start
    print(
        f"\n  N = {n}, eta K_ii = {learning_rate}: {elapsed:.2f} s, {elapsed / product:.0f} products of matrices "
        f"({n**3 / product / 1e9:.0f} multiply-adds/ns; goal: at most {goal * allowed}); {found}"
    )
