"""Losses: that what enters K are their derivatives, by finite differences of their values."""

import numpy as np
import pytest
from sgdstab_fast.gram.losses import LOSSES

H = 1e-5


def gradient(loss, f, y):
    """S S^-1 times the gradient of the loss in the outputs f, shape (N, m): what K and residuals make of it."""
    return np.einsum("nab,nb->na", loss.factors(f), loss.gradients(f, loss.residuals(f, y)))


def differences(function, f):
    """Derivatives of a function of outputs in each of them, (N, ...) along a last axis."""
    steps = H * np.eye(f.shape[1])
    return np.stack([(function(f + step) - function(f - step)) / (2 * H) for step in steps], axis=-1)


@pytest.mark.parametrize(
    ("name", "m"), [(name, m) for name in LOSSES for m in (1, 2, 5) if (name, m) != ("cross entropy", 1)]
)
def test_gradients_and_curvature_are_derivatives_of_the_value(rng, name, m):
    loss, f = LOSSES[name], rng.standard_normal((7, m))
    y = rng.random((7, m))
    y = y / y.sum(axis=1, keepdims=True) if name == "cross entropy" else y
    np.testing.assert_allclose(gradient(loss, f, y), differences(lambda f: loss.value(f, y), f), atol=1e-8)
    factors = loss.factors(f)
    np.testing.assert_allclose(
        factors @ factors.swapaxes(1, 2), differences(lambda f: gradient(loss, f, y), f), atol=1e-8
    )
