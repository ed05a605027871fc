"""A factor of K of low precision against eigenvalues of all of K."""

import numpy as np
import pytest
from reference.float32 import EPSILON, gram_of
from sgdstab_fast.operators.partial_cholesky import PartialCholesky, extreme_eigenvalues, scaled_product


@pytest.mark.parametrize(("n", "rank"), [(300, 300), (900, 900), (900, 700)])
def test_the_slowest_direction_is_that_of_k(n, rank):
    gram = gram_of(n, 4 * n, 1.0) if rank == n else gram_of(n, rank)
    scale = np.sqrt(gram.diagonal().astype(float))
    factor = PartialCholesky(gram, scale, 100 * EPSILON)
    assert factor.rank == rank
    if rank == n:
        found, matrix = factor.slowest_of_gram(), gram.astype(float)
    else:
        found = factor.slowest()
        features = factor.features().astype(float)
        matrix = features.T @ features
    values = np.linalg.eigvalsh(matrix)
    # As slow as the slowest few, of hundreds.
    assert found @ matrix @ found / (found @ found) < values[10]


@pytest.mark.parametrize("n", [100, 400])
def test_extreme_eigenvalues_of_large_matrices_are_known_to_a_few_per_cent(n):
    gram = gram_of(n, 2 * n)
    scale = np.sqrt(gram.diagonal().astype(float))
    values = np.linalg.eigvalsh(gram / scale / scale[:, None])
    smallest, largest = extreme_eigenvalues(scaled_product(gram, scale), n)
    assert largest == pytest.approx(values[-1], rel=0.03)
    assert values[0] - 1e-12 <= smallest < values[0] + 0.03 * values[-1]
