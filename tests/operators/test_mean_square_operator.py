"""The map of second moments where floating point ends."""

import numpy as np
from sgdstab_fast.operators.mean_square import MeanSquareOperator


def test_a_vector_beside_the_corner_has_a_root():
    """Of a vector whose part in the slowest direction is below floating point, delta is next to 0."""
    e = 1e-90
    vectors = np.array([[1, e, e], [-e, 0.8, 0.6], [-e, -0.6, 0.8]])
    operator = MeanSquareOperator(vectors, np.array([1e-10, 0.5, 1.0]), 1e-3, 3)
    delta, sensitivity = operator._root(np.array([0.0, 1.0, 1.0]), np.empty((3, 3)), np.empty((3, 3)))
    assert 0 < delta < 1e-280
    assert np.isfinite(sensitivity)
