"""Systems with known exponents, and the tests' statistical conventions.

Statistical tests are fixed by seed and ask for agreement within 4 standard errors: for an honest error bar a
false-alarm rate of 6e-5 each, had the seed not been fixed.
"""

from pathlib import Path

import numpy as np
import pytest
import sgdstab_fast as sf

K4 = np.array([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 2, 1], [1, 0, 1, 5]], dtype=float)
# Two examples for which everything is known to 20 digits, at learning rate 1/2.
T1 = np.array([[1, -0.5], [-0.5, 1]])
T1_EXPONENT = -0.1364810610335893838
T1_SECOND_EXPONENT = -np.log(2) - T1_EXPONENT

# (matrix, learning rate, lambda, its standard error)
REFERENCES = [
    ("digits_trained_128", 0.496, -7.571967994863391e-05, 3.392982350763909e-10),
    ("digits_trained_128", 1.063, 0.0029155153134084637, 4.2439298746764243e-07),
    ("digits_trained_128", 1.558, 0.007728577784847493, 9.529640270989567e-06),
    ("iris_trained_40", 0.469, -3.212579244642285e-06, 5.775769733757534e-13),
    ("iris_trained_40", 1.004, -6.877529571787432e-06, 1.7492213878352857e-12),
    ("iris_trained_40", 1.473, 0.02431228450620167, 8.580105252226118e-06),
]
REAL_GRAMS = dict(np.load(Path(__file__).parent / "data" / "gram_matrices.npz"))


@pytest.fixture
def rng():
    return np.random.default_rng(20251)


def random_gram(rng, n, rank=None):
    """A Gram matrix like a network's: K_ii about 1, condition a few hundred."""
    rank = rank or 2 * n
    features = rng.standard_normal((n, rank)) / np.sqrt(rank)
    return features @ features.T


def assert_within(value, error, expected, expected_error=0.0, n_errors=4.0):
    """value +- error agrees with expected +- expected_error."""
    joint = np.hypot(error, expected_error)
    assert abs(value - expected) <= n_errors * joint + 1e-14 * abs(expected), (
        f"{value} +- {error} against {expected} +- {expected_error}: {(value - expected) / joint:.1f} standard errors"
    )


def budget(system, n_steps, **options):
    """lambda after exactly a budget, without tolerances."""
    return sf.lyapunov_exponent(system, rtol=0, max_steps=n_steps, **{"rng": 1, **options})
